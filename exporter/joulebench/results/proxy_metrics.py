"""The values of every task of a run as the metering proxy counted them, read back from its metrics in Prometheus.

A proxy counts from 0 when it is started, and when it drops a task and sees it again. Each such count of a task has a start of its
own, ``joulebench_proxy_task_start_timestamp_seconds``: the last values of all counts of a task add up, and a count that several
scrapers stored is taken once. Single calls, verdicts of the benchmark and results of tools are not in these metrics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite
from typing import NamedTuple

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi, Series
from joulebench.clock import Clock, wait_until
from joulebench.metrics import Metric
from joulebench.parsing import as_unix_time
from joulebench.results import queries
from joulebench.results.fetch import POLL_SECONDS, SETTLED_SECONDS, energy_reaches
from joulebench.results.journal import Journal
from joulebench.results.proxied import task_names
from joulebench.results.pushed import PushedTask
from joulebench.results.task import TaskKey, TaskValues
from joulebench.schema.events import PROXY, UNNAMED_TASK
from joulebench.schema.reasons import Reason

BEFORE_SECONDS = 60.0
AFTERWARDS_SECONDS = 300.0
"""Around the requests of a run: when a proxy may be scraped that counted them."""
ENERGY_COMES_WITHIN = 3.0
"""Seconds after the end of a request in which the proxy has its joules."""

QUERIES = len(queries.PROXY_TASK_METRICS)
"""Steps of ``load_proxied_tasks``."""
ERROR_RESULTS = ("refused", "broken", "unreachable")
OUTCOMES = tuple(outcome for outcome in metrics.TOOL_OUTCOMES if outcome != metrics.TOOL_ERROR)
"""Of tool calls that a reply alone can say."""

_OF_TASK = len(metrics.PROXY_TASK)

Cells = dict[tuple[str, tuple[str, ...]], float]
"""Last values by name of the series and its labels behind those of the task."""


class _Source(NamedTuple):
    """A task as one scraper sees it at one proxy. ``added``: labels that the proxy does not give, such as its address."""

    task_id: str
    model: str
    added: frozenset[tuple[str, str]]


class _Count(NamedTuple):
    """``start``: None where a proxy dropped the task before a request of this count began."""

    task_id: str
    model: str
    start: float | None


@dataclass(frozen=True, slots=True)
class _UnknownEnergy:
    """Stretches between two scrapes in which a proxy got no answer of the exporter, in unix seconds."""

    stretches: Sequence[tuple[float, float]]

    def touches(self, start: float | None, end: float | None) -> bool:
        return start is not None and any(begin <= (end or until) and start <= until for begin, until in self.stretches)


def wait_until_proxy_scraped(api: PrometheusApi, run_id: str, seconds: float, clock: Clock) -> bool:
    """Whether Prometheus has scraped every proxy of the run since now, and since the joules of its last request came, within
    ``seconds``. Raises PrometheusError.

    A proxy that has ended, or a run whose last request ended long ago, is not waited for.
    """
    began = clock.unix()
    return wait_until(lambda: _is_scraped(api, run_id, began), seconds, clock, POLL_SECONDS)


def _is_scraped(api: PrometheusApi, run_id: str, began: float) -> bool:
    of_run = {"run_id": run_id}
    ends = _last_values(api.query(queries.selector(metrics.PROXY_TASK_END, of_run)))
    if not ends:
        # A run that began a moment ago may be seen by the next scrape, if any proxy is scraped at all.
        known = api.query(queries.last(metrics.PROXY_TASK_START, SETTLED_SECONDS, of_run))
        return bool(known) or not api.query(queries.selector(metrics.PROXY_UPSTREAM_UP, {}))
    if began - max(ends) > SETTLED_SECONDS:
        return True
    scraped = _last_values(api.query(queries.scraped_at(metrics.PROXY_TASK_END, of_run)))
    return min(scraped, default=began) >= max(began, max(ends) + ENERGY_COMES_WITHIN) and energy_reaches(api, max(ends))


def load_proxied_tasks(
    api: PrometheusApi, run_id: str, now: float, lookback: float, step: Callable[[], None] = lambda: None
) -> dict[TaskKey, PushedTask]:
    """Every task of which a proxy was scraped within ``lookback`` seconds. ``step`` is called after each metric. Raises
    PrometheusError."""
    of_run = {"run_id": run_id}
    starts = _last_values(api.query(queries.lowest(metrics.PROXY_TASK_START, lookback, of_run), now))
    if not starts:
        return {}
    ends = _last_values(api.query(queries.highest(metrics.PROXY_TASK_END, lookback, of_run), now))
    # A proxy shows its tasks as long as it runs: the narrow range keeps the store from reading all of it.
    latest, earliest = min(now, max([*starts, *ends]) + AFTERWARDS_SECONDS), min(starts) - BEFORE_SECONDS
    seconds = latest - earliest
    # Just before a proxy began to count anew its last values are those of the earlier count.
    edges = [*(at - 0.001 for at in _restarts(api, run_id, latest, seconds)), latest]
    counts: dict[_Count, Cells] = {}
    restarted: set[str] = set()
    starts_of: dict[_Source, set[float | None]] = defaultdict(set)
    for begin, end in pairwise([earliest, *edges]):
        for source, cells in _read(api, run_id, end, end - begin, step).items():
            start = cells.get((metrics.PROXY_TASK_START.name, ()))
            starts_of[source].add(start)
            if len(starts_of[source]) > 1:
                restarted.add(source.task_id)
            count = _Count(source.task_id, source.model, start)
            if count not in counts or _requests(counts[count]) <= _requests(cells):
                counts[count] = cells
    unknown = _unknown_energy(api, latest, seconds)
    by_task: defaultdict[str, list[tuple[_Count, Cells]]] = defaultdict(list)
    for count, cells in counts.items():
        by_task[count.task_id].append((count, cells))
    return {
        TaskKey(task_id or UNNAMED_TASK, PROXY): _task(task_id, some, unknown, was_restarted=task_id in restarted)
        for task_id, some in by_task.items()
    }


def find_unjournaled_tasks(
    journal: Journal, counted: Mapping[TaskKey, PushedTask]
) -> tuple[dict[TaskKey, PushedTask], frozenset[TaskKey]]:
    """Tasks of which the proxy counted more requests than the journals hold: (those of the proxy alone, keys of the benchmark's).

    ``counted``: of ``load_proxied_tasks``.
    """
    alone, own = {}, set[TaskKey]()
    for key, task in counted.items():
        if (task.values.llm_calls or 0) <= journal.proxied_requests.get(key.task_id, 0):
            continue
        owners = {
            other
            for other, some in journal.tasks.items()
            if journal.run_starts.get(other.worker, {}).get("recorded_by") != PROXY
            and key.task_id in task_names(other, some)
            and _overlap(task.values, journal.values[other])
        }
        own |= owners
        if not owners:
            alone[key] = replace(task, reasons=(*task.reasons, Reason.REQUESTS_NOT_JOURNALED))
    return alone, frozenset(own)


def _overlap(a: TaskValues, b: TaskValues) -> bool:
    """Whether the two ran at the same time, as far as is known."""
    starts = [values.start for values in (a, b) if values.start is not None]
    ends = [values.end for values in (a, b) if values.end is not None]
    return not starts or not ends or max(starts) <= min(ends)


def _last_values(found: Iterable[Series]) -> list[float]:
    return [series.points[-1][1] for series in found if series.points and isfinite(series.points[-1][1])]


def _requests(cells: Cells) -> float:
    return sum(value for (name, _), value in cells.items() if name == metrics.PROXY_REQUESTS.name)


def _restarts(api: PrometheusApi, run_id: str, at: float, seconds: float) -> list[float]:
    """Times of the first scrapes at which the count of any task had begun anew."""
    found = set()
    for changed in api.query(queries.changed(metrics.PROXY_TASK_START, seconds, {"run_id": run_id}), at):
        of_task = {label: changed.labels.get(label, "") for label in metrics.PROXY_TASK}
        for series in api.query(queries.raw(metrics.PROXY_TASK_START, seconds, of_task), at):
            found |= {after for (_, start), (after, anew) in pairwise(series.points) if start != anew}
    return sorted(found)


def _read(api: PrometheusApi, run_id: str, at: float, seconds: float, step: Callable[[], None]) -> dict[_Source, Cells]:
    """Last values of all series of the run within ``seconds`` before ``at``."""
    found: defaultdict[_Source, Cells] = defaultdict(dict)
    for metric in queries.PROXY_TASK_METRICS:
        own = {"__name__", *metric.labels}
        for name in metric.series_names:
            for series in api.query(queries.last(metric, seconds, {"run_id": run_id}, name), at):
                if not series.points or not isfinite(series.points[-1][1]):
                    continue
                labels = series.labels
                added = frozenset((label, value) for label, value in labels.items() if label not in own)
                source = _Source(labels.get("task_id", ""), labels.get("model", ""), added)
                further = tuple(labels.get(label, "") for label in metric.labels[_OF_TASK:])
                found[source][name, further] = series.points[-1][1]
        step()
    return found


def _unknown_energy(api: PrometheusApi, at: float, seconds: float) -> _UnknownEnergy:
    stretches = []
    for series in api.query(queries.raw(metrics.PROXY_ENERGY_UNKNOWN, seconds, {}), at):
        # A counter that fell began at 0; its first value is counted before the range.
        stretches += [(a, b) for (a, before), (b, after) in pairwise(series.points) if after > before or 0 < after < before]
    return _UnknownEnergy(stretches)


@dataclass(frozen=True, slots=True)
class _Sums:
    """The counts of a task together; None for what none of them has."""

    cells: Sequence[Cells]

    def total(self, metric: Metric, suffix: str = "") -> float | None:
        found = [value for cells in self.cells for (name, _), value in cells.items() if name == metric.name + suffix]
        return sum(found) if found else None

    def whole(self, metric: Metric, suffix: str = "") -> int | None:
        found = self.total(metric, suffix)
        return None if found is None else round(found)

    def by_labels(self, metric: Metric) -> Mapping[tuple[str, ...], float]:
        found: defaultdict[tuple[str, ...], float] = defaultdict(float)
        for cells in self.cells:
            for (name, labels), value in cells.items():
                if name == metric.name:
                    found[labels] += value
        return found


def _task(task_id: str, counts: Sequence[tuple[_Count, Cells]], unknown: _UnknownEnergy, *, was_restarted: bool) -> PushedTask:
    sums = _Sums([cells for _, cells in counts])
    first = min(counts, key=lambda one: (one[0].start is None, one[0].start or 0.0))[0]
    ends = [end for _, cells in counts if (end := cells.get((metrics.PROXY_TASK_END.name, ()))) is not None]
    start, end = as_unix_time(first.start), as_unix_time(max(ends, default=None))
    results = {result: round(number) for (result,), number in sums.by_labels(metrics.PROXY_REQUESTS).items()}
    answered = sums.whole(metrics.PROXY_TASK_DURATION, "_count") or 0
    # Of each answered request that was read, the proxy knows what its reply has not, too.
    is_read = answered == results.get("ok", 0)
    nothing = 0 if is_read else None
    outcomes = {outcome: round(number) for (outcome,), number in sums.by_labels(metrics.PROXY_TOOL_CALLS).items()}
    values = TaskValues(
        task_name=task_id or UNNAMED_TASK,
        model_name=first.model or None,
        start=start,
        end=end,
        status=None if end is None else "unknown",
        llm_calls=sum(results.values()),
        answered_calls=answered,
        llm_errors=sum(results.get(result, 0) for result in ERROR_RESULTS),
        prompt_tokens=sums.whole(metrics.PROXY_PROMPT_TOKENS),
        completion_tokens=sums.whole(metrics.PROXY_COMPLETION_TOKENS),
        llm_seconds=sums.total(metrics.PROXY_TASK_DURATION, "_sum"),
        ttft_count=_known(sums.whole(metrics.PROXY_TASK_TTFT, "_count"), nothing),
        ttft_seconds=sums.total(metrics.PROXY_TASK_TTFT, "_sum"),
        prefill_seconds=sums.total(metrics.PROXY_PREFILL, "_sum"),
        decode_seconds=sums.total(metrics.PROXY_DECODE, "_sum"),
        decode_tokens=sums.whole(metrics.PROXY_DECODE_TOKENS),
        load_seconds=sums.total(metrics.PROXY_LOAD, "_sum"),
        tool_calls={outcome: outcomes.get(outcome, 0) for outcome in OUTCOMES} if is_read else outcomes or None,
        confidence_count=_known(sums.whole(metrics.PROXY_TASK_CONFIDENCE, "_count"), nothing),
        confidence_sum=sums.total(metrics.PROXY_TASK_CONFIDENCE, "_sum"),
    )
    joules = sums.by_labels(metrics.PROXY_ENERGY)
    remote = sums.whole(metrics.PROXY_REMOTE_REQUESTS) or 0
    is_known = bool(joules) and not unknown.touches(start, end)
    return PushedTask(
        values,
        call_energy=(sum(results.values()), sum(joules.values())) if is_known else None,
        counted_by_proxy=True,
        used_gpus=frozenset(uuid for _, uuid in joules),
        ran_elsewhere=0 < results.get("ok", 0) <= remote,
        reasons=(Reason.PROXY_RESTARTED,) if was_restarted else (),
    )


def _known(value: int | None, otherwise: int | None) -> int | None:
    return otherwise if value is None else value
