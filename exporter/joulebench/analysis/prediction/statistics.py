"""How well a number tells good from bad: discrimination (AUROC, AURC) and honesty (Brier, ECE). Pure.

``sure`` is such that more is surer; ``good`` is what came of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BINS = 10
RESAMPLES = 1000
SEED = 20
_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Bin:
    """One of BINS bins of equal mass: how sure on average, and how many of ``n`` were good."""

    n: int
    sure: float
    good: float


def auroc(sure: Floats, good: Bools) -> float | None:
    """Probability that a good one is surer than a bad one, a tie counting half; None without both."""
    n_good = int(good.sum())
    n_bad = len(good) - n_good
    if not n_good or not n_bad:
        return None
    _, where, counts = np.unique(sure, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[where]
    return float((ranks[good].sum() - n_good * (n_good + 1) / 2) / (n_good * n_bad))


def aurc(sure: Floats, good: Bools) -> float:
    """Mean share of bad ones among the surest k, over all k; of ties every order is as likely. Chance: the share of bad ones."""
    _, where, counts = np.unique(-sure, return_inverse=True, return_counts=True)
    bad_share = np.bincount(where, weights=~good) / counts
    bad = np.cumsum(np.repeat(bad_share, counts))
    return float(np.mean(bad / np.arange(1, len(sure) + 1)))


def brier(probability: Floats, good: Bools) -> float:
    return float(np.mean((probability - good) ** 2))


def reliability(probability: Floats, good: Bools, bins: int = BINS) -> list[Bin]:
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return [Bin(len(part), float(probability[part].mean()), float(good[part].mean())) for part in parts]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance between how sure and how good, weighted by the bins' mass."""
    return sum(one.n * abs(one.sure - one.good) for one in bins) / sum(one.n for one in bins)


def auroc_interval(sure: Floats, good: Bools, groups: Sequence[str]) -> tuple[float, float] | None:
    """95 % percentile interval over RESAMPLES resamples of whole groups; None where most resamples lack one of the classes."""
    names, member_of = np.unique(np.array(groups), return_inverse=True)
    order = np.argsort(sure, kind="stable")
    first_of_value = np.flatnonzero(np.r_[True, np.diff(sure[order]) > 0])
    random = np.random.default_rng(SEED)
    found = []
    for _ in range(RESAMPLES // _AT_ONCE):
        # Drawing groups with replacement gives each a weight; a weighted AUROC is that of the resample.
        drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_AT_ONCE)
        weights = drawn[:, member_of][:, order].astype(np.float64)
        of_good = np.add.reduceat(weights * good[order], first_of_value, axis=1)
        of_bad = np.add.reduceat(weights * ~good[order], first_of_value, axis=1)
        below = np.cumsum(of_bad, axis=1) - of_bad / 2
        pairs = of_good.sum(axis=1) * of_bad.sum(axis=1)
        found.append((of_good * below).sum(axis=1)[pairs > 0] / pairs[pairs > 0])
    values = np.concatenate(found)
    if len(values) < RESAMPLES / 2:
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
