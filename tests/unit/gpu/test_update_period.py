"""Where a change is placed between two polls: inside them always, and close to the truth where the counter keeps a beat."""

from __future__ import annotations

from bisect import bisect_right
from random import Random
from statistics import mean, median

import pytest

from joulebench.gpu.update_period import UpdatePeriodEstimator

POLL = 0.0193
WARM_UP = 5.0
SECONDS = 120.0


def placed(ticks: list[float], random: Random, poll: float = POLL, stall: float = 0.0) -> tuple[list[float], list[float]]:
    """(errors of the estimator, errors of the middle) in seconds, once warm; ``stall``: share of polls that come 250 ms late."""
    estimator = UpdatePeriodEstimator()
    errors: list[float] = []
    middles: list[float] = []
    due = now = before = seen = 0.0
    while now < ticks[-1]:
        count = bisect_right(ticks, now)
        if count > seen:
            at = estimator.estimate(before, now, 100.0 * ticks[count - 1]).at
            assert before <= at <= now
            if now > WARM_UP:
                errors.append(abs(at - ticks[count - 1]))
                middles.append(abs((before + now) / 2 - ticks[count - 1]))
            seen = count
        before = now
        due += poll
        now = max(due + abs(random.gauss(0.0, 0.0003)), now + 1e-4)
        if random.random() < stall:
            due = now = now + 0.25
    return errors, middles


def ticking(period: float, random: Random, jitter: float = 0.0, drift: float = 0.0) -> list[float]:
    ticks = [random.uniform(0.0, period)]
    while ticks[-1] < SECONDS:
        ticks.append(ticks[-1] + period)
        period += drift
    return sorted(tick + random.gauss(0.0, jitter) for tick in ticks)


@pytest.mark.parametrize("period", [0.1, 0.1013, 0.0503])
def test_a_steady_beat_is_found_to_a_millisecond(period: float) -> None:
    random = Random(1)
    errors, middles = placed(ticking(period, random), random)
    assert median(middles) > 0.003
    assert median(errors) < 0.001


@pytest.mark.parametrize(("jitter", "drift"), [(0.002, 0.0), (0.005, 0.0), (0.0, 2e-6)])
def test_a_beat_that_strays_is_still_placed_better_than_the_middle(jitter: float, drift: float) -> None:
    random = Random(2)
    errors, middles = placed(ticking(0.1013, random, jitter, drift), random)
    assert mean(errors) < 0.85 * mean(middles)


def test_stalls_are_bridged_by_the_ticking() -> None:
    random = Random(3)
    errors, middles = placed(ticking(0.1013, random), random, stall=0.01)
    assert median(errors) < median(middles) / 3


def test_polls_that_divide_the_beat_are_no_worse_than_the_middle() -> None:
    random = Random(4)
    errors, middles = placed(ticking(0.1, random), random, poll=0.02)
    assert mean(errors) <= mean(middles) + 1e-4


def test_a_counter_without_a_beat_is_placed_about_as_the_middle() -> None:
    random = Random(5)
    ticks = sorted(random.uniform(0.0, SECONDS) for _ in range(1000))
    errors, middles = placed(ticks, random)
    assert mean(errors) < 1.25 * mean(middles)


def test_an_update_of_two_between_two_polls_is_counted_by_its_joules() -> None:
    """A counter a little faster than the polls changes at every poll, so that times alone say nothing of its period."""
    random = Random(6)
    for period in (0.0103, 0.0167, 0.0187):
        errors, middles = placed(ticking(period, random, jitter=0.0002), random)
        assert median(errors) < median(middles) / 3
