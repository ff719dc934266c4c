"""The energy of a time window from the changes of a monotone counter.

The counter is exact at its own changes and blind between them, while a task begins and ends inside a step and usually where
power jumps. The energy of such a step is split by the mean power of the steps around it (two-sided edge split).
There is one cumulative curve E(t), and a window is E(end) - E(start): every joule is counted once, so adjacent windows add up
to the window around them. The bounds use counter changes alone, no model: they hold for any power in between.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import sub
from statistics import median

from joulebench.energy.trace import MARGIN, CounterTrace, TraceView

COVERAGE_NEEDED = 0.95
"""Below this share of the window there is no estimate, only a lower bound."""
LOST_STEPS = 1.5
"""A single stretch without a counter may be this many usual steps long: that is the closing step, somewhat late. Beyond it
what is known is a part of the window, and a part is never told as the whole."""
SHORT_WIDTH = 0.2
"""A window whose bounds lie further apart than this share of its joules is too short for its counter."""
GAP_FACTOR = 5.0
"""An edge step longer than this many usual steps is a gap."""

STEADY_WATTS = 10.0
"""Two neighbouring steps whose mean power differs by less say that power kept steady."""
PEAK = 1.5
"""Power inside a step is not above this many times the highest mean power around it."""

QUALITIES = ("ok", "short", "suspect", "missing")


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """Energy of one GPU over one window.

    ``joules``: best estimate of the whole window, None when unknown, also where the counter reaches over a part only: then
    ``low`` is what that part took at least. ``low``/``high``: bounds that the monotone counter guarantees; None where it cannot.
    ``samples``: counter changes inside the window. ``longest_gap``: longest time between two neighbouring changes that touch
    the window. ``coverage``: share of the window between the first and last known counter value, 0 to 1, less the
    time between two epochs. ``quality``: ok, short, suspect or missing; ``reasons`` says why it is not ok.
    """

    joules: float | None
    low: float | None
    high: float | None
    method: str
    samples: int
    longest_gap: float | None
    coverage: float | None
    resets: int
    quality: str
    reasons: tuple[str, ...]


def window_energy(trace: CounterTrace, start: float, end: float, *, method: str = "counter") -> WindowEnergy:
    """Joules between two times (seconds, same clock as the trace).

    ``method`` other than ``counter`` (integrated power) gives an estimate without bounds: no counter guarantees them.
    Reasons: ``no_samples``, ``uncovered_start``, ``uncovered_end``, ``reset``, ``gap``, ``short``. ValueError when the
    window ends before it starts.
    """
    if end < start:
        raise ValueError(f"the window ends at {end}, before its start {start}")
    view = trace.around(start, end)
    found: WindowEnergy | None = view.windows.get((start, end, method))
    if found is not None:
        return found
    at = view.at
    covered = min(end, at[-1]) - max(start, at[0]) if at else -1.0
    if len(at) < 2 or covered < 0 or (covered == 0 and end > start):
        return missing(method, uncovered(at, start, end) or ("no_samples",))

    plain = view.is_plain(start, end)
    resets, lost = (0, 0.0) if plain else epoch_changes(view, start, end)
    coverage = (covered - lost) / (end - start) if end > start and not plain else 1.0
    first, last = bisect_left(at, start), bisect_right(at, end)
    edges = sorted({max(first - 1, 0), min(last - 1, len(at) - 2)})
    touching = at[edges[0] : edges[-1] + 2]
    joules = cumulative(view, end) - cumulative(view, start)
    low, high = _bounds(view, start, end) if method == "counter" else (None, None)

    reasons = [] if plain else list(uncovered(at, start, end))
    if resets:
        reasons.append("reset")
    if any(at[edge + 1] - at[edge] > GAP_FACTOR * usual_step(view, edge) for edge in edges):
        reasons.append("gap")
    quality = "suspect" if reasons else "ok"
    if last - first < 2 or (low is not None and high is not None and high - low > SHORT_WIDTH * joules):
        reasons.append("short")
        quality = "short" if quality == "ok" else quality
    known = plain or (coverage >= COVERAGE_NEEDED and longest_lost(view, start, end) <= LOST_STEPS)
    return WindowEnergy(
        joules=joules if known else None,
        low=low,
        high=None if resets else high,
        method=method,
        samples=last - first,
        longest_gap=max(map(sub, touching[1:], touching)),
        coverage=coverage,
        resets=resets,
        quality=quality if known else "missing",
        reasons=tuple(reasons),
    )


def energy_between(trace: CounterTrace, intervals: Sequence[tuple[float, float]]) -> float | None:
    """Joules over several intervals by the same curve as ``window_energy``; None where the trace does not reach over one."""
    total = 0.0
    for start, end in intervals:
        first_at, last_at = trace.first_at, trace.last_at
        if first_at is None or last_at is None or start < first_at or end > last_at:
            return None
        view = trace.around(start, end)
        total += cumulative(view, end) - cumulative(view, start)
    return total


def energies_between(trace: CounterTrace, edges: Sequence[float]) -> list[float | None]:
    """``energy_between`` of each of the adjacent intervals that these rising times bound."""
    view = trace.around(edges[0], edges[-1])
    at = view.at
    if not at:
        return [None] * (len(edges) - 1)
    if edges[0] < at[0] or edges[-1] > at[-1]:
        return [energy_between(trace, [interval]) for interval in pairwise(edges)]
    energies = [cumulative(view, edge) for edge in edges]
    return [after - before for before, after in pairwise(energies)]


def total(windows: Iterable[WindowEnergy]) -> WindowEnergy:
    """The GPUs of one window together: sums where every GPU is known, the worst coverage, gap and quality of them."""
    parts = list(windows)
    if not parts:
        return missing("none", ("no_gpu",))
    methods = {part.method for part in parts}
    gaps = [part.longest_gap for part in parts if part.longest_gap is not None]
    coverages = [part.coverage for part in parts if part.coverage is not None]
    joules, low, high = _sum([p.joules for p in parts]), _sum([p.low for p in parts]), _sum([p.high for p in parts])
    reasons = tuple(dict.fromkeys(reason for part in parts for reason in part.reasons))
    quality = max((part.quality for part in parts), key=QUALITIES.index)
    # A GPU that hardly takes part may be short alone; what counts is how sure the sum is.
    if all(part.samples >= 2 for part in parts) and joules is not None and _narrow(joules, low, high):
        reasons = tuple(reason for reason in reasons if reason != "short")
        quality = "ok" if quality == "short" else quality
    return WindowEnergy(
        joules=joules,
        low=low,
        high=high,
        method=methods.pop() if len(methods) == 1 else "mixed",
        samples=sum(part.samples for part in parts),
        longest_gap=max(gaps, default=None),
        coverage=min(coverages) if len(coverages) == len(parts) else None,
        resets=sum(part.resets for part in parts),
        quality=quality,
        reasons=reasons,
    )


def _narrow(joules: float, low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and high - low <= SHORT_WIDTH * joules


def missing(method: str, reasons: tuple[str, ...]) -> WindowEnergy:
    """A window of which nothing is known."""
    return WindowEnergy(None, None, None, method, 0, None, 0.0, 0, "missing", reasons)


def cumulative(view: TraceView, time: float) -> float:
    """E(time): the counter's joules at any time; flat before the first point, after the last and between two epochs."""
    known = view.energies.get(time)
    if known is None:
        known = view.energies[time] = _cumulative(view, time)
    return known


