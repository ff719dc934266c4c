"""The seconds that ``joulebench run`` adds to a task's process of the MCPWorld client, against the same client without it.

The client is the fake evaluator of the tests, which works for half a second; both are started in turns, so that what else runs on
the machine meets both. Modules are compiled, as pip leaves them; the second table is of processes that compile what is not yet
compiled, as with PYTHONDONTWRITEBYTECODE after an installation by uv.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    report.heading("What joulebench run adds to a task's process")
    with tempfile.TemporaryDirectory(prefix="joulebench-bench-") as name:
        directory = Path(name)
        stack = NativeStack(directory / "stack", Ports.free())
        gateway = stack.pushgateway()
        gateway.start()
        launcher = [sys.executable, "-m", "joulebench.cli", "run", "--run-id", "cost", "--runs-dir", str(directory / "runs")]
        launcher += ["--gateway-url", stack.gateway_url, "--exporter-url", "none", "--prometheus-url", "none", "--"]
        try:
            _pairs(1, launcher, directory, _bytecode(directory), clock)
            compiled = _pairs(ROUNDS, launcher, directory, _bytecode(directory), clock)
            source = _pairs(ROUNDS, launcher, directory, {"PYTHONDONTWRITEBYTECODE": "1"}, clock)
        finally:
            gateway.stop()
    for pairs, what in ((compiled, "modules are compiled"), (source, "each process compiles what is not compiled here")):
        rows = [
            (name, f"{median(seconds):.3f}", f"{percentile(seconds, 90):.3f}", f"{max(seconds):.3f}")
            for name, seconds in (
                ("the client alone", pairs.alone),
                ("with joulebench run", pairs.measured),
                ("added", pairs.added),
                ("CPU added", pairs.cpu),
            )
        ]
        report.table(("seconds", "median", "p90", "max"), rows, f"{ROUNDS} pairs, pushed to a real Pushgateway; {what}")
    for name, seconds in (("median", median(compiled.added)), ("p90", percentile(compiled.added, 90))):
        report.targets.append(Target(f"joulebench run: added to a task's process, {name}", LIMIT_SECONDS, seconds, "s"))


@dataclass(slots=True)
class _Pairs:
    """Seconds of each pair: of the client alone and with ``joulebench run``, and the CPU time that it adds."""

    alone: list[float] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def added(self) -> list[float]:
        return [measured - alone for measured, alone in zip(self.measured, self.alone, strict=True)]


def _pairs(rounds: int, launcher: Sequence[str], directory: Path, python: Mapping[str, str], clock: Clock) -> _Pairs:
    """``python``: environment variables by which Python finds or makes compiled modules."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | dict(python)
    pairs = _Pairs()
    for number in range(rounds):
        client = [sys.executable, str(CLIENT), str(directory / "logs"), f"task{number:02d}_x", "success"]
        before = _cpu_seconds()
        pairs.alone.append(_seconds(client, environment, clock))
        between = _cpu_seconds()
        pairs.measured.append(_seconds([*launcher, *client], environment, clock))
        pairs.cpu.append(_cpu_seconds() - between - (between - before))
    return pairs


def _bytecode(directory: Path) -> dict[str, str]:
    return {"PYTHONPYCACHEPREFIX": str(directory / "bytecode")}


def _cpu_seconds() -> float:
    """Of all child processes so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _seconds(command: Sequence[str], environment: Mapping[str, str], clock: Clock) -> float:
    began = clock.monotonic()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return clock.monotonic() - began
