"""A day of 2,000 tasks as the repository's scrape jobs would have stored it, written into the blocks of a Prometheus.

Ten runs of 200 tasks each, four tasks at once, with one of three models; two GPUs scraped every second. Every metric that is
pushed or scraped has its series; counters grow in steps, as calls end, and the readings of the GPUs change with every scrape.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from joulebench import metrics as m
from joulebench.metrics import Kind, Metric
from joulebench.stack import programs

DAY = 86_400
BLOCK = 7_200
RUNS, TASKS_PER_RUN, AT_ONCE = 10, 200, 4
MODELS = ("qwen3:8b", "llama3.1:8b", "gpt-oss:20b")
TOOLS = ("read_file", "write_file", "search", "calculate", "finish", "other")
GPUS = (("0", "GPU-0"), ("1", "GPU-1"))
API_MODELS = ("gpt-5-mini", "claude-haiku-4-5")
INSTANCE = "127.0.0.1:18347"
SCRAPED_AFTER_END = 4
"""Seconds for which a finished group is still scraped, until Prometheus is known to have it."""
STEPS = 12
"""Changes of a counter over its series."""

VALUES: Mapping[str, tuple[str, ...]] = {
    "reason": m.THROTTLE_REASONS,
    "clock": m.CLOCK_DOMAINS,
    "collector": ("gpu", "ollama", "prices"),
    "status": ("success",),
    "phase": m.PHASES,
    "outcome": m.TOOL_OUTCOMES,
    "token": m.API_TOKENS,
    "tool": TOOLS,
    "api_model": API_MODELS,
    "item": ("electricity", *API_MODELS),
    "source": ("nvml",),
    "gpu_source": ("nvml",),
    "energy_method": ("counter",),
    "link": m.LINKS,
    "direction": m.DIRECTIONS,
}
"""Values of each label; any other label has the one value "x"."""
RUN_PREFIXES = tuple(m.PREFIX + part for part in ("run_", "call_", "tool_call_", "push_"))
TASK_PREFIX, PROXY_PREFIX = m.PREFIX + "task_", m.PREFIX + "proxy_"
NOISY = (m.GPU_UTILIZATION, m.GPU_POWER, m.GPU_TEMPERATURE, m.GPU_TEMPERATURE_MARGIN, m.GPU_MEMORY_USED, m.GPU_CLOCK)
RECORDED_EVERY = 5


@dataclass(frozen=True, slots=True)
class StoredSeries:
    """``end`` excluded, whole unix seconds. A counter grows to ``value`` in ``STEPS``; ``noisy``: changes with every sample."""

    head: str
    start: int
    end: int
    value: float
    grows: bool = False
    noisy: bool = False
    period: int = 1


@dataclass(frozen=True, slots=True)
class Day:
    """``end`` in whole unix seconds."""

    end: int

    @property
    def start(self) -> int:
        return self.end - DAY


def write(day: Day, directory: Path) -> int:
    """Fills the storage folder; returns the number of samples. CalledProcessError where promtool fails."""
    stored = [*_exporter(day), *_runs(day)]
    promtool = str(programs.require("promtool"))
    count = 0
    for begin in range(day.start - day.start % BLOCK, day.end, BLOCK):
        text = directory.with_suffix(".om")
        times = [f"{at}.25\n" for at in range(begin, begin + BLOCK)]
        with text.open("w") as file:
            for series in stored:
                first, last = max(series.start, begin), min(series.end, begin + BLOCK)
                if first < last:
                    count += _write_series(file.write, series, first, times[first - begin : last - begin : series.period])
            file.write("# EOF\n")
        argv = [promtool, "tsdb", "create-blocks-from", "openmetrics", "--quiet", str(text), str(directory)]
        subprocess.run(argv, check=True, capture_output=True)
        text.unlink()
    return count


def _write_series(write_text: Callable[[str], object], series: StoredSeries, first: int, times: list[str]) -> int:
    if series.noisy:
        random = Random(first)
        write_text("".join(f"{series.head} {series.value * random.uniform(0.8, 1.2):.2f} {at}" for at in times))
        return len(times)
    if not series.grows:
        prefix = f"{series.head} {series.value:g} "
        write_text(prefix + prefix.join(times))
        return len(times)
    length = series.end - series.start
    for step in range(STEPS + 1):
        since, until = (series.start + length * place // (STEPS + 1) for place in (step, step + 1))
        part = times[max(0, since - first) : max(0, until - first)]
        if part:
            prefix = f"{series.head} {series.value * step / STEPS:.6g} "
            write_text(prefix + prefix.join(part))
    return len(times)


def _exporter(day: Day) -> Iterator[StoredSeries]:
    base = {"job": "joulebench", "instance": INSTANCE}
    pushed = (*RUN_PREFIXES, TASK_PREFIX, PROXY_PREFIX)
    for metric in m.METRICS:
        if not metric.name.startswith(pushed) and "loop" not in metric.labels and "queue" not in metric.labels:
            grows = metric.kind is not Kind.GAUGE
            value = 200.0 * DAY if metric is m.GPU_ENERGY else _value(metric)
            for head in _heads(metric, base, {"model": MODELS}):
                yield StoredSeries(head, day.start, day.end, value, grows, metric in NOISY)
    for name, labels in _recorded(base):
        yield StoredSeries(_head(name, labels), day.start, day.end, 0.5, noisy=True, period=RECORDED_EVERY)
    for job in ("joulebench", "joulebench-pushgateway", "joulebench-energy"):
        yield StoredSeries(_head("up", {"job": job, "instance": INSTANCE}), day.start, day.end, 1.0)


def _recorded(base: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Recorded series without a run, as prometheus/rules/recording.yml has them."""
    for gpu, uuid in GPUS:
        labels = {**base, "gpu": gpu, "uuid": uuid}
        yield "gpu:joulebench_gpu_memory_used:ratio", labels
        for reason in m.THROTTLE_REASONS:
            yield "gpu_reason:joulebench_gpu_throttle_seconds:rate1m", {**labels, "reason": reason}
    yield "instance:joulebench_gpu_power_watts:sum", base
    yield "instance:joulebench_gpu_energy_joules:rate1m", base
    yield "job:joulebench_price_electricity_per_joule:with_pue", {"job": "joulebench"}
    for model, token, cached in itertools.product(API_MODELS, m.API_TOKENS, ("as_run", "none")):
        labels = {"job": "joulebench", "api_model": model, "token": token, "currency": "USD", "cached": cached}
        yield "api_model_token:joulebench_price_api_per_token:max", labels


