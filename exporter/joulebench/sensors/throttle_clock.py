"""How long each reason has held the clocks down: the driver's own counters where it has them, else bits added up over time.

The driver counts nanoseconds and misses nothing; a bit seen 50 times a second misses what is shorter than a poll. Where the
driver counts only the total of both thermal reasons, that total is what grows and the bits just say which of the two it was,
so that a short throttle is never lost. A reason that nobody tells anything about has no value.
"""

from __future__ import annotations

from collections.abc import Mapping

from joulebench.catalogue import THERMAL_REASONS
from joulebench.sensors.reading import FastReading
from joulebench.units import Seconds

GAP_SECONDS = 1.0
"""Between two polls; over a longer gap nobody knows how long a bit was set."""


class ThrottleClock:
    """``seconds``: cumulative, by catalogue reason. The mapping is replaced, never changed: it may be handed out."""

    def __init__(self) -> None:
        self.seconds: Mapping[str, Seconds] = {}
        self._counted: Mapping[str, Seconds] = {}
        self._summed: dict[str, float] = {}
        self._seen_at: float | None = None
        self._active: Mapping[str, bool] = {}
        self._thermal: float | None = None

    def observe(self, at: float, reading: FastReading) -> None:
        """``at``: monotonic time of the reading."""
        if reading.throttle is self._counted and reading.thermal == self._thermal and not reading.throttle_active:
            return  # as it is nearly always
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

    def _add_bits(self, at: float, reading: FastReading) -> None:
        span = 0.0 if self._seen_at is None else at - self._seen_at
        for reason, active in reading.throttle_active.items():
            if reason in self.seconds and reason not in self._summed:
                continue  # the driver counts it
            total = self._summed.setdefault(reason, 0.0)
            if span <= GAP_SECONDS and not (reading.thermal is not None and reason in THERMAL_REASONS):
                self._summed[reason] = total + span * (active + self._active.get(reason, False)) / 2

    def _add_thermal(self, thermal: float, reading: FastReading) -> None:
        grown = 0.0 if self._thermal is None else thermal - self._thermal
        self._thermal = thermal
        uncounted = [reason for reason in THERMAL_REASONS if reason not in reading.throttle and reason not in self._counted]
        if grown <= 0 or not uncounted:
            return
        seen = (reason for reason in uncounted if reading.throttle_active.get(reason) or self._active.get(reason))
        # Unseen, it was software: that slows a card down well before the hardware has to.
        reason = next(seen, uncounted[0])
        self._summed[reason] = self._summed.get(reason, 0.0) + grown
