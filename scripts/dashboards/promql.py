"""PromQL text for dashboards from declared metrics: a metric or label that does not exist cannot be written.

Every selector carries the dashboard's variables that apply to it. Series of the energy counter exist twice, once per scrape
job; the fine job is left out here, so that no sum counts a joule twice.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from joulebench.metrics import (
    GPU_ENERGY,
    GPU_ENERGY_SAMPLE_TIMESTAMP,
    GPU_ENERGY_SAMPLE_UNCERTAINTY,
    PREFIX,
    TASK_END,
    TASK_INFO,
    TASK_START,
    Metric,
)

FINE_JOB = "joulebench-energy"
FINE_METRICS = (GPU_ENERGY, GPU_ENERGY_SAMPLE_TIMESTAMP, GPU_ENERGY_SAMPLE_UNCERTAINTY)

PUSHED_PREFIXES = tuple(PREFIX + part for part in ("run_", "task_", "call_", "tool_call_", "push_"))
JOB = 'job=~"$job"'
PROMPT, COMPLETION = 'token=~"prompt|cached_prompt"', 'token="completion"'
TASK_LABELS = "run_id, task_id, worker"
AFTERWARDS = "15s"
"""The end of a task, and its energy, are scraped a moment after it: a range that stops at the end looks this much further."""

PROXY_PREFIX = PREFIX + "proxy_"
PROXY_JOB = 'job="joulebench-proxy"'
ANY_JOB = 'job=~".+"'
PROXY_RUN = 'run_id=~"$run_id|"'
"""Requests that name no run too: they are metered all the same."""

RULES = Path(__file__).resolve().parents[2] / "prometheus/rules"
LEVEL_SELECTORS = {
    "run": 'run_id=~"$run_id"',
    "run_token": 'run_id=~"$run_id"',
    "run_model": 'run_id=~"$run_id", model=~"$model"',
    "instance": 'instance=~"$instance"',
    "gpu": 'instance=~"$instance", gpu=~"$gpu"',
    "gpu_reason": 'instance=~"$instance", gpu=~"$gpu"',
}


def is_pushed(metric: Metric) -> bool:
    return metric.name.startswith(PUSHED_PREFIXES)


def is_proxied(metric: Metric) -> bool:
    return metric.name.startswith(PROXY_PREFIX)


def select(metric: Metric, *matchers: str, suffix: str = "") -> str:
    """``suffix``: ``_bucket``, ``_sum`` or ``_count`` of a histogram or summary."""
    name = metric.name + suffix
    if name not in metric.series_names:
        raise ValueError(f"{name} is no series of {metric.name}; it has {', '.join(metric.series_names)}")
    if is_proxied(metric):
        # It is no instance of the exporter, and its models are named by the clients.
        return f"{name}{{{', '.join([PROXY_JOB, *([PROXY_RUN] if 'run_id' in metric.labels else []), *matchers])}}}"
    wanted = [JOB]
    if metric in FINE_METRICS:
        wanted.append(f'job!="{FINE_JOB}"')
    wanted.append('run_id=~"$run_id"' if is_pushed(metric) else 'instance=~"$instance"')
    if "gpu" in metric.labels:
        wanted.append('gpu=~"$gpu"')
    if "model" in metric.labels and is_pushed(metric):
        wanted.append('model=~"$model"')
    return f"{name}{{{', '.join([*wanted, *matchers])}}}"


def rate(metric: Metric, *matchers: str, suffix: str = "") -> str:
    return f"rate({select(metric, *matchers, suffix=suffix)}[$__rate_interval])"


def recorded(name: str, *matchers: str) -> str:
    """A series of a recording rule, chosen by the variables that its level allows."""
    _check_recorded(name, "recording.yml")
    level = name.partition(":")[0]
    return f"{name}{{{', '.join([JOB, LEVEL_SELECTORS[level], *matchers])}}}"


def served(name: str, *matchers: str) -> str:
    """What a model server tells, by the recording rules that bring vLLM, SGLang, llama.cpp and the proxy to the same names."""
    whole = f"server:joulebench_server_{name}"
    _check_recorded(whole, "model_servers.yml")
    return f"{whole}{{{', '.join([ANY_JOB, *matchers])}}}"


def _check_recorded(name: str, file: str) -> None:
    rules = [rule["record"] for group in yaml.safe_load((RULES / file).read_text())["groups"] for rule in group["rules"]]
    if name not in rules:
        raise ValueError(f"no rule records {name}; recorded are {', '.join(dict.fromkeys(rules))}")


def latest(metric: Metric, *matchers: str, suffix: str = "") -> str:
    """The last value of every series seen in the dashboard's range: finished tasks too, whose series are already gone.

    Pushed counters begin at 0 with their group, so the last value is the total. ``increase`` would miss what a series held at
    its first scrape, which for short tasks is most of it. A look past the range's end finds what is pushed after a task.
    """
    series = select(metric, *matchers, suffix=suffix)
    if not is_pushed(metric) and "run_id" not in metric.labels:
        return f"last_over_time({series}[$__range])"
    return f"(last_over_time({series}[{2 * int(AFTERWARDS[:-1])}s] offset -{AFTERWARDS}) or last_over_time({series}[$__range]))"


def in_range(expr: str) -> str:
    """Task series of the chosen models only, of tasks that ran at some time within the range: not of one that ended just before
    it or begins just after it. The model stands on the task's info series."""
    begun = f"{latest(TASK_START)} < $__to / 1000"
    over = f"{latest(TASK_END)} <= $__from / 1000"
    known = f"and on ({TASK_LABELS}) {latest(TASK_INFO)} and on ({TASK_LABELS}) ({begun})"
    return f"({expr} {known} unless on ({TASK_LABELS}) ({over}))"


