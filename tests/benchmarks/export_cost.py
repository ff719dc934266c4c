"""How long the export of a finished run takes, whole, from a real Prometheus that holds hours of samples."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random
from time import process_time

from joulebench.clients.prometheus_api import PrometheusApi
from joulebench.clock import Clock
from joulebench.energy.window import window_energy
from joulebench.push.journal import Journal
from joulebench.results import samples
from joulebench.results.export import Options, export
from joulebench.stack.native import NativeStack, Ports
from joulebench.units import Seconds
from tests.benchmarks import tsdb
from tests.benchmarks.report import Report, Target
from tests.benchmarks.scene import GPUS

TASKS = 2000
RUN_ID = "bench"
LIMIT = 3.0
LONGEST_TASK = 30.0
CALLS = 3


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
        _journal(directory / "runs", history)
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
        f"{TASKS} tasks of {CALLS} calls on {GPUS} GPUs over {hours:g} h, from journal and Prometheus:"
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
    windows = [(start, start + length) for start, length in _task_times(history)]
    for gpu in samples.fetch(api, windows).gpus:
        for start, end in windows:
            window_energy(gpu.energy, start, end)
    return clock.monotonic() - began, process_time() - cpu


def _task_times(history: tsdb.History) -> list[tuple[float, float]]:
    """(start, length) of each task."""
    random = Random(1)
    share = (history.end - history.start) / TASKS
    return [(history.start + n * share, min(random.uniform(1.0, LONGEST_TASK), 0.9 * share)) for n in range(TASKS)]


def _journal(runs: Path, history: tsdb.History) -> None:
    journal = Journal(runs / RUN_ID / "journal-w.jsonl", RUN_ID, "w")
    journal.write("RUN_START", history.start, model_name="model", suite="", version="0", planned_tasks=TASKS)
    for number, (start, length) in enumerate(_task_times(history)):
        _task(journal, f"task-{number}", start, length)
    journal.write("RUN_END", history.end)
    journal.close()


def _task(journal: Journal, task_id: str, start: float, length: float) -> None:
    journal.write("TASK_START", start, task_id, task_name="a task", model_name="model", suite="")
    for call in range(CALLS):
        at, seconds = start + call * length / CALLS, 0.8 * length / CALLS
        journal.write("LLM_QUERY_START", at, task_id, call=call + 1, model_name="model")
        journal.write("LLM_FIRST_TOKEN_RECEIVED", at + 0.1 * seconds, task_id, call=call + 1)
        journal.write(
            "LLM_QUERY_END",
            at + seconds,
            task_id,
            call=call + 1,
            status="success",
            error=None,
            prompt_tokens=512,
            completion_tokens=64,
            duration_seconds=Seconds(seconds),
            ttft_seconds=0.1 * seconds,
            prefill_seconds=0.1 * seconds,
            decode_seconds=0.9 * seconds,
            decode_tokens=63,
            load_seconds=None,
        )
    journal.write("TASK_END", start + length, task_id, status="success", success=True, reason="", duration_seconds=length)
