"""How long a day of 1 s samples on 8 GPUs takes to become the joules of 2,000 and of 10,000 tasks, and their statistics.

The day is written once and read again for each number of tasks: what grows with the tasks is told apart from what does not.
"""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from random import Random
from time import process_time

from joulebench.clients.prometheus_api import PrometheusApi
from joulebench.clock import Clock
from joulebench.energy.window import window_energy
from joulebench.results import samples
from joulebench.results.gauge_stats import stats
from joulebench.results.hardware import Gauges
from joulebench.stack.native import NativeStack, Ports
from tests.benchmarks import tsdb
from tests.benchmarks.report import Report, Target
from tests.benchmarks.scene import GPUS

HOURS = 24.0
LIMITS = {2_000: 3.0, 10_000: 6.0}
SHORTEST_TASK, LONGEST_TASK = 0.5, 300.0

Window = tuple[float, float]


def run(report: Report, clock: Clock, hours: float = HOURS) -> None:
    with tempfile.TemporaryDirectory(prefix="joulebench-bench-") as name:
        end = clock.unix() - 60.0
        history = tsdb.History(end - 3600 * hours, end, GPUS, jobs=(tsdb.FULL_JOB,))
        stack = NativeStack(Path(name) / "stack", Ports.free())
        (stack.directory / "prometheus-data").mkdir(parents=True)
        stored = tsdb.write(history, stack.directory / "prometheus-data")
        prometheus = stack.prometheus()
        prometheus.start()
        try:
            api = PrometheusApi(stack.prometheus_url, timeout=120.0)
            rows = [row for tasks in LIMITS for row in _measured(report, api, history, tasks, clock)]
        finally:
            prometheus.stop()
    report.heading("A day of samples")
    report.say(f"{GPUS} GPUs over {hours:g} h, scraped every second: {stored:,} stored samples.")
    report.table(("", "tasks", "wall", "own CPU"), rows)


def _measured(report: Report, api: PrometheusApi, history: tsdb.History, tasks: int, clock: Clock) -> list[tuple[str, ...]]:
    windows = _windows(history, tasks)
    marks = [(clock.monotonic(), process_time())]
    gpus = samples.fetch(api, windows).gpus
    marks.append((clock.monotonic(), process_time()))
    for gpu in gpus:
        for start, end in windows:
            window_energy(gpu.energy, start, end)
    marks.append((clock.monotonic(), process_time()))
    for gpu in gpus:
        gauges = Gauges.of([gpu])
        for start, end in windows:
            for points in (gauges.util, gauges.vram, gauges.temp, gauges.power):
                stats(points, start, end)
    marks.append((clock.monotonic(), process_time()))
    names = ("samples from Prometheus", "window energies", "statistics of 4 gauges")
    spent = [(w1 - w0, c1 - c0) for (w0, c0), (w1, c1) in pairwise(marks)]
    what = f"{tasks:,} windows x {GPUS} GPUs x {(history.end - history.start) / 3600:g} h of 1 s samples"
    report.targets.append(Target(f"samples and energies of {what}, wall", LIMITS[tasks], spent[0][0] + spent[1][0], "s"))
    return [(name, f"{tasks:,}", f"{wall:.2f} s", f"{cpu:.2f} s") for name, (wall, cpu) in zip(names, spent, strict=True)]


def _windows(history: tsdb.History, tasks: int) -> list[Window]:
    """Lengths spread evenly over their logarithm: many short tasks and a few long ones, anywhere in the day."""
    random = Random(1)
    found = []
    for _ in range(tasks):
        length = SHORTEST_TASK * (LONGEST_TASK / SHORTEST_TASK) ** random.random()
        start = random.uniform(history.start + 5.0, history.end - length - 5.0)
        found.append((start, start + length))
    return sorted(found)
