"""What Prometheus alone gives after the run: ours, and what a plain query of one-second samples makes of the same GPUs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.energy.window import window_energy
from joulebench.metrics import Metric
from joulebench.results import queries
from joulebench.results.fetch import Samples
from tests.benchmarks.methods import Answers, Estimate
from tests.benchmarks.windows import Taken

Points = Sequence[tuple[float, float]]
ONE_SECOND_JOB = {"job": "joulebench"}
PAD = 5.0


def ours(stored: Samples, windows: Sequence[Taken]) -> Answers:
    """As the export does it where no exporter answered."""
    by_gpu = {gpu.gpu: gpu for gpu in stored.gpus}
    answers: dict[int, Estimate] = {}
    for window in windows:
        gpu = by_gpu[str(window.plan.gpu)]
        energy = window_energy(gpu.energy, window.start_unix, window.end_unix, method=gpu.method or "counter")
        answers[window.plan.id] = Estimate(energy.joules, energy.low, energy.high)
    return answers


def naive_sum(power: Mapping[str, Points], windows: Sequence[Taken]) -> Answers:
    """Every one-second power sample inside the window counts for one second."""
    answers: dict[int, Estimate] = {}
    for window in windows:
        inside = [watts for at, watts in power[str(window.plan.gpu)] if window.start_unix <= at <= window.end_unix]
        answers[window.plan.id] = Estimate(sum(inside))
    return answers


def linear_counter(counter: Mapping[str, Points], windows: Sequence[Taken]) -> Answers:
    """The counter as it stood at each one-second scrape, with a straight line from scrape to scrape."""
    return {
        window.plan.id: Estimate(_line(points, window.end_unix) - _line(points, window.start_unix))
        for window in windows
        for points in [counter[str(window.plan.gpu)]]
    }


def one_second_points(api: PrometheusApi, metric: Metric, windows: Sequence[Taken]) -> dict[str, Points]:
    """By GPU index. Raises PrometheusError."""
    start = min(window.start_unix for window in windows) - PAD
    end = max(window.end_unix for window in windows) + PAD
    found = api.query(queries.raw(metric, end - start, ONE_SECOND_JOB), end)
    return {series.labels["gpu"]: series.points for series in found}


POWER, COUNTER = metrics.GPU_POWER, metrics.GPU_ENERGY


def _line(points: Points, t: float) -> float:
    index = min(max(bisect_right(points, (t, float("inf"))) - 1, 0), len(points) - 2)
    (t0, v0), (t1, v1) = points[index], points[index + 1]
    return v0 + (v1 - v0) * (t - t0) / (t1 - t0)
