"""The power of one GPU under an agent benchmark: idle, then tasks of LLM calls (prefill, decode) with tool gaps between them.

Piecewise constant, so its joules are exact; times are seconds since the curve's own beginning. The same seed gives the same
curve, so that two runs of the benchmark measure the same work.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import inf
from random import Random

IDLE, PREFILL, DECODE, TOOL = 60.0, 330.0, 280.0, 90.0
DECODE_WOBBLE = 6.0
SHORTEST_BURST, LONGEST_BURST = 0.2, 6.0
LONGEST_TASK = 30.0
SHORTEST_TASK = 2.0
LEAD_IN = 2.0
RAMP_STEP = 0.01


@dataclass(frozen=True, slots=True)
class Turn:
    """One LLM call: prefill from ``start``, decode from ``decode`` to ``end``."""

    start: float
    decode: float
    end: float


@dataclass(frozen=True, slots=True)
class AgentTask:
    turns: tuple[Turn, ...]

    @property
    def start(self) -> float:
        return self.turns[0].start

    @property
    def end(self) -> float:
        return self.turns[-1].end


class Curve:
    """``points``: (seconds, watts), each holding until the next and the last for ever."""

    def __init__(self, points: Sequence[tuple[float, float]], tasks: Sequence[AgentTask]) -> None:
        self.points = points
        self.tasks = tasks
        self._times = [at for at, _ in points]
        self._watts = [watts for _, watts in points]
        pieces = (watts * (until - since) for watts, (since, until) in zip(self._watts, pairwise(self._times), strict=False))
        self._joules = [0.0, *accumulate(pieces)]

    def joules(self, start: float, end: float) -> float:
        """The truth between two times that are not before the first point."""
        return self._until(end) - self._until(start)

    def _until(self, t: float) -> float:
        index = bisect_right(self._times, t) - 1
        return self._joules[index] + self._watts[index] * (t - self._times[index])


def agent_curve(seed: int, seconds: float, ramp: float = 0.0) -> Curve:
    """``ramp``: seconds that each change of power takes, as it does on a real card; 0 for none."""
    random = Random(seed)
    points: list[tuple[float, float]] = [(0.0, IDLE)]
    tasks: list[AgentTask] = []
    now = LEAD_IN + random.uniform(0.0, 1.0)
    while True:
        task, drawn = _task(random, now)
        if task.end > seconds:
            return Curve(_ramped(points, ramp), tasks)
        points += drawn
        points.append((task.end, IDLE))
        tasks.append(task)
        now = task.end + random.uniform(0.3, 1.5)


def _ramped(points: Sequence[tuple[float, float]], ramp: float) -> Sequence[tuple[float, float]]:
    """Each change in small steps that begin where the change was; one that is overtaken by the next ends there."""
    if not ramp:
        return points
    steps = max(round(ramp / RAMP_STEP), 1)
    risen = [points[0]]
    for index, (at, watts) in enumerate(points[1:], 1):
        until = points[index + 1][0] if index + 1 < len(points) else inf
        before = risen[-1][1]
        for step in range(1, steps + 1):
            moment = at + (step - 0.5) * ramp / steps
            if moment >= until:
                break
            risen.append((moment, before + (watts - before) * step / steps))
    return risen


def _task(random: Random, start: float) -> tuple[AgentTask, list[tuple[float, float]]]:
    points: list[tuple[float, float]] = []
    turns: list[Turn] = []
    now, wanted = start, random.randint(1, 6)
    while len(turns) < wanted or turns[-1].end - start < SHORTEST_TASK:
        if turns:
            points.append((now, TOOL))
            now += random.uniform(0.05, 0.8)
        # Bursts are spread evenly over orders of magnitude: there are many short answers and a few long ones.
        burst = SHORTEST_BURST * (LONGEST_BURST / SHORTEST_BURST) ** random.random()
        if turns and now + burst - start > LONGEST_TASK:
            break
        decode = now + min(random.uniform(0.03, 0.25), burst / 2)
        turns.append(Turn(now, decode, now + burst))
        points.append((now, PREFILL))
        at = decode
        while at < now + burst:
            points.append((at, DECODE + random.uniform(-DECODE_WOBBLE, DECODE_WOBBLE)))
            at += random.uniform(0.2, 0.5)
        now += burst
    return AgentTask(tuple(turns)), points
