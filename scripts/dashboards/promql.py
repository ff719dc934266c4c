"""PromQL text for dashboards, built from declared metrics: a metric or label that does not exist cannot be written.

Every selector carries the dashboard's variables that apply to it. Series of the energy counter exist twice, once per scrape
job; the fine job is excluded here, so that no sum counts a joule twice.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from joulebench import metrics as m
from joulebench.metrics import GPU_ENERGY, GPU_ENERGY_SAMPLE_TIMESTAMP, GPU_ENERGY_SAMPLE_UNCERTAINTY, PREFIX, Metric

LONGEST_QUERY = 600
"""Characters that a person can still read."""

FINE_JOB = "joulebench-energy"
FINE_METRICS = (GPU_ENERGY, GPU_ENERGY_SAMPLE_TIMESTAMP, GPU_ENERGY_SAMPLE_UNCERTAINTY)

PUSHED_PREFIXES = tuple(PREFIX + part for part in ("run_", "task_", "call_", "tool_call_", "push_"))
JOB = 'job=~"$job"'
TASK_LABELS = "run_id, task_id, worker"
TASK = 'task_id="$task_id"'
"""The task that the task dashboard shows."""
PROMPT, COMPLETION = 'token=~"prompt|cached_prompt"', 'token="completion"'
PASSED = 'status="success"'
THERMAL = f'reason=~"{"|".join(m.THERMAL_REASONS)}"'
TOOL_OK = 'outcome="ok"'

PROXY_PREFIX = PREFIX + "proxy_"
PROXY_JOB = 'job="joulebench-proxy"'
ANY_JOB = 'job=~".+"'
PROXY_RUN = 'run_id=~"$run_id|"'
"""Requests that name no run too: they are metered all the same."""
FIRING = 'ALERTS{alertname=~"Joulebench.+", alertstate="firing"}'

RULES = Path(__file__).resolve().parents[2] / "prometheus/rules"
LEVEL_SELECTORS = {
    "run": 'run_id=~"$run_id"',
    "run_token": 'run_id=~"$run_id"',
    "run_model": 'run_id=~"$run_id", model=~"$model"',
    "instance": 'instance=~"$instance"',
    "gpu": 'instance=~"$instance", gpu=~"$gpu"',
    "gpu_reason": 'instance=~"$instance", gpu=~"$gpu"',
    "job": "",
    "api_model_token": 'cached=~"$cached"',
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
        # The proxy is no instance of the exporter, and its models are named by the clients.
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
    level = LEVEL_SELECTORS[name.partition(":")[0]]
    return f"{name}{{{', '.join([JOB, *([level] if level else []), *matchers])}}}"


def served(name: str, *matchers: str) -> str:
    """A metric of model servers, by the recording rules that bring vLLM, SGLang, llama.cpp and the proxy to the same names."""
    full_name = f"server:joulebench_server_{name}"
    _check_recorded(full_name, "model_servers.yml")
    return f"{full_name}{{{', '.join([ANY_JOB, *matchers])}}}"


def _check_recorded(name: str, file: str) -> None:
    rules = [rule["record"] for group in yaml.safe_load((RULES / file).read_text())["groups"] for rule in group["rules"]]
    if name not in rules:
        raise ValueError(f"no rule records {name}; recorded are {', '.join(dict.fromkeys(rules))}")


def latest(metric: Metric, *matchers: str, suffix: str = "") -> str:
    """The last value of every series in the dashboard's range: finished tasks too, whose series have ended.

    Pushed counters begin at 0 with their group, so the last value is the total of the task or run. ``increase`` would miss what
    a series has at its first scrape, which for short tasks is most of it.
    """
    return f"last_over_time({select(metric, *matchers, suffix=suffix)}[$__range])"


def total(metric: Metric, *matchers: str, suffix: str = "", by: str = "") -> str:
    """Sum over the tasks in the dashboard's range."""
    return f"sum{f' by ({by})' if by else ''} ({latest(metric, *matchers, suffix=suffix)})"


