"""Each statistic against values worked out by hand, and against scikit-learn where it has the same one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from joulebench.analysis.prediction.statistics import aurc, auroc, auroc_interval, brier, expected_calibration_error, reliability


def some(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    good = rng.random(n) < 0.6
    # Rounded, so that there are ties.
    return np.round(np.clip(rng.normal(0.5 + 0.15 * good, 0.2), 0, 1), 1), good


@pytest.mark.parametrize("seed", range(5))
def test_auroc_and_brier_are_those_of_scikit_learn(seed: int) -> None:
    sure, good = some(80, seed)
    assert auroc(sure, good) == pytest.approx(roc_auc_score(good, sure))
    assert brier(sure, good) == pytest.approx(brier_score_loss(good, sure))


def test_auroc_needs_both_classes() -> None:
    assert auroc(np.array([0.1, 0.2]), np.array([True, True])) is None


def test_aurc_by_hand() -> None:
    sure, good = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert aurc(sure, good) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)


def test_aurc_of_a_constant_is_the_share_of_bad_ones() -> None:
    good = np.array([True, False, False, True, True])
    assert aurc(np.full(5, 0.5), good) == pytest.approx(0.4)


def test_calibration_by_hand() -> None:
    """Twenty in ten bins of two: sure 0.75 and half of them good, whatever the bin."""
    bins = reliability(np.full(20, 0.75), np.array([True, False] * 10))
    assert [one.n for one in bins] == [2] * 10
    assert expected_calibration_error(bins) == pytest.approx(0.25)
    honest = reliability(np.array([0.0] * 10 + [1.0] * 10), np.array([False] * 10 + [True] * 10))
    assert expected_calibration_error(honest) == 0.0


def test_interval_holds_the_value_and_knows_its_groups() -> None:
    sure, good = some(120, 3)
    value = auroc(sure, good)
    assert value is not None
    alone = auroc_interval(sure, good, [str(number) for number in range(120)])
    assert alone is not None
    assert alone[0] < value < alone[1]
    # The same samples as ten copies of twelve are less evidence: the interval is wider.
    copies = np.tile(np.arange(12), 10)
    few = auroc_interval(sure[copies], good[copies], [str(one) for one in copies])
    each = auroc_interval(sure[copies], good[copies], [str(number) for number in range(120)])
    assert few is not None
    assert each is not None
    assert few[1] - few[0] > 2 * (each[1] - each[0])


def test_a_resample_is_weighed_as_if_it_were_written_out() -> None:
    """Percentiles of AUROCs of resamples that are written out, drawn by other random numbers: 1000 of each agree to 0.02."""
    sure, good = some(60, 5)
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, 60, 60) for _ in range(1000)]
    values = [value for one in drawn if (value := auroc(sure[one], good[one])) is not None]
    interval = auroc_interval(sure, good, [str(number) for number in range(60)])
    assert interval == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=0.02)


def test_no_interval_without_both_classes() -> None:
    assert auroc_interval(np.array([0.1, 0.9]), np.array([True, True]), ["a", "b"]) is None
