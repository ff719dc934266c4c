"""A logistic regression over all measures, calibrated and judged on tasks it was not fitted to. The only ``import sklearn``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from joulebench.analysis.prediction.levels import MEASURES, NO_PROBABILITY, Sample
from joulebench.analysis.prediction.records import SCORE
from joulebench.analysis.prediction.statistics import SEED, Bools, Floats
from joulebench.errors import UserError

INSTALL = "pip install 'joulebench[analysis]'"
FOLDS = 5
# The score is the lesser of two of them, and name_joint says again what name_branch does.
FEATURES = tuple(measure for measure in MEASURES if measure not in (SCORE, "name_joint"))
_WITHOUT_CHOICE = {"name_margin": 20.0, "name_choice": 1.0, "args_min": 1.0, "args_geo": 1.0}
"""Where a call has no such choice to make: one declared tool, no arguments."""
_LEAST = -10.0


def usable(samples: Sequence[Sample]) -> list[Sample]:
    """Samples of calls that were found whole. For others the missing measures would give the outcome away."""
    return [sample for sample in samples if SCORE in sample.measures]


def cross_validated(samples: Sequence[Sample], hidden: Sequence[str] = ()) -> Floats | None:
    """P(good) of each usable sample from a fit to the other folds of tasks; None where there are fewer tasks than folds.

    ``hidden``: measures that may not be used.
    """
    found = predicted(samples, (), hidden)
    return None if found is None else found[0]


def predicted(samples: Sequence[Sample], others: Sequence[Sample], hidden: Sequence[str] = ()) -> tuple[Floats, Floats] | None:
    """As ``cross_validated``, and P(good) of ``others``, whose outcome is not known, from a fit to all samples."""
    names = _names([*samples, *others], hidden)
    features, unknown = (np.array([[_feature(name, one) for name in names] for one in part]) for part in (samples, others))
    good = np.array([sample.good for sample in samples])
    groups = np.array([sample.group for sample in samples])
    if not names or _in_class(good, groups) < FOLDS:
        return None
    sure = np.full(len(samples), np.nan)
    # Of matrices this small several threads do nothing but wait for each other.
    with _sklearn().threads(1):
        for train, test in _split(good, groups, FOLDS):
            if len(set(good[train])) < 2:
                return None
            sure[test] = _fitted(features[train], good[train], groups[train])(features[test])
        return sure, _fitted(features, good, groups)(unknown) if len(others) else np.empty(0)


def _names(samples: Sequence[Sample], hidden: Sequence[str]) -> list[str]:
    """Measures that every sample has, or that have a value where there is nothing to measure; without any the score alone."""
    seen = {name for sample in samples for name in sample.measures}
    offered = [name for name in FEATURES if name in seen and name not in hidden]
    found = [name for name in offered if all(name in sample.measures or name in _WITHOUT_CHOICE for sample in samples)]
    return found or [name for name in (SCORE,) if name not in hidden]


def _fitted(features: Floats, good: Bools, groups: NDArray[Any]) -> Callable[[Floats], Floats]:
    """A regression and what its log odds are worth on tasks that it was not fitted to: a fit is too sure of what it has seen."""
    sklearn = _sklearn()
    folds = min(FOLDS, _in_class(good, groups))
    odds = np.full(len(good), np.nan)
    for train, test in _split(good, groups, folds) if folds > 1 else ():
        if len(set(good[train])) == 2:
            odds[test] = sklearn.regression().fit(features[train], good[train]).decision_function(features[test])
    whole = sklearn.regression().fit(features, good)
    if np.isnan(odds).any():
        return lambda asked: np.asarray(whole.predict_proba(asked)[:, 1])
    scaled = sklearn.scale().fit(odds[:, None], good)
    if scaled.coef_[0, 0] <= 0:
        # What it learnt is worth nothing on other tasks: all are as likely as any.
        return lambda asked: np.full(len(asked), good.mean())
    return lambda asked: np.asarray(scaled.predict_proba(whole.decision_function(asked)[:, None])[:, 1])


def _in_class(good: Bools, groups: NDArray[Any]) -> int:
    """Tasks with a success or with a failure, whichever are fewer."""
    return min(len(set(groups[good])), len(set(groups[~good])))


def _split(good: Bools, groups: NDArray[Any], folds: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """(others, left out) by fold. Groups stay whole; they are dealt out in order of how many of theirs failed, so that the folds
    fail about as often as each other, and by chance within that.
    """
    names, place = np.unique(groups, return_inverse=True)
    size = np.bincount(place)
    failed = np.bincount(place, weights=~good) / size
    chance = np.random.default_rng(SEED).permutation(len(names))
    fold = np.empty(len(names), dtype=np.intp)
    fold[np.lexsort((chance, size, failed))] = np.arange(len(names)) % folds
    for left_out in range(folds):
        yield np.flatnonzero(fold[place] != left_out), np.flatnonzero(fold[place] == left_out)


@dataclass(frozen=True, slots=True)
class _Sklearn:
    regression: Callable[[], Any]
    scale: Callable[[], Any]
    threads: Callable[[int], AbstractContextManager[Any]]


@cache
def _sklearn() -> _Sklearn:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise UserError(f"the analysis needs {error.name}; install it with: {INSTALL}") from error

    return _Sklearn(
        regression=lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        scale=lambda: LogisticRegression(C=100.0, max_iter=1000),
        threads=threadpool_limits,
    )


def _feature(name: str, sample: Sample) -> float:
    """Probabilities as their logarithm, like the nats beside them."""
    value = sample.measures.get(name, _WITHOUT_CHOICE.get(name, 0.0))
    return value if name in NO_PROBABILITY else max(math.log(max(value, 1e-12)), _LEAST)
