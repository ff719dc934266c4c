"""Samples over time as two columns, and what a gauge or a counter did over many windows at once.

Each sample of a gauge stands for the time until half way to its neighbours, so samples that come unevenly weigh by time. A window
that no sample falls into has no statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from joulebench.energy.estimator import reduce_stretches
from joulebench.schema.result import GaugeStats

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]
Window: TypeAlias = tuple[float, float]
"""(start, end) in unix seconds."""


class TimeSeries:
    """``at`` (unix seconds) strictly rising, ``value`` of the same length; neither is ever changed."""

    __slots__ = ("at", "value")

    def __init__(self, at: Floats, value: Floats) -> None:
        self.at = at
        self.value = value

    @classmethod
    def of(cls, points: Iterable[tuple[float, float]]) -> TimeSeries:
        """Of (time, value) in rising order of time."""
        columns = np.array(list(points), np.float64).reshape(-1, 2)
        return cls(columns[:, 0].copy(), columns[:, 1].copy())

    @classmethod
    def joined(cls, parts: Sequence[TimeSeries]) -> TimeSeries:
        """One after another; where parts overlap, or repeat a moment, the last value of a moment counts."""
        parts = [part for part in parts if len(part)]
        if len(parts) < 2:
            return parts[0] if parts else EMPTY
        at, value = np.concatenate([part.at for part in parts]), np.concatenate([part.value for part in parts])
        if (np.diff(at) <= 0).any():
            order = np.argsort(at, kind="stable")
            at, value = at[order], value[order]
            last = np.append(np.diff(at) > 0, True)
            at, value = at[last], value[last]
        return cls(at, value)

    def between(self, start: float, end: float) -> TimeSeries:
        """The samples within [start, end]."""
        first, last = self.at.searchsorted(start), self.at.searchsorted(end, "right")
        return TimeSeries(self.at[first:last], self.value[first:last])

    def __len__(self) -> int:
        return len(self.at)

    def __iter__(self) -> Iterator[tuple[float, float]]:
        return zip(self.at.tolist(), self.value.tolist(), strict=True)


EMPTY = TimeSeries(np.empty(0), np.empty(0))


def combine(series: Sequence[TimeSeries], fold: Callable[[Floats], Floats]) -> TimeSeries:
    """Several GPUs as one series: ``fold`` over a table of a row each, at the moments at which every GPU has a value."""
    if not series:
        return EMPTY
    at = series[0].at
    if any(len(one.at) != len(at) or not np.array_equal(one.at, at) for one in series[1:]):
        at = reduce(np.intersect1d, (one.at for one in series))
        series = [TimeSeries(at, one.value[one.at.searchsorted(at)]) for one in series]
    return series[0] if len(series) == 1 else TimeSeries(at, fold(np.array([one.value for one in series])))


def mean_of_rows(values: Floats) -> Floats:
    found: Floats = np.add.reduce(values) / len(values)
    return found


class _Places:
    """Where the samples of windows lie that hold any. ``kept``: which windows these are; ``counts``: of gaps between samples."""

    def __init__(self, at: Floats, windows: Sequence[Window]) -> None:
        starts, ends = np.array(windows, np.float64).reshape(-1, 2).T
        first, last = at.searchsorted(starts), at.searchsorted(ends, "right") - 1
        self.kept = np.flatnonzero((last >= first) & (ends > starts))
        self.first, self.last = first[self.kept], last[self.kept]
        self.counts = self.last - self.first
        self.seconds = ends[self.kept] - starts[self.kept]
        self.before, self.after = at[self.first] - starts[self.kept], ends[self.kept] - at[self.last]

    def means(self, series: TimeSeries) -> Floats:
        """Half of the way to each neighbour is the straight line between them; the edges belong to the sample nearest to them."""
        at, value = series.at, series.value
        areas = np.concatenate(([0.0], np.cumsum(np.diff(at) * (value[1:] + value[:-1]) / 2)))
        inner = areas[self.last] - areas[self.first]
        found: Floats = (value[self.first] * self.before + inner + value[self.last] * self.after) / self.seconds
        return found


def gauge_stats(series: Sequence[TimeSeries], windows: Sequence[Window]) -> list[list[GaugeStats | None]]:
    """Of each series over each window. Series of one scrape share their times, which are looked at once."""
    found: list[list[GaugeStats | None]] = []
    timings: list[tuple[Floats, _Places, list[list[float]]]] = []
    for one in series:
        rows: list[GaugeStats | None] = [None] * len(windows)
        found.append(rows)
        if not len(one) or not windows:
            continue
        known = next((timing for timing in timings if timing[0] is one.at or np.array_equal(timing[0], one.at)), None)
        if known is None:
            places = _Places(one.at, windows)
            timings.append(known := (one.at, places, _coverage(one.at, places)))
        _, places, (samples, coverage, longest) = known
        low = reduce_stretches(np.minimum, one.value, places.first, places.counts + 1)
        high = reduce_stretches(np.maximum, one.value, places.first, places.counts + 1)
        # Rounding of a long sum must not put the mean of equal values beside them.
        mean = np.minimum(np.maximum(places.means(one), low), high)
        columns = (places.kept.tolist(), mean.tolist(), low.tolist(), high.tolist(), samples, coverage, longest)
        for index, average, least, most, count, covered, gap in zip(*columns, strict=True):
            rows[index] = GaugeStats(mean=average, low=least, high=most, samples=int(count), coverage=covered, longest_gap=gap)
    return found


def _coverage(at: Floats, places: _Places) -> list[list[float]]:
    """(samples, coverage, longest gap) of each window with samples; they depend on times alone."""
    counts, seconds, before, after = places.counts, places.seconds, places.before, places.after
    offsets = np.cumsum(counts) - counts
    gaps = np.diff(at)[np.repeat(places.first - offsets, counts) + np.arange(counts.sum())]
    usual = np.where(counts > 0, _medians(gaps, offsets, counts), seconds)
    longest = np.maximum(before, after)
    some = counts > 0
    longest[some] = np.maximum(longest[some], reduce_stretches(np.maximum, gaps, offsets[some], counts[some]))
    covered = np.minimum(before, usual) + np.minimum(after, usual)
    covered[some] += reduce_stretches(np.add, np.minimum(gaps, np.repeat(usual, counts)), offsets[some], counts[some])
    coverage = np.where(longest > usual, np.minimum(covered / seconds, 1.0), 1.0)
    return [(counts + 1).tolist(), coverage.tolist(), longest.tolist()]


def _medians(values: Floats, offsets: Indices, counts: Indices) -> Floats:
    """Of each stretch; anything where it is empty."""
    stretch = np.repeat(np.arange(len(counts)), counts)
    ordered = np.append(values[np.lexsort((values, stretch))], (0.0, 0.0))
    middle = offsets + counts // 2
    halfway: Floats = (ordered[np.maximum(middle - 1, 0)] + ordered[middle]) / 2
    return np.where(counts % 2 == 1, ordered[middle], halfway)


def window_means(series: TimeSeries, windows: Sequence[Window]) -> list[float | None]:
    """Mean over each window; None without samples in it."""
    found: list[float | None] = [None] * len(windows)
    if len(series) and windows:
        places = _Places(series.at, windows)
        low = reduce_stretches(np.minimum, series.value, places.first, places.counts + 1)
        high = reduce_stretches(np.maximum, series.value, places.first, places.counts + 1)
        means = np.minimum(np.maximum(places.means(series), low), high)
        for index, mean in zip(places.kept.tolist(), means.tolist(), strict=True):
            found[index] = mean
    return found


def lowest_values(series: TimeSeries, windows: Sequence[Window]) -> list[float | None]:
    """The lowest sample in each window; None without any."""
    found: list[float | None] = [None] * len(windows)
    if len(series) and windows:
        places = _Places(series.at, windows)
        low = reduce_stretches(np.minimum, series.value, places.first, places.counts + 1)
        for index, value in zip(places.kept.tolist(), low.tolist(), strict=True):
            found[index] = value
    return found


def increases(series: TimeSeries, windows: Sequence[Window]) -> list[float | None]:
    """Growth of a cumulative counter over each window, interpolated at its edges; None where the samples do not reach over it.

    A fall begins anew from 0, as the counters of a restarted exporter do.
    """
    if len(series) < 2 or not windows:
        return [None] * len(windows)
    at = series.at
    starts, ends = np.array(windows, np.float64).T
    grown = _value_at(series, ends) - _value_at(series, starts)
    known = (starts >= at[0]) & (ends <= at[-1])
    return [float(growth) if sure else None for growth, sure in zip(grown.tolist(), known.tolist(), strict=True)]


def increase(series: TimeSeries, start: float, end: float) -> float | None:
    """``increases`` of one window."""
    return increases(series, [(start, end)])[0]


def _value_at(series: TimeSeries, times: Floats) -> Floats:
    """The counter as one that never falls, by straight lines between samples."""
    rises = np.diff(series.value)
    grown = np.concatenate(([0.0], np.cumsum(np.where(rises >= 0, rises, series.value[1:]))))
    return np.interp(times, series.at, grown)


def growth_bounds(series: TimeSeries, start: float, end: float) -> tuple[float, float] | None:
    """Least and most that a cumulative counter can have grown over a window, whatever it did between two samples; None where
    the samples do not reach over it or fall."""
    at, value = series.at, series.value
    before, after = int(at.searchsorted(start, "right")) - 1, int(at.searchsorted(end))
    if before < 0 or after >= len(at) or (np.diff(value[before : after + 1]) < 0).any():
        return None
    first, last = int(at.searchsorted(start)), int(at.searchsorted(end, "right")) - 1
    return float(value[last] - value[first]) if last >= first else 0.0, float(value[after] - value[before])