def _cumulative(view: TraceView, time: float) -> float:
    at, joules = view.at, view.joules
    index = bisect_right(at, time) - 1
    if index < 0:
        return joules[0]
    if view.epoch_starts or not 2 <= index < len(at) - 3:
        own = view.power(index)
        if own is None:
            return joules[index]
        powers = (view.power(index - 2), view.power(index - 1), view.power(index + 1), view.power(index + 2))
        return joules[index] + _left_of(time - at[index], at[index + 1] - at[index], joules[index + 1] - joules[index], powers)
    # The same, without asking for every step whether it is there: this is what an export does most.
    t0, t1, t2, t3, t4, t5 = at[index - 2 : index + 4]
    j0, j1, j2, j3, j4, j5 = joules[index - 2 : index + 4]
    powers = ((j1 - j0) / (t1 - t0), (j2 - j1) / (t2 - t1), (j4 - j3) / (t4 - t3), (j5 - j4) / (t5 - t4))
    return j2 + _left_of(time - t2, t3 - t2, j3 - j2, powers)


def _left_of(x: float, span: float, spent: float, powers: tuple[float | None, float | None, float | None, float | None]) -> float:
    """Of the ``spent`` joules of a step of ``span`` seconds, those of its first ``x`` seconds; rises with ``x`` from 0 to all.

    ``powers``: mean watts of the two steps before it and the two after it. Where power kept steady on one side, it is known up
    to the edge and the other side gets what is left of the step; a neighbour that itself mixes two powers would mislead. Else
    the two neighbours share the step in their own ratio.
    """
    own = spent / span
    earlier, before, after, later = powers
    # Where a neighbour is missing the step itself stands in for it; if neither weighs anything, power was even.
    left, right = (own if before is None else before) * x, (own if after is None else after) * (span - x)
    shared = spent * (left / (left + right) if left + right > 0 else x / span)
    if earlier is None or before is None or after is None or later is None:
        return shared
    unsure_before, unsure_after = abs(before - earlier) + STEADY_WATTS, abs(later - after) + STEADY_WATTS
    # Not ** 2, whose last bit depends on the library below.
    doubt_before, doubt_after = unsure_before * unsure_before, unsure_after * unsure_after
    trust = (doubt_after - doubt_before) / (doubt_after + doubt_before)
    if not trust:
        return shared
    most = PEAK * max(before, own, after)
    if trust > 0:
        return shared + trust * (max(min(left, spent), spent - most * (span - x)) - shared)
    return shared - trust * (min(max(spent - right, 0.0), most * x) - shared)


