"""Readings that cannot be true are not taken in: glitches on counters with known joules, by name and by chance."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
import pytest

from joulebench.energy.curve import EnergyCurve, Floats
from joulebench.energy.estimator import window_energies
from joulebench.energy.plausibility import MOST_WATTS, ceiling_watts, checked_curve
from joulebench.energy.window import WindowEnergy

LIMIT = 400.0
STEP = 0.1


class Counter:
    """A card with a power limit of 400 W whose power changes every few seconds; ``truth`` is E(t)."""

    def __init__(self, random: Random, seconds: float = 120.0) -> None:
        self.fine = np.arange(0.0, seconds, 0.001)
        watts = np.repeat([random.uniform(40.0, LIMIT) for _ in range(int(seconds) + 1)], 1000)[: len(self.fine)]
        self.energy = 5e6 + np.concatenate(([0.0], np.cumsum(watts[:-1] * 0.001)))
        self.at = np.arange(STEP, seconds - STEP, STEP)
        self.joules = self.truth(self.at)
        self.uncertainty = np.full(len(self.at), 0.005)

    def truth(self, times: Floats) -> Floats:
        return np.interp(times, self.fine, self.energy)

    def curve(self) -> EnergyCurve:
        return checked_curve(self.at, self.joules, self.uncertainty, ceiling_watts(LIMIT))


def energy(counter: Counter, start: float, end: float) -> WindowEnergy:
    return window_energies(counter.curve(), [(start, end)])[0]


def dip(joules: Floats, at: int) -> None:
    joules[at : at + 8] -= 4e6


def one_read_too_high(joules: Floats, at: int) -> None:
    joules[at] += 60_000


def to_zero_and_back(joules: Floats, at: int) -> None:
    joules[at : at + 3] = 0.0


def all_ones(joules: Floats, at: int) -> None:
    joules[at] = (2**64 - 1) / 1000


def alternating(joules: Floats, at: int) -> None:
    joules[at : at + 12 : 2] += 1e6


GLITCHES: tuple[Callable[[Floats, int], None], ...] = (dip, one_read_too_high, to_zero_and_back, all_ones, alternating)


@pytest.mark.parametrize("glitch", GLITCHES)
def test_a_glitch_changes_no_joule_and_is_named(glitch: Callable[[Floats, int], None]) -> None:
    counter = Counter(Random(1))
    glitch(counter.joules, 300)
    found = energy(counter, 20.0, 50.0)
    (truth,) = counter.truth(np.array([50.0])) - counter.truth(np.array([20.0]))
    assert found.joules == pytest.approx(truth, rel=0.01)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= truth <= found.high
    assert (found.quality, found.resets) == ("suspect", 0)
    assert "glitch" in found.reasons
    assert energy(counter, 60.0, 90.0).quality == "ok", "a window without a glitch is not blamed"


@pytest.mark.parametrize("height", [-4e6, 4e6])
def test_a_counter_that_stays_elsewhere_began_anew(height: float) -> None:
    counter = Counter(Random(2))
    counter.joules[500:] += height
    across = energy(counter, 40.0, 60.0)
    assert (across.resets, across.high, "reset" in across.reasons) == (1, None, True)
    after = energy(counter, 60.0, 90.0)
    (truth,) = counter.truth(np.array([90.0])) - counter.truth(np.array([60.0]))
    assert after.joules == pytest.approx(truth, rel=0.01)
    assert after.quality == "ok"


def test_wrong_readings_at_the_start_are_no_epoch() -> None:
    counter = Counter(Random(3))
    counter.joules[:2] += 4e6
    assert energy(counter, 1.0, 30.0).resets == 0
    assert len(counter.curve().glitches) == 2


@pytest.mark.parametrize("lost", [0.3, 1.0])
@pytest.mark.parametrize("lived", [0.4, 1.0, 2.0, 4.0, 4.8, 6.0])
def test_a_sum_that_began_anew_soon_after_its_start_and_outgrew_the_old_one_is_no_glitch(lived: float, lost: float) -> None:
    """What an exporter of a card without counter does that is started again ``lived`` seconds after its start."""
    counter = Counter(Random(3), 40.0)
    restart = 10.0 + lived
    known = ((counter.at > 10.0) & (counter.at < restart)) | (counter.at > restart + lost)
    counter.at, counter.joules, counter.uncertainty = counter.at[known], counter.joules[known], counter.uncertainty[known]
    new = counter.at > restart
    counter.joules[new] -= counter.joules[new][0]
    counter.joules[~new] -= counter.joules[~new][0]
    start, end = restart - min(1.7, lived / 2), restart + 4.0
    across = energy(counter, start, end)
    (truth,) = counter.truth(np.array([end])) - counter.truth(np.array([start]))
    assert (across.joules, across.high, across.quality, across.resets) == (None, None, "missing", 1)
    assert across.low is not None
    assert across.low <= truth
    after = energy(counter, restart + 2.0, 30.0)
    (truth,) = counter.truth(np.array([30.0])) - counter.truth(np.array([restart + 2.0]))
    assert after.joules == pytest.approx(truth, rel=0.01)
    assert after.quality == "ok"


def test_possible_readings_pass_untouched() -> None:
    counter = Counter(Random(4))
    curve = counter.curve()
    assert (len(curve.at), len(curve.glitches), curve.epoch_starts) == (len(counter.at), 0, ())


@pytest.mark.parametrize(("limit", "watts"), [(400.0, 800.0), (None, MOST_WATTS), (0.0, MOST_WATTS), (4e6, MOST_WATTS)])
def test_the_ceiling_follows_a_limit_that_can_be_true(limit: float | None, watts: float) -> None:
    assert ceiling_watts(limit) == watts


def test_no_script_of_glitches_makes_a_false_number() -> None:
    """2,000 windows: no bound misses the truth, and no ``ok`` is more than 10 % off."""
    random = Random(5)
    windows = missed = wrong = named = 0
    for _ in range(40):
        counter = Counter(random)
        clean = counter.joules.copy()
        for _ in range(random.randint(1, 4)):
            random.choice(GLITCHES)(counter.joules, random.randint(20, len(counter.at) - 90))
        touched = counter.at[counter.joules != clean]
        starts = [random.uniform(2.0, 100.0) for _ in range(50)]
        spans = [(start, start + random.uniform(0.6, 15.0)) for start in starts]
        for (start, end), found in zip(spans, window_energies(counter.curve(), spans), strict=True):
            (truth,) = counter.truth(np.array([end])) - counter.truth(np.array([start]))
            windows += 1
            if found.low is not None and found.low > truth + 1e-6:
                missed += 1
            if found.high is not None and found.high < truth - 1e-6:
                missed += 1
            wrong += found.quality == "ok" and (found.joules is None or abs(found.joules - truth) > 0.1 * truth)
            near = ((touched > start - 0.5) & (touched < end + 0.5)).any()
            named += not near and "glitch" in found.reasons
    assert (windows, missed, wrong, named) == (2000, 0, 0, 0)
