"""The seconds that ``joulebench run`` adds to a task's process of the MCPWorld client, against the same client without it.

The client is the fake evaluator of the tests, which works for half a second; both are started in turns, so that what else runs on
the machine meets both.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from joulebench.clock import Clock
from joulebench.stack.native import NativeStack, Ports
from tests.benchmarks.report import Report, Target
from tests.benchmarks.statistics import percentile
from tests.fakes import mcpworld_client

ROUNDS = 15
LIMIT_SECONDS = 0.5
CLIENT = Path(mcpworld_client.__path__[0]) / "run_task.py"


def run(report: Report, clock: Clock) -> None:
    with tempfile.TemporaryDirectory(prefix="joulebench-bench-") as name:
        directory = Path(name)
        stack = NativeStack(directory / "stack", Ports.free())
        gateway = stack.pushgateway()
        gateway.start()
        launcher = [sys.executable, "-m", "joulebench.cli", "run", "--run-id", "cost", "--runs-dir", str(directory / "runs")]
        launcher += ["--gateway-url", stack.gateway_url, "--exporter-url", "none", "--prometheus-url", "none", "--"]
        alone: list[float] = []
        measured: list[float] = []
        cpu: list[float] = []
        try:
            for number in range(ROUNDS):
                client = [sys.executable, str(CLIENT), str(directory / "logs"), f"task{number:02d}_x", "success"]
                used = _cpu_seconds()
                alone.append(_seconds(client, clock))
                used, before = _cpu_seconds(), used
                measured.append(_seconds([*launcher, *client], clock))
                cpu.append(_cpu_seconds() - used - (used - before))
        finally:
            gateway.stop()
    added = [with_launcher - without for with_launcher, without in zip(measured, alone, strict=True)]
    report.heading("What joulebench run adds to a task's process")
    rows = [
        (what, f"{median(seconds):.3f}", f"{percentile(seconds, 90):.3f}", f"{max(seconds):.3f}")
        for what, seconds in (
            ("the client alone", alone),
            ("with joulebench run", measured),
            ("added", added),
            ("CPU added", cpu),
        )
    ]
    report.table(("seconds", "median", "p90", "max"), rows, f"{ROUNDS} pairs, pushed to a real Pushgateway")
    report.targets.append(Target("joulebench run: added to a task's process, median", LIMIT_SECONDS, median(added), "s"))


def _cpu_seconds() -> float:
    """Of all child processes so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _seconds(command: Sequence[str], clock: Clock) -> float:
    began = clock.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return clock.monotonic() - began
