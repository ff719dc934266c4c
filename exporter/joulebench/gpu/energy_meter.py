"""One GPU's energy over time, from polls: when its counter changed, how far apart the changes are, or power integrated.

A change lies between the last poll that read the old value and the first that read the new one. It is recorded where the
counter's update period puts it in that interval, and its uncertainty reaches to the further end of the interval: a bound, no
estimate. Times are monotonic seconds. A value that was not read is a gap: it widens the next interval and is never a reading.
Counters step every 20 to 100 ms (Zeus, Alumet); split edges need the time of the steps (Yang, Adamek, Armour, arXiv 2312.02741).
"""

from __future__ import annotations

from collections import deque
from statistics import fmean, median
from typing import NamedTuple

from joulebench.energy.trace import CounterTrace
from joulebench.gpu.update_period import UpdatePeriodEstimator
from joulebench.units import Joules, Ratio, Seconds, Watts

COUNTER, POWER, NONE = "counter", "power_integration", "none"

MIN_SPACING = 0.045
"""Changes closer than this are not all recorded: GPUs that step every 20 ms would fill the ring in a third of its time."""
POINTS_PER_SECOND = 20.0
PROBE_SECONDS = 1.0
"""A GPU that shows power but no counter for this long has none."""
INTEGRATION_STEP = 0.1
INTEGRATION_GAP = 1.0
STEP_DISTANCES = 64
STEPS_LEARNED = 5
LONGEST_STEP = 1.5
"""No step is longer than this many usual ones, however long the counter was not read."""

CHECK_SECONDS = 10.0
"""Least time that counter and power are compared over."""
CHECK_GAP_SECONDS = 0.5
"""Between two power readings; a longer gap restarts the comparison."""
TRUSTED_RATIO = (0.9, 1.1)


class EnergySample(NamedTuple):
    joules: Joules
    at: float
    uncertainty: Seconds


class EnergyMeter:
    """``method`` is chosen by the first counter value, or after ``PROBE_SECONDS`` without one: never a mixture."""

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
        self._period = UpdatePeriodEstimator()
        # Integration, for a card without a counter.
        self._power: tuple[float, Watts] | None = None
        self._integral = 0.0

    def observe(self, before: float, after: float, energy: Joules | None, power: Watts | None) -> None:
        """Takes in one poll that was sent at ``before`` and answered at ``after``."""
        at = (before + after) / 2
        if self._first_at is None:
            self._first_at = before
        if self.method == NONE:
            self._choose_method(before, energy, power)
        if self.method == COUNTER:
            if power is not None and self.crosscheck.ratio is None:
                self.crosscheck.power(at, power)
            if energy is not None:
                self._observe_counter(before, after, energy)
        elif self.method == POWER and power is not None:
            self._integrate(at, power)

    def _choose_method(self, now: float, energy: Joules | None, power: Watts | None) -> None:
        if energy is not None:
            self.method = COUNTER
        elif power is not None and self._first_at is not None and now - self._first_at >= PROBE_SECONDS:
            self.method = POWER

    def _observe_counter(self, before: float, after: float, joules: Joules) -> None:
        if self._value is None or joules == self._value:
            self._value, self._unchanged_at = joules, before
            self._end_fall()
            return
        if joules < self._value and not self._falling:
            # One low value may be a misread; a reset is still there at the next poll.
            self._falling = True
            return
        if joules > self._value:
            self._end_fall()
        reset = joules < self._value
        since = self._unchanged_at
        if self.step is not None:
            since = max(since, after - LONGEST_STEP * self.step)
        at = self._period.estimate(since, after)
        uncertainty = max(at - since, after - at)
        if self._changed_at is not None and not reset:
            self._learn_step(at - self._changed_at)
        self._value, self._unchanged_at, self._changed_at, self._falling = joules, before, at, False
        if self.crosscheck.ratio is None:
            self.crosscheck.change(at, joules)
        if reset or self.latest is None or at - self.latest.at >= MIN_SPACING:
            self._record(at, joules, uncertainty)

    def _end_fall(self) -> None:
        self.glitches += self._falling
        self._falling = False

    def _learn_step(self, distance: float) -> None:
        self._distances.append(distance)
        self._changes += 1
        if self._changes < STEPS_LEARNED or (self._changes > STEP_DISTANCES and self._changes % STEP_DISTANCES):
            return
        # The median leaves out missed changes; the mean around it is finer than the poll period.
        middle = median(self._distances)
        self.step = Seconds(fmean(distance for distance in self._distances if 0.5 * middle <= distance <= 1.5 * middle))

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


class CrossCheck:
    """Compares the energy counter with the power that the same GPU shows, once after start.

    There are GPUs whose counter runs at half speed and GPUs whose power reading is off (ml-energy/zeus #181, 2026: 187 J against
    327 J over 5 s); only a comparison shows either. ``ratio``: counter joules by integrated power joules, from one counter
    change to another at least ``CHECK_SECONDS`` later; None until then.
    """

    def __init__(self) -> None:
        self.ratio: Ratio | None = None
        self._power: tuple[float, float] | None = None
        self._integral = 0.0
        self._begun: tuple[float, float, float] | None = None

    @property
    def disagrees(self) -> bool:
        return self.ratio is not None and not TRUSTED_RATIO[0] <= self.ratio <= TRUSTED_RATIO[1]

    def power(self, at: float, watts: float) -> None:
        if self._power is not None:
            span = at - self._power[0]
            if span > CHECK_GAP_SECONDS:
                self.restart()
            self._integral += (self._power[1] + watts) / 2 * span
        self._power = (at, watts)

    def change(self, at: float, joules: float) -> None:
        """The counter changed to ``joules`` at ``at``, which is not after the last power reading's time."""
        if self._power is None:
            return
        integral = self._integral - self._power[1] * (self._power[0] - at)
        if self._begun is None:
            self._begun = (at, joules, integral)
            return
        spent, expected = joules - self._begun[1], integral - self._begun[2]
        if spent < 0:
            self.restart()
        elif at - self._begun[0] >= CHECK_SECONDS and expected > 0:
            self.ratio = Ratio(spent / expected)

    def restart(self) -> None:
        self._begun = None