def total(metric: Metric, *matchers: str, suffix: str = "", by: str = "") -> str:
    """Sum over the tasks in the dashboard's range."""
    return f"sum{f' by ({by})' if by else ''} {in_range(latest(metric, *matchers, suffix=suffix))}"


def per_task(metric: Metric, *matchers: str, suffix: str = "") -> str:
    """One value a task, whatever other labels the metric has."""
    return total(metric, *matchers, suffix=suffix, by=TASK_LABELS)


def ratio(above: str, below: str) -> str:
    """Absent instead of NaN where ``below`` is 0."""
    return f"{above} / ({below} > 0)"


def quantile(share: float, metric: Metric) -> str:
    """Quantile over the last minute; absent, not NaN, where nothing was observed."""
    return f"histogram_quantile({share}, {growth(metric, '1m')}) >= 0"


def quantile_so_far(share: float, metric: Metric, *by: str) -> str:
    """Quantile over everything that the runs in the dashboard's range have observed until now."""
    return f"histogram_quantile({share}, sum by ({', '.join(('le', *by))}) ({latest(metric, suffix='_bucket')})) >= 0"


def growth(metric: Metric, window: str = "$__interval") -> str:
    """Observations of a histogram within the window, exactly: by ``$__interval`` each falls into one heatmap column."""
    return f"sum by (le) ({grown(metric, window, suffix='_bucket')})"


def grown(metric: Metric, window: str = "$__range", *matchers: str, suffix: str = "") -> str:
    """What was added to each series within the window, exactly. A series may appear with its first observation, which
    ``increase`` does not see."""
    series = select(metric, *matchers, suffix=suffix)
    newest = f"max_over_time({series}[{window}])"
    return f"({newest} - ({series} offset {window} or 0 * {newest}))"


def encoded(metric: Metric, label: str, values: tuple[str, ...], by: str) -> str:
    """A one-hot gauge as one number per ``by``: the position in ``values`` of the label whose sample is 1."""
    matchers = [f'{label}="{value}"' for value in values]
    parts = [f"{place} * ({select(metric, matcher)} == 1)" for place, matcher in enumerate(matchers)]
    return f"max by ({by}) ({' or '.join(parts)})"
