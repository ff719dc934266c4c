"""A logistic regression over all measures, judged on tasks that it was not fitted to. The only ``import sklearn``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from joulebench.analysis.levels import NO_PROBABILITY, Sample
from joulebench.analysis.records import SCORE
from joulebench.analysis.statistics import Floats
from joulebench.errors import UserError

INSTALL = "pip install 'joulebench[analysis]'"
FOLDS = 5
FEATURES = (
    "call_decision",
    "name_branch",
    "name_margin",
    "name_choice",
    "args_min",
    "args_geo",
    "sem_nll",
    "entropy_max",
    "naive_mean",
)
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
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedGroupKFold
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise UserError(f"the analysis needs {error.name}; install it with: {INSTALL}") from error

    offered = [name for name in FEATURES if name not in hidden]
    names = [name for name in offered if all(name in {**_WITHOUT_CHOICE, **sample.measures} for sample in samples)]
    features = np.array([[_feature(name, sample) for name in names] for sample in samples])
    good = np.array([sample.good for sample in samples])
    groups = np.array([sample.group for sample in samples])
    in_class = min(len(set(groups[good])), len(set(groups[~good])))
    if in_class < FOLDS:
        return None
    predicted = np.full(len(samples), np.nan)
    for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(features, good, groups):
        if len(set(good[train])) < 2:
            return None
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(features[train], good[train])
        predicted[test] = model.predict_proba(features[test])[:, 1]
    return predicted


def _feature(name: str, sample: Sample) -> float:
    """Probabilities as their logarithm, like the nats beside them."""
    value = sample.measures.get(name, _WITHOUT_CHOICE.get(name, 0.0))
    return value if name in NO_PROBABILITY else max(math.log(max(value, 1e-12)), _LEAST)
