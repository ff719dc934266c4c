"""Seconds for which each reason reduced a GPU's clocks: the driver's own counters where it has them, else reason bits over time.

The driver counts nanoseconds and misses nothing; a bit read 50 times a second misses what is shorter than a poll. Where the
driver counts only the total of both thermal reasons, that total is what grows and the bits only say which of the two it was,
so that a short throttle is never lost. A reason without counter and bits has no value. The power cap is a case of its own: see
power_cap.py.

How each reason's seconds grew is kept, so that any window can be asked for.
Sources: NVML_FI_DEV_PERF_POLICY_* (74 to 76), NVML_FI_DEV_CLOCKS_EVENT_REASON_* (driver 575 and newer),
nvmlDeviceGetCurrentClocksEventReasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from joulebench.energy.seconds_trace import SecondsTrace
from joulebench.gpu.plausibility import CountedSecondsCheck, can_have_grown
from joulebench.gpu.power_cap import GAP_SECONDS, UNREAD_SECONDS, PowerCapMeter
from joulebench.gpu.reading import CounterReading
from joulebench.metrics import OTHER_REASON, POWER_CAP, THERMAL_REASONS, THROTTLE_REASONS
from joulebench.units import Seconds

Value = TypeVar("Value")
_THERMAL = "thermal"
"""Name of the total of both thermal reasons."""
POINTS_PER_SECOND = 20.0
"""Capacity of the ring; only clocks that are throttled and released all the time need it."""


class ThrottleMeter:
    """``power_cap``: of the reason that counts only while the power is near the limit."""

    def __init__(self, ring_seconds: float = 3600.0) -> None:
        self._capacity = int(ring_seconds * POINTS_PER_SECOND)
        self.power_cap = PowerCapMeter(self._capacity)
        # All that follows is without the power cap.
        self._seconds: Mapping[str, Seconds] = {}
        self._traces: dict[str, SecondsTrace] = {}
        # Reasons that the last reading lacked, and the time of the last reading that had them.
        self._unread_since: dict[str, float] = {}
        self._counted: Mapping[str, Seconds] = {}
        # The mapping of the last reading, as it was given.
        self._given: Mapping[str, Seconds] | None = None
        self._summed: dict[str, float] = {}
        self._bits_at: float | None = None
        self._active: Mapping[str, bool] = {}
        self._thermal: float | None = None
        self._check = CountedSecondsCheck()
        # The counters of the last reading.
        self._read: frozenset[str] = frozenset()

    @property
    def seconds(self) -> Mapping[str, Seconds]:
        """Returns the cumulative seconds by reason, without those that are unknown now."""
        capped = self.power_cap.seconds
        return self._seconds if capped is None else {POWER_CAP: capped, **self._seconds}

    def observe(self, since: float, at: float, reading: CounterReading) -> bool:
        """Takes in a reading. ``at``: its monotonic time; ``since``: that of the good reading before it.

        Returns whether all its counters show what they can; those that do not count as not read.
        """
        given, thermal, active = reading.throttle, reading.thermal, reading.throttle_active
        stands = given is self._given and not self._check.has_candidates
        if stands and reading.thermal == self._thermal and not active and not self._unread_since:
            # All counters stand where they stood.
            self.power_cap.observe(at, reading.power, given.get(POWER_CAP), None)
            return True
        self._given = given
        reading = self._without_impossible(since, at, reading)
        self.power_cap.observe(at, reading.power, reading.throttle.get(POWER_CAP), active.get(POWER_CAP))
        has_impossible = reading.throttle is not given or reading.thermal != thermal
        reading = reading._replace(throttle=_without_power_cap(reading.throttle), throttle_active=_without_power_cap(active))
        before, counted, bits_at = self._seconds, self._counted, self._bits_at
        has_grown = begins_anew = False
        if reading.throttle_active:
            has_grown = self._add_bits(at, reading)
        if reading.thermal is not None:
            elapsed = at - min((self._unread_since.get(reason, since) for reason in THERMAL_REASONS), default=since)
            begins_anew = self._thermal is not None and not can_have_grown(reading.thermal - self._thermal, elapsed)
            if begins_anew:
                self._lose_thermal(at - elapsed, at)
                self._thermal = None
            has_grown |= self._add_thermal(reading.thermal, reading)
        if reading.throttle_active:
            self._bits_at, self._active = at, reading.throttle_active
        if has_grown or reading.throttle != counted:
            # A counter that fails for one poll keeps the value it had.
            summed = {reason: Seconds(value) for reason, value in self._summed.items()}
            self._seconds = {**self._seconds, **summed, **reading.throttle}
            self._counted = reading.throttle
        thermal_missing = reading.thermal is None and self._thermal is not None
        gap = bool(reading.throttle_active) and bits_at is not None and at - bits_at > GAP_SECONDS
        if gap or thermal_missing or self._unread_since or reading.throttle != counted or self._seconds is not before:
            self._record(since, at, reading, bits_at)
        return not has_impossible

    def _without_impossible(self, since: float, at: float, reading: CounterReading) -> CounterReading:
        """Returns the reading without counters that cannot be where they are."""
        counters = dict(reading.throttle) if reading.thermal is None else {**reading.throttle, _THERMAL: reading.thermal}
        impossible = {
            name
            for name, seconds in counters.items()
            if not self._check.is_possible(name, seconds, at, since if name in self._read else None)
        }
        self._read = frozenset(counters) - impossible
        if not impossible:
            return reading
        possible = {name: seconds for name, seconds in reading.throttle.items() if name not in impossible}
        return reading._replace(throttle=possible, thermal=None if _THERMAL in impossible else reading.thermal)

    def _lose_thermal(self, since: float, at: float) -> None:
        for reason in THERMAL_REASONS:
            if reason in self._summed and (trace := self._traces.get(reason)) is not None:
                trace.lose(since, at)

    def between(self, start: float, end: float, read_until: float) -> Mapping[str, Seconds | None]:
        """Returns the seconds of a window by reason, None where they are unknown.

        Times are monotonic; ``read_until``: time of the last good reading.
        """
        return {
            reason: self.power_cap.between(start, end) if reason == POWER_CAP else self._between(reason, start, end, read_until)
            for reason in THROTTLE_REASONS
        }

    def _between(self, reason: str, start: float, end: float, read_until: float) -> Seconds | None:
        trace = self._traces.get(reason)
        known_until = self._bits_at if self._by_bits(reason) else self._unread_since.get(reason, read_until)
        if trace is None or known_until is None or end > known_until + UNREAD_SECONDS:
            return None
        seconds = trace.between(start, end)
        return None if seconds is None else Seconds(seconds)

    def _by_bits(self, reason: str) -> bool:
        return reason in self._summed and (self._thermal is None or reason not in THERMAL_REASONS)

    def _record(self, since: float, at: float, reading: CounterReading, bits_at: float | None) -> None:
        """``bits_at``: time of the bits before this reading."""
        for reason, seconds in self._seconds.items():
            if self._by_bits(reason):
                if reading.throttle_active:
                    self._grow(reason, at if bits_at is None else bits_at, at, seconds)
            elif reason in reading.throttle or (reason in self._summed and reading.thermal is not None):
                self._grow(reason, self._unread_since.pop(reason, since), at, seconds, counted=True)
            else:
                self._unread_since.setdefault(reason, since)

    def _grow(self, reason: str, since: float, at: float, seconds: float, *, counted: bool = False) -> None:
        trace = self._traces.get(reason)
        if trace is None:
            self._traces[reason] = SecondsTrace(at, seconds, self._capacity)
        elif not counted and at - since > GAP_SECONDS:
            trace.lose(since, at)
        elif counted and seconds > trace.latest and not can_have_grown(seconds - trace.latest, at - since):
            trace.begin_anew(since, at, seconds)
        elif seconds != trace.latest:
            trace.append(since, at, seconds)

    def _is_counted(self, reason: str, reading: CounterReading) -> bool:
        """Whether the driver counts this reason, even where its counter just failed."""
        # Other reasons are counted as 0 until the driver shows that it has them.
        was_counted = reason != OTHER_REASON and reason in self._seconds and reason not in self._summed
        return reason in reading.throttle or was_counted

    def _add_bits(self, at: float, reading: CounterReading) -> bool:
        """Returns whether the seconds of a reason are new or have grown."""
        span = 0.0 if self._bits_at is None else at - self._bits_at
        has_grown = False
        for reason, active in reading.throttle_active.items():
            if self._is_counted(reason, reading):
                continue
            total = self._summed.get(reason)
            grown = 0.0
            if span <= GAP_SECONDS and not (reading.thermal is not None and reason in THERMAL_REASONS):
                grown = span * (active + self._active.get(reason, False)) / 2
            if total is None or grown:
                self._summed[reason] = (total or 0.0) + grown
                has_grown = True
        return has_grown

    def _add_thermal(self, thermal: float, reading: CounterReading) -> bool:
        """Returns whether the seconds of a reason have grown."""
        grown = 0.0 if self._thermal is None else thermal - self._thermal
        self._thermal = thermal
        uncounted = [reason for reason in THERMAL_REASONS if not self._is_counted(reason, reading)]
        if grown <= 0 or not uncounted:
            return False
        set_times = {r: reading.throttle_active.get(r, False) + self._active.get(r, False) for r in uncounted}
        if not any(set_times.values()):
            # Too short for the bits: then it was software, which throttles well before the hardware has to.
            set_times[uncounted[0]] = True
        most = max(set_times.values())
        for reason, times in set_times.items():
            # Both may be set at a time, and a bit that was set at both ends of this time was set for all of it.
            if times:
                self._summed[reason] = self._summed.get(reason, 0.0) + grown * times / most
        return True


def _without_power_cap(by_reason: Mapping[str, Value]) -> Mapping[str, Value]:
    return {reason: value for reason, value in by_reason.items() if reason != POWER_CAP} if POWER_CAP in by_reason else by_reason
