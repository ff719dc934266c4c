"""The cumulative energy of one GPU by the exporter's answers, with stored samples for the shape of power between them.

The exporter records every change of the counter, a store keeps some of them. Each answer gives its energy curve at the edges of a
window and at the cuts in it. Between two of these times all joules are the exporter's, and stored samples only divide them; where
there is no answer, the stored samples give the joules, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from joulebench.energy.curve import EnergyCurve, Flags, Floats, Indices

SAME_EDGE = 2e-4
"""Seconds by which the time of an answer may differ from the edge that it was asked for; see ``push.energy.LEAST_PART``."""
SLACK_SECONDS = 1.0
"""By which stored samples may be earlier or later than answers when the two are compared."""
TOLERANCE_JOULES = 1.0
LARGEST_FALL = 100.0
"""Joules by which two answers for nearly the same moment may differ, as they split the same step of the counter; a curve that
falls by more is another curve, of an exporter that was started again."""


class EnergyReadings(NamedTuple):
    """The exporter's energy curve at some times. ``is_inner``: False at the edges of a window, beyond which the exporter did not
    know when power changes; of several readings at one time those that are inner count."""

    times: Sequence[float]
    joules: Sequence[float]
    is_inner: Sequence[bool]


class AnsweredCurve(EnergyCurve):
    """``stored``: the curve of the stored samples, which may have no points. ``readings``: in any order, one at least.

    Bounds are those of the stored samples: a reading is an estimate.
    """

    def __init__(self, stored: EnergyCurve, readings: EnergyReadings) -> None:
        self._stored = stored
        self._times, joules = _distinct_readings(readings)
        self._stored_joules = stored.joules_at(self._times)
        self._runs, self._energy = self._connect(joules)
        at = np.union1d(stored.at, self._times)
        # A reading between two stored samples is known as well as they are.
        place = np.searchsorted(stored.at, at)
        is_stored = np.isin(at, stored.at)
        uncertainty = np.zeros(len(at))
        uncertainty[is_stored] = stored.uncertainty[place[is_stored]]
        epochs = np.searchsorted(at, stored.at[list(stored.epoch_starts)]).tolist() if stored.epoch_starts else []
        super().__init__(at, self.joules_at(at), uncertainty, epochs, stored.glitches.tolist())
        self.has_bounds = stored.has_bounds

    def _connect(self, joules: Floats) -> tuple[Indices, Floats]:
        """Returns the number of the exporter's curve that each reading is of, and the energy of all of them as one curve.

        What lies between two curves of an exporter, which was started again say, is that of the stored samples.
        """
        increments, stored = np.diff(joules), np.diff(self._stored_joules)
        starts, ends = self._times[:-1], self._times[1:]
        is_broken: Flags = increments < -LARGEST_FALL
        if self._stored.is_known:
            inner_ends = np.maximum(ends - SLACK_SECONDS, starts + SLACK_SECONDS)
            least = self._stored.bounds(starts + SLACK_SECONDS, inner_ends)[0]
            most = self._stored.bounds(starts - SLACK_SECONDS, ends + SLACK_SECONDS)[1]
            is_long = ends - starts > 2 * SLACK_SECONDS
            is_broken |= (is_long & (increments < least - TOLERANCE_JOULES)) | (increments > most + TOLERANCE_JOULES)
        runs: Indices = np.concatenate(([0], np.cumsum(is_broken))).astype(np.int64)
        energy = np.empty(len(joules))
        level = float(self._stored_joules[0])
        for run in range(int(runs[-1]) + 1):
            places = np.flatnonzero(runs == run)
            rising = np.maximum.accumulate(joules[places])
            energy[places] = level + rising - rising[0]
            last = places[-1]
            if last < len(stored):
                level = float(energy[last] + max(stored[last], 0.0))
        return runs, energy

    def joules_at(self, times: ArrayLike) -> Floats:
        """As of ``EnergyCurve``; flat before and after both the readings and the stored samples."""
        time = np.asarray(times, np.float64)
        stored = self._stored.joules_at(time)
        last = len(self._times) - 1
        index = np.searchsorted(self._times, time, "right") - 1
        left, right = np.clip(index, 0, last), np.clip(index + 1, 0, last)
        span, height = self._times[right] - self._times[left], self._stored_joules[right] - self._stored_joules[left]
        with np.errstate(invalid="ignore", divide="ignore"):
            even, shaped = (time - self._times[left]) / span, (stored - self._stored_joules[left]) / height
        part = np.where(height > 0, shaped, even)
        between = self._energy[left] + np.clip(part, 0.0, 1.0) * (self._energy[right] - self._energy[left])
        beyond = self._energy[left] + stored - self._stored_joules[left]
        found: Floats = np.where((index >= 0) & (index < last), between, beyond)
        return found

    def answered(self, starts: ArrayLike, ends: ArrayLike) -> Flags:
        start, end = np.asarray(starts, np.float64), np.asarray(ends, np.float64)
        first, last = self._nearest(start), self._nearest(end)
        near = (np.abs(self._times[first] - start) <= SAME_EDGE) & (np.abs(self._times[last] - end) <= SAME_EDGE)
        found: Flags = near & (self._runs[first] == self._runs[last])
        return found

    def _nearest(self, times: Floats) -> Indices:
        right = np.clip(np.searchsorted(self._times, times), 0, len(self._times) - 1)
        left = np.maximum(right - 1, 0)
        found: Indices = np.where(np.abs(self._times[left] - times) < np.abs(self._times[right] - times), left, right)
        return found

    def bounds(self, starts: ArrayLike, ends: ArrayLike) -> tuple[Floats, Floats]:
        if self._stored.is_known:
            return self._stored.bounds(starts, ends)
        count = len(np.asarray(starts, np.float64))
        return np.zeros(count), np.full(count, np.nan)

    def usual_steps(self, steps: ArrayLike) -> Floats:
        """Of the stored samples, since readings are as close as work begins and ends."""
        usual = self._stored.steps if self._stored.is_known else self.steps
        return np.full(len(np.asarray(steps)), np.median(usual))


def _distinct_readings(readings: EnergyReadings) -> tuple[Floats, Floats]:
    """(times, joules), by time; of readings for one moment the last that is inner, else the last."""
    times, joules = np.asarray(readings.times, np.float64), np.asarray(readings.joules, np.float64)
    order = np.argsort(times, kind="stable")
    times, joules, inner = times[order], joules[order], np.asarray(readings.is_inner, np.bool_)[order]
    moment = np.concatenate(([0], np.cumsum(np.diff(times) > SAME_EDGE / 2)))
    # The last of each moment in the order of (moment, inner).
    best = np.lexsort((np.arange(len(times)), inner, moment))
    last = np.flatnonzero(np.diff(moment[best], append=moment[-1] + 1))
    return times[best[last]], joules[best[last]]
