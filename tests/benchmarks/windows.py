"""Which windows are measured: all of them lie on one running curve, most overlap, and each begins at a power step.

A window is planned in seconds since the curve's beginning. What counts is when its edges were really taken: every method and
the truth get exactly those moments, so a late scheduler costs nobody anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from tests.benchmarks.curve import AgentTask, Curve

SHORTEST, LONGEST_SPAN = 0.15, 5.0


@dataclass(frozen=True, slots=True)
class Planned:
    """``kind``: task (from its first call to the end of its last), call, decode, span (calls of one task in a row) or cut
    (a call that is given up half way, so that its end is at no power step)."""

    id: int
    gpu: int
    kind: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Taken:
    """A window with the moments at which its edges were taken, by both clocks (seconds)."""

    plan: Planned
    start: float
    end: float
    start_unix: float
    end_unix: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class LengthClass:
    """``tasks_only``: whole tasks, whatever parts of them lie in other classes."""

    name: str
    shortest: float
    longest: float
    tasks_only: bool = False

    def holds(self, window: Taken) -> bool:
        return self.shortest <= window.seconds <= self.longest and (not self.tasks_only or window.plan.kind == "task")


CLASSES = (
    LengthClass("0.15-0.6 s", 0.15, 0.6),
    LengthClass("0.5-2 s", 0.5, 2.0),
    LengthClass("2-5 s", 2.0, 5.0),
    LengthClass("whole tasks 2-30 s", 2.0, 30.0, tasks_only=True),
)


def plan(curves: Sequence[Curve], seed: int) -> list[Planned]:
    random = Random(seed)
    found = [
        (gpu, kind, start, end)
        for gpu, curve in enumerate(curves)
        for task in curve.tasks
        for kind, start, end in _of_task(task, random)
        if end - start >= SHORTEST
    ]
    return [Planned(number, *row) for number, row in enumerate(found)]


def _of_task(task: AgentTask, random: Random) -> Iterator[tuple[str, float, float]]:
    yield "task", task.start, task.end
    for turn in task.turns:
        yield "call", turn.start, turn.end
        yield "decode", turn.decode, turn.end
        yield "cut", turn.start, turn.start + random.uniform(SHORTEST, 0.6)
    for first, last in combinations(task.turns, 2):
        if last.end - first.start <= LONGEST_SPAN and (first, last) != (task.turns[0], task.turns[-1]):
            yield "span", first.start, last.end
