"""Mean, extremes and coverage of a gauge over a window, from the samples inside it and no others.

Each sample stands for the time until half way to its neighbours, so samples that come unevenly weigh by time. A window that
no sample falls into has no statistics.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from joulebench.results.samples import Points, inside


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
    some = inside(points, start, end)
    if not some or end <= start:
        return None
    at = [start, *(t for t, _ in some), end]
    weights = [_upper(at, i, end) - _lower(at, i, start) for i in range(1, len(at) - 1)]
    total = sum(weights)
    values = [value for _, value in some]
    mean = sum(map(_product, weights, values)) / total if total > 0 else values[0]
    gaps = [later - earlier for earlier, later in pairwise(at)]
    usual = median(gaps[1:-1]) if len(gaps) > 2 else end - start
    covered = sum(min(gap, usual) for gap in gaps)
    return Stats(mean, min(values), max(values), len(some), min(covered / (end - start), 1.0), max(gaps))


def _lower(at: Sequence[float], i: int, start: float) -> float:
    return start if i == 1 else (at[i - 1] + at[i]) / 2


def _upper(at: Sequence[float], i: int, end: float) -> float:
    return end if i == len(at) - 2 else (at[i] + at[i + 1]) / 2


def _product(a: float, b: float) -> float:
    return a * b


def together(series: Sequence[Points], fold: Callable[[Iterable[float]], float]) -> Points:
    """Several GPUs as one series: ``fold`` over the values of the moments at which every GPU has one."""
    if len(series) == 1:
        return series[0]
    seen = Counter(at for points in series for at, _ in points)
    values: dict[float, list[float]] = {at: [] for at, times in sorted(seen.items()) if times == len(series)}
    for points in series:
        for at, value in points:
            if at in values:
                values[at].append(value)
    return [(at, fold(some)) for at, some in values.items()]


def mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)


def increase(points: Points, start: float, end: float) -> float | None:
    """Growth of a cumulative counter over a window, interpolated at its edges; None where the samples do not reach over it.

    A fall begins anew from 0, as the counters of a restarted exporter do.
    """
    if len(points) < 2 or points[0][0] > start or points[-1][0] < end:
        return None
    first = max(bisect_right(points, (start, float("inf"))) - 1, 0)
    last = bisect_left(points, (end, float("-inf"))) + 1
    total = 0.0
    for (t0, v0), (t1, v1) in pairwise(points[first:last]):
        rise = v1 - v0 if v1 >= v0 else v1
        total += rise * max(min(t1, end) - max(t0, start), 0.0) / (t1 - t0)
    return total
