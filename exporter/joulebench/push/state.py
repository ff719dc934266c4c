"""What a task and a run have come to so far: cumulative numbers under one lock.

Every number only grows or is set once, so a push that is lost is repaired by the next. Each field holds an immutable value
that is replaced, never changed in place; a snapshot is therefore one shallow copy under the lock and is consistent in itself.
``None`` means not known (yet) and becomes no sample.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from joulebench.metrics import CONFIDENCE_BUCKETS, PHASES, SECONDS_BUCKETS, TASK_STATUSES, TOOL_OUTCOMES
from joulebench.push import tool_names
from joulebench.units import Joules, Ratio, Seconds


@dataclass(frozen=True, slots=True)
class Total:
    """The pair of a summary."""

    count: int = 0
    total: float = 0.0

    def plus(self, value: float | None) -> Total:
        return self if value is None else Total(self.count + 1, self.total + value)


NOTHING = Total()


class Buckets(NamedTuple):
    """A histogram: observations per bound, not cumulative, with those above the last bound at the end."""

    counts: tuple[int, ...]
    total: float = 0.0

    def plus(self, value: float, bounds: tuple[float, ...]) -> Buckets:
        place = bisect_left(bounds, value)
        return Buckets((*self.counts[:place], self.counts[place] + 1, *self.counts[place + 1 :]), self.total + value)


_NOTHING_KNOWN: Mapping[str, Seconds] = MappingProxyType({})


class GpuEnergy(NamedTuple):
    """Window energy of one GPU, as the exporter gave it, and the seconds for which its clocks were held down, by reason."""

    gpu: str
    uuid: str
    joules: Joules | None
    low: Joules | None
    high: Joules | None
    throttled: Mapping[str, Seconds] = _NOTHING_KNOWN


class GpuCharge(NamedTuple):
    """Energy of one GPU that a task is charged."""

    gpu: str
    uuid: str
    joules: Joules | float


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How a task ended. ``success`` is None without a verdict."""

    at: Seconds
    duration: Seconds
    status: str
    success: bool | None


@dataclass(slots=True)
class TaskTotals:
    """One task. Token counts stay None until a call reports one: a server that reports none has not generated 0 tokens."""

    task_name: str
    task_key: str
    model: str
    suite: str
    epoch: Seconds
    start: Seconds
    end: TaskEnd | None = None
    llm_calls: int = 0
    llm_errors: int = 0
    prompt_tokens: int | None = None
    cached_prompt_tokens: int | None = None
    completion_tokens: int | None = None
    decode_tokens: int = 0
    llm_duration: Total = NOTHING
    ttft: Total = NOTHING
    prefill: Total = NOTHING
    decode: Total = NOTHING
    load: Total = NOTHING
    tool_calls: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(TOOL_OUTCOMES, 0))
    tool_duration: Total = NOTHING
    confidence: Total = NOTHING
    confidence_min: Ratio | None = None
    confidence_max: Ratio | None = None
    energy: tuple[GpuEnergy, ...] = ()
    charged: tuple[GpuCharge, ...] = ()
    charged_seconds: Seconds | None = None
    call_energy: Total = NOTHING

    @property
    def tokens(self) -> Mapping[str, int]:
        """By kind, only those that are known; ``prompt`` is without those from the cache, where the server reports these."""
        kinds = {
            "prompt": None if self.prompt_tokens is None else self.prompt_tokens - (self.cached_prompt_tokens or 0),
            "cached_prompt": self.cached_prompt_tokens,
            "completion": self.completion_tokens,
        }
        return {kind: count for kind, count in kinds.items() if count is not None}

    def add_confidence(self, score: Ratio) -> None:
        self.confidence = self.confidence.plus(score)
        self.confidence_min = score if self.confidence_min is None else min(self.confidence_min, score)
        self.confidence_max = score if self.confidence_max is None else max(self.confidence_max, score)


