"""The cumulative energy of one GPU, E(t), read at one time or at ten thousand.

The counter is exact at its own changes and blind between them, while a task begins and ends inside a step and usually where
power jumps. The energy of such a step is split by the mean power of the steps around it (two-sided edge split): in the ratio
P_before * x to P_after * (span - x), or, where power kept steady on one side, by that side alone. Differences of E(t) add up to
the energy of the window around them, whatever the cuts. The bounds use counter changes alone, no model: they hold for any power
in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

COVERAGE_NEEDED = 0.95
"""Below this share of the window there is no estimate, only a lower bound."""
LOST_STEPS = 1.5
"""A single stretch without a counter may be this many usual steps long: the closing step, somewhat late. Beyond it the window
is known in part only, and has no estimate."""
GAP_FACTOR = 5.0
"""An edge step longer than this many usual steps is a gap."""
STEADY_WATTS = 10.0
"""Two neighbouring steps whose mean power differs by less say that power kept steady."""
PEAK = 1.5
"""Power inside a step is not above this many times the highest mean power around it."""
BLOCK = 16
"""Steps that share one figure for the usual step, which is the median over three such blocks."""

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]


class EnergyCurve:
    """``at`` (seconds) strictly rising, ``joules`` never falling, ``uncertainty`` (seconds) of each time; ``epoch_starts`` are
    the indices of the first points after a counter reset; ``glitches`` the times of readings that were impossible and left out.
    All readers take and return arrays, one entry a time or window.
    """

    has_bounds = False
    """Whether ``bounds`` hold although power was integrated."""

    def __init__(
        self,
        at: Floats,
        joules: Floats,
        uncertainty: Floats,
        epoch_starts: Sequence[int] = (),
        glitches: Sequence[float] = (),
    ) -> None:
        self.at = at
        self.joules = joules
        self.uncertainty = uncertainty
        self.epoch_starts = tuple(sorted(epoch_starts))
        self.glitches: Floats = np.array(glitches, np.float64)
        self.steps: Floats = np.diff(at)
        self.power: Floats = np.diff(joules) / self.steps
        for index in self.epoch_starts:
            self.power[index - 1] = np.nan

    def shifted(self, lag: float, uncertainty: float) -> EnergyCurve:
        """Returns the curve with its times earlier by ``lag`` and more uncertain by ``uncertainty``, in seconds.

        A sensor that is late by ``lag`` is uncertain by as much, so that its bounds hold for any delay up to twice the lag.
        """
        earlier, wider = self.at - lag, self.uncertainty + uncertainty
        return EnergyCurve(earlier, self.joules, wider, self.epoch_starts, (self.glitches - lag).tolist())

    @property
    def is_known(self) -> bool:
        """Whether there is any step at all."""
        return len(self.at) > 1

    def joules_at(self, times: ArrayLike) -> Floats:
        """E(t) at each time, of which only differences mean anything; flat outside the points and between two epochs."""
        time = np.asarray(times, np.float64)
        if not len(self.at):
            return np.zeros(len(time))
        index = np.searchsorted(self.at, time, "right") - 1
        inside = (index >= 0) & (index < len(self.at) - 1)
        found: Floats = self.joules[np.clip(index, 0, len(self.at) - 1)].copy()
        step = index[inside]
        own = self.power[step]
        spent_left = self._split_step(time[inside] - self.at[step], step)
        found[inside] += np.where(np.isnan(own), 0.0, spent_left)
        return found

    def _split_step(self, x: Floats, step: Indices) -> Floats:
        """Joules of the first ``x`` seconds of each step; rises with ``x`` from 0 to all of the step's joules.

        Where power kept steady on one side, it is known up to the edge and the other side gets what is left of the step; a
        neighbour that itself mixes two powers would mislead. Else the two neighbours share the step in their own ratio.
        """
        spent, span, own = self.joules[step + 1] - self.joules[step], self.steps[step], self.power[step]
        earlier, before, after, later = (self._power_of(step + offset) for offset in (-2, -1, 1, 2))
        rest = span - x
        # Where a neighbour is missing the step itself stands in for it; if neither weighs anything, power was even.
        left, right = np.where(np.isnan(before), own, before) * x, np.where(np.isnan(after), own, after) * rest
        both = left + right
        shared = spent * np.where(both > 0, left / np.where(both > 0, both, 1.0), x / span)
        # Not ** 2, whose last bit depends on the library below.
        unsure_before, unsure_after = np.abs(before - earlier) + STEADY_WATTS, np.abs(later - after) + STEADY_WATTS
        doubt_before, doubt_after = unsure_before * unsure_before, unsure_after * unsure_after
        trust = np.nan_to_num((doubt_after - doubt_before) / (doubt_after + doubt_before))
        most = PEAK * np.maximum(np.maximum(before, own), after)
        by_before = shared + trust * (np.maximum(np.minimum(left, spent), spent - most * rest) - shared)
        by_after = shared - trust * (np.minimum(np.maximum(spent - right, 0.0), most * x) - shared)
        found: Floats = np.where(trust > 0, by_before, np.where(trust < 0, by_after, shared))
        return found

    def _power_of(self, step: Indices) -> Floats:
        """Mean watts of each step; NaN where there is no such step, or where it lies between two epochs."""
        known = (step >= 0) & (step < len(self.power))
        return np.where(known, self.power[np.where(known, step, 0)], np.nan)

    def energy(self, starts: ArrayLike, ends: ArrayLike) -> Floats:
        """Joules of each window by the same curve; NaN where the points do not reach over it."""
        start, end = np.asarray(starts, np.float64), np.asarray(ends, np.float64)
        if not self.is_known:
            return np.full(len(start), np.nan)
        reached = (start >= self.at[0]) & (end <= self.at[-1])
        return np.where(reached, self.joules_at(end) - self.joules_at(start), np.nan)

    def answered(self, starts: ArrayLike, ends: ArrayLike) -> Flags:  # noqa: ARG002
        """Whether the joules of each window are the exporter's answer; here they are those of samples."""
        return np.zeros(len(np.asarray(starts, np.float64)), np.bool_)

    def bounds(self, starts: ArrayLike, ends: ArrayLike) -> tuple[Floats, Floats]:
        """Guaranteed (low, high) joules: from points safely inside and safely outside each window, even at the far end of their
        uncertainty. ``high`` is NaN where the points do not reach around the window."""
        start, end = np.asarray(starts, np.float64), np.asarray(ends, np.float64)
        last = len(self.at) - 1
        before_start, after_start = self._surely_before(start), self._surely_after(start)
        before_end, after_end = self._surely_before(end), self._surely_after(end)
        joules = self.joules
        low: Floats = np.where(before_end > after_start, joules[before_end] - joules[np.minimum(after_start, last)], 0.0)
        known = (before_start >= 0) & (after_end <= last)
        high: Floats = np.where(known, joules[np.minimum(after_end, last)] - joules[before_start], np.nan)
        return low, high

    def _surely_before(self, time: Floats) -> Indices:
        """The last point that is not later than each time even at the far end of its uncertainty; -1 where there is none."""
        index = np.searchsorted(self.at, time, "right") - 1
        while (late := (index >= 0) & (self.at[index] + self.uncertainty[index] > time)).any():
            index[late] -= 1
        return index

    def _surely_after(self, time: Floats) -> Indices:
        """The first point that is not earlier; the number of points where there is none."""
        index, last = np.searchsorted(self.at, time), len(self.at) - 1
        while True:
            place = np.minimum(index, last)
            early = (index <= last) & (self.at[place] - self.uncertainty[place] < time)
            if not early.any():
                return index
            index[early] += 1

    def covered(self, starts: ArrayLike, ends: ArrayLike) -> Floats:
        """Seconds of each window between the first and the last counter value, less the time between two epochs."""
        start, end = np.asarray(starts, np.float64), np.asarray(ends, np.float64)
        if not self.is_known:
            return np.zeros(len(start))
        found: Floats = np.minimum(end, self.at[-1]) - np.maximum(start, self.at[0]) - self.resets(start, end)[1]
        return np.maximum(found, 0.0)

    def resets(self, starts: ArrayLike, ends: ArrayLike) -> tuple[Indices, Floats]:
        """Epoch changes that touch each window, and the seconds of it that lie between two epochs."""
        start, end = np.asarray(starts, np.float64), np.asarray(ends, np.float64)
        count, lost = np.zeros(len(start), np.int64), np.zeros(len(start))
        for index in self.epoch_starts:
            overlap = np.minimum(self.at[index], end) - np.maximum(self.at[index - 1], start)
            count += overlap >= 0
            lost += np.maximum(overlap, 0.0)
        return count, lost

    def is_whole(self, starts: ArrayLike, ends: ArrayLike) -> Flags:
        """Whether the counter reaches over each window, but for a stretch at its edge that is no longer than a late step."""
        start, end = np.asarray(starts, np.float64), np.asarray(ends, np.float64)
        if not self.is_known:
            return np.zeros(len(start), np.bool_)
        found: Flags = self.covered(start, end) >= COVERAGE_NEEDED * (end - start)
        return found & (self.longest_lost(start, end) <= LOST_STEPS)

    def longest_lost(self, starts: ArrayLike, ends: ArrayLike) -> Floats:
        """The longest stretch of each window without a known counter, before, after or between two epochs, in usual steps."""
        start, end = np.asarray(starts, np.float64), np.asarray(ends, np.float64)
        last = len(self.steps) - 1
        usual = self.usual_steps([0, last])
        found: Floats = np.maximum((self.at[0] - start) / usual[0], (end - self.at[-1]) / usual[1])
        for index in self.epoch_starts:
            lost = np.minimum(self.at[index], end) - np.maximum(self.at[index - 1], start)
            found = np.maximum(found, lost / self.usual_steps([min(index, last)]))
        return np.maximum(found, 0.0)

    def reasons(self, start: float, end: float) -> tuple[str, ...]:
        """Why energy over a window is not fully known: ``no_samples``, ``uncovered_start``, ``uncovered_end``, ``reset``."""
        if not self.is_known:
            return ("no_samples",)
        found = [] if start >= self.at[0] else ["uncovered_start"]
        found += [] if end <= self.at[-1] else ["uncovered_end"]
        found += ["reset"] if self.epoch_starts and self.resets([start], [end])[0][0] else []
        return tuple(found)

    def is_plain(self, start: float, end: float) -> bool:
        """Whether the counter reaches over [start, end] and never fell, anywhere."""
        return self.is_known and not self.epoch_starts and bool(self.at[0] <= start and end <= self.at[-1])

    def step_at(self, times: ArrayLike) -> Indices:
        """The step that each time falls into, the nearest at the ends."""
        found: Indices = np.clip(np.searchsorted(self.at, np.asarray(times, np.float64), "right") - 1, 0, len(self.at) - 2)
        return found

    def usual_steps(self, steps: ArrayLike) -> Floats:
        """The usual seconds between two counter changes around each step; one figure for each ``BLOCK`` of them."""
        places, where = np.unique(np.asarray(steps, np.int64) // BLOCK, return_inverse=True)
        first = (places - 1) * BLOCK
        usual = np.empty(len(places))
        inner = (first >= 0) & (first + 3 * BLOCK <= len(self.steps))
        if inner.any():
            usual[inner] = np.median(self.steps[first[inner][:, None] + np.arange(3 * BLOCK)], axis=1)
        for i in np.flatnonzero(~inner).tolist():
            usual[i] = np.median(self.steps[max(first[i], 0) : first[i] + 3 * BLOCK])
        found: Floats = usual[where.reshape(-1)]
        return found

    def is_gap(self, steps: ArrayLike) -> Flags:
        """Whether each step is much longer than the usual ones."""
        step = np.asarray(steps, np.int64)
        found: Flags = self.steps[step] > GAP_FACTOR * self.usual_steps(step)
        return found
