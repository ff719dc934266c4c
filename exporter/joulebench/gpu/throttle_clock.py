"""How long each reason has held the clocks down: the driver's own counters where it has them, else bits added up over time.

The driver counts nanoseconds and misses nothing; a bit seen 50 times a second misses what is shorter than a poll. Where the
driver counts only the total of both thermal reasons, that total is what grows and the bits just say which of the two it was,
so that a short throttle is never lost. A reason that nobody tells anything about has no value.

How each reason's seconds grew is kept, so that any window can be asked for; a poll that changes nothing costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from joulebench.energy.seconds_trace import SecondsTrace
from joulebench.gpu.reading import FastReading
from joulebench.metrics import THERMAL_REASONS, THROTTLE_REASONS
from joulebench.units import Seconds

GAP_SECONDS = 1.0
"""Between two polls; over a longer gap nobody knows how long a bit was set."""
POINTS_PER_SECOND = 20.0
"""That a ring has room for; only clocks that are held down and let go all the time need them."""
UNREAD_SECONDS = 0.15
"""At the end of a window that nobody has read yet; a poll is no later than this."""


class ThrottleClock:
    """``seconds``: cumulative, by catalogue reason. The mapping is replaced, never changed: it may be handed out."""

    def __init__(self, ring_seconds: float = 3600.0) -> None:
        self.seconds: Mapping[str, Seconds] = {}
        self._capacity = int(ring_seconds * POINTS_PER_SECOND)
        self._traces: dict[str, SecondsTrace] = {}
        # Reasons that the last reading did not tell of, and when one last did.
        self._blind: dict[str, float] = {}
        self._counted: Mapping[str, Seconds] = {}
        self._summed: dict[str, float] = {}
        self._seen_at: float | None = None
        self._active: Mapping[str, bool] = {}
        self._thermal: float | None = None
        self._by_counters_alone = False

    def observe(self, since: float, at: float, reading: FastReading) -> None:
        """``at``: monotonic time of the reading; ``since``: that of the good one before it."""
        if reading.throttle is self._counted and reading.thermal == self._thermal and not reading.throttle_active:
            return  # as it is nearly always
        if self._by_counters_alone and reading.throttle.keys() == self.seconds.keys() and not reading.throttle_active:
            self._count(since, at, reading)
            return
        before, counted, seen_at = self.seconds, self._counted, self._seen_at
        if reading.throttle_active:
            self._add_bits(at, reading)
        if reading.thermal is not None:
            self._add_thermal(reading.thermal, reading)
        if reading.throttle_active:
            self._seen_at, self._active = at, reading.throttle_active
        if self._summed or reading.throttle is not self._counted:
            # A counter that fails for one poll keeps the value it had.
            summed = {reason: Seconds(value) for reason, value in self._summed.items()}
            self.seconds = {**self.seconds, **summed, **reading.throttle}
            self._counted = reading.throttle
        silent = reading.thermal is None and self._thermal is not None
        gap = bool(reading.throttle_active) and seen_at is not None and at - seen_at > GAP_SECONDS
        if gap or silent or self._blind or reading.throttle is not counted or self.seconds != before:
            self._keep(since, at, reading, seen_at)
        told = reading.throttle.keys()
        single = self.seconds.keys() == told and all(reason in told for reason in THERMAL_REASONS)
        self._by_counters_alone = single and not (self._summed or self._blind or reading.throttle_active)

    def _count(self, since: float, at: float, reading: FastReading) -> None:
        """The usual card under load, whose counters grow from poll to poll: nothing else is to be looked after."""
        before = self.seconds
        self.seconds = self._counted = reading.throttle
        self._thermal = reading.thermal
        for reason, seconds in reading.throttle.items():
            if seconds != before[reason]:
                self._traces[reason].append(since, at, seconds)

    def between(self, start: float, end: float, read_until: float) -> Mapping[str, Seconds | None]:
        """Seconds of a window by catalogue reason, None where they are not known. Times are monotonic, ``read_until`` that of
        the last good reading."""
        return {reason: self._between(reason, start, end, read_until) for reason in THROTTLE_REASONS}

    def _between(self, reason: str, start: float, end: float, read_until: float) -> Seconds | None:
        trace = self._traces.get(reason)
        seen_until = self._seen_at if self._by_bits(reason) else self._blind.get(reason, read_until)
        if trace is None or seen_until is None or end > seen_until + UNREAD_SECONDS:
            return None
        grown = trace.between(start, end)
        return None if grown is None else Seconds(grown)

    def _by_bits(self, reason: str) -> bool:
        return reason in self._summed and (self._thermal is None or reason not in THERMAL_REASONS)

    def _keep(self, since: float, at: float, reading: FastReading, seen_at: float | None) -> None:
        """``seen_at``: when bits were seen before this reading."""
        for reason, seconds in self.seconds.items():
            if self._by_bits(reason):
                if reading.throttle_active:
                    self._grow(reason, at if seen_at is None else seen_at, at, seconds)
            elif reason in reading.throttle or (reason in self._summed and reading.thermal is not None):
                self._grow(reason, self._blind.pop(reason, since), at, seconds, counted=True)
            else:
                self._blind.setdefault(reason, since)

    def _grow(self, reason: str, since: float, at: float, seconds: float, *, counted: bool = False) -> None:
        trace = self._traces.get(reason)
        if trace is None:
            self._traces[reason] = SecondsTrace(at, seconds, self._capacity)
        elif not counted and at - since > GAP_SECONDS:
            trace.lose(since, at)
        elif seconds != trace.latest:
            trace.append(since, at, seconds)

    def _is_counted(self, reason: str, reading: FastReading) -> bool:
        """Whether the driver counts it, be it that the counter just failed."""
        return reason in reading.throttle or (reason in self.seconds and reason not in self._summed)

    def _add_bits(self, at: float, reading: FastReading) -> None:
        span = 0.0 if self._seen_at is None else at - self._seen_at
        for reason, active in reading.throttle_active.items():
            if self._is_counted(reason, reading):
                continue
            total = self._summed.setdefault(reason, 0.0)
            if span <= GAP_SECONDS and not (reading.thermal is not None and reason in THERMAL_REASONS):
                self._summed[reason] = total + span * (active + self._active.get(reason, False)) / 2

    def _add_thermal(self, thermal: float, reading: FastReading) -> None:
        grown = 0.0 if self._thermal is None else thermal - self._thermal
        self._thermal = thermal
        uncounted = [reason for reason in THERMAL_REASONS if not self._is_counted(reason, reading)]
        if grown <= 0 or not uncounted:
            return
        seen = {r: reading.throttle_active.get(r, False) + self._active.get(r, False) for r in uncounted}
        if not any(seen.values()):
            # Unseen, it was software: that slows a card down well before the hardware has to.
            seen[uncounted[0]] = True
        most = max(seen.values())
        for reason, times in seen.items():
            # Both may hold at a time, and one that was seen at both ends of this time held for all of it.
            if times:
                self._summed[reason] = self._summed.get(reason, 0.0) + grown * times / most
