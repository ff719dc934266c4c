"""The cumulative energy of a power gauge: the trapezoid between its samples, with the error that the samples allow.

A gauge says nothing of the time between two samples. Bounds hold where power stays between the two: then the energy of a step
lies between the lower and the higher sample times its length. A peak that no sample saw is not in them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from joulebench.energy.curve import EnergyCurve, Floats, Indices


class GaugeCurve(EnergyCurve):
    """``at`` (seconds) strictly rising, ``watts`` at each. No energy is known of steps longer than ``longest_step`` seconds: they
    divide the curve like a counter reset. ``lateness``: seconds by which the time of any sample may be off, either way.
    """

    has_bounds = True

    def __init__(
        self, at: Floats, watts: Floats, longest_step: float, lateness: float = 0.0, glitches: Sequence[float] = ()
    ) -> None:
        steps = np.diff(at)
        known = steps <= longest_step
        lower, upper = np.minimum(watts[1:], watts[:-1]), np.maximum(watts[1:], watts[:-1])
        super().__init__(
            at,
            _cumulative(known * steps * (watts[1:] + watts[:-1]) / 2),
            np.zeros(len(at)),
            (np.flatnonzero(~known) + 1).tolist(),
            glitches,
        )
        self.watts = watts
        self._lateness = lateness
        self._lower_watts: Floats = np.where(known, lower, 0.0)
        self._upper_watts: Floats = np.where(known, upper, 0.0)
        self._least, self._most = _cumulative(self._lower_watts * steps), _cumulative(self._upper_watts * steps)

    def _split_step(self, x: Floats, step: Indices) -> Floats:
        before, after = self.watts[step], self.watts[step + 1]
        found: Floats = before * x + (after - before) * x * x / (2 * self.steps[step])
        return found

    def bounds(self, starts: ArrayLike, ends: ArrayLike) -> tuple[Floats, Floats]:
        """(low, high) joules of each window; ``high`` is NaN where the samples do not reach around it."""
        start, end = np.asarray(starts, np.float64), np.asarray(ends, np.float64)
        late = self._lateness
        inner = self._at_rates(end - late, self._lower_watts, self._least)
        low: Floats = np.maximum(inner - self._at_rates(start + late, self._lower_watts, self._least), 0.0)
        outer = self._at_rates(end + late, self._upper_watts, self._most)
        high: Floats = outer - self._at_rates(start - late, self._upper_watts, self._most)
        reached = (start - late >= self.at[0]) & (end + late <= self.at[-1])
        return low, np.where(reached, high, np.nan)

    def _at_rates(self, times: Floats, watts: Floats, cumulative: Floats) -> Floats:
        """Joules up to each time where ``watts`` are those of each step."""
        time = np.clip(times, self.at[0], self.at[-1])
        step = self.step_at(time)
        found: Floats = cumulative[step] + watts[step] * (time - self.at[step])
        return found


def _cumulative(joules: Floats) -> Floats:
    found: Floats = np.concatenate(([0.0], np.cumsum(joules)))
    return found
