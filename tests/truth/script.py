"""What truly happened in two runs: two models at the same tasks, on two cards, every second and every watt decided here.

``alpha`` is served by a server that counts its requests and its cache, on a card that is at its power limit for part of each
task. A quarter of ``beta`` lies on the CPU, as its server tells. In the hot tasks of both the card slows itself down while calls
run. Nothing here passes through the code that is tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor

from tests.unit.results.store import START

TASKS = 24
HOT = frozenset({3, 8, 13, 18, 21})
AGENT = 0.25
"""Seconds of the agent itself before the first call and after the last tool."""
IDLE_WATTS, OTHER_WATTS = 60.0, 50.0
"""Of GPU 0 without work, and of GPU 1 at all times."""
LOAD_WATTS, PREFILL_WATTS = 120.0, 320.0
SLOWED = 0.6
"""Decode rate of a card that is too hot."""
COOL, TOO_HOT = 70.0, 91.0
VRAM_MIB, VRAM_MIB_PER_TOKEN, OTHER_VRAM_MIB = 8192.0, 0.125, 1024.0
CARD, CARD_GIB = "NVIDIA A10", 24
CLOCK, CLOCK_AT_LIMIT = 2.0e9, 1.5e9
RECEIVED_PER_SECOND = 4.0e6
"""Bytes that GPU 0 receives over PCIe; nothing else is counted."""
UUIDS = ("GPU-aaaa", "GPU-bbbb")


@dataclass(frozen=True)
class Model:
    """``util``: percent of either card. ``cache_tokens``: of its server's whole cache, ``waits`` and ``runs``: requests in it,
    where it tells. ``size`` to ``cache_bytes``: of a server that tells of the model in memory."""

    name: str
    decode_watts: float
    tokens_per_second: float
    util: tuple[float, float]
    fails_every: int
    begins: float
    cache_tokens: float | None = None
    runs: float = 1.0
    waits: float = 0.5
    size: float | None = None
    vram: float = 0.0
    context: float = 8192.0
    cache_bytes: float = 8192.0 * 65536


ALPHA = Model("alpha", 260.0, 25.0, (80.0, 30.0), 4, 20.0, cache_tokens=8000.0)
BETA = Model("beta", 290.0, 12.5, (30.0, 20.0), 3, 0.0, size=12e9, vram=9e9)


@dataclass(frozen=True)
class Call:
    """Times in unix seconds; from ``start`` queue, load, prefill and decode follow one another, then its tool runs."""

    number: int
    start: float
    queue: float
    load: float
    prefill: float
    decode: float
    tool: float
    prompt: int
    cached: int
    completion: int
    confidence: float

    @property
    def first(self) -> float:
        return self.start + self.queue + self.load + self.prefill

    @property
    def end(self) -> float:
        return self.first + self.decode

    @property
    def tool_end(self) -> float:
        return self.end + self.tool

    @property
    def held(self) -> int:
        return self.prompt + self.completion


@dataclass(frozen=True)
class Task:
    number: int
    model: Model
    start: float
    calls: tuple[Call, ...]

    @property
    def name(self) -> str:
        return f"task-{self.number:02}"

    @property
    def end(self) -> float:
        return self.calls[-1].tool_end + AGENT

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def hot(self) -> bool:
        return self.number in HOT

    @property
    def success(self) -> bool:
        return self.number % self.model.fails_every != 0

    @property
    def vram(self) -> float:
        """MiB of GPU 0 while the task runs."""
        return VRAM_MIB + VRAM_MIB_PER_TOKEN * max(call.held for call in self.calls)

    @property
    def throttled(self) -> list[tuple[float, float]]:
        """Whole seconds inside of each call, so that a counter that is looked at once a second tells them exactly."""
        return [(ceil(call.start), floor(call.end)) for call in self.calls] if self.hot else []

    @property
    def capped(self) -> tuple[float, float]:
        """At the power limit, as long as the first call decodes; at no time where the model has room."""
        first = self.calls[0]
        return (ceil(first.first), floor(first.end)) if self.model is ALPHA and not self.hot else (self.start, self.start)

    def phases(self) -> dict[str, list[tuple[float, float]]]:
        """Stretches by phase as a report names them; what no phase claims, queues too, is ``other``."""
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ("prefill", "decode", "load", "tool_wait", "other")}
        at = self.start
        for call in self.calls:
            working = call.start + call.queue
            loaded = working + call.load
            found["other"].append((at, working))
            found["load"].append((working, loaded))
            found["prefill"].append((loaded, call.first))
            found["decode"].append((call.first, call.end))
            found["tool_wait"].append((call.end, call.tool_end))
            at = call.tool_end
        found["other"].append((at, self.end))
        return found

    def in_phase(self, phase: str) -> float:
        return sum(b - a for a, b in self.phases()[phase])


def _task(number: int, model: Model, start: float) -> Task:
    """Times that share no beat with scrapes and counter steps."""
    rate = model.tokens_per_second * (1 + 0.02 * ((number * 7) % 5 - 2)) * (SLOWED if number in HOT else 1.0)
    calls: list[Call] = []
    at, held = start + AGENT, 0
    for turn in (1, 2):
        completion = 60 + (number * 5 + turn * 11) % 30
        prompt = held + 300 + 10 * (number % 7) if held else 700 + 40 * (number % 9)
        call = Call(
            number=turn,
            start=at,
            queue=0.11 + 0.013 * (number % 5),
            load=1.7 if number == 0 and turn == 1 else 0.0,
            prefill=0.71 + 0.017 * (number % 6) * turn,
            decode=completion / rate,
            tool=0.83 + 0.071 * ((number + turn) % 4),
            prompt=prompt,
            cached=held,
            completion=completion,
            confidence=0.95 - 0.01 * ((number * 3 + turn) % 40),
        )
        calls.append(call)
        at, held = call.tool_end, call.held
    return Task(number, model, start, tuple(calls))


def _run(model: Model, begins: float) -> tuple[Task, ...]:
    tasks: list[Task] = []
    at = START + begins
    for number in range(TASKS):
        tasks.append(_task(number, model, at))
        at = tasks[-1].end + 1.37
    return tuple(tasks)


RUNS = {"run-a": _run(ALPHA, 20.0)}
RUNS["run-b"] = _run(BETA, RUNS["run-a"][-1].end - START + 20.0)
EVERY = tuple(task for tasks in RUNS.values() for task in tasks)
END = EVERY[-1].end


def _power() -> Iterator[tuple[float, float]]:
    """(unix time, watts of GPU 0 from then on)"""
    yield START - 60.0, IDLE_WATTS
    for task in EVERY:
        for call in task.calls:
            working = call.start + call.queue
            if call.load:
                yield working, LOAD_WATTS
            yield working + call.load, PREFILL_WATTS
            yield call.first, task.model.decode_watts
            yield call.end, IDLE_WATTS
    yield END + 60.0, IDLE_WATTS


POWER = tuple(_power())
_SPENT = [0.0]
for (_a, _watts), (_b, _) in pairwise(POWER):
    _SPENT.append(_SPENT[-1] + _watts * (_b - _a))


def spent(at: float) -> float:
    """Joules of GPU 0 from the beginning of POWER to ``at``."""
    place = max(place for place, (time, _) in enumerate(POWER) if time <= at)
    return _SPENT[place] + POWER[place][1] * (at - POWER[place][0])


def joules(start: float, end: float) -> tuple[float, float]:
    """Of either GPU."""
    return spent(end) - spent(start), OTHER_WATTS * (end - start)


def total(task: Task) -> float:
    return sum(joules(task.start, task.end))


def of_phase(task: Task, phase: str) -> float:
    return sum(sum(joules(a, b)) for a, b in task.phases()[phase])


def busy(tasks: Sequence[Task]) -> float:
    return sum(task.seconds for task in tasks)
