"""Errors and bounds of windows by update period and lag of the counter: the exporter's sampler, polled in simulated time.

The figures depend on the seed alone and not on the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from joulebench.energy.window import WindowEnergy
from joulebench.schema.reasons import Reason
from tests.benchmarks.report import Report, Target
from tests.unit.energy.live import KnownGpu, SetClock, ask_as_they_end
from tests.unit.energy.truth import EXPORTER_POLL, START, Machine, Timers, agent_runs

SECONDS = 1200.0
STEPS, LAGS = (0.02, 0.05, 0.1), (0.0, 0.25)
UPDATE_JITTER, POLL_JITTER = 0.0003, 0.0006
LEARNING_SECONDS = 15.0
CLASSES = (("0.15-0.6 s", 0.15, 0.6, 2.0), ("0.5-2 s", 0.5, 2.0, 0.8), ("over 2 s", 2.0, 60.0, 0.3))
"""Name, seconds, highest p95 in percent where nothing lags."""
MILLIJOULE = 0.001

Window = tuple[float, float]


def run(report: Report, seed: int) -> None:
    machine = agent_runs(Random(seed), SECONDS)
    first, last = START + LEARNING_SECONDS, machine.times[-1] - 14.0
    inside = (window for window in (*machine.turns, *machine.tasks) if window[0] >= first and window[1] < last)
    windows = sorted(inside, key=lambda window: window[1])
    report.heading("Counters of several update periods, in time and late")
    report.say(
        f"{len(windows)} windows of LLM calls and tasks in simulated time, asked as they end; updates are up to"
        f" {1000 * UPDATE_JITTER:g} ms early or late (standard deviation).\n"
        "The figures depend on the seed alone, not on the load of the machine. Late counters: windows after the lag was learned."
    )
    rows = []
    for lag in LAGS:
        for step in STEPS:
            gpu = KnownGpu(machine, SetClock(), Random(seed), Timers(step, UPDATE_JITTER, lag, EXPORTER_POLL, POLL_JITTER))
            answers = [
                (energy, window)
                for energy, window in zip(ask_as_they_end(gpu, windows), windows, strict=True)
                if not lag or Reason.SENSOR_LAG in energy.reasons
            ]
            rows.append(_row(report, machine, answers, step, lag))
    columns = ("counter", *(f"p95, {name}" for name, *_ in CLASSES), "windows", "ok", "bounds hold, ok", "bounds hold, all")
    report.table(columns, rows)


def _row(
    report: Report, machine: Machine, answers: Sequence[tuple[WindowEnergy, Window]], step: float, lag: float
) -> tuple[str, ...]:
    name = f"{1000 * step:g} ms, {f'{1000 * lag:g} ms late' if lag else 'in time'}"
    cells = []
    for label, shortest, longest, most in CLASSES:
        errors = sorted(
            100 * abs(energy.joules / machine.between(*window) - 1)
            for energy, window in answers
            if energy.joules is not None and shortest <= window[1] - window[0] < longest
        )
        p95 = errors[int(0.95 * len(errors))] if errors else None
        cells.append("-" if p95 is None else f"{p95:.2f} %")
        if not lag:
            report.targets.append(Target(f"counter of {1000 * step:g} ms, p95, {label}", most, p95, "%"))
    verdicts = [(energy.quality == "ok", _bounds_hold(energy, machine.between(*window))) for energy, window in answers]
    of_ok = [holds for is_ok, holds in verdicts if is_ok]
    share = 100 * sum(of_ok) / len(of_ok) if of_ok else None
    report.targets.append(Target(f"bounds of ok windows hold, {name}", 100.0, share, "%", at_least=True))
    return (name, *cells, str(len(verdicts)), str(len(of_ok)), f"{sum(of_ok)}", f"{sum(holds for _, holds in verdicts)}")


def _bounds_hold(energy: WindowEnergy, truth: float) -> bool:
    """An unknown bound claims nothing."""
    low_holds = energy.low is None or energy.low - MILLIJOULE <= truth
    return low_holds and (energy.high is None or truth <= energy.high + MILLIJOULE)
