"""The proxy's cumulative numbers, by task and model and as histograms by model, and the HTTP handler that serves them.

A client chooses its run, task and model names, so their number is bounded: beyond ``max_tasks`` the tasks that were idle longest
are dropped, and models beyond ``max_models`` are counted together. No counter ever decreases: the one place that adds to counters
refuses to, counts that and logs it.
"""

from __future__ import annotations

import logging
import math
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler

from joulebench import metrics as m
from joulebench.confidence.measures import CallConfidence
from joulebench.llm.reply import Reply
from joulebench.metrics import Metric
from joulebench.metrics.families import Family, Sheet, family
from joulebench.supervise import PROCESS_ERRORS

log = logging.getLogger(__name__)

OTHER_MODELS = "(other)"
MAX_HISTOGRAM_RUNS = 20
MAX_NAMES = 100
"""``name[]`` parameters of one scrape."""

Labels = tuple[str, ...]


class TaskKey(NamedTuple):
    run: str
    task: str
    model: str


class GpuShare(NamedTuple):
    """Joules of one GPU: the share of one task, and the GPU's total in that time."""

    gpu: str
    uuid: str
    share: float
    total: float


class JudgedCall(Protocol):
    @property
    def outcome(self) -> str: ...

    @property
    def confidence(self) -> CallConfidence: ...


@dataclass(slots=True)
class _Histogram:
    counts: list[int]
    total: float = 0.0


@dataclass(slots=True)
class _TaskNumbers:
    """Counters by metric and further labels, and summaries by metric; only those for which anything was counted.

    ``start`` and ``end``: unix times of the first request that began and of the latest that ended; None while there is none.
    """

    start: float | None = None
    end: float | None = None

    counters: dict[tuple[Metric, Labels], float] = field(default_factory=dict)
    summaries: dict[Metric, tuple[int, float]] = field(default_factory=dict)


