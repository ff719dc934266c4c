"""How long the export of a finished run takes, whole, from a real Prometheus that holds hours of samples."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random
from time import process_time

from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import Clock
from joulebench.energy.estimator import window_energies
from joulebench.results.export import Options, export
from joulebench.results.fetch import fetch_samples
from joulebench.stack.native import NativeStack, Ports
from tests.benchmarks import run_journal, tsdb
from tests.benchmarks.report import Report, Target
from tests.benchmarks.scene import GPUS

TASKS = 2000
RUN_ID = "bench"
LIMIT = 3.0
LONGEST_TASK = 30.0


class _Phases:
    """(wall, CPU) seconds that each phase of the export took, from its own progress. A busy machine shows in the difference."""

    def __init__(self, clock: Clock) -> None:
        self.spent: dict[str, tuple[float, float]] = {}
        self._clock = clock
        self._since = (clock.monotonic(), process_time())

    def tell(self, what: str, *_: int) -> None:
        now = (self._clock.monotonic(), process_time())
        wall, cpu = self.spent.get(what, (0.0, 0.0))
        self.spent[what] = (wall + now[0] - self._since[0], cpu + now[1] - self._since[1])
        self._since = now

    @property
    def whole(self) -> tuple[float, float]:
        return sum(wall for wall, _ in self.spent.values()), sum(cpu for _, cpu in self.spent.values())


def run(report: Report, clock: Clock, hours: float) -> None:
    with tempfile.TemporaryDirectory(prefix="joulebench-bench-") as name:
        directory = Path(name)
        end = clock.unix() - 60.0
        history = tsdb.History(end - 3600 * hours, end, GPUS)
        stack = NativeStack(directory / "stack", Ports.free())
        (stack.directory / "prometheus-data").mkdir(parents=True)
        stored = tsdb.write(history, stack.directory / "prometheus-data")
        run_journal.write(directory / "runs", RUN_ID, _windows(history))
        prometheus = stack.prometheus()
        prometheus.start()
        try:
            api = PrometheusApi(stack.prometheus_url, timeout=60.0)
            energy = _energy_alone(api, history, clock)
            phases = _Phases(clock)
            done = export(Options(RUN_ID, directory / "runs", wait=0.0), api, clock, phases.tell)
            phases.tell("writing files")
        finally:
            prometheus.stop()
        with_energy = sum(row["total_energy_joules"] is not None for row in done.rows)
    report.heading("Export of a run")
    report.say(
        f"{TASKS} tasks of {run_journal.CALLS} calls on {GPUS} GPUs over {hours:g} h, from journal and Prometheus:"
        f" {stored:,} stored samples; {with_energy} tasks got an energy."
    )
    wall, cpu = phases.whole
    rows = [(what, f"{one:.2f} s", f"{two:.2f} s") for what, (one, two) in phases.spent.items() if one >= 0.005]
    rows.append(("whole export", f"{wall:.2f} s", f"{cpu:.2f} s"))
    rows.append((f"for scale: samples and {TASKS * GPUS:,} window energies alone", f"{energy[0]:.2f} s", f"{energy[1]:.2f} s"))
    report.table(("", "wall", "own CPU"), rows)
    what = f"{TASKS} windows x {GPUS} GPUs over {hours:g} h"
    report.targets.append(Target(f"energies alone of {what}, wall", LIMIT, energy[0], "s"))
    report.targets.append(Target(f"whole export of {what}, wall", LIMIT, wall, "s"))


def _energy_alone(api: PrometheusApi, history: tsdb.History, clock: Clock) -> tuple[float, float]:
    """(wall, CPU) seconds from Prometheus to the joules of every task on every GPU, without anything else of an export."""
    began, cpu = clock.monotonic(), process_time()
    windows = _windows(history)
    for gpu in fetch_samples(api, windows).gpus:
        window_energies(gpu.energy, windows)
    return clock.monotonic() - began, process_time() - cpu


def _windows(history: tsdb.History) -> list[run_journal.Window]:
    random = Random(1)
    share = (history.end - history.start) / TASKS
    starts = [history.start + n * share for n in range(TASKS)]
    return [(start, start + min(random.uniform(1.0, LONGEST_TASK), 0.9 * share)) for start in starts]
