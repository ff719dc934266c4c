"""How long a day of 1 s samples on 8 GPUs takes to become joules and statistics of 2,000 and of 10,000 tasks, and their files.

The day is written once and read again for each number of tasks: what grows with the tasks is told apart from what does not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from random import Random
from time import process_time

from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import Clock
from joulebench.energy.estimator import window_energies
from joulebench.results.fetch import fetch_samples
from joulebench.results.gpu_stats import combined_gauges
from joulebench.results.timeseries import gauge_stats
from joulebench.stack.native import NativeStack, Ports
from tests.benchmarks import run_journal, tsdb
from tests.benchmarks.report import Report, Target
from tests.benchmarks.scene import GPUS

HOURS = 24.0
LIMITS = {2_000: 8.0, 10_000: 20.0}
MOST_MEMORY = 1024.0
"""MiB."""
RUN_ID = "bench"
SHORTEST_TASK, LONGEST_TASK = 0.5, 300.0


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
            whole = [_whole(report, stack, history, tasks, clock) for tasks in LIMITS]
        finally:
            prometheus.stop()
    report.heading("A day of samples")
    report.say(f"{GPUS} GPUs over {hours:g} h, scraped every second: {stored:,} stored samples.")
    report.table(("", "tasks", "wall", "own CPU"), rows)
    report.table(("joulebench export", "tasks", "wall", "own CPU", "peak memory", "files", "size"), whole)


def _measured(report: Report, api: PrometheusApi, history: tsdb.History, tasks: int, clock: Clock) -> list[tuple[str, ...]]:
    windows = _windows(history, tasks)
    marks = [(clock.monotonic(), process_time())]
    gpus = fetch_samples(api, windows).gpus
    marks.append((clock.monotonic(), process_time()))
    for gpu in gpus:
        window_energies(gpu.energy, windows)
    marks.append((clock.monotonic(), process_time()))
    gauge_stats([series for gpu in gpus for series in combined_gauges([gpu]).values()], windows)
    marks.append((clock.monotonic(), process_time()))
    names = ("samples from Prometheus", "window energies", "statistics of 4 gauges")
    spent = [(w1 - w0, c1 - c0) for (w0, c0), (w1, c1) in pairwise(marks)]
    target = Target(f"samples and energies of {_what(history, tasks)}, wall", LIMITS[tasks], spent[0][0] + spent[1][0], "s")
    report.targets.append(target)
    return [(name, f"{tasks:,}", f"{wall:.2f} s", f"{cpu:.2f} s") for name, (wall, cpu) in zip(names, spent, strict=True)]


def _whole(report: Report, stack: NativeStack, history: tsdb.History, tasks: int, clock: Clock) -> tuple[str, ...]:
    """The command as a user runs it, in a process of its own, whose memory is therefore the command's."""
    runs = stack.directory / f"runs-{tasks}"
    run_journal.write(runs, RUN_ID, _windows(history, tasks))
    argv = ["export", "--run-id", RUN_ID, "--runs-dir", str(runs), "--prometheus-url", stack.prometheus_url]
    began = clock.monotonic()
    with (stack.directory / "export.log").open("wb") as log:
        command = subprocess.Popen([sys.executable, "-m", "joulebench.cli", *argv], stdout=log, stderr=log)
        _, status, used = os.wait4(command.pid, 0)
    command.returncode = os.waitstatus_to_exitcode(status)
    if command.returncode:
        raise RuntimeError((stack.directory / "export.log").read_text())
    wall, memory = clock.monotonic() - began, used.ru_maxrss / 1024
    files = [path.stat().st_size for path in (runs / RUN_ID).glob("result_*.json")]
    report.targets.append(Target(f"whole export of {_what(history, tasks)}, wall", LIMITS[tasks], wall, "s"))
    report.targets.append(Target(f"whole export of {_what(history, tasks)}, memory", MOST_MEMORY, memory, "MiB"))
    cpu = used.ru_utime + used.ru_stime
    size = f"{sum(files) / 2**20:.0f} MiB"
    return "", f"{tasks:,}", f"{wall:.2f} s", f"{cpu:.2f} s", f"{memory:.0f} MiB", f"{len(files):,}", size


def _what(history: tsdb.History, tasks: int) -> str:
    return f"{tasks:,} windows x {GPUS} GPUs x {(history.end - history.start) / 3600:g} h of 1 s samples"


def _windows(history: tsdb.History, tasks: int) -> list[run_journal.Window]:
    """Lengths spread evenly over their logarithm: many short tasks and a few long ones, anywhere in the day."""
    random = Random(1)
    found = []
    for _ in range(tasks):
        length = SHORTEST_TASK * (LONGEST_TASK / SHORTEST_TASK) ** random.random()
        start = random.uniform(history.start + 5.0, history.end - length - 5.0)
        found.append((start, start + length))
    return sorted(found)
