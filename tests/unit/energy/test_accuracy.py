"""How exact the estimate is on agent-like work with known joules. The tables are printed (``pytest -s``); the goals are asserted.

What this cannot show: sensors that lag or sample only part of the time, and ramps that take time. Those need a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random
from statistics import mean, median

import pytest

from joulebench.energy.trace import CounterTrace
from joulebench.energy.window import window_energy
from tests.unit.energy.truth import (
    EXPORTER_POLL,
    START,
    Machine,
    Timers,
    agent_runs,
    meter,
    metered,
    random_power,
    scraped,
)

Window = tuple[float, float]

LEARNING_SECONDS = 15.0
"""Until the update period of a counter about as fast as the polls is known."""
COARSE = 2.0
"""A counter that steps every 100 ms tells less of windows of few steps."""

GOALS: tuple[tuple[str, Callable[[float], bool], float], ...] = (
    (">= 2 s", lambda s: s >= 2.0, 0.003),
    ("0.5-2 s", lambda s: 0.5 <= s < 2.0, 0.008),
    ("0.15-0.6 s", lambda s: 0.15 <= s < 0.6, 0.02),
)


def percentile_95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * len(values))]


def errors(machine: Machine, trace: CounterTrace, windows: list[Window]) -> list[float]:
    found = []
    for start, end in windows:
        joules = window_energy(trace, start, end).joules
        assert joules is not None
        found.append((joules - machine.between(start, end)) / machine.between(start, end))
    return found


def show(label: str, found: list[float]) -> float:
    sizes = [abs(error) for error in found]
    p95 = percentile_95(sizes)
    spread = f"median {median(sizes):7.2%}  p95 {p95:7.2%}  worst {max(sizes):7.2%}  bias {mean(found):+7.2%}"
    print(f"{label:<34} n={len(found):<5} {spread}")  # noqa: T201
    return p95


@pytest.mark.parametrize("update_jitter", [0.0, 0.0003])
@pytest.mark.parametrize("step", [0.01, 0.0167, 0.02, 0.025, 0.0333, 0.05, 0.1])
def test_windows_meet_their_goals_at_every_update_period(step: float, update_jitter: float) -> None:
    random = Random(20260131)
    machine = agent_runs(random, 600.0)
    metered = meter(machine, random, Timers(step, update_jitter, poll=EXPORTER_POLL, poll_jitter=0.0006))
    assert metered.step == pytest.approx(step, rel=0.02)
    first, last = START + LEARNING_SECONDS, machine.times[-1] - 12.0
    windows = [w for w in (*machine.turns, *machine.tasks) if first <= w[0] and w[1] < last]
    print()  # noqa: T201
    for label, chosen, goal in GOALS:
        some = [w for w in windows if chosen(w[1] - w[0])]
        assert len(some) >= 100
        p95 = show(f"step {step * 1000:.1f} ms, windows {label}", errors(machine, metered.trace, some))
        if step >= 0.02:
            assert p95 <= goal * (COARSE if step >= 0.1 else 1.0)


def test_whole_tasks_from_250_ms_scrapes() -> None:
    random = Random(42)
    machine = agent_runs(random, 1500.0)
    trace = scraped(machine, random, step=0.1, interval=0.25)
    tasks = [w for w in machine.tasks if w[1] - w[0] >= 2.0 and w[1] < machine.times[-1] - 12.0]
    print()  # noqa: T201
    assert show("scraped every 250 ms, tasks >= 2 s", errors(machine, trace, tasks)) <= 0.015


@pytest.mark.parametrize("make", [agent_runs, random_power])
@pytest.mark.parametrize(("step", "interval"), [(0.1, None), (0.02, None), (0.1, 0.25), (0.1, 1.0)])
def test_bounds_always_hold_the_truth(make: Callable[[Random, float], Machine], step: float, interval: float | None) -> None:
    random = Random(7)
    machine = make(random, 200.0)
    trace = metered(machine, random, step) if interval is None else scraped(machine, random, step, interval)
    millijoule = 0.001
    for _ in range(1500):
        start = random.uniform(trace.first_at or 0.0, (trace.last_at or 0.0) - 5.0)
        end = start + 0.02 * 250.0 ** random.random()
        result = window_energy(trace, start, end)
        truth = machine.between(start, end)
        assert result.low is not None
        assert result.joules is not None
        assert result.low - millijoule <= truth
        assert result.low - 1e-6 <= result.joules
        if result.high is not None:
            assert truth <= result.high + millijoule
            assert result.joules <= result.high + 1e-6


@pytest.mark.parametrize("make", [agent_runs, random_power])
def test_adjacent_windows_add_up_to_the_window_around_them(make: Callable[[Random, float], Machine]) -> None:
    random = Random(3)
    trace = metered(make(random, 120.0), random, 0.1)
    first, last = trace.first_at, trace.last_at
    assert first is not None
    assert last is not None
    for _ in range(200):
        cuts = sorted(random.uniform(first, last) for _ in range(random.randint(2, 12)))
        parts = [window_energy(trace, a, b).joules or 0.0 for a, b in pairwise(cuts)]
        whole = window_energy(trace, cuts[0], cuts[-1])
        if (cuts[-1] - cuts[0]) > 0:
            assert sum(parts) == pytest.approx(whole.joules, abs=1e-3)