class ProxyMetrics:
    """Safe to use from several threads."""

    declared = (
        *(metric for metric in m.METRICS if metric.name.startswith(f"{m.PREFIX}proxy_")),
        m.LOOP_ERRORS,
        m.QUEUE_DROPPED,
    )

    def __init__(self, max_tasks: int = 200, max_models: int = 50) -> None:
        self._max_tasks = max_tasks
        self._max_models = max_models
        self._lock = threading.Lock()
        self._by_key: dict[TaskKey, _TaskNumbers] = {}
        self._tasks: dict[tuple[str, str], set[str]] = {}
        """Models by task, the task that was idle longest first."""
        self._models: set[str] = set()
        self._histograms: dict[tuple[Metric, Labels], _Histogram] = {}
        self._histogram_runs: dict[str, None] = {}
        """Runs with histograms, the run that was idle longest first."""
        self._counters: dict[tuple[Metric, Labels], float] = {}
        """Counters that no task owns."""
        self._in_flight: defaultdict[str, int] = defaultdict(int)
        self._up: float | None = None
        self._refused_decreases: set[Metric] = set()
        self._queues: dict[str, Callable[[], int]] = {}
        self._watched: dict[Metric, Callable[[], int]] = {}

    def key(self, run: str, task: str, model: str) -> TaskKey:
        with self._lock:
            if model not in self._models:
                if len(self._models) >= self._max_models:
                    model = OTHER_MODELS
                else:
                    self._models.add(model)
            return TaskKey(run, task, model)

    def watch_queue(self, name: str, dropped: Callable[[], int]) -> None:
        """Publishes the number of entries that a queue has dropped."""
        self._queues[name] = dropped

    def watch(self, gauge: Metric, read: Callable[[], int]) -> None:
        """Publishes what ``read`` returns at each scrape; it must not wait."""
        self._watched[gauge] = read

    def begin(self, key: TaskKey, start: float) -> None:
        """``start``: unix time."""
        with self._lock:
            self._in_flight[key.model] += 1
            self._begun(key, start)

    def end(self, key: TaskKey, result: str, start: float, end: float) -> None:
        """``result`` is one of ``metrics.PROXY_RESULTS``; unix times."""
        with self._lock:
            self._in_flight[key.model] -= 1
            numbers = self._begun(key, start)
            numbers.end = end if numbers.end is None else max(numbers.end, end)
            self._count(numbers.counters, m.PROXY_REQUESTS, 1, (result,))
            if result != "client_gone":
                self._up = float(result != "unreachable")

    def count_unread(self, cause: str) -> None:
        """``cause`` is one of ``metrics.PROXY_UNREAD_CAUSES``."""
        with self._lock:
            self._count(self._counters, m.PROXY_UNREAD_REQUESTS, 1, (cause,))

    def count_unrecorded(self) -> None:
        with self._lock:
            self._count(self._counters, m.PROXY_UNRECORDED_REQUESTS, 1)

    def count_refused_additions(self, key: TaskKey) -> None:
        with self._lock:
            self._count(self._counters, m.PROXY_REFUSED_ADDITIONS, 1, (key.model,))

    def count_remote(self, key: TaskKey) -> None:
        with self._lock:
            self._count(self._numbers(key).counters, m.PROXY_REMOTE_REQUESTS, 1)

    def add_energy(self, shares: Iterable[tuple[TaskKey, GpuShare]]) -> None:
        with self._lock:
            for key, gpu in shares:
                counters = self._numbers(key).counters
                self._count(counters, m.PROXY_ENERGY, gpu.share, (gpu.gpu, gpu.uuid))
                self._count(counters, m.PROXY_ENERGY_WHOLE, gpu.total, (gpu.gpu, gpu.uuid))

    def count_energy_unknown(self, seconds: float) -> None:
        with self._lock:
            self._count(self._counters, m.PROXY_ENERGY_UNKNOWN, seconds)

    def count_reply(self, key: TaskKey, began: float, ended: float, reply: Reply, calls: Iterable[JudgedCall]) -> None:
        """Counts an answered request; times by the monotonic clock."""
        first = reply.arrivals.first
        ttft = None if first is None else first - began
        with self._lock:
            numbers = self._numbers(key)
            counters = numbers.counters
            self._count(counters, m.PROXY_PROMPT_TOKENS, reply.prompt_tokens)
            self._count(counters, m.PROXY_CACHED_TOKENS, reply.cached_tokens)
            self._count(counters, m.PROXY_COMPLETION_TOKENS, reply.completion_tokens)
            self._sum(numbers, m.PROXY_TASK_DURATION, ended - began)
            self._sum(numbers, m.PROXY_TASK_TTFT, ttft)
            self._sum(numbers, m.PROXY_LOAD, reply.load_seconds)
            self._sum(numbers, m.PROXY_OTHER_TIME, reply.other_seconds)
            self._sum(numbers, m.PROXY_PREFILL, reply.prefill_seconds)
            if reply.prefill_seconds is not None:
                self._count(counters, m.PROXY_PREFILL_TOKENS, reply.prefill_tokens)
            self._sum(numbers, m.PROXY_DECODE, reply.decode_seconds)
            self._count(counters, m.PROXY_DECODE_TOKENS, reply.decode_tokens)
            model = key.model
            of_run, of_model = self._run_labels(key), (model,)
            self._observe(m.PROXY_DURATION, of_run, ended - began)
            self._observe(m.PROXY_TTFT, of_run, ttft)
            self._observe(m.PROXY_PREFILL_RATE, of_model, _rate(reply.prefill_tokens, reply.prefill_seconds))
            self._observe(m.PROXY_DECODE_RATE, of_model, _rate(reply.decode_tokens, reply.decode_seconds))
            for gap in reply.arrivals.gaps:
                self._observe(m.PROXY_TOKEN_GAP, of_run, gap)
            for call in calls:
                score = call.confidence.score
                self._count(counters, m.PROXY_TOOL_CALLS, 1, (call.outcome,))
                self._sum(numbers, m.PROXY_TASK_CONFIDENCE, score)
                self._observe(m.PROXY_CONFIDENCE, of_model, score)
                self._count(self._counters, m.PROXY_SPANS, 1, (model, call.confidence.span_status))

    def collect(self, sheet: Sheet) -> None:
        """Fills ``sheet`` with one sample for every number."""
        for loop, errors in PROCESS_ERRORS.counts().items():
            sheet.value(m.LOOP_ERRORS, errors, (loop,))
        for queue, dropped in self._queues.items():
            sheet.value(m.QUEUE_DROPPED, dropped(), (queue,))
        for gauge, read in self._watched.items():
            sheet.value(gauge, read())
        with self._lock:
            sheet.value(m.PROXY_UPSTREAM_UP, self._up)
            for model, running in self._in_flight.items():
                sheet.value(m.PROXY_IN_FLIGHT, running, (model,))
            for (metric, labels), value in self._counters.items():
                sheet.value(metric, value, labels)
            for key, numbers in self._by_key.items():
                sheet.value(m.PROXY_TASK_START, numbers.start, key)
                sheet.value(m.PROXY_TASK_END, numbers.end, key)
                for (metric, labels), value in numbers.counters.items():
                    sheet.value(metric, value, (*key, *labels))
                for metric, (number, total) in numbers.summaries.items():
                    sheet.summary(metric, number, total, key)
            for (metric, labels), histogram in self._histograms.items():
                sheet.histogram(metric, histogram.counts, histogram.total, labels)

    def _begun(self, key: TaskKey, start: float) -> _TaskNumbers:
        """Of a task of which a request began at ``start``; the first start stays, since it names this count of the task."""
        numbers = self._numbers(key)
        if numbers.start is None:
            numbers.start = start
        return numbers

    def _numbers(self, key: TaskKey) -> _TaskNumbers:
        task = (key.run, key.task)
        # Taken out and put in again: the order of a dict is then the order of use.
        models = self._tasks.pop(task, None) or set()
        self._tasks[task] = models
        models.add(key.model)
        while len(self._tasks) > self._max_tasks:
            oldest = next(iter(self._tasks))
            for model in self._tasks.pop(oldest):
                self._by_key.pop(TaskKey(*oldest, model), None)
            self._count(self._counters, m.PROXY_FORGOTTEN_TASKS, 1)
        numbers = self._by_key.get(key)
        if numbers is None:
            numbers = self._by_key[key] = _TaskNumbers()
        return numbers

    def _count(
        self, counters: dict[tuple[Metric, Labels], float], metric: Metric, value: float | None, labels: Labels = ()
    ) -> None:
        """Adds to a counter; the only place that does. Absent values add nothing, and a counter never decreases."""
        if value is None or not self._may_add(metric, value):
            return
        counters[metric, labels] = counters.get((metric, labels), 0.0) + value

    def _sum(self, numbers: _TaskNumbers, metric: Metric, value: float | None) -> None:
        """Adds an observation to a summary."""
        if value is None or not self._may_add(metric, value):
            return
        number, total = numbers.summaries.get(metric, (0, 0.0))
        numbers.summaries[metric] = (number + 1, total + value)

    def _run_labels(self, key: TaskKey) -> Labels:
        """Labels of a run's histograms. Those of the run that was idle longest are dropped where there are too many."""
        self._histogram_runs.pop(key.run, None)
        self._histogram_runs[key.run] = None
        if len(self._histogram_runs) > MAX_HISTOGRAM_RUNS:
            oldest = next(iter(self._histogram_runs))
            del self._histogram_runs[oldest]
            of_run = (m.PROXY_DURATION, m.PROXY_TTFT, m.PROXY_TOKEN_GAP)
            for metric, labels in [one for one in self._histograms if one[0] in of_run and one[1][0] == oldest]:
                del self._histograms[metric, labels]
        return key.run, key.model

    def _observe(self, metric: Metric, labels: Labels, value: float | None) -> None:
        if value is None or not self._may_add(metric, value):
            return
        histogram = self._histograms.get((metric, labels))
        if histogram is None:
            histogram = self._histograms[metric, labels] = _Histogram([0] * (len(metric.buckets) + 1))
        histogram.counts[bisect_left(metric.buckets, value)] += 1
        histogram.total += value

    def _may_add(self, metric: Metric, value: float) -> bool:
        if value >= 0 and math.isfinite(value):
            return True
        name = metric.name
        refusals = self._counters.get((m.PROXY_REFUSED_DECREASES, (name,)), 0.0)
        self._counters[m.PROXY_REFUSED_DECREASES, (name,)] = refusals + 1
        if metric not in self._refused_decreases:
            self._refused_decreases.add(metric)
            log.warning("%s was not changed by %r: counters only increase", name, value)
        return False


