"""Mean, extremes and coverage of a gauge over a window, from the samples inside it and no others.

Each sample stands for the time until half way to its neighbours, so samples that come unevenly weigh by time. A window that
no sample falls into has no statistics.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import lt, sub
from statistics import median

import numpy as np
from numpy.typing import NDArray

from joulebench.results.points import EMPTY, Columns, Points


@dataclass(frozen=True, slots=True)
class Stats:
    """``coverage``: share of the window within one usual sample distance of a sample. ``longest_gap``: seconds without one."""

    mean: float
    low: float
    high: float
    samples: int
    coverage: float
    longest_gap: float

    def as_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in self.__slots__}


def stats(points: Points, start: float, end: float) -> Stats | None:
    columns = Columns.of(points)
    found: Stats | None = columns.known.get((start, end))
    if found is not None:
        return found
    first, last = bisect_left(columns.at, start), bisect_right(columns.at, end) - 1
    if last < first or end <= start:
        return None
    at, values = columns.at[first : last + 1], columns.value[first : last + 1]
    before, after = at[0] - start, end - at[-1]
    gaps = list(map(sub, at[1:], at))
    # Half of the way to each neighbour is the straight line between them; the edges belong to the sample nearest to them.
    inner = columns.areas[last] - columns.areas[first]
    mean = (values[0] * before + inner + values[-1] * after) / (end - start)
    usual = median(gaps) if gaps else end - start
    longest = max(before, after, max(gaps, default=0.0))
    covered = end - start
    if longest > usual:
        covered = sum(map(min, (before, after, *gaps), [usual] * (len(gaps) + 2)))
    low, high = min(values), max(values)
    # Rounding of a long sum must not put the mean of equal values beside them.
    return Stats(min(max(mean, low), high), low, high, len(values), min(covered / (end - start), 1.0), longest)


def lowest(points: Points, start: float, end: float) -> float | None:
    """The lowest value of a sample inside the window."""
    columns = Columns.of(points)
    return min(columns.value[bisect_left(columns.at, start) : bisect_right(columns.at, end)], default=None)


def together(series: Sequence[Points], fold: Callable[[Iterable[float]], float]) -> Points:
    """Several GPUs as one series: ``fold`` over the values of the moments at which every GPU has one."""
    if not series:
        return EMPTY
    columns = [Columns.of(points) for points in series]
    if len(columns) == 1:
        return columns[0]
    if all(columns[0].same_times(other) for other in columns[1:]):
        at_once = _AT_ONCE.get(fold)
        if at_once is not None:
            folded = at_once(np.array([one.value for one in columns]))
            return Columns(columns[0].at, array("d", folded.tobytes()))
        values = map(fold, zip(*(one.value for one in columns), strict=True))
        return Columns(columns[0].at, array("d", values))
    seen = Counter(at for one in columns for at in one.at)
    common: dict[float, list[float]] = {at: [] for at, times in sorted(seen.items()) if times == len(columns)}
    for one in columns:
        for at, value in one:
            if at in common:
                common[at].append(value)
    return Columns.of((at, fold(some)) for at, some in common.items())


def mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)


_AT_ONCE: Mapping[Callable[..., float], Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    sum: np.add.reduce,
    max: np.maximum.reduce,
    mean: lambda values: np.add.reduce(values) / len(values),
}
"""Folds that are known, over the rows of a table."""


def increase(points: Points, start: float, end: float) -> float | None:
    """Growth of a cumulative counter over a window, interpolated at its edges; None where the samples do not reach over it.

    A fall begins anew from 0, as the counters of a restarted exporter do.
    """
    if len(points) < 2 or points[0][0] > start or points[-1][0] < end:
        return None
    columns = Columns.of(points)
    first = max(bisect_right(columns.at, start) - 1, 0)
    last = bisect_left(columns.at, end) + 1
    total = 0.0
    for (t0, v0), (t1, v1) in pairwise(columns[first:last]):
        rise = v1 - v0 if v1 >= v0 else v1
        total += rise * max(min(t1, end) - max(t0, start), 0.0) / (t1 - t0)
    return total


def growth_bounds(points: Points, start: float, end: float) -> tuple[float, float] | None:
    """Least and most that a cumulative counter can have grown over a window, whatever it did between two samples; None where
    the samples do not reach over it or fall."""
    columns = Columns.of(points)
    at, value = columns.at, columns.value
    before, after = bisect_right(at, start) - 1, bisect_left(at, end)
    if before < 0 or after >= len(at) or any(map(lt, value[before + 1 : after + 1], value[before:after])):
        return None
    first, last = bisect_left(at, start), bisect_right(at, end) - 1
    return value[last] - value[first] if last >= first else 0.0, value[after] - value[before]
