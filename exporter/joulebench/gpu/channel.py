"""One GPU as the monitor keeps it: its meter, its throttle clock, its last readings and what went wrong with it.

A GPU that is lost, or has only failed for a while, is down and asked again at growing intervals; it comes back by answering.
Whatever goes wrong in a poll, foreseen or not, counts as its failure and never ends the polling: a GPU is up only while its
readings are taken in whole.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Mapping
from functools import partial
from threading import RLock

from joulebench.clock import Clock
from joulebench.errors import GpuError, GpuLost
from joulebench.gpu.energy_meter import COUNTER, EnergyMeter
from joulebench.gpu.lookout import Lookout
from joulebench.gpu.reading import GpuIdentity, GpuSource, GpuState, SlowReading
from joulebench.gpu.sighting import Sighting, nothing
from joulebench.gpu.throttle_clock import ThrottleClock
from joulebench.gpu.wall_clock import WallClock
from joulebench.units import Joules, Seconds, Watts

log = logging.getLogger(__name__)

GROUPS = ("fast", "slow", "energy", "power")
"""Of read errors: a whole fast or slow read, or only the counter or the power of a fast one that used to be there."""
DOWN_AFTER = 2.0
"""Seconds without one good fast read."""
FIRST_RETRY, LAST_RETRY = 0.5, 10.0
POWER_FRESH = 1.0
SLOW_FRESH_PERIODS = 3.0


class GpuChannel:
    """``due_at``: until then the GPU is left alone, because it is down or its counter cannot have moved yet."""

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
        self._throttle = ThrottleClock(ring_seconds)
        self._power: tuple[float, Watts] | None = None
        self._energy: Joules | None = None
        self._slow: tuple[float, SlowReading] | None = None
        self._errors = Counter(dict.fromkeys(GROUPS, 0))
        self._polls = 0
        self._overruns = 0
        self._good_at: float = clock.monotonic()
        self._lost = False
        self._retry_after = FIRST_RETRY
        self.due_at = 0.0
        self._read = partial(source.read_fast, identity.index)
        self._monotonic = clock.monotonic
        self._lookout = Lookout(poll_period)
        self._step = 0.0
        # What the polls put down and nobody has taken in yet; the last that was put down, and the last that was taken in.
        self._fresh: deque[Sighting] = deque()
        self._last = self._taken = nothing()
        self._changed: Sighting | None = None
        self._settling = RLock()
        self._puzzled = {"fast": False, "slow": False}

    def poll(self, before: float) -> float:
        """One fast read; returns the time after it. What it says is only put down here, and ``settle`` takes it in together with
        what other polls say: code that runs but now and then has to be fetched from memory each time, and costs by its size."""
        self._polls += 1
        try:
            reading = self._read()
            after: float = self._monotonic()
            last = self._last
            if reading is last.reading and not self._lost:
                last.again = before
            else:
                self._last = sighting = Sighting()
                sighting.before, sighting.after, sighting.reading, sighting.again = before, after, reading, 0.0
                sighting.since = last.again or last.before
                energy, known = reading[0], last.reading[0]
                if energy is not None and known is not None and energy != known:
                    self._changed = sighting
                    # Until shortly before the next change; one that fell has to be confirmed or denied at once.
                    self.due_at = self.due_at + self._step if energy > known else 0.0
                self._fresh.append(sighting)
                if self._lost:
                    self.settle()
        except Exception as error:
            after = self._monotonic()
            self.settle()
            self._fail(before, error)
        if after - before > self._poll_period:
            self._overruns += 1
        return after

    def plan(self) -> None:
        """Sees to it that ``due_at`` keeps to the beat of the counter; in the polling thread, a few times a second."""
        self.settle()
        if not self._lost and self._changed is not None:
            self._step, self.due_at = self._lookout.plan(self._changed.since, self._changed.after)

    def settle(self) -> None:
        """Takes in what the polls put down, in their order; in whatever thread wants to know."""
        with self._settling:
            while self._fresh:
                self._take_again()
                sighting = self._taken = self._fresh.popleft()
                try:
                    self._take(sighting)
                except Exception as error:
                    self._taken = nothing()
                    self._fail(sighting.before, error)
            self._take_again()

    def _take_again(self) -> None:
        """The last that was taken in may have been read once more since then."""
        again, reading = self._taken.again, self._taken.reading
        if again:
            self.meter.unchanged(again, reading.power)
            self._good_at = max(self._good_at, again)
            if reading.power is not None:
                self._power = (self._good_at, reading.power)

    def _take(self, sighting: Sighting) -> None:
        reading, after = sighting.reading, sighting.after
        if reading.energy != self._energy:
            self._energy = reading.energy
            self._lookout.note(sighting.since, after)
        if reading.power is not None:
            self._power = (after, reading.power)
        elif self._power is not None:
            self._errors["power"] += 1
        if reading.energy is None and self.meter.method == COUNTER:
            self._errors["energy"] += 1
        glitches = self.meter.glitches
        self.meter.observe(sighting.before, after, reading.energy, reading.power)
        self._errors["energy"] += self.meter.glitches - glitches
        self._throttle.observe(self._good_at, after, reading)
        if self._lost:
            log.warning("GPU %d answers again", self.identity.index)
            self._lost, self._retry_after, self.due_at = False, FIRST_RETRY, 0.0
        self._good_at = after
        self._puzzled["fast"] = False
        # Bits and missing power are not to be waited for, and a fall of the counter is to be confirmed at once.
        calm = reading.power is not None and not reading.throttle_active and self.meter.has_settled_on(reading.energy)
        self._lookout.beat = self.meter.beat if calm else None

    def _fail(self, at: float, error: Exception) -> None:
        self._errors["fast"] += 1
        self._last, self._changed, self._lookout.beat = nothing(), None, None
        self._step = self.due_at = 0.0
        self._wonder("fast", error)
        if not isinstance(error, GpuLost) and at - self._good_at <= DOWN_AFTER:
            return
        if not self._lost:
            log.warning("GPU %d is down: %s", self.identity.index, error)
        self._lost = True
        self.due_at = at + self._retry_after
        self._retry_after = min(self._retry_after * 2, LAST_RETRY)

    def _wonder(self, group: str, error: Exception) -> None:
        """A fault nobody thought of is told with its traceback, once until the group works again."""
        if not isinstance(error, GpuError) and not self._puzzled[group]:
            log.error("GPU %d: %s read failed", self.identity.index, group, exc_info=error)
            self._puzzled[group] = True

    def poll_slow(self) -> None:
        """One slow read, unless the GPU is down."""
        if self._lost:
            return
        try:
            reading = self._source.read_slow(self.identity.index)
            self._errors["slow"] += reading.failures
        except Exception as error:
            log.debug("GPU %d: slow read failed: %s", self.identity.index, error)
            self._errors["slow"] += 1
            self._wonder("slow", error)
            return
        self._slow = (self._clock.monotonic(), reading)
        self._puzzled["slow"] = False

    def is_up(self, now: float) -> bool:
        """False too where a call into the driver hangs: then nothing good has come for a while. ``settle`` before."""
        return not self._lost and now - self._good_at <= DOWN_AFTER

    def awaits_change(self, end: float) -> bool:
        """Whether a window that ends at ``end`` (monotonic) would get better by waiting.

        It needs the change that closes it and two more, which tell the power after it and whether that is steady; a GPU that
        is down has none of them to give.
        """
        self.settle()
        if not self.is_up(self._clock.monotonic()):
            return False
        at = self.meter.third_latest_at
        return at is None or at < end

    def throttled(self, start: float, end: float) -> Mapping[str, Seconds | None]:
        """Seconds between two monotonic times by reason, None where they are not known."""
        self.settle()
        return self._throttle.between(start, end, self._good_at)

    def state(self, now: float, wall: WallClock) -> GpuState:
        self.settle()
        meter, sample, slow = self.meter, self.meter.latest, self._slow
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
            power=self._fresh_power(now) if up else None,
            slow=slow[1] if slow is not None and up and now - slow[0] <= self._slow_fresh else None,
            throttle=self._throttle.seconds,
            read_errors=dict(self._errors),
            polls=self._polls,
            overruns=self._overruns,
        )

    def _fresh_power(self, now: float) -> Watts | None:
        power = self._power
        return power[1] if power is not None and now - power[0] <= POWER_FRESH else None