def _rate(tokens: int | None, seconds: float | None) -> float | None:
    return tokens / seconds if tokens and seconds else None


class _Collector:
    def __init__(self, metrics: ProxyMetrics) -> None:
        self._metrics = metrics

    def describe(self) -> list[Family]:
        return [family(metric) for metric in self._metrics.declared]

    def collect(self) -> Iterator[Family]:
        sheet = Sheet()
        self._metrics.collect(sheet)
        yield from sheet.families()


def metrics_app(metrics: ProxyMetrics) -> web.Application:
    """Returns the proxy's own ``/metrics`` and ``/healthz``, for an address where no path is the model server's."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(_Collector(metrics))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    scrape = make_aiohttp_handler(registry)

    async def serve_metrics(request: web.Request) -> web.StreamResponse:
        if len(request.query.getall("name[]", [])) > MAX_NAMES:
            return web.Response(status=400, text=f"more than {MAX_NAMES} name[] parameters\n")
        response = await scrape(request)
        response.headers["Vary"] = "Accept-Encoding"
        return response

    async def serve_health(_: web.Request) -> web.StreamResponse:
        return web.Response(text=_health(PROCESS_ERRORS.last()))

    app = web.Application()
    app.add_routes([web.get("/metrics", serve_metrics), web.get("/healthz", serve_health)])
    return app


def _health(errors: Mapping[str, str]) -> str:
    """``ok``, and the latest unforeseen error of each background loop that had any."""
    return "".join(["ok\n", *(f"{loop}: {error}\n" for loop, error in errors.items())])
