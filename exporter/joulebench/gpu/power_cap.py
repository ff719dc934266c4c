"""Seconds for which the power limit held a GPU's clocks: the driver's software power cap, but only while power is near the limit.

Drivers set this reason, and count it, on cards that are far from their limit: an idle RTX 3090 at 35 of 350 W, an idle RTX 2080
SUPER, whose counter grows for half of the time under four drivers, an L40S at 110 of 350 W. Loaded cards that are at their limit
draw 97 to 99 % of it. So what the driver counts is taken for throttling only where the power shown was at least
``NEAR_LIMIT`` of the enforced limit; where power or limit are unknown, so are the seconds.
"""

from __future__ import annotations

from joulebench.energy.seconds_trace import SecondsTrace
from joulebench.gpu.plausibility import can_have_grown
from joulebench.units import Seconds, Watts

NEAR_LIMIT = 0.9
"""Share of the enforced limit from which on it can be what lowers the clocks."""
NEAR_SECONDS = 0.2
"""For so long after a reading near the limit those that follow count as near it: two updates of the slowest sensors, which show
the power of 25 of every 100 ms."""
POWER_SECONDS = 1.0
"""Age from which on a power reading says nothing of the present."""
GAP_SECONDS = 1.0
"""Between two polls; over a longer gap it is unknown what the power was."""
UNREAD_SECONDS = 0.15
"""At the end of a window that no poll has reached yet; a poll is no later than this."""


class PowerCapMeter:
    """``seconds``: cumulative since the first reading; None where they are unknown. Times are monotonic. ``limit``: the enforced
    power limit as it was read last."""

    def __init__(self, capacity: int) -> None:
        self.seconds: Seconds | None = None
        self.limit: Watts | None = None
        self._capacity = capacity
        self._trace: SecondsTrace | None = None
        self._power_at: float | None = None
        self._near_at: float | None = None
        # Of the last reading whose seconds are known.
        self._is_known = False
        self._known_at = 0.0
        self._counted: Seconds | None = None
        self._active: bool | None = None

    def is_near_limit(self, at: float) -> bool | None:
        """Whether the power was near the limit when it was last read; None where power or limit are unknown."""
        if self.limit is None or self._power_at is None or at - self._power_at > POWER_SECONDS:
            return None
        return self._near_at is not None and self._power_at - self._near_at <= NEAR_SECONDS

    def observe(self, at: float, power: Watts | None, counted: Seconds | None, active: bool | None) -> None:
        """Takes in a reading: the driver's own counter of this reason, or whether the reason is set where the driver does not
        count it."""
        if power is not None:
            self._power_at = at
            if self.limit is not None and power >= NEAR_LIMIT * self.limit:
                self._near_at = at
        near = self.is_near_limit(at)
        if near is None or (active if counted is None else counted) is None or (counted is None and self._counted is not None):
            if self.seconds is not None and at - self._known_at > GAP_SECONDS:
                self.seconds = None
            self._is_known = False
            return
        if self._trace is None:
            self._trace = SecondsTrace(at, 0.0, self._capacity)
        else:
            self._add(self._trace, at, self._growth(at, counted, active), near=near)
        self.seconds = Seconds(self._trace.latest)
        self._is_known = True
        self._known_at, self._counted, self._active = at, counted, active

    def observe_again(self, at: float) -> None:
        """Takes in the reading of the last time, read again: the driver's counter and the power are what they were."""
        if self._is_known:
            if self._near_at == self._power_at:
                self._near_at = at
            self._power_at = self._known_at = at

    def _growth(self, at: float, counted: Seconds | None, active: bool | None) -> float | None:
        """Seconds of this reason since the last reading, near the limit or not; None where that is unknown."""
        if counted is not None:
            grown = None if self._counted is None else counted - self._counted
            return None if grown is None or not can_have_grown(grown, at - self._known_at) else grown
        return (at - self._known_at) * ((active or False) + (self._active or False)) / 2

    def _add(self, trace: SecondsTrace, at: float, grown: float | None, *, near: bool) -> None:
        is_gap = at - self._known_at > GAP_SECONDS
        if grown is None or (is_gap and (grown > 0 or self._counted is None)):
            trace.lose(self._known_at, at)
        elif grown > 0 and near:
            trace.append(self._known_at, at, trace.latest + grown)

    def between(self, start: float, end: float) -> Seconds | None:
        """Returns the seconds of a window, None where they are unknown."""
        if self._trace is None or end > self._known_at + UNREAD_SECONDS:
            return None
        seconds = self._trace.between(start, end)
        return None if seconds is None else Seconds(seconds)
