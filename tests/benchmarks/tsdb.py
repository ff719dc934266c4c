"""Hours of stored samples, as the repository's scrape jobs would have left them, written straight into Prometheus' blocks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from joulebench import metrics
from joulebench.metrics import Metric
from joulebench.results.queries import ENERGY_METRICS, GAUGE_METRICS
from joulebench.stack import programs
from tests.benchmarks.scene import STEP

INSTANCE = "127.0.0.1:18347"
WATTS = 200.0
FULL_JOB, ENERGY_JOB = ("joulebench", 1.0), ("joulebench-energy", 0.25)
UNCERTAINTY = 0.01


@dataclass(frozen=True, slots=True)
class History:
    """From ``start`` to ``end`` in unix seconds, of ``gpus`` GPUs. ``jobs``: (name, period) of those that scrape the counter."""

    start: float
    end: float
    gpus: int
    jobs: Sequence[tuple[str, float]] = (FULL_JOB, ENERGY_JOB)


def write(history: History, directory: Path) -> int:
    """Fills the storage folder ``directory``; returns how many samples there are. CalledProcessError where promtool fails."""
    text = directory.with_suffix(".om")
    count = 0
    with text.open("w") as file:
        for lines in _series(history):
            file.writelines(lines)
            count += len(lines)
        file.write("# EOF\n")
    promtool = str(programs.require("promtool"))
    argv = [promtool, "tsdb", "create-blocks-from", "openmetrics", "--quiet", str(text), str(directory)]
    subprocess.run(argv, check=True, capture_output=True)
    text.unlink()
    return count


def _series(history: History) -> Iterator[Sequence[str]]:
    """One list of lines for each series; series of one metric in a row, as the format wants it."""
    for metric in ENERGY_METRICS:
        for job, period in history.jobs:
            for gpu in range(history.gpus):
                yield _lines(history, metric, job, period, gpu)
    for metric in (*GAUGE_METRICS, metrics.GPU_UP):
        for gpu in range(history.gpus):
            yield _lines(history, metric, *FULL_JOB, gpu)
    for metric in (metrics.EXPORTER_CLOCK, metrics.EXPORTER_CLOCK_STEPS):
        yield _lines(history, metric, *FULL_JOB, None)


def _lines(history: History, metric: Metric, job: str, period: float, gpu: int | None) -> list[str]:
    labels = f'job="{job}",instance="{INSTANCE}"'
    if gpu is not None:
        labels += f',gpu="{gpu}",uuid="GPU-{gpu:08d}"'
    head = f"{metric.name}{{{labels}}}"
    times = (history.start + index * period for index in range(int((history.end - history.start) / period)))
    return [f"{head} {_value(metric, at, history.start)} {at:.3f}\n" for at in times]


def _value(metric: Metric, at: float, start: float) -> str:
    changed = at - at % STEP
    if metric is metrics.GPU_ENERGY:
        return f"{WATTS * (changed - start):.3f}"
    if metric is metrics.GPU_ENERGY_SAMPLE_TIMESTAMP:
        return f"{changed:.6f}"
    if metric is metrics.GPU_ENERGY_SAMPLE_UNCERTAINTY:
        return f"{UNCERTAINTY}"
    if metric is metrics.EXPORTER_CLOCK:
        return f"{at:.6f}"
    if metric is metrics.EXPORTER_CLOCK_STEPS:
        return "0"
    return f"{at % 7:.3f}"
