"""Polls the RAPL counters of the host and answers for the energy of windows, as gpu/monitor.py does for GPUs.

A RAPL counter is updated about every millisecond and begins at 0 again after ``max_energy_range_uj``, on many CPUs every few
minutes under load. The counters are unwrapped in whole microjoules; one wrap-around loses at most one unit of the counter
(15 to 61 microjoules), since the range is the highest value and not the number of values.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from joulebench.clock import Clock
from joulebench.energy.window import WindowEnergy, missing, window_energy
from joulebench.gpu.energy_meter import EnergyMeter
from joulebench.gpu.sampler import as_suspect
from joulebench.gpu.wall_clock import WallClock
from joulebench.host.rapl import POWERCAP, RaplZone, explain_failure, find_zones
from joulebench.schema.reasons import Reason
from joulebench.supervise import BackgroundLoop
from joulebench.units import Joules, Seconds

log = logging.getLogger(__name__)

POLL_PERIOD = 0.025
"""Seconds. A scrape shows the last poll, which a meter of Prometheus takes for a value of the scrape."""
SCAN_PERIOD = 60.0
"""Seconds between two looks for zones, whose driver may be loaded later."""
RETRY_SECONDS = 5.0
DOWN_AFTER = 2.0
"""Seconds without a reading after which a zone is down."""
POWER_CEILING = 3000.0
"""Watts that no zone draws."""
WRAP_SLACK = 0.25
"""Seconds of energy by which a counter may be ahead of ``POWER_CEILING``."""
LONGEST_UPDATE = 0.01
"""Seconds for which the counter of a package or of memory repeats a value, at most: ten usual updates (Khan et al., RAPL in
Action, 2018). Platform counters come from the board's own controller, and nothing is known of theirs."""


@dataclass(frozen=True, slots=True)
class ZoneState:
    """``joules``: the unwrapped counter; None before it has changed for the first time, and while the zone is down.

    ``problem``: why the zone cannot be read; None where it can.
    """

    zone: RaplZone
    up: bool
    joules: Joules | None
    read_errors: int
    problem: str | None


class ZoneSampler:
    """One zone's counter over time."""

    def __init__(self, zone: RaplZone, clock: Clock, ring_seconds: float) -> None:
        self.zone = zone
        self._clock = clock
        self._lock = Lock()
        # Guarded by _lock.
        self._meter = EnergyMeter(
            ring_seconds,
            POWER_CEILING,
            f"RAPL {zone.kind} {zone.package}".strip(),
            longest_update=None if zone.kind == "psys" else Seconds(LONGEST_UPDATE),
        )
        self._raw: int | None = None
        self._offset = 0
        self._good_at: float | None = None
        self._retry_at = 0.0
        self._read_errors = 0
        self._problem: str | None = None

    def poll(self) -> None:
        """Reads the counter once, unless a read failed a moment ago."""
        before: float = self._clock.monotonic()
        if before < self._retry_at:
            return
        try:
            raw = self.zone.read_microjoules()
        except (OSError, ValueError) as error:
            with self._lock:
                self._fail(before, error)
            return
        after: float = self._clock.monotonic()
        with self._lock:
            if self._problem is not None:
                log.info("%s can be read now", self.zone.counter)
            self._problem = None
            joules = Joules(self._unwrapped(raw, after) / 1e6)
            self._good_at = after
            self._meter.observe(before, after, joules, None)

    def _fail(self, at: float, error: Exception) -> None:
        problem = explain_failure(self.zone, error)
        if self._problem is None:
            log.warning("no energy of RAPL zone %s: %s", self.zone.directory.name, problem)
        self._problem = problem
        self._read_errors += 1
        self._retry_at = at + RETRY_SECONDS

    def _unwrapped(self, raw: int, at: float) -> int:
        """The counter in microjoules as if it never wrapped around.

        A fall that no possible power explains stays a fall, as after a suspend. Where the counter was not read for so long that
        it may have wrapped around unseen, it begins anew.
        """
        last, size = self._raw, self.zone.range_microjoules
        self._raw = raw
        if last is not None and size is not None and self._good_at is not None:
            most = POWER_CEILING * (at - self._good_at + WRAP_SLACK) * 1e6
            if most >= size:
                self._offset = -raw
            elif raw < last and raw + size - last <= most:
                self._offset += size
        return raw + self._offset

    def _is_up(self) -> bool:
        return self._good_at is not None and self._clock.monotonic() - self._good_at <= DOWN_AFTER

    def awaits_change(self, end: float) -> bool:
        """Whether a window that ends at ``end`` (monotonic) would be known better later, as GpuSampler.awaits_change."""
        with self._lock:
            at = self._meter.third_latest_at
            # A counter that never changed is that of a zone without a sensor, and will give nothing.
            return self._is_up() and at is not None and at < end

    def window(self, start: float, end: float) -> WindowEnergy:
        """Estimates the energy between two monotonic times. Reasons beyond those of ``window_energy``: ``glitch``."""
        with self._lock:
            energy = window_energy(self._meter.trace, start, end, method=self._meter.method)
            if self._meter.has_glitch(start, end):
                energy = as_suspect(energy, Reason.GLITCH)
            return energy

    def state(self) -> ZoneState:
        with self._lock:
            up = self._is_up()
            shown = self._meter.accepted if up and self._meter.latest is not None else None
            return ZoneState(self.zone, up, shown, self._read_errors, self._problem)


