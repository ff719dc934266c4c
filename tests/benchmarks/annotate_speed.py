"""How long ``joulebench annotate`` takes for 100,000 rows over a day of 1 s samples, and its memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

from joulebench.clock import Clock
from joulebench.stack.native import NativeStack, Ports
from tests.benchmarks import tsdb
from tests.benchmarks.report import Report

HOURS, GPUS, ROWS = 24.0, 2, 100_000
LENGTHS = {"one at a time": 0.8, "32 at a time": 27.0}
"""Seconds of a row; rows begin every 0.86 s."""


def run(report: Report, clock: Clock) -> None:
    with tempfile.TemporaryDirectory(prefix="joulebench-bench-") as name:
        end = clock.unix() - 60.0
        history = tsdb.History(end - 3600 * HOURS, end, GPUS, jobs=(tsdb.FULL_JOB,))
        stack = NativeStack(Path(name) / "stack", Ports.free())
        (stack.directory / "prometheus-data").mkdir(parents=True)
        stored = tsdb.write(history, stack.directory / "prometheus-data")
        prometheus = stack.prometheus()
        prometheus.start()
        try:
            rows = [_annotated(stack, history, how, clock) for how in LENGTHS]
        finally:
            prometheus.stop()
    report.heading("Annotating a table")
    report.say(f"{ROWS:,} rows of a CSV over {HOURS:g} h, {GPUS} GPUs scraped every second: {stored:,} stored samples.")
    report.table(("rows", "wall", "own CPU", "peak memory", "quality of the rows"), rows)


def _annotated(stack: NativeStack, history: tsdb.History, how: str, clock: Clock) -> tuple[str, ...]:
    """The command as a user runs it, in a process of its own, whose memory is therefore the command's."""
    random, table = Random(1), stack.directory / "rows.csv"
    every = (history.end - history.start - 120.0) / ROWS
    with table.open("w") as out:
        out.write("request,start,end,reply\n")
        for number in range(ROWS):
            start = history.start + 60.0 + every * number
            out.write(f"r{number},{start:.6f},{start + LENGTHS[how] * random.uniform(0.5, 1.0):.6f},{'x' * 100}\n")
    argv = ["annotate", str(table), "--start", "start", "--end", "end", "--prometheus-url", stack.prometheus_url]
    began = clock.monotonic()
    with (stack.directory / "annotate.log").open("wb") as log:
        command = subprocess.Popen([sys.executable, "-m", "joulebench.cli", *argv], stdout=log, stderr=log)
        _, status, used = os.wait4(command.pid, 0)
    command.returncode = os.waitstatus_to_exitcode(status)
    text = (stack.directory / "annotate.log").read_text()
    if command.returncode:
        raise RuntimeError(text)
    cpu = used.ru_utime + used.ru_stime
    qualities = text.rpartition("(")[2].rstrip(")\n")
    return how, f"{clock.monotonic() - began:.1f} s", f"{cpu:.1f} s", f"{used.ru_maxrss / 1024:.0f} MiB", qualities
