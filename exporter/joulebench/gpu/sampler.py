"""Samples one GPU: its energy meter, its throttle meter, its last readings and what went wrong with it.

A GPU that is lost, or has failed for a while, is down and read again at growing intervals; it comes back by answering. Any
error of a poll, foreseen or not, counts as a failure of this GPU and never ends the polling: a GPU is up only while its
readings are complete.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from threading import Lock

from joulebench.clock import Clock
from joulebench.energy.window import WindowEnergy, adjacent_energies, window_energy
from joulebench.errors import GpuError, GpuLost
from joulebench.gpu.energy_meter import COUNTER, POWER, EnergyMeter, EnergySample
from joulebench.gpu.mig import MigHistory
from joulebench.gpu.plausibility import (
    GLITCH_READINGS,
    FrozenPowerDetector,
    StandingPowerDetector,
    drop_impossible_power,
    drop_impossible_state,
)
from joulebench.gpu.reading import (
    NO_PROCESSES,
    NO_STATE,
    CounterReading,
    GpuDevice,
    GpuIdentity,
    GpuState,
    MigInstance,
    ProcessSummary,
    StateReading,
)
from joulebench.gpu.sensor_lag import SensorLagLearner
from joulebench.gpu.throttle import ThrottleMeter
from joulebench.gpu.wall_clock import WallClock
from joulebench.metrics import POWER_CAP
from joulebench.schema.reasons import QUALITIES, Reason
from joulebench.units import Ratio, Seconds, Watts

log = logging.getLogger(__name__)

ERROR_GROUPS = ("fast", "slow", "energy", "power", "throttle")
"""Of read errors: a complete counter or state read, or only the energy, the power or the throttle reasons of a counter read."""
DOWN_AFTER = 2.0
"""Seconds without one good counter read."""
FIRST_RETRY, LAST_RETRY = 0.5, 10.0
"""Seconds between two reads of a GPU that is down; each pause is twice the one before."""
POWER_FRESH = 1.0
AVERAGING_TIMES = 5.0
"""A window that is shorter than so many averaging times of the power is short."""
STATE_FRESH_PERIODS = 3.0
POLLS_TOGETHER = 26
"""Polls that are taken in together, half a second of them, unless somebody asks before. After 19 ms of sleep the caches are
cold: to take in a change of the counter takes 60 us of CPU by itself and 25 us behind others (make bench, part cost)."""


class GpuSampler:
    """``poll`` is for one thread, ``poll_state`` for another; everything else may be called from any thread.

    A poll only notes what was read and when. What it means is worked out for several polls at once, and for all of them before
    anything is answered, so that no answer depends on it.
    """

    def __init__(self, device: GpuDevice, clock: Clock, *, poll_period: float, state_period: float, ring_seconds: float) -> None:
        self.device = device
        self._clock = clock
        self._poll_period = poll_period
        self._state_fresh = STATE_FRESH_PERIODS * state_period
        # Polls that are not taken in yet: appended by the thread that polls, removed by whoever has the lock.
        self._untaken: deque[tuple[float, float, CounterReading]] = deque()
        self._lock = Lock()
        # Guarded by _lock.
        self._meter = EnergyMeter(ring_seconds, device.power_ceiling, f"GPU {device.identity.index}")
        self._glitches = Counter(dict.fromkeys(GLITCH_READINGS, 0))
        self._throttle = ThrottleMeter(ring_seconds)
        self._lag = SensorLagLearner()
        self._mig = MigHistory(ring_seconds)
        self._power: tuple[float, Watts] | None = None
        # The last reading, where taking it in again would only say that nothing changed; see _observe_again.
        self._repeatable: CounterReading | None = None
        self._frozen_power = FrozenPowerDetector()
        # The counter's last change when it was asked.
        self._frozen_power_checked: EnergySample | None = None
        self._standing_power = StandingPowerDetector()
        self._state: tuple[float, StateReading] | None = None
        self._errors = Counter(dict.fromkeys(ERROR_GROUPS, 0))
        self._polls = 0
        self._logged_glitches: set[str] = set()
        self._overruns = 0
        self._good_at: float = clock.monotonic()
        self._down = False
        self._retry_pause = FIRST_RETRY
        self._retry_at = 0.0
        self._logged_unexpected = {"fast": False, "slow": False}

    @property
    def identity(self) -> GpuIdentity:
        """Its index may change while the exporter runs."""
        return self.device.identity

    @property
    def is_down(self) -> bool:
        return self._down

    @property
    def good_at(self) -> float:
        """Monotonic time of the last good counter read."""
        with self._lock:
            self._take_in_polls()
            return self._good_at

    @property
    def retry_at(self) -> float:
        """Until then (monotonic) a GPU that is down is left alone."""
        return self._retry_at

    def poll(self) -> None:
        """Reads the counters once, unless the GPU is down and not yet due."""
        before: float = self._clock.monotonic()
        if before < self._retry_at:
            return
        try:
            reading = self.device.read_counters()
        except Exception as error:
            after = self._clock.monotonic()
            self._polls += 1
            with self._lock:
                self._take_in_polls()
                self._fail(before, error)
        else:
            after = self._clock.monotonic()
            self._polls += 1
            untaken = self._untaken
            untaken.append((before, after, reading))
            if len(untaken) >= POLLS_TOGETHER or self._down:
                with self._lock:
                    self._take_in_polls()
        if after - before > self._poll_period:
            self._overruns += 1

    def _take_in_polls(self) -> None:
        """Takes in the polls so far, in their order; to be called with the lock."""
        untaken = self._untaken
        while untaken:
            before, after, reading = untaken.popleft()
            try:
                if reading is not self._repeatable or not self._observe_again(before, after):
                    self._observe(before, after, reading)
            except Exception as error:
                self._fail(before, error)

    def _observe_again(self, before: float, after: float) -> bool:
        """Does what ``_observe`` does with the reading that it took in last, in a quarter of the time (make bench, part cost).

        Returns False where it has to be taken in as any other.
        """
        reading, meter = self._repeatable, self._meter
        assert reading is not None
        assert reading.power is not None
        # Without another change of the counter, the power is no more frozen than before.
        if meter.latest is not self._frozen_power_checked and self._is_frozen(reading.power):
            return False
        if not meter.observe_again(before, after, reading.power):
            return False
        self._throttle.power_cap.observe_again(after)
        self._power = (after, reading.power)
        self._good_at = after
        return True

    def _observe(self, before: float, after: float, reading: CounterReading) -> None:
        meter, given = self._meter, reading
        reading, has_glitch = drop_impossible_power(reading, self.device.power_ceiling)
        if reading.power is not None and self._is_frozen(reading.power):
            reading, has_glitch = reading._replace(power=None), True
            meter.crosscheck.withdraw()
        elif reading.power is not None and meter.method != COUNTER and self._standing_power.is_standing(reading.power, after):
            reading, has_glitch = reading._replace(power=None), True
            meter.mark_power_glitch(self._standing_power.since, after)
        self._glitches["power"] += has_glitch
        if reading.power is not None:
            self._power = (after, reading.power)
        elif self._power is not None or "power" in reading.failed:
            self._errors["power"] += 1
        if reading.energy is None and (meter.method == COUNTER or "energy" in reading.failed):
            self._errors["energy"] += 1
        meter.observe(before, after, reading.energy, reading.power)
        has_possible_seconds = self._throttle.observe(self._good_at, after, reading)
        self._errors["throttle"] += "throttle" in reading.failed or not has_possible_seconds
        if self._down:
            log.warning("GPU %d answers again", self.identity.index)
            self._down, self._retry_pause, self._retry_at = False, FIRST_RETRY, 0.0
        self._good_at = after
        self._logged_unexpected["fast"] = False
        is_complete = None not in (reading.energy, reading.power) and not reading.failed and has_possible_seconds
        # Reason bits are added up over time, so each reading of them counts.
        is_repeatable = is_complete and not reading.throttle_active and meter.method == COUNTER
        self._repeatable = given if is_repeatable else None

    def _is_frozen(self, watts: Watts) -> bool:
        meter = self._meter
        self._frozen_power_checked = meter.latest
        counted = meter.latest if meter.method == COUNTER else None
        return self._frozen_power.is_frozen(watts, None if counted is None else (counted.at, counted.joules), meter.trace.resets)

    def _fail(self, at: float, error: Exception) -> None:
        self._errors["fast"] += 1
        self._repeatable = None
        self._log_unexpected("fast", error)
        if not isinstance(error, GpuLost) and at - self._good_at <= DOWN_AFTER:
            return
        if not self._down:
            log.warning("GPU %d is down: %s", self.identity.index, error)
        self._down = True
        self._retry_at = at + self._retry_pause
        self._retry_pause = min(self._retry_pause * 2, LAST_RETRY)

    def _log_unexpected(self, group: str, error: Exception) -> None:
        """Logs an unforeseen error with its traceback, once until the group works again."""
        if not isinstance(error, GpuError) and not self._logged_unexpected[group]:
            log.error("GPU %d: %s read failed", self.identity.index, group, exc_info=error)
            self._logged_unexpected[group] = True

    def poll_state(self) -> None:
        """Reads the state once, unless the GPU is down."""
        if self._down:
            return
        try:
            reading = self.device.read_state()
        except Exception as error:
            log.debug("GPU %d: state read failed: %s", self.identity.index, error)
            with self._lock:
                self._errors["slow"] += 1
                self._log_unexpected("slow", error)
            return
        with self._lock:
            self._take_in_polls()
            self._errors["slow"] += reading.failures
            reading, glitches = drop_impossible_state(reading)
            self._glitches["state"] += len(glitches)
            if glitches and not self._logged_glitches >= {*glitches}:
                self._logged_glitches |= {*glitches}
                log.warning("GPU %d: impossible values of %s are dropped", self.identity.index, ", ".join(glitches))
            self._standing_power.observe_state(reading)
            now = self._clock.monotonic()
            self._state = (now, self._with_power_cap(reading, now))
            self._mig.record(reading.instances, now)
            self._logged_unexpected["slow"] = False

    def _with_power_cap(self, reading: StateReading, now: float) -> StateReading:
        """Returns the reading with a power cap that is active only while the power is near the limit, without one where that is
        unknown."""
        power_cap = self._throttle.power_cap
        if reading.power_limit is not None:
            power_cap.limit = reading.power_limit
        active = dict(reading.throttle_active)
        if active.get(POWER_CAP):
            near = power_cap.is_near_limit(now)
            if near is None:
                del active[POWER_CAP]
            else:
                active[POWER_CAP] = near
        return replace(reading, throttle_active=active)

    def _is_up(self, now: float) -> bool:
        """False too where a call into the driver hangs: then no good reading has come for a while."""
        return not self._down and now - self._good_at <= DOWN_AFTER

    def awaits_change(self, end: float) -> bool:
        """Whether a window that ends at ``end`` (monotonic) would be known better later.

        It needs the counter change that closes it and two more, which show the power after it and whether that is steady, each
        as late as the counter may be. A GPU that is down, or one without energy, will not give them.
        """
        with self._lock:
            self._take_in_polls()
            now = self._clock.monotonic()
            if not self._is_up(now) or not self._meter.can_change(now):
                return False
            at = self._meter.third_latest_at
            return at is None or at < end + 2 * self._lag.seconds

    def window(self, start: float, end: float) -> WindowEnergy:
        """Estimates the energy between two monotonic times.

        Reasons beyond those of ``window_energy``: ``counter_disagrees``, ``glitch``, ``counter_stalled``, ``averaged_power``.
        """
        with self._lock:
            self._take_in_polls()
            meter = self._meter
            method = meter.method_at(end)
            has_lag = method == COUNTER and meter.method == COUNTER
            energy = window_energy(meter.trace, start, end, method=method, lag=self._lag.seconds if has_lag else 0.0)
            if has_lag:
                self._learn_lag(start, end)
            if method == POWER and end - start < AVERAGING_TIMES * self.device.power_averaging:
                energy = as_short(energy, Reason.AVERAGED_POWER)
            if meter.crosscheck.disagrees:
                energy = as_suspect(energy, Reason.COUNTER_DISAGREES)
            if meter.has_glitch(start, end):
                energy = as_suspect(energy, Reason.GLITCH)
            if meter.stalled_at is not None and end > meter.stalled_at:
                energy = as_suspect(energy, Reason.COUNTER_STALLED)
            return energy

    def parts(self, edges: Sequence[float], uncertainty: float, changes: Sequence[float] = ()) -> Sequence[WindowEnergy]:
        """Estimates the energy between each two neighbouring monotonic times, in rising order; see ``adjacent_energies``."""
        with self._lock:
            self._take_in_polls()
            trace, method = self._meter.trace, self._meter.method_at(edges[-1])
            lag = self._lag.seconds if self._meter.method == COUNTER else 0.0
        # Without the lock, for which polls would wait.
        return adjacent_energies(trace, edges, changes=changes, method=method, lag=lag, uncertainty=uncertainty)

    def _learn_lag(self, start: float, end: float) -> None:
        """Remembers a window, and learns from those before it how late the counter shows energy."""
        meter = self._meter
        if meter.latest is not None and self._lag.learn(meter.trace, meter.latest.at) and self._lag.seconds:
            log.warning(
                "GPU %d: the counter shows energy %.2f s late, as windows of work show; times are corrected by that",
                self.identity.index,
                self._lag.seconds,
            )
        self._lag.add(start, end)

    def instances(self, start: float, end: float) -> Sequence[tuple[MigInstance, Ratio | None]]:
        """Returns the MIG instances between two monotonic times, each with its mean activity where that is known."""
        with self._lock:
            return [(one, self._mig.activity(one.uuid, start, end)) for one in self._mig.instances(start, end)]

    @property
    def energy_method(self) -> str:
        with self._lock:
            self._take_in_polls()
            return self._meter.method

    def throttled(self, start: float, end: float) -> Mapping[str, Seconds | None]:
        """Returns the throttled seconds between two monotonic times by reason, None where they are unknown."""
        with self._lock:
            self._take_in_polls()
            return self._throttle.between(start, end, self._good_at)

    def snapshot(self, now: float, wall: WallClock, processes: ProcessSummary = NO_PROCESSES) -> GpuState:
        with self._lock:
            self._take_in_polls()
            meter, sample, state, power = self._meter, self._meter.latest, self._state, self._power
            up = self._is_up(now)
            return GpuState(
                identity=self.identity,
                up=up,
                energy_method=meter.method,
                energy=None if sample is None else sample.joules,
                energy_at=None if sample is None else Seconds(wall.unix(sample.at)),
                energy_uncertainty=None if sample is None else sample.uncertainty,
                energy_step=meter.step,
                energy_resets=meter.trace.resets,
                energy_crosscheck=meter.crosscheck.ratio,
                power=power[1] if power is not None and up and now - power[0] <= POWER_FRESH else None,
                state=state[1] if state is not None and up and now - state[0] <= self._state_fresh else NO_STATE,
                throttle=self._throttle.seconds,
                read_errors=dict(self._errors),
                glitches={**self._glitches, "energy": meter.glitches},
                polls=self._polls,
                overruns=self._overruns,
                processes=processes,
            )


def as_short(energy: WindowEnergy, reason: str) -> WindowEnergy:
    """Adds ``reason`` to a window, whose quality is then short at best."""
    return replace(energy, quality=max(energy.quality, "short", key=QUALITIES.index), reasons=(*energy.reasons, str(reason)))


def as_suspect(energy: WindowEnergy, reason: str) -> WindowEnergy:
    """Adds ``reason`` to a window, whose quality is then suspect at best."""
    quality = max(energy.quality, "suspect", key=QUALITIES.index)
    return replace(energy, quality=quality, reasons=(*energy.reasons, str(reason)))