def per_task(metric: Metric, *matchers: str, suffix: str = "") -> str:
    """One value per task, whatever other labels the metric has."""
    return total(metric, *matchers, suffix=suffix, by=TASK_LABELS)


def ratio(above: str, below: str) -> str:
    """Absent instead of NaN where ``below`` is 0."""
    return f"{above} / ({below} > 0)"


def added(metric: Metric, *matchers: str, suffix: str = "", window: str = "$__range") -> str:
    """The exact growth of each pushed counter in the window: a series that appears within it counts from 0.

    ``increase`` extrapolates, and misses what a series has when it appears.
    """
    series = select(metric, *matchers, suffix=suffix)
    newest = f"last_over_time({series}[{window}])"
    return f"({newest} - ({series} offset {window} or 0 * {newest}))"


def used_energy(by: str = "") -> str:
    """Joules of the GPUs in the dashboard's range, as the exact difference of counters; after a reset only what came since."""
    counter = select(m.GPU_ENERGY)
    difference = f"last_over_time({counter}[$__range]) - min_over_time({counter}[$__range])"
    return f"sum{f' by ({by})' if by else ''} ({difference})"


def quantile(share: float, metric: Metric) -> str:
    """Quantile over the last minute; absent, not NaN, without observations."""
    return f"histogram_quantile({share}, {observations(metric, '1m')}) >= 0"


def quantile_so_far(share: float, metric: Metric, *by: str) -> str:
    """Quantile over all observations of the runs in the dashboard's range."""
    return f"histogram_quantile({share}, sum by ({', '.join(('le', *by))}) ({latest(metric, suffix='_bucket')})) >= 0"


def observations(metric: Metric, window: str = "$__interval") -> str:
    """Observations of a histogram in the window by bucket, exactly: with ``$__interval`` each is in one heatmap column.

    The buckets are read over the window only once: runs that have ended make histograms the largest part of a long range.
    """
    series = select(metric, suffix="_bucket")
    return f"sum by (le) (last_over_time({series}[{window}])) - sum by (le) ({series} offset {window} or 0 * {series})"


def encoded(metric: Metric, label: str, values: tuple[str, ...], by: str) -> str:
    """A one-hot gauge as one number per ``by``: the position in ``values`` of the label whose sample is 1."""
    matchers = [f'{label}="{value}"' for value in values]
    parts = [f"{place} * ({select(metric, matcher)} == 1)" for place, matcher in enumerate(matchers)]
    return f"max by ({by}) ({' or '.join(parts)})"


def electricity() -> str:
    """Price of one joule of the GPUs, with the PUE of the price list; a vector without labels, empty without a price."""
    return f"max({recorded('job:joulebench_price_electricity_per_joule:with_pue')})"


def hardware() -> str:
    """Price of one second of the machine; 0 where the price list has none, which the cost dashboard then says."""
    return f"(max({select(m.PRICE_HARDWARE)}) or vector(0))"


def local_cost(*matchers: str, by: str = "") -> str:
    """Electricity of the energy that tasks are charged and hardware for their machine time, by one of the labels of tasks."""
    spread = "* on () group_left ()" if by else "*"
    joules, seconds = total(m.TASK_CHARGED_ENERGY, *matchers, by=by), total(m.TASK_CHARGED_SECONDS, *matchers, by=by)
    return f"({joules} {spread} {electricity()} + {seconds} {spread} {hardware()})"


def api_prices(*matchers: str, by: str = "token") -> str:
    return f"max by ({by}) ({recorded('api_model_token:joulebench_price_api_per_token:max', *matchers)})"


CHOSEN_API = 'api_model=~"$api_model"'


def api_cost(*matchers: str, by: str = "") -> str:
    """The same tokens at the chosen API model, cached prompt tokens at their own price or not, as the variable says."""
    tokens = total(m.TASK_TOKENS, *matchers, by=f"{by}, token" if by else "token")
    spread = "* on (token) group_left ()" if by else "* on (token)"
    return f"sum{f' by ({by})' if by else ''} ({tokens} {spread} {api_prices(CHOSEN_API)})"
