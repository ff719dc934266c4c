"""The proxy's cumulative numbers: by task and model, and histograms by model, with a bound on both.

A client chooses its run, task and model names, so none of them may grow without end: beyond ``max_tasks`` the tasks that were
idle longest are forgotten, and models beyond ``max_models`` are counted together.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from joulebench import metrics as m
from joulebench.metrics import Metric
from joulebench.metrics.families import Sheet
from joulebench.proxy.reply import Reply
from joulebench.proxy.verdict import Verdict

OTHER_MODELS = "(other)"

Labels = tuple[str, ...]


class Key(NamedTuple):
    run: str
    task: str
    model: str


class Energy(NamedTuple):
    """Joules of one GPU: a share of what ran at the same time, and all of it."""

    gpu: str
    uuid: str
    share: float
    whole: float


@dataclass(slots=True)
class _Histogram:
    counts: list[int]
    total: float = 0.0


@dataclass(slots=True)
class _Numbers:
    """Of one key: counters by metric and further labels, summaries by metric; only those that anything was ever counted for."""

    counters: defaultdict[tuple[Metric, Labels], float] = field(default_factory=lambda: defaultdict(float))
    summaries: dict[Metric, tuple[int, float]] = field(default_factory=dict)

    def count(self, metric: Metric, value: float | None, labels: Labels = ()) -> None:
        if value is not None:
            self.counters[metric, labels] += value

    def observe(self, metric: Metric, value: float | None) -> None:
        if value is not None:
            number, total = self.summaries.get(metric, (0, 0.0))
            self.summaries[metric] = (number + 1, total + value)


class Tally:
    """Safe in threads."""

    metrics = tuple(metric for metric in m.METRICS if metric.name.startswith(f"{m.PREFIX}proxy_"))

    def __init__(self, max_tasks: int = 200, max_models: int = 50) -> None:
        self._max_tasks = max_tasks
        self._max_models = max_models
        self._lock = threading.Lock()
        self._by_key: dict[Key, _Numbers] = {}
        self._tasks: dict[tuple[str, str], set[str]] = {}
        """Models by task, the task that was idle longest first."""
        self._models: set[str] = set()
        self._histograms: dict[tuple[Metric, str], _Histogram] = {}
        self._plain: defaultdict[tuple[Metric, Labels], float] = defaultdict(float)
        self._in_flight: defaultdict[str, int] = defaultdict(int)
        self._up: float | None = None

    def key(self, run: str, task: str, model: str) -> Key:
        with self._lock:
            if model not in self._models:
                if len(self._models) >= self._max_models:
                    model = OTHER_MODELS
                else:
                    self._models.add(model)
            return Key(run, task, model)

    def begin(self, key: Key) -> None:
        with self._lock:
            self._in_flight[key.model] += 1

    def end(self, key: Key, result: str) -> None:
        """``result`` is one of ``metrics.PROXY_RESULTS``."""
        with self._lock:
            self._in_flight[key.model] -= 1
            self._numbers(key).count(m.PROXY_REQUESTS, 1, (result,))
            if result != "client_gone":
                self._up = float(result != "unreachable")

    def unread(self, cause: str) -> None:
        with self._lock:
            self._plain[m.PROXY_UNREAD_REQUESTS, (cause,)] += 1

    def refused(self, key: Key) -> None:
        with self._lock:
            self._plain[m.PROXY_REFUSED_ADDITIONS, (key.model,)] += 1

    def energy(self, by_key: Iterable[tuple[Key, Energy]]) -> None:
        with self._lock:
            for key, joules in by_key:
                numbers = self._numbers(key)
                numbers.count(m.PROXY_ENERGY, joules.share, (joules.gpu, joules.uuid))
                numbers.count(m.PROXY_ENERGY_WHOLE, joules.whole, (joules.gpu, joules.uuid))

    def energy_unknown(self, seconds: float) -> None:
        with self._lock:
            self._plain[m.PROXY_ENERGY_UNKNOWN, ()] += seconds

    def reply(self, key: Key, began: float, ended: float, reply: Reply, calls: Iterable[Verdict]) -> None:
        """An answered request; times by the monotonic clock."""
        first = reply.arrivals.first
        ttft = None if first is None else first - began
        with self._lock:
            numbers = self._numbers(key)
            numbers.count(m.PROXY_PROMPT_TOKENS, reply.prompt_tokens)
            numbers.count(m.PROXY_CACHED_TOKENS, reply.cached_tokens)
            numbers.count(m.PROXY_COMPLETION_TOKENS, reply.completion_tokens)
            numbers.observe(m.PROXY_TASK_DURATION, ended - began)
            numbers.observe(m.PROXY_TASK_TTFT, ttft)
            numbers.observe(m.PROXY_LOAD, reply.load_seconds)
            numbers.observe(m.PROXY_QUEUE, reply.queue_seconds)
            numbers.observe(m.PROXY_PREFILL, reply.prefill_seconds)
            if reply.prefill_seconds is not None:
                numbers.count(m.PROXY_PREFILL_TOKENS, reply.prefill_tokens)
            decode_seconds, decode_tokens = _decode(reply)
            numbers.observe(m.PROXY_DECODE, decode_seconds)
            numbers.count(m.PROXY_DECODE_TOKENS, decode_tokens)
            model = key.model
            self._observe(m.PROXY_DURATION, model, ended - began)
            self._observe(m.PROXY_TTFT, model, ttft)
            self._observe(m.PROXY_PREFILL_RATE, model, _rate(reply.prefill_tokens, reply.prefill_seconds))
            self._observe(m.PROXY_DECODE_RATE, model, _rate(decode_tokens, decode_seconds))
            for gap in reply.arrivals.gaps:
                self._observe(m.PROXY_TOKEN_GAP, model, gap)
            for outcome, confidence in calls:
                numbers.count(m.PROXY_TOOL_CALLS, 1, (outcome,))
                numbers.observe(m.PROXY_TASK_CONFIDENCE, confidence.score)
                self._observe(m.PROXY_CONFIDENCE, model, confidence.score)
                self._plain[m.PROXY_SPANS, (model, confidence.span_status)] += 1

    def collect(self, sheet: Sheet) -> None:
        with self._lock:
            sheet.value(m.PROXY_UPSTREAM_UP, self._up)
            for model, running in self._in_flight.items():
                sheet.value(m.PROXY_IN_FLIGHT, running, (model,))
            for (metric, labels), value in self._plain.items():
                sheet.value(metric, value, labels)
            for key, numbers in self._by_key.items():
                for (metric, labels), value in numbers.counters.items():
                    sheet.value(metric, value, (*key, *labels))
                for metric, (number, total) in numbers.summaries.items():
                    sheet.summary(metric, number, total, key)
            for (metric, model), histogram in self._histograms.items():
                sheet.histogram(metric, histogram.counts, histogram.total, (model,))

    def _numbers(self, key: Key) -> _Numbers:
        task = (key.run, key.task)
        # Taken out and put in again: the order of a dict is then the order of use.
        models = self._tasks.pop(task, None) or set()
        self._tasks[task] = models
        models.add(key.model)
        while len(self._tasks) > self._max_tasks:
            oldest = next(iter(self._tasks))
            for model in self._tasks.pop(oldest):
                self._by_key.pop(Key(*oldest, model), None)
            self._plain[m.PROXY_FORGOTTEN_TASKS, ()] += 1
        found = self._by_key.get(key)
        if found is None:
            found = self._by_key[key] = _Numbers()
        return found

    def _observe(self, metric: Metric, model: str, value: float | None) -> None:
        if value is None:
            return
        histogram = self._histograms.get((metric, model))
        if histogram is None:
            histogram = self._histograms[metric, model] = _Histogram([0] * (len(metric.buckets) + 1))
        histogram.counts[bisect_left(metric.buckets, value)] += 1
        histogram.total += value


def _decode(reply: Reply) -> tuple[float | None, int | None]:
    """As the model server timed it, else as the pieces arrived; the two are only given together."""
    if reply.decode_seconds is not None and reply.decode_tokens is not None:
        return reply.decode_seconds, reply.decode_tokens
    return reply.arrivals.decode(reply.completion_tokens)


def _rate(tokens: int | None, seconds: float | None) -> float | None:
    return tokens / seconds if tokens and seconds else None
