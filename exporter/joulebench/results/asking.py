"""The questions for one chunk of time, asked in a thread of their own: while one answer is read, the store works on the next.

What rests is not fetched: a counter that did not move and a GPU that was never lost are told by one short query. The energy
counter is scraped by two jobs, and where the finer one has it all, the other would only repeat it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi, Series
from joulebench.errors import QueryRefused
from joulebench.metrics import Metric
from joulebench.results import queries

SHORTEST_SECONDS = 30.0
"""A store that refuses so little refuses everything."""
FINER = 1.5
"""Times as many samples as any other job make a job the finer one."""

Answer = tuple[str, bytes]
"""(query, body)"""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Of unix seconds ``start`` to ``end``. ``energy``: one answer for each of ``ENERGY_METRICS``; ``narrowed``: of one job only.

    ``throttle_rests``: then each series has one point, good for the whole chunk.
    """

    start: float
    end: float
    energy: Sequence[Answer]
    narrowed: bool
    raw: Mapping[Metric, Answer]
    throttle: Sequence[Series]
    throttle_rests: bool


def ask_in_parts(api: PrometheusApi, start: float, end: float, equal: Mapping[str, str]) -> list[Chunk]:
    """One chunk, or several where the store refuses to load so much at once. Raises PrometheusError."""
    try:
        return [ask(api, start, end, equal)]
    except QueryRefused:
        if end - start < 2 * SHORTEST_SECONDS:
            raise
    middle = round((start + end) / 2, 3)
    return [*ask_in_parts(api, start, middle, equal), *ask_in_parts(api, middle, end, equal)]


def ask(api: PrometheusApi, start: float, end: float, equal: Mapping[str, str]) -> Chunk:
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
        energy=ask_energy(api, start, end, equal if job is None else {**equal, "job": job}),
        narrowed=job is not None,
        raw={metric: _raw(api, metric, start, end, equal) for metric in wanted},
        throttle=api.query((queries.raw if moved else queries.last)(throttle, seconds, equal), end),
        throttle_rests=not moved,
    )


def ask_energy(api: PrometheusApi, start: float, end: float, equal: Mapping[str, str]) -> list[Answer]:
    return [_raw(api, metric, start, end, equal) for metric in queries.ENERGY_METRICS]


def _raw(api: PrometheusApi, metric: Metric, start: float, end: float, equal: Mapping[str, str]) -> Answer:
    query = queries.raw(metric, end - start, equal)
    return query, api.raw(query, end)


def _finest_job(counts: Sequence[Series]) -> str | None:
    """The job that has by far the most samples of every exporter; None where there is no such job, or no other."""
    by_instance: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for one in counts:
        by_instance[one.labels.get("instance", "")][one.labels.get("job", "")] = one.points[-1][1]
    finest = {max(jobs, key=jobs.__getitem__) for jobs in by_instance.values()}
    if len(finest) != 1:
        return None
    (job,) = finest
    others = [count / jobs[job] for jobs in by_instance.values() for name, count in jobs.items() if name != job]
    return job if job and others and max(others) * FINER <= 1 else None
