"""Intervals and tests of ratios against scipy, against values by hand, and against worlds whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from joulebench.analysis.statistics import (
    Interval,
    TaskResampler,
    TaskSums,
    holm,
    normal_reach,
    permutation_p_value,
    success_p_value,
    success_rate,
    success_rate_difference,
)


def ones(tasks: int) -> np.ndarray:
    return np.ones(tasks)


def test_intervals_are_those_of_scipys_bootstrap_at_the_calibrated_level() -> None:
    """Resamples differ, so ends agree to a part of the interval's width."""
    random = np.random.default_rng(1)
    tops, bottoms = random.lognormal(5.0, 0.5, 40), (random.random(40) < 0.7).astype(float)
    level = 2 * stats.norm.cdf(normal_reach(40)) - 1
    reference = stats.bootstrap(
        (tops, bottoms),
        lambda top, bottom, axis: top.sum(axis) / bottom.sum(axis),
        paired=True,
        vectorized=True,
        method="BCa",
        confidence_level=level,
        n_resamples=9999,
        rng=np.random.default_rng(2),
    ).confidence_interval
    interval = TaskResampler(40, resamples=9999).ratio(TaskSums(tops, bottoms)).interval
    assert interval is not None
    width = reference.high - reference.low
    assert interval.low == pytest.approx(reference.low, abs=0.1 * width)
    assert interval.high == pytest.approx(reference.high, abs=0.1 * width)


def test_p_values_are_those_of_scipys_permutation_test() -> None:
    random = np.random.default_rng(3)
    base = random.lognormal(0.0, 0.5, 10)
    arm = base * random.lognormal(0.25, 0.4, 10)
    reference = stats.permutation_test(
        (arm, base), lambda one, other, axis: one.mean(axis) - other.mean(axis), permutation_type="samples", vectorized=True
    ).pvalue
    assert permutation_p_value(TaskSums(arm, ones(10)), TaskSums(base, ones(10))) == pytest.approx(reference)


def test_drawn_p_values_are_close_to_exact_ones() -> None:
    """Thirteen tasks that differ are enumerated; with one more that hardly does, swaps are drawn."""
    random = np.random.default_rng(5)
    base = random.lognormal(0.0, 0.5, 13)
    arm = base * random.lognormal(0.3, 0.4, 13)
    exact = permutation_p_value(TaskSums(arm, ones(13)), TaskSums(base, ones(13)))
    arm, base = np.append(arm, 1.0), np.append(base, 1.0 + 1e-9)
    drawn = permutation_p_value(TaskSums(arm, ones(14)), TaskSums(base, ones(14)))
    assert drawn == pytest.approx(exact, abs=0.01)


def test_p_values_of_equal_arms_are_uniform() -> None:
    random = np.random.default_rng(4)
    values = []
    for _ in range(200):
        arms = [TaskSums(random.lognormal(0.0, 0.8, 12), ones(12)) for _ in range(2)]
        values.append(permutation_p_value(*arms))
    assert 0.04 <= np.mean(np.array(values) < 0.1) <= 0.17


@pytest.mark.parametrize(("better", "worse"), [(3, 0), (6, 0), (9, 2), (20, 9)])
def test_success_rates_are_tested_by_mcnemars_exact_test(better: int, worse: int) -> None:
    tasks = 50
    arm, base = np.zeros(tasks), np.zeros(tasks)
    arm[:better], base[better : better + worse] = 1, 1
    expected = stats.binomtest(better, better + worse).pvalue
    sums = TaskSums(arm, ones(tasks)), TaskSums(base, ones(tasks))
    assert success_p_value(*sums) == pytest.approx(expected)
    assert permutation_p_value(*sums) == pytest.approx(expected, abs=0.02)


def test_repetitions_of_a_task_are_swapped_together() -> None:
    """Five tasks that one arm solves in all three attempts: five pieces of evidence, and not fifteen."""
    arm, base, attempts = np.full(5, 3.0), np.array([0.0, 1.0, 0.0, 2.0, 1.0]), np.full(5, 3.0)
    assert success_p_value(TaskSums(arm, attempts), TaskSums(base, attempts)) == pytest.approx(2 / 2**5)


def test_a_share_of_one_still_allows_for_a_failure_of_the_next_task() -> None:
    rate = success_rate(TaskSums(ones(20), ones(20)))
    assert rate.value == 1
    assert rate.interval is not None
    assert rate.interval.low is not None
    assert 0.75 < rate.interval.low < 0.87


def test_the_interval_of_a_difference_of_rates_by_hand() -> None:
    """Newcombe without correlation, of 20 of 20 against 10 of 20: bounds from the two Wilson intervals."""
    arm, base = ones(20), np.tile([1.0, 0.0], 10)
    one, other = success_rate(TaskSums(arm, ones(20))), success_rate(TaskSums(base, ones(20)))
    assert one.interval is not None
    assert other.interval is not None
    difference = success_rate_difference(TaskSums(arm, ones(20)), TaskSums(base, ones(20)))
    assert difference.interval is not None
    down = np.hypot(1 - (one.interval.low or 0), (other.interval.high or 1) - 0.5)
    up = np.hypot((one.interval.high or 1) - 1, 0.5 - (other.interval.low or 0))
    assert difference.value == 0.5
    assert difference.interval.low == pytest.approx(0.5 - down)
    assert difference.interval.high == pytest.approx(min(1.0, 0.5 + up))


def test_a_resample_without_success_leaves_the_interval_open_above() -> None:
    successes = np.zeros(20)
    successes[3] = 1
    estimate = TaskResampler(20).ratio(TaskSums(np.full(20, 100.0), successes))
    assert estimate.value == 2000
    assert estimate.interval is not None
    assert estimate.interval.high is None
    assert estimate.interval.contains(1e12)
    assert not Interval(1.0, 2.0).contains(3.0)


def test_holm_raises_levels_by_how_many_there_are_and_keeps_their_order() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
