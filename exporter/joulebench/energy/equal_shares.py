"""The energy of one source shared evenly by all windows that are under way, as ``attribute`` shares it where no calls are known.

One pass over the edges of all windows, however many lie over each other: 100,000 requests of a load test share in a second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from joulebench.energy.curve import EnergyCurve, Floats


@dataclass(frozen=True, slots=True)
class SharedTime:
    """The time that windows share. ``edges``: where windows begin and end, rising; ``active``: windows under way after each but
    the last; ``overlap``: share of each window in which another one lies, 0 to 1.
    """

    starts: Floats
    ends: Floats
    edges: Floats
    active: Floats
    overlap: Floats


@dataclass(frozen=True, slots=True)
class EqualShares:
    """Joules of each window: its share, what it took while it was alone, and all of its time. NaN where not all is known."""

    attributed: Floats
    lower: Floats
    upper: Floats


def shared_time(starts: ArrayLike, ends: ArrayLike) -> SharedTime:
    """Of windows none of which ends before it starts."""
    start, end = np.asarray(starts, np.float64), np.asarray(ends, np.float64)
    edges = np.unique(np.concatenate((start, end)))
    begun = np.searchsorted(np.sort(start), edges, "right")
    over = np.searchsorted(np.sort(end), edges, "right")
    active = (begun - over)[:-1].astype(np.float64)
    shared = _cumulative(np.diff(edges) * (active > 1))
    seconds = end - start
    spent = shared[edges.searchsorted(end)] - shared[edges.searchsorted(start)]
    overlap = np.where(seconds > 0, spent / np.where(seconds > 0, seconds, 1.0), 0.0)
    return SharedTime(start, end, edges, active, np.minimum(overlap, 1.0))


def equal_shares(curve: EnergyCurve, time: SharedTime) -> EqualShares:
    """Each joule goes to the windows under way in equal parts, so that shares add up to what the source counted under them."""
    used = np.maximum(np.diff(curve.joules_at(time.edges)), 0.0)
    whole = curve.is_whole(time.starts, time.ends)
    first, last = time.edges.searchsorted(time.starts), time.edges.searchsorted(time.ends)

    def of_windows(joules: Floats) -> Floats:
        cumulative = _cumulative(joules)
        found: Floats = cumulative[last] - cumulative[first]
        return found

    attributed = of_windows(used / np.maximum(time.active, 1.0))
    lower, upper = of_windows(np.where(time.active == 1, used, 0.0)), of_windows(used)
    return EqualShares(np.where(whole, attributed, np.nan), lower, np.where(whole, upper, np.nan))


def _cumulative(values: Floats) -> Floats:
    found: Floats = np.concatenate(([0.0], np.cumsum(values)))
    return found
