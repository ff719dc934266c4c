"""Raw samples around the tasks, fetched in chunks over the union of their windows: never one query for each task.

Each GPU becomes one ``GpuSamples``: its counter as a trace in unix time, its gauges as stored, its throttle counters. The
same GPU is scraped by two jobs; their samples are merged. A counter value counts only with the time that belongs to it: the
sample timestamp of the same scrape.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from joulebench import catalogue
from joulebench.catalogue import Metric
from joulebench.clients.prometheus_api import PrometheusApi, Series
from joulebench.energy.trace import CounterTrace
from joulebench.results import queries

CHUNK_SECONDS = 3600.0
PAD_SECONDS = 30.0
"""Fetched before and after a window: the steps around its edges, also where somebody scrapes every 10 s."""
ROUNDED_STORE_SECONDS = 0.005

Window = tuple[float, float]
Points = list[tuple[float, float]]


@dataclass
class GpuSamples:
    """``gauges``: by metric name. ``throttle``: cumulative seconds by reason."""

    gpu: str
    uuid: str
    energy: CounterTrace = field(default_factory=CounterTrace)
    gauges: dict[str, Points] = field(default_factory=lambda: defaultdict(list))
    throttle: dict[str, Points] = field(default_factory=lambda: defaultdict(list))
    instances: set[str] = field(default_factory=set)
    source: str | None = None
    method: str | None = None
    name: str | None = None


@dataclass
class Samples:
    """``clock_offsets``: exporter clock minus scrape time. ``clock_steps``: the exporter's count of wall clock jumps."""

    gpus: list[GpuSamples]
    clock_offsets: Points
    clock_steps: Points


def union(windows: Iterable[Window], pad: float = PAD_SECONDS) -> list[Window]:
    """The padded windows merged where they touch, in order."""
    merged: list[Window] = []
    for start, end in sorted((start - pad, end + pad) for start, end in windows):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def chunks(spans: Iterable[Window], longest: float = CHUNK_SECONDS) -> Iterator[Window]:
    for start, end in spans:
        at = start
        while at < end:
            yield at, min(at + longest, end)
            at += longest


def fetch(
    api: PrometheusApi,
    windows: Sequence[Window],
    equal: Mapping[str, str] | None = None,
    *,
    chunk: float = CHUNK_SECONDS,
    step: Callable[[int, int], None] | None = None,
) -> Samples:
    """Samples of every GPU whose series carry the labels ``equal``; ``step(done, of)`` after each chunk.

    Raises PrometheusError.
    """
    collected = _Collected()
    spans = list(chunks(union(windows), chunk))
    for done, (start, end) in enumerate(spans, 1):
        _fetch_chunk(api, collected, start, end, equal or {})
        if step is not None:
            step(done, len(spans))
    if spans:
        _fetch_info(api, collected, spans[0][0], spans[-1][1], equal or {})
    gpus = sorted(collected.gpus.values(), key=lambda one: (one.gpu.zfill(4), one.uuid))
    return Samples(gpus, sorted(collected.clock_offsets), sorted(collected.clock_steps))


@dataclass
class _Collected:
    gpus: dict[str, GpuSamples] = field(default_factory=dict)
    clock_offsets: Points = field(default_factory=list)
    clock_steps: Points = field(default_factory=list)

    def gpu(self, labels: Mapping[str, str]) -> GpuSamples:
        uuid = labels.get("uuid", "")
        if uuid not in self.gpus:
            self.gpus[uuid] = GpuSamples(labels.get("gpu", ""), uuid)
        self.gpus[uuid].instances.add(labels.get("instance", ""))
        return self.gpus[uuid]


def _fetch_chunk(api: PrometheusApi, into: _Collected, start: float, end: float, equal: Mapping[str, str]) -> None:
    def stored(metric: Metric) -> list[Series]:
        return api.query(queries.raw(metric, end - start, equal), end)

    _add_energy(into, *map(stored, queries.ENERGY_METRICS))
    for metric in (*queries.GAUGE_METRICS, catalogue.GPU_UP):
        for series in stored(metric):
            _extend(into.gpu(series.labels).gauges[metric.name], series.points)
    for series in stored(catalogue.EXPORTER_CLOCK):
        _extend(into.clock_offsets, [(at, value - at) for at, value in series.points])
    for series in stored(catalogue.EXPORTER_CLOCK_STEPS):
        _extend(into.clock_steps, series.points)
    _add_throttle(api, into, start, end, equal)


def _add_throttle(api: PrometheusApi, into: _Collected, start: float, end: float, equal: Mapping[str, str]) -> None:
    """Throttle counters are six for each GPU and mostly rest: where none moved, one value stands for the whole chunk."""
    metric = catalogue.GPU_THROTTLE_SECONDS
    moved = bool(api.query(queries.changed(metric, end - start, equal), end))
    for series in api.query((queries.raw if moved else queries.last)(metric, end - start, equal), end):
        points = series.points if moved else [(at, series.points[-1][1]) for at in (start, end) if series.points]
        _extend(into.gpu(series.labels).throttle[series.labels.get("reason", "")], points)


def _extend(points: Points, more: Points) -> None:
    """Neighbouring chunks, and jobs that scrape the same thing, may repeat a moment."""
    if points and more and more[0][0] <= points[-1][0]:
        points[:] = sorted({**dict(points), **dict(more)}.items())
    else:
        points.extend(more)


def _add_energy(into: _Collected, counters: list[Series], times: list[Series], slacks: list[Series]) -> None:
    time_of = {_identity(series): dict(series.points) for series in times}
    slack_of = {_identity(series): dict(series.points) for series in slacks}
    changes: defaultdict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for series in counters:
        gpu = into.gpu(series.labels)
        at = time_of.get(_identity(series), {})
        slack = slack_of.get(_identity(series), {})
        changes[gpu.uuid] += [(t, at[t], joules, slack.get(t, 0.0)) for t, joules in series.points if t in at]
    for uuid, rows in changes.items():
        trace = into.gpus[uuid].energy
        extra = ROUNDED_STORE_SECONDS if _rounded(rows) else 0.0
        # In the order of scrapes, not of sample times: after a reset or a clock step these two differ. What is not later than
        # the last change is the same change seen again, and the trace leaves it out.
        for _, moment, joules, slack_seconds in sorted(rows):
            trace.append(moment, joules, slack_seconds + extra)


def _identity(series: Series) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in series.labels.items() if name != "__name__")


def _rounded(rows: Sequence[tuple[float, float, float, float]]) -> bool:
    """Whether the store keeps 12 digits of a value, so that a unix time is true to 5 ms only."""
    return all(abs(at * 100 - round(at * 100)) < 1e-4 for _, at, _, _ in rows)


def _fetch_info(api: PrometheusApi, into: _Collected, start: float, end: float, equal: Mapping[str, str]) -> None:
    for series in api.query(queries.last(catalogue.GPU_INFO, end - start, equal), end):
        gpu = into.gpu(series.labels)
        gpu.source = series.labels.get("source")
        gpu.method = series.labels.get("energy_method")
        gpu.name = series.labels.get("name")


def inside(points: Points, start: float, end: float) -> Points:
    """The points within [start, end]."""
    return points[bisect_left(points, (start, float("-inf"))) : bisect_left(points, (end, float("inf")))]
