"""Many windows at once: their statistics and energies, in columns, left where ``stats`` and ``window_energy`` look first.

The figures are those that these two would find one by one, to the last bit: the same operations in the same order. What is
unusual (a trace with a reset, an edge near its ends) is left to them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from joulebench.energy.trace import CounterTrace, TraceView
from joulebench.energy.window import GAP_FACTOR, PEAK, SHORT_WIDTH, STEADY_WATTS, WindowEnergy, usual_step
from joulebench.results.gauge_stats import Stats
from joulebench.results.points import Columns

Floats: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.int64]
Window = tuple[float, float]


def statistics(series: Iterable[Columns], windows: Sequence[Window]) -> None:
    """Of every series over every window. Series of one scrape share their times, which are looked at once."""
    if not windows:
        return
    timings: dict[int, _Timing] = {}
    for one in series:
        if not len(one) or np.isnan(_column(one.value)).any():
            continue
        if id(one.at) not in timings:
            timings[id(one.at)] = _timing(one.at, windows)
        one.known.update(_statistics(one, timings[id(one.at)]))


@dataclass(frozen=True, slots=True)
class _Timing:
    """Of the windows that hold samples: where these lie, and what only their times decide. ``before``, ``after``: seconds from
    the edges of the window to its first and last sample."""

    windows: Sequence[Window]
    first: Places
    last: Places
    before: Floats
    after: Floats
    samples: Sequence[int]
    coverage: Sequence[float]
    longest: Sequence[float]


def _timing(times: array[float], windows: Sequence[Window]) -> _Timing:
    at, (starts, ends) = _column(times), np.array(windows).T
    first, last = np.searchsorted(at, starts), np.searchsorted(at, ends, "right") - 1
    kept = np.flatnonzero((last >= first) & (ends > starts))
    starts, ends, first, last = starts[kept], ends[kept], first[kept], last[kept]
    before, after, seconds = at[first] - starts, ends - at[last], ends - starts
    counts = last - first
    gaps, offsets = _ragged(np.diff(at), first, counts)
    usual = np.where(counts > 0, _medians(gaps, offsets, counts), seconds)
    longest = np.maximum(np.maximum(before, after), np.where(counts > 0, _reduced(np.maximum, gaps, offsets, counts), 0.0))
    covered = seconds.tolist()
    capped = np.minimum(gaps, np.repeat(usual, counts)).tolist()
    edges = zip(np.minimum(before, usual).tolist(), np.minimum(after, usual).tolist(), strict=True)
    places = zip(offsets.tolist(), (offsets + counts).tolist(), strict=True)
    for i, ((left, right), (a, b), holes) in enumerate(zip(edges, places, (longest > usual).tolist(), strict=True)):
        if holes:
            covered[i] = sum((left, right, *capped[a:b]))
    coverage = np.minimum(np.array(covered) / seconds, 1.0) if len(kept) else seconds
    return _Timing(
        [windows[i] for i in kept.tolist()],
        first,
        last,
        before,
        after,
        (counts + 1).tolist(),
        coverage.tolist(),
        longest.tolist(),
    )


def _statistics(series: Columns, timing: _Timing) -> Iterable[tuple[Window, Stats]]:
    value, areas = _column(series.value), _column(series.areas)
    first, last = timing.first, timing.last
    low = _reduced(np.minimum, value, first, last - first + 1)
    high = _reduced(np.maximum, value, first, last - first + 1)
    starts, ends = np.array(timing.windows).reshape(-1, 2).T
    inner = areas[last] - areas[first]
    mean = (value[first] * timing.before + inner + value[last] * timing.after) / (ends - starts)
    mean = np.minimum(np.maximum(mean, low), high)
    columns = (mean.tolist(), low.tolist(), high.tolist(), timing.samples, timing.coverage, timing.longest)
    return zip(timing.windows, map(Stats, *columns), strict=True)


def energies(trace: CounterTrace, times: Iterable[float]) -> None:
    """The curve of a trace at these times. Seconds, the clock of the trace."""
    view = _whole(trace)
    if view is None:
        return
    at, joules = _column(view.at), _column(view.joules)
    wanted = np.array(sorted(set(times)))
    index = np.searchsorted(at, wanted, "right") - 1
    usual = (index >= 2) & (index < len(at) - 3)
    time, index = wanted[usual], index[usual]
    t0, t1, t2, t3, t4, t5 = (at[index + i] for i in range(-2, 4))
    j0, j1, j2, j3, j4, j5 = (joules[index + i] for i in range(-2, 4))
    powers = ((j1 - j0) / (t1 - t0), (j2 - j1) / (t2 - t1), (j4 - j3) / (t4 - t3), (j5 - j4) / (t5 - t4))
    found = j2 + _left_of(time - t2, t3 - t2, j3 - j2, powers)
    view.energies.update(zip(time.tolist(), found.tolist(), strict=True))


def _left_of(x: Floats, span: Floats, spent: Floats, powers: Sequence[Floats]) -> Floats:
    """As in ``energy.window``, where all four neighbours are there."""
    own, rest = spent / span, span - x
    earlier, before, after, later = powers
    left, right = before * x, after * rest
    both = left + right
    shared = spent * np.where(both > 0, left / np.where(both > 0, both, 1.0), x / span)
    unsure_before, unsure_after = np.abs(before - earlier) + STEADY_WATTS, np.abs(later - after) + STEADY_WATTS
    doubt_before, doubt_after = unsure_before * unsure_before, unsure_after * unsure_after
    trust = (doubt_after - doubt_before) / (doubt_after + doubt_before)
    most = PEAK * np.maximum(np.maximum(before, own), after)
    by_before = shared + trust * (np.maximum(np.minimum(left, spent), spent - most * rest) - shared)
    by_after = shared - trust * (np.minimum(np.maximum(spent - right, 0.0), most * x) - shared)
    return np.where(trust > 0, by_before, np.where(trust < 0, by_after, shared))


def windows(trace: CounterTrace, some: Iterable[Window], method: str) -> None:
    """``window_energy`` of windows that the trace reaches over. Their edges should be among the ``energies``."""
    view = _whole(trace)
    if view is None:
        return
    kept = [(start, end) for start, end in dict.fromkeys(some) if start < end and view.is_plain(start, end)]
    kept = [one for one in kept if one[0] in view.energies and one[1] in view.energies]
    if not kept:
        return
    at = _column(view.at)
    starts, ends = np.array(kept).T
    first, last = np.searchsorted(at, starts), np.searchsorted(at, ends, "right")
    before, after = np.maximum(first - 1, 0), np.minimum(last - 1, len(at) - 2)
    steps = np.diff(at)
    longest = _reduced(np.maximum, steps, before, after - before + 1)
    if method == "counter":
        lows, highs = _bounds(view, starts, ends)
    else:
        lows = highs = [None] * len(kept)
    edges = zip(before.tolist(), steps[before].tolist(), after.tolist(), steps[after].tolist(), strict=True)
    gaps = [one > GAP_FACTOR * usual_step(view, i) or other > GAP_FACTOR * usual_step(view, j) for i, one, j, other in edges]
    rows = zip(kept, lows, highs, (last - first).tolist(), longest.tolist(), gaps, strict=True)
    for (start, end), low, high, samples, longest_gap, gap in rows:
        joules = view.energies[end] - view.energies[start]
        reasons = ["gap"] if gap else []
        quality = "suspect" if gap else "ok"
        if samples < 2 or (low is not None and high is not None and high - low > SHORT_WIDTH * joules):
            reasons.append("short")
            quality = "suspect" if gap else "short"
        view.windows[start, end, method] = WindowEnergy(
            joules, low, high, method, samples, longest_gap, 1.0, 0, quality, tuple(reasons)
        )


def _bounds(view: TraceView, starts: Floats, ends: Floats) -> tuple[list[float | None], list[float | None]]:
    at, joules, slack = _column(view.at), _column(view.joules), np.frombuffer(view.uncertainty, np.float32)
    before_start, after_start = _surely_before(at, slack, starts), _surely_after(at, slack, starts)
    before_end, after_end = _surely_before(at, slack, ends), _surely_after(at, slack, ends)
    lows = np.where(before_end > after_start, joules[before_end] - joules[np.minimum(after_start, len(at) - 1)], 0.0)
    known = (before_start >= 0) & (after_end < len(at))
    highs = joules[np.minimum(after_end, len(at) - 1)] - joules[before_start]
    return lows.tolist(), [high if sure else None for high, sure in zip(highs.tolist(), known.tolist(), strict=True)]


def _surely_before(at: Floats, slack: NDArray[np.float32], times: Floats) -> Places:
    """The last point that is not later than each time even at the far end of its uncertainty; -1 where there is none."""
    index = np.searchsorted(at, times, "right") - 1
    while (late := (index >= 0) & (at[index] + slack[index] > times)).any():
        index[late] -= 1
    return index


def _surely_after(at: Floats, slack: NDArray[np.float32], times: Floats) -> Places:
    """The first point that is not earlier; the length of ``at`` where there is none."""
    index, last = np.searchsorted(at, times), len(at) - 1
    while (early := (index <= last) & (at[np.minimum(index, last)] - slack[np.minimum(index, last)] < times)).any():
        index[early] += 1
    return index


def _whole(trace: CounterTrace) -> TraceView | None:
    """The view that all readers share, where it has no reset."""
    view = trace.around(0.0, 0.0)
    return None if len(view.at) < 2 or view.epoch_starts else view


def _column(values: array[float]) -> Floats:
    return np.frombuffer(values, np.float64)


def _ragged(values: Floats, first: Places, counts: Places) -> tuple[Floats, Places]:
    """The stretches of ``values`` one after another, and where each begins there."""
    offsets = np.cumsum(counts) - counts
    places: Places = np.repeat(first - offsets, counts) + np.arange(counts.sum())
    return values[places], offsets


def _medians(values: Floats, offsets: Places, counts: Places) -> Floats:
    """Of each stretch; anything where it is empty."""
    stretch = np.repeat(np.arange(len(counts)), counts)
    ordered = np.append(values[np.lexsort((values, stretch))], (0.0, 0.0))
    middle = offsets + counts // 2
    halfway: Floats = (ordered[np.maximum(middle - 1, 0)] + ordered[middle]) / 2
    return np.where(counts % 2 == 1, ordered[middle], halfway)


def _reduced(ufunc: np.ufunc, values: Floats, first: Places, counts: Places) -> Floats:
    """``ufunc`` over each stretch of ``values``; anything where it is empty."""
    if not len(first):
        return np.empty(0)
    # reduceat wants a place after the last stretch too.
    places = np.stack((first, first + counts), axis=1).ravel()
    found: Floats = ufunc.reduceat(np.append(values, 0.0), places)[::2]
    return found