def _bounds(view: TraceView, start: float, end: float) -> tuple[float | None, float | None]:
    """Guaranteed (low, high): from points safely inside and safely outside, even at the far end of their uncertainty."""
    at, joules, slack = view.at, view.joules, view.uncertainty
    last = len(at) - 1
    before_start, after_start = bisect_right(at, start) - 1, bisect_left(at, start)
    before_end, after_end = bisect_right(at, end) - 1, bisect_left(at, end)
    while before_start >= 0 and at[before_start] + slack[before_start] > start:
        before_start -= 1
    while after_start <= last and at[after_start] - slack[after_start] < start:
        after_start += 1
    while before_end >= 0 and at[before_end] + slack[before_end] > end:
        before_end -= 1
    while after_end <= last and at[after_end] - slack[after_end] < end:
        after_end += 1
    low = joules[before_end] - joules[after_start] if before_end > after_start else 0.0
    high = joules[after_end] - joules[before_start] if before_start >= 0 and after_end <= last else None
    return low, high


def epoch_changes(view: TraceView, start: float, end: float) -> tuple[int, float]:
    """Epoch changes that touch the window, and the seconds of the window that lie between two epochs."""
    count, lost = 0, 0.0
    for index in view.epoch_starts:
        overlap = min(view.at[index], end) - max(view.at[index - 1], start)
        if overlap >= 0:
            count += 1
            lost += overlap
    return count, lost


def longest_lost(view: TraceView, start: float, end: float) -> float:
    """The longest stretch of the window without a known counter, before, after or between two epochs, in usual steps there."""
    at = view.at
    last = len(at) - 2
    lost = [(at[0] - start, 0), (end - at[-1], last)]
    lost += [(min(at[i], end) - max(at[i - 1], start), min(i, last)) for i in view.epoch_starts]
    return max((seconds / usual_step(view, edge) for seconds, edge in lost if seconds > 0), default=0.0)


def uncovered(at: Sequence[float], start: float, end: float) -> tuple[str, ...]:
    if not at:
        return ()
    return (*(("uncovered_start",) if start < at[0] else ()), *(("uncovered_end",) if end > at[-1] else ()))


def usual_step(view: TraceView, edge: int) -> float:
    """The usual seconds between two counter changes around point ``edge``; one figure for each ``MARGIN`` points."""
    place = edge // MARGIN
    if place not in view.steps:
        near = view.at[max((place - 1) * MARGIN, 0) : (place + 2) * MARGIN + 1]
        view.steps[place] = float(median(map(sub, near[1:], near)))
    return view.steps[place]


def _sum(values: Sequence[float | None]) -> float | None:
    known = 0.0
    for value in values:
        if value is None:
            return None
        known += value
    return known
