"""One GPU as the monitor keeps it: its meter, its throttle clock, its last readings and what went wrong with it.

A GPU that is lost, or has only failed for a while, is down and asked again at growing intervals; it comes back by answering.
"""

from __future__ import annotations

import logging
from collections import Counter

from joulebench.clock import Clock
from joulebench.errors import GpuError, GpuLost
from joulebench.sensors.energy_meter import COUNTER, EnergyMeter
from joulebench.sensors.reading import FastReading, GpuIdentity, GpuSource, GpuState, SlowReading
from joulebench.sensors.throttle_clock import ThrottleClock
from joulebench.sensors.wall_clock import WallClock
from joulebench.units import Seconds, Watts

log = logging.getLogger(__name__)

GROUPS = ("fast", "slow", "energy", "power")
"""Of read errors: a whole fast or slow read, or only the counter or the power of a fast one that used to be there."""
DOWN_AFTER = 2.0
"""Seconds without one good fast read."""
FIRST_RETRY, LAST_RETRY = 0.5, 10.0
POWER_FRESH = 1.0
SLOW_FRESH_PERIODS = 3.0


class GpuChannel:
    def __init__(
        self,
        source: GpuSource,
        identity: GpuIdentity,
        clock: Clock,
        *,
        poll_period: float,
        slow_period: float,
        ring_seconds: float,
    ) -> None:
        self.identity = identity
        self.meter = EnergyMeter(ring_seconds)
        self._source = source
        self._clock = clock
        self._poll_period = poll_period
        self._slow_fresh = SLOW_FRESH_PERIODS * slow_period
        self._throttle = ThrottleClock()
        self._power: tuple[float, Watts] | None = None
        self._slow: tuple[float, SlowReading] | None = None
        self._errors = Counter(dict.fromkeys(GROUPS, 0))
        self._polls = 0
        self._overruns = 0
        self._good_at: float = clock.monotonic()
        self._lost = False
        self._retry_after = FIRST_RETRY
        self._retry_at = 0.0

    def poll(self, before: float) -> float:
        """One fast read, unless the GPU is down and not due; returns the time after it."""
        if before < self._retry_at:
            return before
        self._polls += 1
        reading: FastReading | None = None
        try:
            reading = self._source.read_fast(self.identity.index)
        except GpuError as error:
            self._fail(before, error)
        except Exception:
            # The thread must outlive a fault nobody thought of, or every GPU would stand still.
            log.exception("GPU %d: fast read failed", self.identity.index)
            self._errors["fast"] += 1
        after = self._clock.monotonic()
        if after - before > self._poll_period:
            self._overruns += 1
        if reading is not None:
            self._take(before, after, reading)
        return after

    def _take(self, before: float, after: float, reading: FastReading) -> None:
        if self._lost:
            log.warning("GPU %d answers again", self.identity.index)
        self._good_at, self._lost, self._retry_at, self._retry_after = after, False, 0.0, FIRST_RETRY
        if reading.power is not None:
            self._power = (after, reading.power)
        elif self._power is not None:
            self._errors["power"] += 1
        if reading.energy is None and self.meter.method == COUNTER:
            self._errors["energy"] += 1
        glitches = self.meter.glitches
        self.meter.observe(before, after, reading.energy, reading.power)
        self._errors["energy"] += self.meter.glitches - glitches
        self._throttle.observe(after, reading)

    def _fail(self, at: float, error: GpuError) -> None:
        self._errors["fast"] += 1
        if not isinstance(error, GpuLost) and at - self._good_at <= DOWN_AFTER:
            return
        if not self._lost:
            log.warning("GPU %d is down: %s", self.identity.index, error)
        self._lost = True
        self._retry_at = at + self._retry_after
        self._retry_after = min(self._retry_after * 2, LAST_RETRY)

    def poll_slow(self) -> None:
        """One slow read, unless the GPU is down."""
        if self._lost:
            return
        try:
            reading = self._source.read_slow(self.identity.index)
        except GpuError as error:
            log.debug("GPU %d: slow read failed: %s", self.identity.index, error)
            self._errors["slow"] += 1
            return
        except Exception:
            log.exception("GPU %d: slow read failed", self.identity.index)
            self._errors["slow"] += 1
            return
        self._errors["slow"] += reading.failures
        self._slow = (self._clock.monotonic(), reading)

    def is_up(self, now: float) -> bool:
        """False too where a call into the driver hangs: then nothing good has come for a while."""
        return not self._lost and now - self._good_at <= DOWN_AFTER

    def awaits_change(self, end: float) -> bool:
        """Whether a window that ends at ``end`` (monotonic) would get better by waiting.

        It needs the change that closes it and two more, which tell the power after it and whether that is steady; a GPU that
        is down has none of them to give.
        """
        if not self.is_up(self._clock.monotonic()):
            return False
        at = self.meter.third_latest_at
        return at is None or at < end

    def state(self, now: float, wall: WallClock) -> GpuState:
        meter, sample, power, slow = self.meter, self.meter.latest, self._power, self._slow
        up = self.is_up(now)
        return GpuState(
            identity=self.identity,
            up=up,
            energy_method=meter.method,
            energy=None if sample is None else sample.joules,
            energy_at=None if sample is None else Seconds(wall.unix(sample.at)),
            energy_uncertainty=None if sample is None else sample.uncertainty,
            energy_step=meter.step,
            energy_resets=meter.trace.resets,
            crosscheck=meter.crosscheck.ratio,
            power=power[1] if power is not None and up and now - power[0] <= POWER_FRESH else None,
            slow=slow[1] if slow is not None and up and now - slow[0] <= self._slow_fresh else None,
            throttle=self._throttle.seconds,
            read_errors=dict(self._errors),
            polls=self._polls,
            overruns=self._overruns,
        )
