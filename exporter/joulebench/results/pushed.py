"""The values of every task of a run from what was pushed, read back as the last value of each series.

Groups are deleted from the Pushgateway once Prometheus has them; ``last_over_time`` still finds them. The time of a sample is
never a task's time: starts and ends are values, as offsets from a whole second where the store has them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.metrics import Metric
from joulebench.parsing import as_unix_time
from joulebench.results import queries
from joulebench.results.task import GpuJoules, TaskKey, TaskValues

AFTERWARDS_SECONDS = 3600.0
"""How long after the last task begins or ends its last push may come."""

QUERIES = sum(len(metric.series_names) for metric in queries.RUN_METRICS) + 2
"""Steps of ``load_pushed_tasks``."""

Rows = dict[TaskKey, list[tuple[dict[str, str], float]]]


@dataclass(frozen=True, slots=True)
class PushedTask:
    """``call_energy``: calls and their joules. ``counted_by_proxy``: the values are those of the metering proxy, whose joules are
    shares, which add up where calls overlapped.

    ``gateway_clock_offset``: the benchmark's clock minus the Pushgateway's at the last push; a push takes a few ms.
    ``used_gpus``: UUIDs of those that the metering proxy counted joules of. ``ran_elsewhere``: another host ran the model.
    ``reasons``: what makes the values suspect. ``devices``: what names its GPUs, as RUN_START of a journal has it.
    """

    values: TaskValues
    energy: tuple[GpuJoules, ...] = ()
    call_energy: tuple[int, float] | None = None
    gateway_clock_offset: float | None = None
    counted_by_proxy: bool = False
    used_gpus: frozenset[str] = frozenset()
    ran_elsewhere: bool = False
    reasons: tuple[str, ...] = ()
    devices: Mapping[str, object] = field(default_factory=dict)


_PUSHED_LABELS = {"__name__", "job", *(label for metric in queries.RUN_METRICS for label in metric.labels)}
"""What a benchmark pushes. Other labels were added on the way into the store, such as those of a replica."""

_AddedLabels = frozenset[tuple[str, str]]


def _added_labels(labels: Mapping[str, str]) -> _AddedLabels:
    return frozenset((name, value) for name, value in labels.items() if name not in _PUSHED_LABELS)


@dataclass
class _LastValues:
    """Last values by series name and task, each pushed series once.

    Where several scrapers write the same Pushgateway into one store, or a scraper has had other labels since, a pushed series is
    there several times. Of each task, the series of the scraper that has the latest push are taken.
    """

    api: PrometheusApi
    run_id: str
    at: float
    seconds: float
    _cache: dict[str, Rows] = field(default_factory=dict)
    _of_one_scraper: dict[str, Rows] = field(default_factory=dict)

    def metric(self, metric: Metric, series: str | None = None) -> Rows:
        query = queries.last(metric, self.seconds, {"run_id": self.run_id}, series)
        return self._of_latest_scraper(series or metric.name, query)

    def push_times(self) -> Rows:
        return self._of_latest_scraper(queries.PUSH_TIME, queries.last_push_time(self.seconds, self.run_id))

    def _of_latest_scraper(self, series: str, query: str) -> Rows:
        if series not in self._of_one_scraper:
            rows = self._rows(series, query)
            self._of_one_scraper[series] = {key: self._choose_scraper(key, rows[key]) for key in rows}
        return self._of_one_scraper[series]

    def _choose_scraper(self, key: TaskKey, rows: list[tuple[dict[str, str], float]]) -> list[tuple[dict[str, str], float]]:
        by_scraper: dict[_AddedLabels, list[tuple[dict[str, str], float]]] = defaultdict(list)
        for labels, value in rows:
            by_scraper[_added_labels(labels)].append((labels, value))
        if len(by_scraper) == 1:
            return rows
        sent = metrics.TASK_SENT
        pushes = self._rows(sent.name, queries.last(sent, self.seconds, {"run_id": self.run_id})).get(key, [])
        sent_at = {_added_labels(labels): value for labels, value in pushes}
        return by_scraper[max(by_scraper, key=lambda added: (sent_at.get(added, 0.0), sorted(added)))]

    def _rows(self, series: str, query: str) -> Rows:
        if series not in self._cache:
            found: Rows = defaultdict(list)
            for one in self.api.query(query, self.at):
                if one.points and isfinite(one.points[-1][1]) and (task_id := one.labels.get("task_id")):
                    found[TaskKey(task_id, one.labels.get("worker", ""))].append((one.labels, one.points[-1][1]))
            self._cache[series] = dict(found)
        return self._cache[series]


def load_pushed_tasks(
    api: PrometheusApi, run_id: str, now: float, lookback: float, step: Callable[[], None] = lambda: None
) -> dict[TaskKey, PushedTask]:
    """Every task that pushed within ``lookback`` seconds. ``step`` is called after each query. Raises PrometheusError."""
    first = _LastValues(api, run_id, now, lookback)
    begins = [value for rows in first.metric(metrics.TASK_START).values() for _, value in rows]
    if not begins:
        return {}
    # Groups that were not deleted were scraped ever since: the narrow range keeps the store from reading all of it.
    latest = min(now, max(begins + [v for rows in first.metric(metrics.TASK_END).values() for _, v in rows]) + AFTERWARDS_SECONDS)
    pushed = _LastValues(api, run_id, latest, latest - min(begins) + 60.0)
    for metric in queries.RUN_METRICS:
        for name in metric.series_names:
            pushed.metric(metric, name)
            step()
    pushed.push_times()
    step()
    query = queries.last(metrics.RUN_INFO, pushed.seconds, {"run_id": run_id})
    devices = {one.labels.get("worker", ""): _devices(one.labels) for one in api.query(query, latest)}
    step()
    return {key: _task(pushed, key, devices.get(key.worker, {})) for key in pushed.metric(metrics.TASK_START)}


def _devices(labels: Mapping[str, str]) -> dict[str, object]:
    """What ``joulebench_run_info`` says; a run of an earlier version says nothing."""
    named = {"gpus": labels.get("gpus", "").split(","), "server": labels.get("server"), "job": labels.get("slurm_job")}
    return {name: value for name, value in named.items() if value and value != [""]}


def _task(pushed: _LastValues, key: TaskKey, devices: Mapping[str, object]) -> PushedTask:
    def value(metric: Metric, series: str | None = None) -> float | None:
        rows = pushed.metric(metric, series or metric.name).get(key)
        return rows[-1][1] if rows else None

    def whole(metric: Metric, series: str | None = None) -> int | None:
        found = value(metric, series)
        return None if found is None else round(found)

    def tokens(*kinds: str) -> int | None:
        rows = pushed.metric(metrics.TASK_TOKENS).get(key, [])
        counts = [round(count) for labels, count in rows if labels.get("token") in kinds]
        return sum(counts) if counts else None

    def label(metric: Metric, name: str) -> str | None:
        rows = pushed.metric(metric).get(key)
        return rows[-1][0].get(name) or None if rows else None

    success = value(metrics.TASK_SUCCESS)
    tools = pushed.metric(metrics.TASK_TOOL_CALLS).get(key)
    values = TaskValues(
        task_name=label(metrics.TASK_INFO, "task_name"),
        model_name=label(metrics.TASK_INFO, "model"),
        suite=label(metrics.TASK_INFO, "suite"),
        start=_moment(value, metrics.TASK_START, metrics.TASK_START_OFFSET),
        end=_moment(value, metrics.TASK_END, metrics.TASK_END_OFFSET),
        duration=value(metrics.TASK_DURATION),
        status=label(metrics.TASK_STATUS, "status"),
        success=None if success is None else success == 1,
        llm_calls=whole(metrics.TASK_LLM_CALLS),
        llm_errors=whole(metrics.TASK_LLM_ERRORS),
        prompt_tokens=tokens("prompt", "cached_prompt"),
        completion_tokens=tokens("completion"),
        llm_seconds=value(metrics.TASK_LLM_DURATION, _sum(metrics.TASK_LLM_DURATION)),
        ttft_count=whole(metrics.TASK_TTFT, _count(metrics.TASK_TTFT)),
        ttft_seconds=value(metrics.TASK_TTFT, _sum(metrics.TASK_TTFT)),
        prefill_seconds=value(metrics.TASK_PREFILL, _sum(metrics.TASK_PREFILL)),
        decode_seconds=value(metrics.TASK_DECODE, _sum(metrics.TASK_DECODE)),
        decode_tokens=whole(metrics.TASK_DECODE_TOKENS),
        load_seconds=value(metrics.TASK_LOAD, _sum(metrics.TASK_LOAD)),
        tool_calls={labels.get("outcome", ""): round(n) for labels, n in tools} if tools else None,
        tool_seconds=value(metrics.TASK_TOOL_DURATION, _sum(metrics.TASK_TOOL_DURATION)),
        confidence_count=whole(metrics.TASK_CONFIDENCE, _count(metrics.TASK_CONFIDENCE)),
        confidence_sum=value(metrics.TASK_CONFIDENCE, _sum(metrics.TASK_CONFIDENCE)),
        confidence_min=value(metrics.TASK_CONFIDENCE_MIN),
        confidence_max=value(metrics.TASK_CONFIDENCE_MAX),
    )
    sent = value(metrics.TASK_SENT)
    taken = pushed.push_times().get(key)
    offset = None if sent is None or not taken else sent - taken[-1][1]
    calls = whole(metrics.TASK_CALL_ENERGY, _count(metrics.TASK_CALL_ENERGY))
    joules = value(metrics.TASK_CALL_ENERGY, _sum(metrics.TASK_CALL_ENERGY))
    call_energy = None if not calls or joules is None else (calls, joules)
    return PushedTask(values, tuple(_energy(pushed, key)), call_energy, offset, devices=devices)


def _moment(value: Callable[[Metric], float | None], whole: Metric, offset: Metric) -> float | None:
    """Epoch plus offset keeps microseconds where the store rounds to 12 digits; the plain time is the fallback."""
    epoch, seconds = value(metrics.TASK_RUN_EPOCH), value(offset)
    return as_unix_time(value(whole) if epoch is None or seconds is None else epoch + seconds)


def _energy(pushed: _LastValues, key: TaskKey) -> Iterator[GpuJoules]:
    def by_gpu(metric: Metric) -> Mapping[tuple[str, str], float]:
        return {(labels.get("gpu", ""), labels.get("uuid", "")): v for labels, v in pushed.metric(metric).get(key, [])}

    joules = by_gpu(metrics.TASK_ENERGY)
    low, high = by_gpu(metrics.TASK_ENERGY_LOW), by_gpu(metrics.TASK_ENERGY_HIGH)
    throttled: defaultdict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for labels, seconds in pushed.metric(metrics.TASK_THROTTLED).get(key, []):
        throttled[labels.get("gpu", ""), labels.get("uuid", "")][labels.get("reason", "")] = seconds
    for gpu, uuid in sorted({*joules, *low, *throttled}):
        one = (gpu, uuid)
        yield GpuJoules(gpu, uuid, joules.get(one), low.get(one), high.get(one), throttled=throttled.get(one, {}))


def _sum(metric: Metric) -> str:
    return f"{metric.name}_sum"


def _count(metric: Metric) -> str:
    return f"{metric.name}_count"
