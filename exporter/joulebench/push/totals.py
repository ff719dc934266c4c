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
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from joulebench.clients.exporter import GpuWindow
from joulebench.devices import DeviceChoice
from joulebench.metrics import CONFIDENCE_BUCKETS, PHASES, SECONDS_BUCKETS, TASK_STATUSES, TOOL_OUTCOMES
from joulebench.metrics.label_text import label_text
from joulebench.units import Joules, Ratio, Seconds

OTHER = "other"
MAX_TOOLS = 24
"""Of a run. The histogram of one tool has 16 series, in a group that is pushed whole."""
MAX_TOOL_LENGTH = 64
MAX_MODELS = 50
"""Models of a run with series of their own; counts of further ones go to ``other``."""


@dataclass(frozen=True, slots=True)
class Total:
    """The pair of a summary."""

    count: int = 0
    total: float = 0.0

    def plus(self, value: float | None) -> Total:
        return self if value is None else Total(self.count + 1, self.total + value)


NO_TOTAL = Total()


class Buckets(NamedTuple):
    """A histogram: observations per bound, not cumulative, with those above the last bound at the end."""

    counts: tuple[int, ...]
    total: float = 0.0

    def plus(self, value: float, bounds: tuple[float, ...]) -> Buckets:
        place = bisect_left(bounds, value)
        return Buckets((*self.counts[:place], self.counts[place] + 1, *self.counts[place + 1 :]), self.total + value)


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
    llm_duration: Total = NO_TOTAL
    ttft: Total = NO_TOTAL
    prefill: Total = NO_TOTAL
    decode: Total = NO_TOTAL
    load: Total = NO_TOTAL
    tool_calls: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(TOOL_OUTCOMES, 0))
    tool_duration: Total = NO_TOTAL
    confidence: Total = NO_TOTAL
    confidence_min: Ratio | None = None
    confidence_max: Ratio | None = None
    energy: tuple[GpuWindow, ...] = ()
    charged: tuple[GpuCharge, ...] = ()
    charged_seconds: Seconds | None = None
    call_energy: Total = NO_TOTAL

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

    ``devices``: what names its GPUs.

    ``models``: names of models that have series of their own. ``tools``: label by name of each declared tool. ``confidence``: by
    model and tool's label. ``tasks``, ``tokens``: by model and status or kind. ``charged_energy``, ``throttled``: by model, GPU
    index and uuid (and reason). ``idle_watts``: lowest measured idle power by GPU index and uuid.
    """

    suite: str
    version: str
    devices: DeviceChoice = field(default_factory=DeviceChoice)
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
    models: frozenset[str] = frozenset()
    push_failures: int = 0

    def model_label(self, model: str) -> str:
        """``model`` for the first MAX_MODELS models of the run, ``other`` for further ones."""
        if model not in self.models:
            if len(self.models) >= MAX_MODELS:
                return OTHER
            self.models = self.models | {model}
        return model

    def change_phase(self, left: str | None, entered: str | None) -> None:
        """Something goes on from one phase to another; None is outside of any."""
        active = dict(self.active)
        if left is not None:
            active[left] -= 1
        if entered is not None:
            active[entered] += 1
        self.active = active

    def start_task(self, model: str) -> None:
        """Counts of a model begin at 0 with its first task."""
        model = self.model_label(model)
        if model not in self.tasks_without_energy:
            self.tasks = {**self.tasks, **{(model, status): 0 for status in TASK_STATUSES}}
            self.tasks_without_energy = {**self.tasks_without_energy, model: 0}

    def end_task(self, model: str, status: str, tokens: Mapping[str, int]) -> None:
        model = self.model_label(model)
        self.tasks = add_counts(self.tasks, {(model, status): 1})
        self.tokens = add_counts(self.tokens, {(model, kind): count for kind, count in tokens.items()})

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
        model = self.model_label(model)
        self.charged_energy = add_counts(self.charged_energy, {(model, gpu.gpu, gpu.uuid): gpu.joules for gpu in gpus})
        self.charged_seconds = add_counts(self.charged_seconds, {model: seconds})
        self.throttled = add_counts(self.throttled, {(model, *series): length for series, length in throttled.items()})
        self.tasks_without_energy = add_counts(self.tasks_without_energy, {model: 0 if complete else 1})

    def add_idle_power(self, watts: Mapping[tuple[str, str], float]) -> None:
        """The lowest of several measurements counts."""
        lowest = {gpu: min(value, self.idle_watts.get(gpu, value)) for gpu, value in watts.items()}
        self.idle_watts = {**self.idle_watts, **lowest}

    def add_call(self, model: str, duration: Seconds, ttft: Seconds | None) -> None:
        model = self.model_label(model)
        self.call_duration = add_observation(self.call_duration, model, duration, SECONDS_BUCKETS)
        if ttft is not None:
            self.ttft = add_observation(self.ttft, model, ttft, SECONDS_BUCKETS)

    def declare_tools(self, names: Iterable[str]) -> None:
        self.tools = declared_tools(self.tools, names)

    def add_confidence(self, model: str, tool: str, score: Ratio) -> None:
        series = (self.model_label(model), tool_label(self.tools, tool))
        self.confidence = add_observation(self.confidence, series, score, CONFIDENCE_BUCKETS)


def declared_tools(known: Mapping[str, str], names: Iterable[str]) -> Mapping[str, str]:
    """``known`` (name -> label) and ``names`` too, the first MAX_TOOLS of them.

    What the model calls a tool is text of the model: a name that the benchmark did not declare never becomes a label.
    """
    labels = dict(known)
    for name in names:
        if len(labels) >= MAX_TOOLS:
            break
        if name not in labels:
            labels[name] = label_text(name, MAX_TOOL_LENGTH) or OTHER
    return labels


def tool_label(known: Mapping[str, str], name: str) -> str:
    return known.get(name, OTHER)


K = TypeVar("K")
N = TypeVar("N", int, float)


def add_counts(totals: Mapping[K, N], more: Mapping[K, N]) -> Mapping[K, N]:
    return {**totals, **{key: totals.get(key, 0) + value for key, value in more.items()}}


def add_observation(histograms: Mapping[K, Buckets], key: K, value: float, bounds: tuple[float, ...]) -> Mapping[K, Buckets]:
    histogram = histograms.get(key) or Buckets((0,) * (len(bounds) + 1))
    return {**histograms, key: histogram.plus(value, bounds)}


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
