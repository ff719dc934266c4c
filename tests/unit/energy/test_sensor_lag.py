"""A counter that shows energy late, and a card that shows averaged power: what is called ok holds."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from joulebench.energy.window import WindowEnergy
from joulebench.schema.reasons import Reason
from tests.unit.energy.live import KnownGpu, SetClock, ask_as_they_end
from tests.unit.energy.truth import EXPORTER_POLL, START, Timers, agent_runs

MACHINE = agent_runs(Random(20260131), 400.0)
Window = tuple[float, float]
WINDOWS = sorted(
    (w for w in (*MACHINE.turns, *MACHINE.tasks) if w[0] >= START + 15 and w[1] < MACHINE.times[-1] - 14), key=lambda w: w[1]
)
MILLIJOULE = 0.001


def window_answers(
    lag: float, step: float = 0.1, averaging: float = 0.0, windows: Sequence[Window] = WINDOWS
) -> list[WindowEnergy]:
    timers = Timers(step, 0.0003, lag, EXPORTER_POLL, 0.0006)
    return ask_as_they_end(KnownGpu(MACHINE, SetClock(), Random(1), timers, averaging), windows)


def bounds_hold(energy: WindowEnergy, window: Window) -> bool:
    truth = MACHINE.between(*window)
    return (
        energy.low is not None
        and energy.low - MILLIJOULE <= truth
        and energy.high is not None
        and truth <= energy.high + MILLIJOULE
    )


@pytest.mark.parametrize("step", [0.02, 0.05, 0.1])
def test_a_counter_that_is_250_ms_late_is_learned_and_corrected_and_its_bounds_hold_in_every_window_called_ok(
    step: float,
) -> None:
    energies = window_answers(0.25, step)
    learned = next(i for i, energy in enumerate(energies) if Reason.SENSOR_LAG in energy.reasons)
    assert learned < 40
    later = list(zip(energies, WINDOWS, strict=True))[learned:]
    assert all(Reason.SENSOR_LAG in energy.reasons for energy, _ in later)
    assert sum(energy.quality == "ok" for energy, _ in later) >= 30
    assert all(bounds_hold(energy, window) for energy, window in later if energy.high is not None)
    assert all(energy.high is not None for energy, _ in later if energy.quality == "ok")
    errors = sorted(abs((e.joules or 0.0) / MACHINE.between(*w) - 1) for e, w in later if w[1] - w[0] >= 0.5)
    assert errors[int(0.95 * len(errors))] <= 0.06


@pytest.mark.parametrize("lag", [0.0, 0.04])
def test_no_lag_is_learned_where_there_is_none_to_speak_of(lag: float) -> None:
    energies = window_answers(lag)
    assert not any(Reason.SENSOR_LAG in energy.reasons for energy in energies)
    if not lag:
        assert all(bounds_hold(energy, window) for energy, window in zip(energies, WINDOWS, strict=True))


def test_windows_that_were_not_cut_at_the_edges_of_work_teach_no_lag() -> None:
    random = Random(7)
    starts = sorted(random.uniform(START + 15, MACHINE.times[-1] - 24) for _ in range(600))
    windows = sorted(((start, start + random.uniform(1.0, 6.0)) for start in starts), key=lambda window: window[1])
    energies = window_answers(0.0, windows=windows)
    assert not any(Reason.SENSOR_LAG in energy.reasons for energy in energies)


def test_power_averaged_over_a_second_is_short_below_five_seconds() -> None:
    energies = window_answers(0.0, averaging=1.0)
    for energy, (start, end) in zip(energies, WINDOWS, strict=True):
        assert (Reason.AVERAGED_POWER in energy.reasons) == (end - start < 5.0)
        if energy.quality == "ok":
            assert end - start >= 5.0
            assert energy.joules == pytest.approx(MACHINE.between(start, end), rel=0.15)
