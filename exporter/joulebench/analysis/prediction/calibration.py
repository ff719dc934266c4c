"""How well a number separates successes from failures: discrimination (AUROC, AURC) and calibration (Brier, ECE).

``scores`` are higher for what is more likely to succeed; ``outcomes`` are True for successes. Groups are tasks: repetitions of
a task are no independent evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from joulebench.analysis.statistics import Floats, wilson
from joulebench.errors import UserError

try:
    from scipy.stats import rankdata, t
    from sklearn.metrics import brier_score_loss, roc_auc_score
except ImportError as error:  # pragma: no cover
    raise UserError(f"the analysis needs {error.name}; install it with: pip install 'joulebench[analysis]'") from error

Bools = NDArray[np.bool_]

BINS = 10
SEED = 20
_NOISE_DRAWS = 200


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One of at most BINS bins of about equal size: mean ``predicted`` probability and ``observed`` share of ``n`` successes."""

    n: int
    predicted: float
    observed: float


def auroc(scores: Floats, outcomes: Bools) -> float | None:
    """Probability that a success has a higher score than a failure, a tie counting half; None without both."""
    if outcomes.all() or not outcomes.any():
        return None
    return float(roc_auc_score(outcomes, scores))


def auroc_interval(scores: Floats, outcomes: Bools, groups: Sequence[str]) -> tuple[float, float] | None:
    """95 % interval of the AUROC by DeLong's variance with clusters (Obuchowski 1997), on the logit scale with Student's t.

    Without repetitions this is DeLong's interval. None where successes or failures come from fewer than two groups.
    """
    value = auroc(scores, outcomes)
    if value is None:
        return None
    good, bad = int(outcomes.sum()), int((~outcomes).sum())
    names, group = np.unique(np.array(groups), return_inverse=True)
    good_by_group, bad_by_group = np.bincount(group, outcomes, len(names)), np.bincount(group, ~outcomes, len(names))
    good_groups, bad_groups = int(np.sum(good_by_group > 0)), int(np.sum(bad_by_group > 0))
    if min(good_groups, bad_groups) < 2:
        return None
    ranks = rankdata(scores)
    # Share of failures below each success, and of successes above each failure.
    placements = np.empty(len(scores))
    placements[outcomes] = (ranks[outcomes] - rankdata(scores[outcomes])) / bad
    placements[~outcomes] = 1 - (ranks[~outcomes] - rankdata(scores[~outcomes])) / good
    of_good = np.bincount(group, placements * outcomes, len(names)) - good_by_group * value
    of_bad = np.bincount(group, placements * ~outcomes, len(names)) - bad_by_group * value
    variance = (
        good_groups / (good_groups - 1) * float(np.sum(of_good**2)) / good**2
        + bad_groups / (bad_groups - 1) * float(np.sum(of_bad**2)) / bad**2
        + 2 * len(names) / (len(names) - 1) * float(np.sum(of_good * of_bad)) / (good * bad)
    )
    least = min(good_groups, bad_groups)
    if variance <= 0 or not 0 < value < 1:
        # Perfect separation has no variance; as many perfect groups still allow for an error of the next.
        return wilson(value, least)
    reach = float(t.isf(0.025, least - 1)) * math.sqrt(variance) / (value * (1 - value))
    logit = math.log(value / (1 - value))
    return 1 / (1 + math.exp(-(logit - reach))), 1 / (1 + math.exp(-(logit + reach)))


def aurc(scores: Floats, outcomes: Bools) -> float:
    """Mean share of failures among the k highest scores, over all k; the order of ties is averaged. Chance: share of failures."""
    _, place, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    failed_share = np.bincount(place, weights=~outcomes) / counts
    failed = np.cumsum(np.repeat(failed_share, counts))
    return float(np.mean(failed / np.arange(1, len(scores) + 1)))


def brier(probabilities: Floats, outcomes: Bools) -> float:
    return float(brier_score_loss(outcomes, np.clip(probabilities, 0, 1), pos_label=True))


def reliability_bins(probabilities: Floats, outcomes: Bools, bins: int = BINS) -> list[ReliabilityBin]:
    """Bins of about equal size in which equal probabilities are never parted, so that the order of the input does not matter."""
    place = _bin_places(probabilities, bins)
    return [
        ReliabilityBin(int(part.sum()), float(probabilities[part].mean()), float(outcomes[part].mean()))
        for part in (place == number for number in np.unique(place))
    ]


def _bin_places(probabilities: Floats, bins: int) -> NDArray[np.intp]:
    share = (rankdata(probabilities) - 0.5) / len(probabilities)
    places: NDArray[np.intp] = np.minimum((share * bins).astype(np.intp), bins - 1)
    return places


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Mean distance between predicted and observed, weighted by the size of the bins."""
    return sum(each.n * abs(each.predicted - each.observed) for each in bins) / sum(each.n for each in bins)


def calibration_noise_floor(probabilities: Floats, bins: int = BINS) -> float:
    """Mean ECE of as many predictions that are perfectly calibrated: an ECE near it shows no miscalibration."""
    random = np.random.default_rng(SEED)
    place = _bin_places(probabilities, bins)
    used, place = np.unique(place, return_inverse=True)
    drawn = random.random((_NOISE_DRAWS, len(probabilities))) < probabilities
    differences = np.zeros((_NOISE_DRAWS, len(used)))
    for number in range(len(used)):
        part = place == number
        differences[:, number] = (drawn[:, part] - probabilities[part]).sum(axis=1)
    return float(np.mean(np.abs(differences).sum(axis=1)) / len(probabilities))
