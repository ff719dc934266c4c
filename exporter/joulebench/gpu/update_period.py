"""Estimates where between two polls a counter changed, from the period at which it updates.

A GPU updates its counter on a timer of its own, so the polls that one change lies between also narrow down all later changes.
The interval in which a change can be, by all polls so far, is carried from update to update, a little wider each time for the
timer's jitter. The time returned always lies between the two polls; a counter without a period gets about their middle.
"""

from __future__ import annotations

LEARNED = 16
"""Updates before the period is used."""
LONGEST_SKIP = 10
"""Updates that may go unseen before the period is learned anew."""
SPAN = 512
"""Updates that the period is averaged over, so that a timer that warms up is followed."""
LEAST_JITTER, JITTER_GROWTH, JITTER_DECAY = 5e-5, 1.5, 0.98
"""Seconds that an update is early or late at least, and how fast that allowance grows when one is further off, or shrinks."""


class UpdatePeriodEstimator:
    """Of one counter. Times in seconds, rising."""

    def __init__(self) -> None:
        self._updates = -1
        self._first_width = 0.0
        self._at = self._low = self._high = 0.0
        self._period = 0.0
        self._jitter = LEAST_JITTER
        # The update that the period is counted from, and the one that takes its place: (time, updates before the latest).
        self._base: tuple[float, int] = (0.0, 0)
        self._next_base: tuple[float, int] = (0.0, 0)

    def estimate(self, since: float, after: float) -> float:
        """Returns the likely time of a change that had not happened at ``since`` and had at ``after``."""
        middle = (since + after) / 2
        updates = round((middle - self._at) / self._period) if self._updates > 0 else 1
        if self._updates < 0 or not 1 <= updates <= (LONGEST_SKIP if self._updates >= LEARNED else 1):
            return self._restart(since, after)
        if self._updates < LEARNED and after - since < self._first_width / 2:
            # The first time was known far less well, and a period counted from it would be as far off.
            return self._restart(since, after)
        low, high = (since, after) if self._updates < LEARNED else self._narrow(since, after, updates)
        self._at, self._low, self._high = (low + high) / 2, low, high
        self._updates += updates
        self._learn_period()
        return self._at

    def _restart(self, since: float, after: float) -> float:
        self._at, self._low, self._high, self._updates = (since + after) / 2, since, after, 0
        self._first_width = after - since
        self._base = self._next_base = (self._at, 0)
        return self._at

    def _narrow(self, since: float, after: float, updates: int) -> tuple[float, float]:
        blur = updates * (self._jitter + (after - since) / 2 / self._updates)
        low, high = self._low + updates * self._period - blur, self._high + updates * self._period + blur
        if low <= after and since <= high:
            self._jitter = max(self._jitter * JITTER_DECAY, LEAST_JITTER)
            return max(low, since), min(high, after)
        # Further off than the jitter allows: the end of the interval that is nearest to where it was due.
        self._jitter = min(self._jitter * JITTER_GROWTH, (after - since) / 4)
        room = min(2 * self._jitter, after - since)
        return (after - room, after) if low > after else (since, since + room)

    def _learn_period(self) -> None:
        if self._updates >= SPAN:
            self._updates -= self._next_base[1]
            self._base, self._next_base = (self._next_base[0], 0), (self._at, self._updates)
        elif self._next_base[1] == 0 and self._updates >= SPAN // 2:
            self._next_base = (self._at, self._updates)
        self._period = (self._at - self._base[0]) / self._updates
