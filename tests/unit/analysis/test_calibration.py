"""AUROC, AURC, Brier and ECE against values worked out by hand, DeLong's interval against its formula, and the noise floor."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from joulebench.analysis.prediction.calibration import (
    aurc,
    auroc,
    auroc_interval,
    brier,
    calibration_noise_floor,
    expected_calibration_error,
    reliability_bins,
)


def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    good = rng.random(n) < 0.6
    # Rounded, so that there are ties.
    return np.round(np.clip(rng.normal(0.5 + 0.15 * good, 0.2), 0, 1), 1), good


def test_auroc_and_brier_by_hand() -> None:
    scores, good = np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, True, False, False])
    assert auroc(scores, good) == pytest.approx((2 + 1 + 0.5) / 4)
    assert brier(scores, good) == pytest.approx((0.01 + 0.04 + 0.64 + 0.01) / 4)
    assert auroc(np.array([0.1, 0.2]), np.array([True, True])) is None


def test_aurc_by_hand() -> None:
    scores, good = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert aurc(scores, good) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert aurc(np.full(5, 0.5), np.array([True, False, False, True, True])) == pytest.approx(0.4)


def test_calibration_does_not_depend_on_the_order_of_ties() -> None:
    """A hundred predictions of 0.75 of which half come true, in any order: one bin, an error of 0.25."""
    scores = np.full(100, 0.75)
    for good in (np.array([True, False] * 50), np.array([True] * 50 + [False] * 50)):
        bins = reliability_bins(scores, good)
        assert [(each.n, each.observed) for each in bins] == [(100, 0.5)]
        assert expected_calibration_error(bins) == pytest.approx(0.25)
    honest = reliability_bins(np.array([0.0] * 10 + [1.0] * 10), np.array([False] * 10 + [True] * 10))
    assert expected_calibration_error(honest) == 0.0


def test_bins_are_of_about_equal_size() -> None:
    scores = np.arange(1000) / 1000
    assert {each.n for each in reliability_bins(scores, scores > 0.5)} == {100}


def test_the_noise_floor_is_the_error_of_perfect_calibration() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random(60)
    errors = [expected_calibration_error(reliability_bins(scores, rng.random(60) < scores)) for _ in range(500)]
    assert calibration_noise_floor(scores) == pytest.approx(np.mean(errors), rel=0.1)
    assert 0.10 < calibration_noise_floor(scores) < 0.16
    assert calibration_noise_floor(rng.random(6000)) < 0.02


def test_the_interval_without_repetitions_is_delongs() -> None:
    scores, good = draw(80, 3)
    value = auroc(scores, good)
    assert value is not None
    ones, zeros = scores[good], scores[~good]
    above = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in zeros] for a in ones])
    variance = above.mean(axis=1).var(ddof=1) / len(ones) + above.mean(axis=0).var(ddof=1) / len(zeros)
    reach = t.isf(0.025, min(len(ones), len(zeros)) - 1) * np.sqrt(variance) / (value * (1 - value))
    logit = np.log(value / (1 - value))
    expected = tuple(1 / (1 + np.exp(-(logit + sign * reach))) for sign in (-1, 1))
    # Successes and failures come from different tasks here, and the term of their covariance is as good as nothing.
    assert auroc_interval(scores, good, [str(n) for n in range(80)]) == pytest.approx(expected, abs=0.005)


def test_copies_of_a_task_are_no_more_evidence() -> None:
    scores, good = draw(120, 3)
    copies = np.tile(np.arange(24), 10)
    few = auroc_interval(scores[copies], good[copies], [str(one) for one in copies])
    each = auroc_interval(scores[copies], good[copies], [str(number) for number in range(240)])
    assert few is not None
    assert each is not None
    assert few[1] - few[0] > 2 * (each[1] - each[0])


def test_intervals_contain_the_truth() -> None:
    """Scores of two normal distributions one deviation apart have an AUROC of 0.760; 95 % of 300 intervals are 285."""
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(300):
        good = np.arange(60) < 20
        scores = rng.normal(1.0 * good, 1.0)
        interval = auroc_interval(scores, good, [str(n) for n in range(60)])
        assert interval is not None
        held += interval[0] <= 0.7602 <= interval[1]
    assert 276 <= held <= 296


def test_there_is_no_interval_without_both_classes_and_a_perfect_score_is_not_certain() -> None:
    assert auroc_interval(np.array([0.1, 0.9]), np.array([True, True]), ["a", "b"]) is None
    good = np.arange(40) < 20
    interval = auroc_interval(good.astype(float), good, [str(n) for n in range(40)])
    assert interval is not None
    assert 0.8 < interval[0] < 0.95
    assert interval[1] == pytest.approx(1.0)
