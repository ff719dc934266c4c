"""How even the rows of ``scripts/monitor_gpu.py`` are, what they cost, and how true the energy is that its CSV gives."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from itertools import pairwise
from pathlib import Path

from joulebench.clock import Clock
from joulebench.energy.window import total, window_energy
from joulebench.mcpworld import telemetry
from joulebench.results.timeseries import TimeSeries
from tests.benchmarks.report import Report, Target
from tests.benchmarks.statistics import percentile
from tests.contract.sources import ROOT as CHECKOUT
from tests.fakes import nvml

INTERVAL = 0.25
SECONDS = 60.0
POWER = ((0.0, 62.0), (1.3, 331.0), (1.9, 279.0), (4.05, 62.0), (9.0, 200.0), (9.4, 62.0))


def run(report: Report, clock: Clock) -> None:
    script = nvml.FakeGpuScript([nvml.FakeGpu(power=POWER, loop=11.3), nvml.FakeGpu(power=((0.0, 48.5),))], clock=clock)
    with tempfile.TemporaryDirectory(prefix="joulebench-bench-") as name:
        out = Path(name) / "gpu_metrics_x.csv"
        environment = {**os.environ, **nvml.environment(script.write(Path(name) / "gpus"))}
        command = [sys.executable, str(CHECKOUT / "scripts/monitor_gpu.py"), str(out), str(INTERVAL), "--per-gpu"]
        with subprocess.Popen([*command, "--container", "none"], env=environment, stderr=subprocess.DEVNULL) as process:
            threading.Event().wait(SECONDS + 3.0)
            process.terminate()
        log = telemetry.read_monitor_log(out)
        rows = [line.split(",") for line in out.read_text().splitlines()[1:]]
    late = [1000 * abs(later - earlier - INTERVAL) for earlier, later in pairwise(log.times)]
    start, end = log.times[4], log.times[-6]
    truth = sum(script.joules(gpu, start, end) for gpu in (0, 1))
    counted = total(window_energy(gpu.energy, start, end) for gpu in log.samples.gpus).joules
    power = telemetry.integrated(TimeSeries.of((float(row[0]), float(row[4])) for row in rows))
    summed = window_energy(power, start, end, method="power_integration").joules
    report.say(f"\nmonitor: {len(log.times)} rows, one every {INTERVAL:g} s; true energy {truth:.1f} J over {end - start:.1f} s")
    report.say(
        f"rows off their beat: median {percentile(late, 50):.2f} ms, p99 {percentile(late, 99):.2f} ms, most {max(late):.2f} ms"
    )
    for what, joules in (("counter columns", counted), ("power column, as the client has it", summed)):
        shown = "not known" if joules is None else f"{joules:.1f} J, {100 * (joules / truth - 1):+.3f} %"
        report.say(f"energy by {what}: {shown}")
    report.targets.append(Target("monitor: rows off their beat, p99", 10.0, percentile(late, 99), "ms"))
    error = None if counted is None else 100 * abs(counted / truth - 1)
    report.targets.append(Target("monitor: energy by its CSV, error", 1.0, error, "%"))
