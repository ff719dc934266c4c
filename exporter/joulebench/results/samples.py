"""Raw samples around the tasks, fetched in chunks over the union of their windows: never one query for each task.

Each GPU becomes one ``GpuSamples``: its counter as a trace in unix time, its gauges as stored, its throttle counters. The
same GPU is scraped by two jobs; their samples are merged.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from joulebench import metrics
from joulebench.clients.matrix import Column, Times
from joulebench.clients.prometheus import PrometheusApi
from joulebench.results import energy_samples, queries
from joulebench.results.asking import Answer, Chunk, ask_energy, ask_in_parts
from joulebench.results.gpu_samples import GpuSamples, Samples
from joulebench.results.points import Columns, JoinedTimes, Points, inside

__all__ = ["GpuSamples", "Points", "Samples", "Window", "chunks", "fetch", "inside", "union"]

CHUNK_SECONDS = 3600.0
PAD_SECONDS = 30.0
"""Fetched before and after a window: the steps around its edges, also where somebody scrapes every 10 s."""

NO_METHOD = "none"

Window = tuple[float, float]


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
    spans = list(chunks(union(windows), chunk))
    needed = min((start for start, _ in windows), default=0.0), max((end for _, end in windows), default=0.0)
    collected = _Collected(api, equal or {}, needed)
    # One thread: the session of the client is not made for more, and a store answers one query with one core.
    with ThreadPoolExecutor(1, thread_name_prefix="joulebench-ask") as asking:
        collected.asking = asking
        try:
            ahead: Future[list[Chunk]] | None = None
            for done, (start, end) in enumerate(spans, 1):
                now = ahead or asking.submit(ask_in_parts, api, start, end, collected.equal)
                ahead = asking.submit(ask_in_parts, api, *spans[done], collected.equal) if done < len(spans) else None
                for part in now.result():
                    collected.add(part)
                if step is not None:
                    step(done, len(spans))
        finally:
            asking.shutdown(cancel_futures=True)
    if spans:
        collected.add_info(spans[0][0], spans[-1][1])
    return collected.samples()


@dataclass
class _Collected:
    """What came so far; parts of gauges are put together once, at the end. ``needed``: from the first to the last window."""

    api: PrometheusApi
    equal: Mapping[str, str]
    needed: Window
    asking: ThreadPoolExecutor | None = None
    gpus: dict[str, GpuSamples] = field(default_factory=dict)
    gauges: defaultdict[tuple[str, str], list[Columns]] = field(default_factory=lambda: defaultdict(list))
    throttle: defaultdict[tuple[str, str], list[Columns]] = field(default_factory=lambda: defaultdict(list))
    clock_offsets: defaultdict[str, list[Columns]] = field(default_factory=lambda: defaultdict(list))
    clock_steps: defaultdict[str, list[Columns]] = field(default_factory=lambda: defaultdict(list))

    def gpu(self, labels: Mapping[str, str]) -> GpuSamples:
        uuid = labels.get("uuid", "")
        if uuid not in self.gpus:
            self.gpus[uuid] = GpuSamples(labels.get("gpu", ""), uuid)
        self.gpus[uuid].instances.add(labels.get("instance", ""))
        return self.gpus[uuid]

    def add(self, chunk: Chunk) -> None:
        times: Times = {}
        self._add_energy(chunk, times)
        for metric, answer in chunk.raw.items():
            for one in self._columns(answer, times):
                columns = Columns(one.at, one.value)
                if metric is metrics.EXPORTER_CLOCK:
                    offsets = array("d", (value - at for at, value in columns))
                    self.clock_offsets[one.labels.get("instance", "")].append(Columns(one.at, offsets))
                elif metric is metrics.EXPORTER_CLOCK_STEPS:
                    self.clock_steps[one.labels.get("instance", "")].append(columns)
                else:
                    self.gauges[self.gpu(one.labels).uuid, metric.name].append(columns)
        for series in chunk.throttle:
            points = series.points
            if chunk.throttle_rests:
                points = [(at, points[-1][1]) for at in (chunk.start, chunk.end)]
            self.throttle[self.gpu(series.labels).uuid, series.labels.get("reason", "")].append(Columns.of(points))

    def _add_energy(self, chunk: Chunk, times: Times) -> None:
        counters, moments, slacks = (self._columns(answer, times) for answer in chunk.energy)
        start, end = max(chunk.start, self.needed[0]), min(chunk.end, self.needed[1])
        if chunk.narrowed and self.asking is not None and energy_samples.has_hole(moments, start, end):
            every = self.asking.submit(ask_energy, self.api, chunk.start, chunk.end, self.equal).result()
            counters, moments, slacks = (self._columns(answer, times) for answer in every)
        found = energy_samples.changes(counters, moments, slacks)
        for counter, _ in found:
            self.gpu(counter.labels)
        for uuid, jobs in energy_samples.by_uuid(found).items():
            energy_samples.add(self.gpus[uuid].energy, jobs)

    def _columns(self, answer: Answer, times: Times) -> list[Column]:
        query, body = answer
        return [one for one in map(_finite, self.api.columns(body, query, times)) if len(one.at)]

    def add_info(self, start: float, end: float) -> None:
        for series in self.api.query(queries.last(metrics.GPU_INFO, end - start, self.equal), end):
            gpu = self.gpu(series.labels)
            gpu.source = series.labels.get("source")
            # A card whose method was not settled at first has two series; the one that says nothing does not count.
            if (method := series.labels.get("energy_method")) != NO_METHOD or gpu.method is None:
                gpu.method = method
            gpu.name = series.labels.get("name")

    def samples(self) -> Samples:
        times: JoinedTimes = {}
        for (uuid, name), parts in self.gauges.items():
            self.gpus[uuid].gauges[name] = Columns.joined(parts, times)
        for (uuid, reason), parts in self.throttle.items():
            self.gpus[uuid].throttle[reason] = Columns.joined(parts)
        gpus = sorted(self.gpus.values(), key=lambda one: (one.gpu.zfill(4), one.uuid))
        clocks: dict[frozenset[str], tuple[Columns, Columns]] = {}
        for gpu in gpus:
            watchers = frozenset(gpu.instances)
            if watchers not in clocks:
                clocks[watchers] = _by_time(self.clock_offsets, watchers), _by_time(self.clock_steps, watchers)
            gpu.clock_offsets, gpu.clock_steps = clocks[watchers]
        return Samples(gpus)


def _by_time(parts: Mapping[str, Sequence[Columns]], instances: Iterable[str]) -> Columns:
    """Where several exporters tell of a GPU, they are in one row; each says something at its own moments."""
    known = [part for instance in instances for part in parts.get(instance, ())]
    return Columns.of(sorted(point for part in known for point in part))


def _finite(series: Column) -> Column:
    """Without what is no number, which is no sample either."""
    kept = np.isfinite(np.frombuffer(series.value))
    if kept.all():
        return series
    at, value = (array("d", np.frombuffer(column)[kept].tobytes()) for column in (series.at, series.value))
    return Column(series.labels, at, value)
