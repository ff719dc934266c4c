"""One GPU's energy over time, from polls: when the counter changed, how far apart its changes are, or power integrated.

A change lies between the last poll that saw the old value and the first that saw the new one. It is recorded where the counter's
beat puts it in that interval, and its uncertainty reaches to the further end of the interval: a bound and no estimate. Times are
monotonic seconds. A value that was not read is a gap: it widens the next interval and is never taken for a reading.
"""

from __future__ import annotations

from collections import deque
from statistics import fmean, median
from typing import NamedTuple

from joulebench.energy.trace import CounterTrace
from joulebench.gpu.crosscheck import CrossCheck
from joulebench.gpu.lookout import Beat
from joulebench.gpu.rhythm import Rhythm
from joulebench.units import Joules, Seconds, Watts

COUNTER, POWER, NONE = "counter", "power_integration", "none"

MIN_SPACING = 0.045
"""Changes closer than this are not all recorded: cards that step every 20 ms would fill the ring in a third of its time."""
POINTS_PER_SECOND = 20.0
LEAST_EARLY = 0.0005
"""Seconds that a change may come before it is due even where the last ones came closer than that."""
PROBE_SECONDS = 1.0
"""A card that shows power but no counter for this long has none."""
INTEGRATION_STEP = 0.1
INTEGRATION_GAP = 1.0
STEP_DISTANCES = 64
STEPS_LEARNED = 5
LONGEST_STEP = 1.5
"""No step is longer than this many usual ones, however long nobody looked."""


class EnergySample(NamedTuple):
    joules: Joules
    at: float
    uncertainty: Seconds


class EnergyMeter:
    """``method`` is settled by the first counter value, or by ``PROBE_SECONDS`` without one, and then stays: never a mixture."""

    def __init__(self, ring_seconds: float) -> None:
        self.trace = CounterTrace(capacity=max(int(ring_seconds * POINTS_PER_SECOND), 64))
        self.crosscheck = CrossCheck()
        self.method = NONE
        self.step: Seconds | None = None
        self.latest: EnergySample | None = None
        self.third_latest_at: float | None = None
        self.glitches = 0
        self._last_three: deque[float] = deque(maxlen=3)
        self._first_at: float | None = None
        # The counter: its value, the last time it was seen unchanged, and whether a fall is waiting to be confirmed.
        self._value: Joules | None = None
        self._unchanged_at = 0.0
        self._falling = False
        self._changed_at: float | None = None
        self._distances: deque[float] = deque(maxlen=STEP_DISTANCES)
        self._changes = 0
        self._shortest: Seconds | None = None
        self._rhythm = Rhythm()
        # Integration, for a card without a counter.
        self._power: tuple[float, Watts] | None = None
        self._integral = 0.0

    def observe(self, before: float, after: float, energy: Joules | None, power: Watts | None) -> None:
        """One poll that was sent at ``before`` and answered at ``after``."""
        at = (before + after) / 2
        if self._first_at is None:
            self._first_at = before
        if self.method == NONE:
            self._settle(before, energy, power)
        if self.method == COUNTER:
            if power is not None and self.crosscheck.ratio is None:
                self.crosscheck.power(at, power)
            if energy is not None:
                self._counter(before, after, energy)
        elif self.method == POWER and power is not None:
            self._integrate(at, power)

    def unchanged(self, before: float, power: Watts | None) -> None:
        """One more poll, sent at ``before``, that read what ``has_settled_on`` was true for."""
        self._unchanged_at = before
        if power is not None and self.crosscheck.ratio is None:
            self.crosscheck.power(before, power)

    def has_settled_on(self, energy: Joules | None) -> bool:
        """Whether this counter value, read again, would change nothing but the time it was last seen."""
        return self.method == COUNTER and energy is not None and energy == self._value and not self._falling

    @property
    def beat(self) -> Beat | None:
        """When the counter changes; None before that is learned."""
        if self._shortest is None:
            return None
        found = self._rhythm.beat
        if found is None:
            return None
        at, period, unsure = found
        return Beat(at, period, max(period - self._shortest, unsure, LEAST_EARLY))

    def _settle(self, now: float, energy: Joules | None, power: Watts | None) -> None:
        if energy is not None:
            self.method = COUNTER
        elif power is not None and self._first_at is not None and now - self._first_at >= PROBE_SECONDS:
            self.method = POWER

    def _counter(self, before: float, after: float, joules: Joules) -> None:
        if self._value is None or joules == self._value:
            self._value, self._unchanged_at = joules, before
            self._note_glitch()
            return
        if joules < self._value and not self._falling:
            # One low value may be a misread; a reset is still there at the next poll.
            self._falling = True
            return
        if joules > self._value:
            self._note_glitch()
        reset = joules < self._value
        since = self._unchanged_at
        if self.step is not None:
            since = max(since, after - LONGEST_STEP * self.step)
        at = self._rhythm.place(since, after)
        uncertainty = max(at - since, after - at)
        if self._changed_at is not None and not reset:
            self._learn_step(at - self._changed_at)
        self._value, self._unchanged_at, self._changed_at, self._falling = joules, before, at, False
        if self.crosscheck.ratio is None:
            self.crosscheck.change(at, joules)
        if reset or self.latest is None or at - self.latest.at >= MIN_SPACING:
            self._record(at, joules, uncertainty)

    def _note_glitch(self) -> None:
        self.glitches += self._falling
        self._falling = False

    def _learn_step(self, distance: float) -> None:
        self._distances.append(distance)
        self._changes += 1
        if self._shortest is not None and distance < self._shortest:
            self._shortest = Seconds(distance)
        if self._changes < STEPS_LEARNED or (self._changes > STEP_DISTANCES and self._changes % STEP_DISTANCES):
            return
        # The median leaves out missed changes; the mean around it is finer than the poll period.
        middle = median(self._distances)
        self.step = Seconds(fmean(one for one in self._distances if 0.5 * middle <= one <= 1.5 * middle))
        self._shortest = Seconds(min(self._distances))

    def _integrate(self, at: float, watts: Watts) -> None:
        if self._power is None:
            self._power = (at, watts)
            self._record(at, Joules(0.0), 0.0)
            return
        span = at - self._power[0]
        if span > INTEGRATION_GAP:
            # What was spent meanwhile is unknown: a new epoch says so, a bridge would not.
            self._integral = 0.0
        else:
            self._integral += (self._power[1] + watts) / 2 * span
        self._power = (at, watts)
        if self.latest is None or span > INTEGRATION_GAP or at - self.latest.at >= INTEGRATION_STEP - 1e-3:
            self._record(at, Joules(self._integral), span / 2)
            self.step = Seconds(INTEGRATION_STEP)

    def _record(self, at: float, joules: Joules, uncertainty: float) -> None:
        self.trace.append(at, joules, uncertainty)
        self._last_three.append(at)
        self.third_latest_at = self._last_three[0] if len(self._last_three) == 3 else None
        self.latest = EnergySample(joules, at, Seconds(uncertainty))