def _runs(day: Day) -> Iterator[StoredSeries]:
    length = DAY // RUNS
    for number in range(RUNS):
        start = day.start + number * length
        run = {"job": "joulebench", "run_id": f"run-{number}", "worker": "host-1"}
        labels = {"model": (MODELS[number % len(MODELS)],)}
        for metric in m.METRICS:
            if metric.name.startswith(RUN_PREFIXES):
                for head in _heads(metric, run, labels):
                    yield StoredSeries(head, start, start + length, _value(metric), metric.kind is not Kind.GAUGE)
        for token in m.API_TOKENS:
            recorded = {"job": "joulebench", "run_id": f"run-{number}", "token": token}
            head = _head("run_token:joulebench_task_tokens:per_second1m", recorded)
            yield StoredSeries(head, start, start + length, 30.0, noisy=True, period=RECORDED_EVERY)
        seconds = length * AT_ONCE // TASKS_PER_RUN
        for task in range(TASKS_PER_RUN):
            begun = start + (task // AT_ONCE) * seconds + (task % AT_ONCE) * seconds // AT_ONCE
            yield from _task(run, labels, f"task-{task}", begun, begun + seconds)


def _task(
    run: Mapping[str, str], labels: Mapping[str, tuple[str, ...]], name: str, start: int, end: int
) -> Iterator[StoredSeries]:
    group = {**run, "task_id": name}
    of_task = {**labels, "task_name": (name,), "task_key": (name,)}
    values = {m.TASK_START: float(start), m.TASK_END: float(end), m.TASK_DURATION: float(end - start)}
    after_end = (m.TASK_END, m.TASK_END_OFFSET, m.TASK_DURATION, m.TASK_SUCCESS, m.TASK_STATUS, m.TASK_CHARGED_SECONDS)
    for metric in m.METRICS:
        if metric.name.startswith(TASK_PREFIX):
            late = metric in after_end or metric.name.endswith("_joules") or metric is m.TASK_THROTTLED
            for head in _heads(metric, group, of_task):
                value = values.get(metric, _value(metric))
                grows = metric.kind is not Kind.GAUGE
                yield StoredSeries(head, end if late else start, end + SCRAPED_AFTER_END, value, grows)


def _value(metric: Metric) -> float:
    return 1.0 if metric.name.endswith(("_info", "_success", "_up")) else 100.0


def _heads(metric: Metric, base: Mapping[str, str], chosen: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    others = [label for label in metric.labels if label not in ("gpu", "uuid")]
    gpus = GPUS if "gpu" in metric.labels else ((None, None),)
    for gpu, uuid in gpus:
        for values in itertools.product(*(chosen.get(label) or VALUES.get(label, ("x",)) for label in others)):
            labels = {**base, **dict(zip(others, values, strict=True))}
            if gpu is not None and uuid is not None:
                labels |= {"gpu": gpu, "uuid": uuid}
            for series in metric.series_names:
                if series.endswith("_bucket"):
                    for bound in (*metric.buckets, "+Inf"):
                        yield _head(series, {**labels, "le": str(bound)})
                else:
                    yield _head(series, labels)


def _head(name: str, labels: Mapping[str, str]) -> str:
    text = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{text}}}"