@dataclass(slots=True)
class RunTotals:
    """One worker of one run. ``active`` counts what goes on now, by phase; several at once where tasks run in threads.

    ``tools``: label by name of each declared tool. ``confidence``: by model and tool's label. ``tasks``, ``tokens``: by model and
    status or kind. ``charged_energy``, ``throttled``: by model, GPU index and uuid (and reason). ``idle_watts``: lowest measured
    idle power by GPU index and uuid.
    """

    suite: str
    version: str
    planned_tasks: int | None = None
    live: bool = True
    tasks: Mapping[tuple[str, str], int] = field(default_factory=dict)
    tasks_without_energy: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[tuple[str, str], int] = field(default_factory=dict)
    charged_energy: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    charged_seconds: Mapping[str, float] = field(default_factory=dict)
    throttled: Mapping[tuple[str, str, str, str], float] = field(default_factory=dict)
    idle_watts: Mapping[tuple[str, str], float] = field(default_factory=dict)
    active: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))
    ttft: Mapping[str, Buckets] = field(default_factory=dict)
    call_duration: Mapping[str, Buckets] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    confidence: Mapping[tuple[str, str], Buckets] = field(default_factory=dict)
    push_failures: int = 0

    def move(self, left: str | None, entered: str | None) -> None:
        """From one phase to another; None is outside of any."""
        active = dict(self.active)
        if left is not None:
            active[left] -= 1
        if entered is not None:
            active[entered] += 1
        self.active = active

    def start_task(self, model: str) -> None:
        """Counts of a model begin at 0 with its first task."""
        if model not in self.tasks_without_energy:
            self.tasks = {**self.tasks, **{(model, status): 0 for status in TASK_STATUSES}}
            self.tasks_without_energy = {**self.tasks_without_energy, model: 0}

    def end_task(self, model: str, status: str, tokens: Mapping[str, int]) -> None:
        self.tasks = _added(self.tasks, {(model, status): 1})
        self.tokens = _added(self.tokens, {(model, kind): count for kind, count in tokens.items()})

    def add_charge(
        self,
        model: str,
        gpus: Iterable[GpuCharge],
        seconds: float,
        throttled: Mapping[tuple[str, str, str], float],
        *,
        complete: bool,
    ) -> None:
        """``throttled`` by GPU index, uuid and reason. ``complete``: the energy is known on every GPU."""
        self.charged_energy = _added(self.charged_energy, {(model, one.gpu, one.uuid): one.joules for one in gpus})
        self.charged_seconds = _added(self.charged_seconds, {model: seconds})
        self.throttled = _added(self.throttled, {(model, *series): length for series, length in throttled.items()})
        self.tasks_without_energy = _added(self.tasks_without_energy, {model: 0 if complete else 1})

    def add_idle_power(self, watts: Mapping[tuple[str, str], float]) -> None:
        """The lowest of several measurements counts."""
        lowest = {gpu: min(value, self.idle_watts.get(gpu, value)) for gpu, value in watts.items()}
        self.idle_watts = {**self.idle_watts, **lowest}

    def add_call(self, model: str, duration: Seconds, ttft: Seconds | None) -> None:
        self.call_duration = _observed(self.call_duration, model, duration, SECONDS_BUCKETS)
        if ttft is not None:
            self.ttft = _observed(self.ttft, model, ttft, SECONDS_BUCKETS)

    def declare_tools(self, names: Iterable[str]) -> None:
        self.tools = tool_names.declared(self.tools, names)

    def add_confidence(self, model: str, tool: str, score: Ratio) -> None:
        series = (model, tool_names.label_of(self.tools, tool))
        self.confidence = _observed(self.confidence, series, score, CONFIDENCE_BUCKETS)


K = TypeVar("K")
N = TypeVar("N", int, float)


def _added(totals: Mapping[K, N], more: Mapping[K, N]) -> Mapping[K, N]:
    return {**totals, **{key: totals.get(key, 0) + value for key, value in more.items()}}


def _observed(histograms: Mapping[K, Buckets], key: K, value: float, bounds: tuple[float, ...]) -> Mapping[K, Buckets]:
    found = histograms.get(key) or Buckets((0,) * (len(bounds) + 1))
    return {**histograms, key: found.plus(value, bounds)}


T = TypeVar("T", TaskTotals, RunTotals)


class State(Generic[T]):
    """Totals behind their lock: ``with state as totals`` to change them; a snapshot has all of such a change or none of it."""

    def __init__(self, totals: T) -> None:
        self._totals: T = totals
        self._lock = threading.Lock()

    def __enter__(self) -> T:
        self._lock.acquire()
        return self._totals

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def snapshot(self) -> T:
        with self._lock:
            return replace(self._totals)


TaskState: TypeAlias = State[TaskTotals]
RunState: TypeAlias = State[RunTotals]
