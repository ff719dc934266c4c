"""PromQL of the export, built from Metric objects: a name or label that is not declared cannot be written.

Only what every store answers alike is used: ``last_over_time``, ``changes`` and raw range selectors in instant queries. Never
``increase()``, which loses the first value of a series and extrapolates, and never ``query_range``, which re-stamps samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from joulebench import metrics
from joulebench.metrics import GROUP_LABELS, Kind, Metric

PUSH_TIME = "push_time_seconds"
"""Of the Pushgateway itself: when it took the last push of a group, by its own clock."""

FOR_DASHBOARDS = (metrics.TASK_CHARGED_ENERGY, metrics.TASK_CHARGED_SECONDS)
"""The export shares energy among the tasks of all workers itself."""
RUN_METRICS = tuple(
    metric
    for metric in metrics.METRICS
    if metric.name.startswith(f"{metrics.PREFIX}task_") and metric.kind is not Kind.HISTOGRAM and metric not in FOR_DASHBOARDS
)
"""What is read back of every task of a run."""

PROXY_TASK_METRICS = tuple(
    metric
    for metric in metrics.METRICS
    if metric.labels[: len(metrics.PROXY_TASK)] == metrics.PROXY_TASK and metric is not metrics.PROXY_ENERGY_WHOLE
)
"""What is read back of every task of the metering proxy."""

ENERGY_METRICS = (metrics.GPU_ENERGY, metrics.GPU_ENERGY_SAMPLE_TIMESTAMP, metrics.GPU_ENERGY_SAMPLE_UNCERTAINTY)
GAUGE_METRICS = (
    metrics.GPU_UTILIZATION,
    metrics.GPU_MEMORY_USED,
    metrics.GPU_TEMPERATURE,
    metrics.GPU_TEMPERATURE_MARGIN,
    metrics.GPU_POWER,
)
OWNER_METRICS = (metrics.GPU_PROCESS_OWNER_START, metrics.GPU_PROCESS_OWNER_END)
"""When processes of an owner used each GPU."""
RAW_METRICS = (
    *ENERGY_METRICS,
    *GAUGE_METRICS,
    metrics.GPU_UP,
    metrics.GPU_FOREIGN_USE,
    metrics.GPU_FOREIGN_USE_START,
    metrics.EXPORTER_CLOCK,
    metrics.EXPORTER_CLOCK_STEPS,
    *OWNER_METRICS,
    metrics.GPU_MIG_UTILIZATION,
)
"""What may be read as raw samples around the tasks. Of what mostly rests a short query comes first: see ``changed``."""


def quoted(value: str) -> str:
    """A PromQL string literal. Run ids are data: nothing in them may end the literal."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def selector(metric: Metric, equal: Mapping[str, str], series: str | None = None) -> str:
    """``series{label="value"}``; ``series`` picks ``_sum`` or ``_count`` of a summary."""
    name = series or metric.name
    if name not in metric.series_names:
        raise ValueError(f"{metric.name} has no series {name}")
    known = {*metric.labels, *GROUP_LABELS, "job", "instance"}
    if unknown := set(equal) - known:
        raise ValueError(f"{metric.name} has no label {sorted(unknown)}")
    return _braced(name, equal)


def _braced(name: str, equal: Mapping[str, str]) -> str:
    inner = ",".join(f"{label}={quoted(value)}" for label, value in equal.items())
    return f"{name}{{{inner}}}" if inner else name


def milliseconds(seconds: float) -> str:
    """A PromQL duration, one millisecond longer: ranges are open on the left since Prometheus 3 and closed before."""
    return f"{round(seconds * 1000) + 1}ms"


def raw(metric: Metric, seconds: float, equal: Mapping[str, str]) -> str:
    """Stored samples of the last ``seconds`` before the query's time."""
    return f"{selector(metric, equal)}[{milliseconds(seconds)}]"


def raw_selector(text: str, seconds: float) -> str:
    """The same for a selector that a user wrote, such as the series of a meter."""
    return f"{text}[{milliseconds(seconds)}]"


def raw_names(names: Sequence[str], seconds: float) -> str:
    """The same for all series of these names at once; a recorded name stands for itself."""
    return f"{{__name__=~{quoted('|'.join(names))}}}[{milliseconds(seconds)}]"


def last(metric: Metric, seconds: float, equal: Mapping[str, str], series: str | None = None) -> str:
    """The last value of each series within ``seconds``, even where its group was deleted since."""
    return f"last_over_time({selector(metric, equal, series)}[{milliseconds(seconds)}])"


def lowest(metric: Metric, seconds: float, equal: Mapping[str, str]) -> str:
    """The lowest value of each series within ``seconds``."""
    return f"min_over_time({selector(metric, equal)}[{milliseconds(seconds)}])"


def highest(metric: Metric, seconds: float, equal: Mapping[str, str]) -> str:
    """The highest value of each series within ``seconds``."""
    return f"max_over_time({selector(metric, equal)}[{milliseconds(seconds)}])"


def scraped_at(metric: Metric, equal: Mapping[str, str]) -> str:
    """When each series that is scraped now was scraped last, in unix seconds."""
    return f"timestamp({selector(metric, equal)})"


def last_push_time(seconds: float, run_id: str) -> str:
    return f"last_over_time({_braced(PUSH_TIME, {'run_id': run_id})}[{milliseconds(seconds)}])"


def changed(metric: Metric, seconds: float, equal: Mapping[str, str]) -> str:
    """Series that moved within ``seconds``."""
    return f"changes({selector(metric, equal)}[{milliseconds(seconds)}]) > 0"


def fell_below_1(metric: Metric, seconds: float, equal: Mapping[str, str]) -> str:
    """Series that were below 1 within ``seconds``."""
    return f"min_over_time({selector(metric, equal)}[{milliseconds(seconds)}]) < 1"


def counted(metric: Metric, seconds: float, equal: Mapping[str, str]) -> str:
    """Samples within ``seconds``, by job and target."""
    return f"sum by (job, instance) (count_over_time({selector(metric, equal)}[{milliseconds(seconds)}]))"


def runs(seconds: float, start: Metric = metrics.TASK_START) -> str:
    """One series for each run id of which a task's ``start`` was stored within ``seconds``."""
    return f"count by (run_id) (last_over_time({start.name}[{milliseconds(seconds)}]))"


def of_run(seconds: float, run_id: str) -> list[str]:
    """Every query that reads back the tasks of a run."""
    texts = [last(metric, seconds, {"run_id": run_id}, name) for metric in RUN_METRICS for name in metric.series_names]
    return [*texts, last_push_time(seconds, run_id)]


def of_proxied_run(seconds: float, run_id: str) -> list[str]:
    """Every query that reads back the tasks of a run as the metering proxy counted them."""
    return [last(metric, seconds, {"run_id": run_id}, name) for metric in PROXY_TASK_METRICS for name in metric.series_names]


def oldest_energy_sample() -> str:
    """How far the energy of every GPU that is scraped now has come, as the time of the slowest."""
    return f"min(max by (uuid) ({metrics.GPU_ENERGY_SAMPLE_TIMESTAMP.name}))"
