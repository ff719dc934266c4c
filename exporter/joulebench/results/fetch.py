"""Raw samples around the tasks, fetched in chunks over the union of their windows: never one query for each task.

Each GPU becomes one ``GpuSamples``: its counter as an energy curve in unix time, its gauges as stored, its throttle counters. The
same GPU is scraped by two jobs: where the finer one has all changes of the counter, the other is not fetched. What rests is not
fetched either: a counter that did not move and a GPU that was never lost are known by one short query.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from joulebench import metrics
from joulebench.clients.matrix import Column
from joulebench.clients.prometheus import PrometheusApi, Series
from joulebench.clock import Clock, wait_until
from joulebench.energy.curve import EnergyCurve
from joulebench.energy.plausibility import MOST_WATTS, ceiling_watts, checked_curve
from joulebench.errors import QueryRefused
from joulebench.metrics import Metric
from joulebench.results import queries
from joulebench.results.task import Task
from joulebench.results.timeseries import EMPTY, TimeSeries, Window

CHUNK_SECONDS = 3600.0
SHORTEST_CHUNK_SECONDS = 30.0
"""A store that refuses so little refuses everything."""
PAD_SECONDS = 30.0
"""Fetched before and after a window: the steps around its edges, also where somebody scrapes every 10 s."""
FINER = 1.5
"""Times as many samples as any other job make a job the finer one."""
ROUNDED_STORE_SECONDS = 0.005
HOLE_STEPS = 3.0
NO_METHOD = "none"
NO_CURVE = EnergyCurve(np.empty(0), np.empty(0), np.empty(0))

SETTLED_SECONDS = 120.0
"""What Prometheus has not seen this long after a run, it will not see."""
BEYOND_SECONDS = 0.5
NEIGHBOURS_SECONDS = 6.0
"""No number of a window looks further than 5 s past its end (clock offsets do), and a scrape takes up to 1 s more."""
POLL_SECONDS = 0.25
RECENT_SECONDS = 60.0

GAUGE_RANGES: Mapping[Metric, tuple[float, float]] = {
    metrics.GPU_UTILIZATION: (0.0, 1.0),
    metrics.GPU_MEMORY_USED: (0.0, 1e13),
    metrics.GPU_TEMPERATURE: (-50.0, 200.0),
    metrics.GPU_TEMPERATURE_MARGIN: (-200.0, 250.0),
    metrics.GPU_POWER: (0.0, MOST_WATTS),
}
"""Ratio, bytes, celsius and watts that a card can have; what lies outside is a glitch of its reading."""

Floats: TypeAlias = NDArray[np.float64]
Answer: TypeAlias = tuple[str, bytes]
"""(query, body)"""


@dataclass
class GpuSamples:
    """What the store holds of one GPU. ``gauges``: by metric name. ``throttle``: cumulative seconds by reason. ``glitches``:
    samples that were impossible and left out, by metric name.

    ``sensor_lag``: seconds by which its counter shows energy late, for which ``energy`` is corrected. ``power_limit``: the
    highest enforced limit in watts.

    Of the exporter that watches it, ``clock_offsets``: its clock minus scrape time; ``clock_steps``: its count of wall clock
    jumps.
    """

    gpu: str
    uuid: str
    energy: EnergyCurve = NO_CURVE
    gauges: dict[str, TimeSeries] = field(default_factory=lambda: defaultdict(lambda: EMPTY))
    throttle: dict[str, TimeSeries] = field(default_factory=lambda: defaultdict(lambda: EMPTY))
    instances: set[str] = field(default_factory=set)
    glitches: dict[str, int] = field(default_factory=dict)
    clock_offsets: TimeSeries = EMPTY
    clock_steps: TimeSeries = EMPTY
    source: str | None = None
    method: str | None = None
    name: str | None = None
    sensor_lag: float = 0.0
    power_limit: float | None = None

    @property
    def seen(self) -> TimeSeries:
        """When this GPU was read: a card that is lost has no readings."""
        return max(self.gauges.values(), key=len, default=EMPTY)

    def without_energy(self) -> GpuSamples:
        return replace(self, energy=NO_CURVE)


@dataclass
class Samples:
    gpus: list[GpuSamples]


# --- when Prometheus has everything -------------------------------------------------------------------------------------------


def wait_until_scraped(api: PrometheusApi, run_id: str, tasks: Sequence[Task], seconds: float, clock: Clock) -> bool:
    """Whether Prometheus has the pushed ends and the energy of all tasks within ``seconds``. Raises PrometheusError.

    What is not being scraped at all (no exporter, no Pushgateway) is not waited for.
    """
    last_end = max((task.values.end for task in tasks if task.values.end is not None), default=None)
    if last_end is None or clock.unix() - last_end > SETTLED_SECONDS:
        return True
    return wait_until(lambda: _is_scraped(api, run_id, tasks, last_end, clock), seconds, clock, POLL_SECONDS)


def wait_until_settled(api: PrometheusApi, last_end: float, seconds: float, clock: Clock) -> bool:
    """Whether a later look at windows up to ``last_end`` (unix seconds) would find the same energy samples. Raises
    PrometheusError."""
    if clock.unix() - last_end > SETTLED_SECONDS:
        return True
    return wait_until(lambda: energy_reaches(api, last_end + NEIGHBOURS_SECONDS), seconds, clock, POLL_SECONDS)


def energy_reaches(api: PrometheusApi, time: float) -> bool:
    """Also where no energy is scraped at all: there is nothing to wait for."""
    energy = api.query(queries.oldest_energy_sample())
    return not energy or energy[0].points[-1][1] >= time


def _is_scraped(api: PrometheusApi, run_id: str, tasks: Sequence[Task], last_end: float, clock: Clock) -> bool:
    if not energy_reaches(api, last_end + BEYOND_SECONDS):
        return False
    length = clock.unix() - min((t.values.start for t in tasks if t.values.start is not None), default=last_end) + RECENT_SECONDS
    begun = api.query(queries.last(metrics.TASK_START, length, {"run_id": run_id}))
    ended = api.query(queries.last(metrics.TASK_END, length, {"run_id": run_id}))
    finished = sum(task.values.end is not None for task in tasks)
    return not begun or len(ended) >= finished


# --- chunks of time -----------------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True, slots=True)
class Chunk:
    """Answers for unix seconds ``start`` to ``end``. ``energy``: one for each of ``ENERGY_METRICS``, ``narrowed``: of one job.

    ``throttle_rests``: then each series has one point, good for the whole chunk.
    """

    start: float
    end: float
    energy: Sequence[Answer]
    narrowed: bool
    raw: Mapping[Metric, Answer]
    throttle: Sequence[Series]
    throttle_rests: bool


T = TypeVar("T")


def fetch_in_parts(fetch: Callable[[float, float], T], start: float, end: float) -> list[T]:
    """What ``fetch`` returns for this time, or for parts of it where the store refuses to load so much at once.

    Raises PrometheusError.
    """
    try:
        return [fetch(start, end)]
    except QueryRefused:
        if end - start < 2 * SHORTEST_CHUNK_SECONDS:
            raise
    middle = round((start + end) / 2, 3)
    return [*fetch_in_parts(fetch, start, middle), *fetch_in_parts(fetch, middle, end)]


def fetch_chunks(api: PrometheusApi, start: float, end: float, equal: Mapping[str, str]) -> list[Chunk]:
    """One chunk, or several where the store refuses to load so much at once. Raises PrometheusError."""
    return fetch_in_parts(lambda start, end: fetch_chunk(api, start, end, equal), start, end)


def fetch_chunk(api: PrometheusApi, start: float, end: float, equal: Mapping[str, str]) -> Chunk:
    """Raises PrometheusError."""
    seconds = end - start
    job = _finest_job(api.query(queries.counted(metrics.GPU_ENERGY_SAMPLE_TIMESTAMP, seconds, equal), end))
    wanted = [*queries.GAUGE_METRICS, metrics.EXPORTER_CLOCK]
    if api.query(queries.fell_below_1(metrics.GPU_UP, seconds, equal), end):
        wanted.append(metrics.GPU_UP)
    if api.query(queries.last(metrics.GPU_FOREIGN_USE, seconds, equal), end):
        wanted += [metrics.GPU_FOREIGN_USE_START, metrics.GPU_FOREIGN_USE]
    if api.query(queries.changed(metrics.EXPORTER_CLOCK_STEPS, seconds, equal), end):
        wanted.append(metrics.EXPORTER_CLOCK_STEPS)
    throttle = metrics.GPU_THROTTLE_SECONDS
    moved = bool(api.query(queries.changed(throttle, seconds, equal), end))
    return Chunk(
        start=start,
        end=end,
        energy=_fetch_energy(api, start, end, equal if job is None else {**equal, "job": job}),
        narrowed=job is not None,
        raw={metric: _fetch_raw(api, metric, start, end, equal) for metric in wanted},
        throttle=api.query((queries.raw if moved else queries.last)(throttle, seconds, equal), end),
        throttle_rests=not moved,
    )


def _fetch_energy(api: PrometheusApi, start: float, end: float, equal: Mapping[str, str]) -> list[Answer]:
    return [_fetch_raw(api, metric, start, end, equal) for metric in queries.ENERGY_METRICS]


def _fetch_raw(api: PrometheusApi, metric: Metric, start: float, end: float, equal: Mapping[str, str]) -> Answer:
    query = queries.raw(metric, end - start, equal)
    return query, api.raw(query, end)


def _finest_job(counts: Sequence[Series]) -> str | None:
    """The job that has by far the most samples of every exporter; None where there is no such job, or no other."""
    by_instance: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for series in counts:
        by_instance[series.labels.get("instance", "")][series.labels.get("job", "")] = series.points[-1][1]
    finest = {max(jobs, key=jobs.__getitem__) for jobs in by_instance.values()}
    if len(finest) != 1:
        return None
    (job,) = finest
    others = [count / jobs[job] for jobs in by_instance.values() for name, count in jobs.items() if name != job]
    return job if job and others and max(others) * FINER <= 1 else None


# --- samples of every GPU -----------------------------------------------------------------------------------------------------


def fetch_samples(
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
    collector = _Collector(api, equal or {}, needed)
    # One thread: the session of the client is not made for more, and a store answers one query with one core. While one answer
    # is read, the store works on the next.
    with ThreadPoolExecutor(1, thread_name_prefix="joulebench-fetch") as executor:
        try:
            ahead: Future[list[Chunk]] | None = None
            for done, (start, end) in enumerate(spans, 1):
                now = ahead or executor.submit(fetch_chunks, api, start, end, collector.equal)
                ahead = executor.submit(fetch_chunks, api, *spans[done], collector.equal) if done < len(spans) else None
                for part in now.result():
                    collector.add(part, executor)
                if step is not None:
                    step(done, len(spans))
        finally:
            executor.shutdown(cancel_futures=True)
    if spans:
        collector.add_info(spans[0][0], spans[-1][1])
    return collector.samples()


@dataclass(frozen=True, slots=True)
class CounterChanges:
    """What one job stored of one counter: when it was scraped, when it had changed, to what, and how sure that time is."""

    scraped: Floats
    at: Floats
    joules: Floats
    uncertainty: Floats


@dataclass
class _Collector:
    """What came so far; parts of series are joined once, at the end. ``needed``: from the first to the last window."""

    api: PrometheusApi
    equal: Mapping[str, str]
    needed: Window
    gpus: dict[str, GpuSamples] = field(default_factory=dict)
    counters: defaultdict[str, list[CounterChanges]] = field(default_factory=lambda: defaultdict(list))
    power_limits: dict[str, float] = field(default_factory=dict)
    gauges: defaultdict[tuple[str, str], list[TimeSeries]] = field(default_factory=lambda: defaultdict(list))
    throttle: defaultdict[tuple[str, str], list[TimeSeries]] = field(default_factory=lambda: defaultdict(list))
    clock_offsets: defaultdict[str, list[TimeSeries]] = field(default_factory=lambda: defaultdict(list))
    clock_steps: defaultdict[str, list[TimeSeries]] = field(default_factory=lambda: defaultdict(list))

    def gpu(self, labels: Mapping[str, str]) -> GpuSamples:
        uuid = labels.get("uuid", "")
        if uuid not in self.gpus:
            self.gpus[uuid] = GpuSamples(labels.get("gpu", ""), uuid)
        self.gpus[uuid].instances.add(labels.get("instance", ""))
        return self.gpus[uuid]

    def add(self, chunk: Chunk, executor: ThreadPoolExecutor) -> None:
        self._add_energy(chunk, executor)
        for metric, answer in chunk.raw.items():
            for column in self._columns(answer):
                series = TimeSeries(column.at, column.value)
                if metric is metrics.EXPORTER_CLOCK:
                    offsets = TimeSeries(column.at, column.value - column.at)
                    self.clock_offsets[column.labels.get("instance", "")].append(offsets)
                elif metric is metrics.EXPORTER_CLOCK_STEPS:
                    self.clock_steps[column.labels.get("instance", "")].append(series)
                else:
                    gpu = self.gpu(column.labels)
                    possible = possible_samples(series, GAUGE_RANGES.get(metric))
                    if len(possible) < len(series):
                        gpu.glitches[metric.name] = gpu.glitches.get(metric.name, 0) + len(series) - len(possible)
                    self.gauges[gpu.uuid, metric.name].append(possible)
        for one in chunk.throttle:
            points = one.points
            if chunk.throttle_rests:
                points = [(at, points[-1][1]) for at in (chunk.start, chunk.end)]
            self.throttle[self.gpu(one.labels).uuid, one.labels.get("reason", "")].append(TimeSeries.of(points))

    def _add_energy(self, chunk: Chunk, executor: ThreadPoolExecutor) -> None:
        counters, moments, slacks = map(self._columns, chunk.energy)
        start, end = max(chunk.start, self.needed[0]), min(chunk.end, self.needed[1])
        if chunk.narrowed and has_hole(moments, start, end):
            every = executor.submit(_fetch_energy, self.api, chunk.start, chunk.end, self.equal).result()
            counters, moments, slacks = map(self._columns, every)
        by_uuid: defaultdict[str, list[CounterChanges]] = defaultdict(list)
        for labels, changes in match_counter_changes(counters, moments, slacks):
            by_uuid[self.gpu(labels).uuid].append(changes)
        for uuid, jobs in by_uuid.items():
            self.counters[uuid].append(merge_jobs(jobs))

    def _columns(self, answer: Answer) -> list[Column]:
        query, body = answer
        return [column for column in map(_without_nonfinite, self.api.columns(body, query)) if len(column.at)]

    def add_info(self, start: float, end: float) -> None:
        for series in self.api.query(queries.last(metrics.GPU_INFO, end - start, self.equal), end):
            gpu = self.gpu(series.labels)
            gpu.source = series.labels.get("source")
            # A card whose method was not settled at first has two series; the one that says nothing does not count.
            if (method := series.labels.get("energy_method")) != NO_METHOD or gpu.method is None:
                gpu.method = method
            gpu.name = series.labels.get("name")
        for series in self.api.query(queries.highest(metrics.GPU_POWER_LIMIT, end - start, self.equal), end):
            uuid, limit = series.labels.get("uuid", ""), series.points[-1][1]
            self.power_limits[uuid] = max(self.power_limits.get(uuid, limit), limit)

    def samples(self) -> Samples:
        for uuid, parts in self.counters.items():
            curve = counter_curve(parts, ceiling_watts(self.power_limits.get(uuid)))
            if len(curve.glitches):
                self.gpus[uuid].glitches[metrics.GPU_ENERGY.name] = len(curve.glitches)
            self.gpus[uuid].energy = curve
        for (uuid, name), series in self.gauges.items():
            self.gpus[uuid].gauges[name] = TimeSeries.joined(series)
        for (uuid, reason), series in self.throttle.items():
            self.gpus[uuid].throttle[reason] = TimeSeries.joined(series)
        for uuid, limit in self.power_limits.items():
            if uuid in self.gpus:
                self.gpus[uuid].power_limit = limit
        gpus = sorted(self.gpus.values(), key=lambda gpu: (gpu.gpu.zfill(4), gpu.uuid))
        clocks: dict[frozenset[str], tuple[TimeSeries, TimeSeries]] = {}
        for gpu in gpus:
            watchers = frozenset(gpu.instances)
            if watchers not in clocks:
                clocks[watchers] = _by_time(self.clock_offsets, watchers), _by_time(self.clock_steps, watchers)
            gpu.clock_offsets, gpu.clock_steps = clocks[watchers]
        return Samples(gpus)


def match_counter_changes(
    counters: Sequence[Column], times: Sequence[Column], slacks: Sequence[Column]
) -> Iterator[tuple[Mapping[str, str], CounterChanges]]:
    """Labels and changes of each counter. A value counts only with the time that belongs to it, of the same scrape."""
    time_of = {_identity(column): column for column in times}
    slack_of = {_identity(column): column for column in slacks}
    for counter in counters:
        time, slack = time_of.get(_identity(counter)), slack_of.get(_identity(counter))
        if time is not None:
            common, here, there = np.intersect1d(counter.at, time.at, assume_unique=True, return_indices=True)
            uncertainty = np.zeros(len(common))
            if slack is not None:
                _, mine, theirs = np.intersect1d(common, slack.at, assume_unique=True, return_indices=True)
                uncertainty[mine] = slack.value[theirs]
            yield counter.labels, CounterChanges(common, time.value[there], counter.value[here], uncertainty)


def merge_jobs(jobs: Sequence[CounterChanges]) -> CounterChanges:
    """The changes of one counter, as one or several jobs scraped it."""
    extra = ROUNDED_STORE_SECONDS if all(_is_rounded(job.at) for job in jobs) else 0.0
    # In the order of scrapes, not of sample times: after a reset or a clock step these two differ.
    columns = [np.concatenate([getattr(job, name) for job in jobs]) for name in ("scraped", "at", "joules", "uncertainty")]
    order = np.lexsort((columns[1], columns[0]))
    scraped, at, joules, uncertainty = (column[order] for column in columns)
    return CounterChanges(scraped, at, joules, uncertainty + extra)


def counter_curve(parts: Sequence[CounterChanges], watts: float) -> EnergyCurve:
    """The energy curve of one counter's changes. ``watts``: the highest power that is believed.

    What is not later than the changes before it is the same change seen again, and is left out.
    """
    columns = [np.concatenate([getattr(part, name) for part in parts]) for name in ("at", "joules", "uncertainty")]
    later = columns[0] > np.concatenate(([-np.inf], np.maximum.accumulate(columns[0])[:-1]))
    at, joules, uncertainty = (column[later] for column in columns)
    return checked_curve(at, joules, uncertainty, watts)


def possible_samples(series: TimeSeries, limits: tuple[float, float] | None) -> TimeSeries:
    """Without samples that cannot be true."""
    if limits is None:
        return series
    possible = (series.value >= limits[0]) & (series.value <= limits[1])
    return series if possible.all() else TimeSeries(series.at[possible], series.value[possible])


def has_hole(times: Sequence[Column], start: float, end: float) -> bool:
    """Whether a series was not scraped for much longer than usual, at the edges of the chunk too."""
    for column in times:
        steps = np.diff(column.at)
        longest = max(column.at[0] - start, end - column.at[-1], steps.max(initial=0.0))
        if not len(steps) or longest > HOLE_STEPS * np.median(steps):
            return True
    return False


def _identity(column: Column) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in column.labels.items() if name != "__name__")


def _is_rounded(times: Floats) -> bool:
    """Whether the store keeps 12 digits of a value, so that a unix time is true to 5 ms only."""
    hundredths = times * 100
    return bool((np.abs(hundredths - np.rint(hundredths)) < 1e-4).all())


def _by_time(parts: Mapping[str, Sequence[TimeSeries]], instances: Iterable[str]) -> TimeSeries:
    """Samples of several exporters of one GPU in one row; each says something at its own moments."""
    known = [part for instance in instances for part in parts.get(instance, ())]
    if not known:
        return EMPTY
    at, value = np.concatenate([part.at for part in known]), np.concatenate([part.value for part in known])
    order = np.lexsort((value, at))
    return TimeSeries(at[order], value[order])


def _without_nonfinite(column: Column) -> Column:
    """Without what is no number, which is no sample either."""
    kept = np.isfinite(column.value)
    return column if kept.all() else Column(column.labels, column.at[kept], column.value[kept])
