"""How long ``joulebench report`` takes over many result files, and how much memory, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

from joulebench.clock import Clock
from tests.benchmarks.report import Report, Target
from tests.fakes.scripted_run import Scripted, write

SIZES = (2_000, 10_000)
EVENTS = 40
"""Beside those of the script: a result file of a real task of a few calls has some 15 kB."""


def run(report: Report, clock: Clock) -> None:
    report.heading("Report of many result files")
    rows = []
    for tasks in SIZES:
        with tempfile.TemporaryDirectory(prefix="joulebench-bench-") as name:
            directory = write(Path(name) / "run", _attempts(tasks))
            size = sum(path.stat().st_size for path in directory.glob("result_*.json")) / tasks
            for format_ in ("html", "json"):
                out = Path(name) / f"report.{format_}"
                seconds, mib = _made(clock, directory, format_, out)
                shown = (f"{size / 1e3:.1f} kB", f"{seconds:.1f} s", f"{mib:.0f} MiB", f"{out.stat().st_size / 1e6:.1f} MB")
                rows.append((f"{tasks:,} files, {format_}", *shown))
                if (tasks, format_) == (SIZES[-1], "html"):
                    report.targets.append(Target(f"report of {tasks:,} result files, wall", 30.0, seconds, "s"))
                    report.targets.append(Target(f"report of {tasks:,} result files, memory", 1024.0, mib, "MiB"))
                if (tasks, format_) == (SIZES[0], "html"):
                    report.targets.append(Target(f"page of {tasks:,} tasks, size", 15.0, out.stat().st_size / 1e6, "MB"))
    report.table(("", "each file", "wall", "peak memory", "written"), rows)


def _attempts(tasks: int) -> Iterator[Scripted]:
    random = Random(1)
    common = {"run_id": "run", "worker": "w1", "result": "x" * 200}
    padding = [{"event_type": "LLM_FIRST_TOKEN_RECEIVED", "timestamp": 1.0, **common, "call": n} for n in range(EVENTS)]
    for number in range(tasks // 2):
        joules = 900 * random.lognormvariate(0, 0.5)
        one = Scripted(f"task-{number}", random.random() < 0.7, joules, joules / 300, 0.3, 1500, 300, 90, idle_watts=60.0)
        one = replace(one, extra={"call_energy": padding})
        yield one
        yield replace(one, model="model-b", joules=0.6 * joules, success=random.random() < 0.7)


def _made(clock: Clock, directory: Path, format_: str, out: Path) -> tuple[float, float]:
    """(seconds, MiB at the peak)"""
    began = clock.monotonic()
    command = [sys.executable, "-m", "joulebench.cli", "report", str(directory), "--format", format_, "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"joulebench report ended with {process.returncode}")
    return clock.monotonic() - began, usage.ru_maxrss / 1024
