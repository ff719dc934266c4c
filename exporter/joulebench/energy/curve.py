"""The cumulative energy of one GPU over a span, read at many times.

It is the curve that ``window_energy`` uses: differences of it add up to the energy of the window around them, whatever the cuts.
Where the trace does not reach, the curve is flat, and ``covered`` says so.
"""

from __future__ import annotations

from bisect import bisect_right
from math import fsum

from joulebench.energy.trace import CounterTrace
from joulebench.energy.window import (
    COVERAGE_NEEDED,
    GAP_FACTOR,
    LOST_STEPS,
    cumulative,
    epoch_changes,
    longest_lost,
    uncovered,
    usual_step,
)


class Curve:
    """Holds a copy of the points around [start, end] (seconds, the clock of the trace); reads outside it are wrong."""

    def __init__(self, trace: CounterTrace, start: float, end: float) -> None:
        self._view = trace.around(start, end)

    @property
    def known(self) -> bool:
        """Whether there is any step at all."""
        return len(self._view.at) > 1

    def joules(self, time: float) -> float:
        """E(time); only differences mean anything."""
        return cumulative(self._view, time) if self.known else 0.0

    def covered(self, start: float, end: float) -> float:
        """Seconds of [start, end] between the first and the last counter value, less the time between two epochs."""
        if not self.known:
            return 0.0
        at = self._view.at
        covered = min(end, at[-1]) - max(start, at[0])
        return max(covered - epoch_changes(self._view, start, end)[1], 0.0)

    def is_plain(self, start: float, end: float) -> bool:
        """Whether the counter reaches over [start, end] without ever falling."""
        return self.known and self._view.is_plain(start, end)

    def whole(self, *parts: tuple[float, float]) -> bool:
        """Whether the counter reaches over all of these intervals, but for what ``window_energy`` overlooks too."""
        seconds = fsum(end - start for start, end in parts)
        if not self.known or fsum(self.covered(*part) for part in parts) < COVERAGE_NEEDED * seconds:
            return False
        return all(longest_lost(self._view, *part) <= LOST_STEPS for part in parts)

    def reasons(self, start: float, end: float) -> tuple[str, ...]:
        """Why energy over [start, end] is not fully known: ``no_samples``, ``uncovered_start``, ``uncovered_end``, ``reset``."""
        if not self.known:
            return ("no_samples",)
        reset = ("reset",) if epoch_changes(self._view, start, end)[0] else ()
        return (*uncovered(self._view.at, start, end), *reset)

    def step(self, time: float) -> float:
        """The usual seconds between two counter changes around ``time``; 0 where nothing is known."""
        return usual_step(self._view, self._segment(time)) if self.known else 0.0

    def gap(self, time: float) -> bool:
        """Whether ``time`` falls into a step much longer than the usual ones."""
        if not self.known:
            return False
        at, segment = self._view.at, self._segment(time)
        return at[segment + 1] - at[segment] > GAP_FACTOR * usual_step(self._view, segment)

    def _segment(self, time: float) -> int:
        return min(max(bisect_right(self._view.at, time) - 1, 0), len(self._view.at) - 2)
