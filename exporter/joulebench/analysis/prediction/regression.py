"""A logistic regression over all confidence measures, calibrated and evaluated on tasks that it was not fitted to."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from joulebench.analysis.prediction.calibration import SEED, Bools
from joulebench.analysis.prediction.records import MEASURES, NO_PROBABILITY, SCORE, Sample
from joulebench.analysis.statistics import Floats
from joulebench.errors import UserError

try:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits
except ImportError as error:  # pragma: no cover
    raise UserError(f"the analysis needs {error.name}; install it with: pip install 'joulebench[analysis]'") from error

FOLDS = 5
# The score is the lesser of two of them, and name_joint says again what name_branch does.
FEATURES = tuple(measure for measure in MEASURES if measure not in (SCORE, "name_joint"))
_WITHOUT_CHOICE = {"name_margin": 20.0, "name_choice": 1.0, "args_min": 1.0, "args_geo": 1.0}
"""Where a call has no such choice to make: one declared tool, no arguments."""
_LEAST = -10.0


def usable(samples: Sequence[Sample]) -> list[Sample]:
    """Samples of calls whose tokens were located. For others the missing measures would reveal the outcome."""
    return [sample for sample in samples if SCORE in sample.measures]


def cross_validated(samples: Sequence[Sample], hidden: Sequence[str] = ()) -> Floats | None:
    """P(good) of each usable sample from a fit to the other folds of tasks; None where there are fewer tasks than folds.

    ``hidden``: measures that may not be used.
    """
    probabilities = predict(samples, (), hidden)
    return None if probabilities is None else probabilities[0]


def predict(samples: Sequence[Sample], others: Sequence[Sample], hidden: Sequence[str] = ()) -> tuple[Floats, Floats] | None:
    """As ``cross_validated``, and P(good) of ``others``, whose outcome is not known, from a fit to all samples."""
    names = _names([*samples, *others], hidden)
    features, unknown = (np.array([[_feature(name, entry) for name in names] for entry in part]) for part in (samples, others))
    good = np.array([sample.good for sample in samples])
    groups = np.array([sample.group for sample in samples])
    if not names or _groups_of_rarer_class(good, groups) < FOLDS:
        return None
    probabilities = np.full(len(samples), np.nan)
    # Of matrices this small several threads do nothing but wait for each other.
    with threadpool_limits(1):
        for train, test in _split(good, groups, FOLDS):
            if len(set(good[train])) < 2:
                return None
            probabilities[test] = _fitted(features[train], good[train], groups[train])(features[test])
        return probabilities, _fitted(features, good, groups)(unknown) if len(others) else np.empty(0)


def _names(samples: Sequence[Sample], hidden: Sequence[str]) -> list[str]:
    """Measures that every sample has, or that have a value where there is nothing to measure; without any the score alone."""
    seen = {name for sample in samples for name in sample.measures}
    offered = [name for name in FEATURES if name in seen and name not in hidden]
    complete = [name for name in offered if all(name in sample.measures or name in _WITHOUT_CHOICE for sample in samples)]
    return complete or [name for name in (SCORE,) if name not in hidden]


def _fitted(features: Floats, good: Bools, groups: NDArray[Any]) -> Callable[[Floats], Floats]:
    """A regression whose log odds are calibrated on tasks that it was not fitted to, because a fit overrates itself."""
    folds = min(FOLDS, _groups_of_rarer_class(good, groups))
    odds = np.full(len(good), np.nan)
    for train, test in _split(good, groups, folds) if folds > 1 else ():
        if len(set(good[train])) == 2:
            odds[test] = _regression().fit(features[train], good[train]).decision_function(features[test])
    fitted = _regression().fit(features, good)
    if np.isnan(odds).any():
        return lambda new: np.asarray(fitted.predict_proba(new)[:, 1])
    scaled = LogisticRegression(C=100.0, max_iter=1000).fit(odds[:, None], good)
    if scaled.coef_[0, 0] <= 0:
        # What it learned does not carry over to other tasks: every task gets the base rate.
        return lambda new: np.full(len(new), good.mean())
    return lambda new: np.asarray(scaled.predict_proba(fitted.decision_function(new)[:, None])[:, 1])


def _groups_of_rarer_class(good: Bools, groups: NDArray[Any]) -> int:
    """Tasks with a success or with a failure, whichever are fewer."""
    return min(len(set(groups[good])), len(set(groups[~good])))


def _split(good: Bools, groups: NDArray[Any], folds: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """(train, test) places by fold; a group is in one fold only, and folds have about as many failures as each other.

    Groups are stratified by whether they never, sometimes or always fail. ``StratifiedGroupKFold`` does the same with a loop over
    groups and folds, which takes a quarter of the time of a report of 2,000 tasks.
    """
    names, place = np.unique(groups, return_inverse=True)
    failed = np.bincount(place, weights=~good) / np.bincount(place)
    kinds = np.ceil(failed) + np.floor(failed)
    with warnings.catch_warnings():
        # A kind with fewer groups than folds is not in every fold, which is all right.
        warnings.simplefilter("ignore", UserWarning)
        for _, left_out in StratifiedKFold(folds, shuffle=True, random_state=SEED).split(names, kinds):
            is_test = np.isin(place, left_out)
            yield np.flatnonzero(~is_test), np.flatnonzero(is_test)


def _regression() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def _feature(name: str, sample: Sample) -> float:
    """Probabilities as their logarithm, like the nats beside them."""
    value = sample.measures.get(name, _WITHOUT_CHOICE.get(name, 0.0))
    return value if name in NO_PROBABILITY else max(math.log(max(value, 1e-12)), _LEAST)