class HostMonitor:
    """``powercap``: the directory of the kernel's zones. A machine without RAPL has no zones, and is looked at again later."""

    def __init__(
        self, clock: Clock, powercap: Path = POWERCAP, poll_period: float = POLL_PERIOD, ring_seconds: float = 3600.0
    ) -> None:
        self._clock = clock
        self._powercap = powercap
        self._poll_period = poll_period
        self._ring_seconds = ring_seconds
        self._wall = WallClock(clock, ring_seconds)
        self._scan_due = 0.0
        # Replaced as a whole: several threads go through it.
        self._samplers: Sequence[ZoneSampler] = ()
        self._loop = BackgroundLoop("host-energy", self._poll_on_schedule)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop(timeout=1.0)

    def _poll_on_schedule(self) -> float:
        """Returns the seconds until the next poll, or look for zones, is due."""
        begun = self._clock.monotonic()
        self.poll()
        if not self._samplers:
            return SCAN_PERIOD
        return max(begun + self._poll_period - self._clock.monotonic(), 0.001)

    def poll(self) -> None:
        """Reads every counter once, in the calling thread."""
        now = self._clock.monotonic()
        if now >= self._scan_due:
            self._scan_due = now + SCAN_PERIOD
            self._scan()
        self._wall.compare()
        for sampler in self._samplers:
            sampler.poll()

    def _scan(self) -> None:
        """Adds zones that are new. One that is gone stays: its windows are known, and its reads fail visibly."""
        known = {sampler.zone for sampler in self._samplers}
        new = [zone for zone in find_zones(self._powercap) if zone not in known]
        if new:
            log.info("RAPL zones: %s", ", ".join(f"{zone.kind} {zone.package}".strip() for zone in new))
            self._samplers = [*self._samplers, *(ZoneSampler(zone, self._clock, self._ring_seconds) for zone in new)]

    def snapshot(self) -> Sequence[ZoneState]:
        """The state of every zone, without reading a file."""
        return [sampler.state() for sampler in self._samplers]

    def is_settled(self, end_unix: float) -> bool:
        """Whether every counter has passed this unix time, so that a window that ends there will not get better."""
        end = self._wall.window(end_unix, end_unix).end
        return not any(sampler.awaits_change(end) for sampler in self._samplers)

    def window(self, start_unix: float, end_unix: float) -> Sequence[tuple[RaplZone, WindowEnergy]]:
        """Estimates the energy of every zone between two unix times; reasons as GpuMonitor.window gives them."""
        window = self._wall.window(start_unix, end_unix)
        answers: list[tuple[RaplZone, WindowEnergy]] = []
        for sampler in self._samplers:
            if window.skipped:
                answers.append((sampler.zone, missing("counter", (Reason.CLOCK_STEP.value,))))
                continue
            energy = sampler.window(window.start, window.end)
            answers.append((sampler.zone, as_suspect(energy, Reason.CLOCK_STEP) if window.touches_step else energy))
        return answers
