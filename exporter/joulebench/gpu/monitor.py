"""Monitors every GPU: one thread polls the counters at 50 Hz, another reads the rest once a second.

The fast thread keeps an absolute schedule, so its polls do not drift. ``snapshot`` and ``window`` only read what the threads
recorded, so a scrape costs the driver nothing and never waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from joulebench.clock import Clock, sleep_briefly
from joulebench.energy.window import WindowEnergy, missing
from joulebench.gpu.device_use import DeviceUseHistory, GpuUse, InstanceUse, OwnerName
from joulebench.gpu.nvml_calls import has_part_time_sensor
from joulebench.gpu.reading import GpuDevice, GpuIdentity, GpuSource, GpuState, ProcessSummary
from joulebench.gpu.sampler import GpuSampler, as_suspect
from joulebench.gpu.wall_clock import MonotonicWindow, WallClock
from joulebench.metrics import THROTTLE_REASONS
from joulebench.schema.reasons import Reason
from joulebench.supervise import BackgroundLoop
from joulebench.units import Seconds

log = logging.getLogger(__name__)

UNEVEN = 0.965
"""A poll period that divides a GPU's 100 ms step would meet each of its changes at the same place between two polls."""
FIRST_SCAN, LAST_SCAN = 1.0, 60.0
"""Seconds between two looks for GPUs that came or went."""
WALL_CLOCK_PERIOD = 0.1
"""Seconds between two comparisons of wall clock and monotonic clock."""


class ProcessObserver(Protocol):
    """Who uses each GPU, as processes.ProcessPoller records it."""

    def summary(self, index: int) -> ProcessSummary: ...

    def set_devices(self, devices: Sequence[GpuDevice]) -> None:
        """The GPUs that are there now."""
        ...

    def has_foreign_use(self, index: int, start: float, end: float) -> bool:
        """Whether a foreign program used the GPU between two monotonic times."""
        ...

    @property
    def use(self) -> DeviceUseHistory:
        """Which owners used each GPU, in monotonic time."""
        ...

    def poll_unless_after(self, monotonic: float) -> None:
        """Reads the processes of every GPU, unless the last read was after this time."""
        ...


class GpuMonitor:
    """``poll_period``, ``state_period``, ``ring_seconds``: seconds. The caller closes the source after ``stop``."""

    def __init__(
        self,
        source: GpuSource,
        clock: Clock,
        poll_period: float = 0.02,
        state_period: float = 1.0,
        ring_seconds: float = 3600.0,
        *,
        processes: ProcessObserver | None = None,
    ) -> None:
        self._clock = clock
        self._processes = processes
        self._wall = WallClock(clock, ring_seconds)
        self._wall_due = 0.0
        self._source = source
        self._poll_period = poll_period
        self._state_period = state_period
        self._ring_seconds = ring_seconds
        self._unreadable: Sequence[str] = ()
        self._scanned = False
        self._scan_pause = FIRST_SCAN
        # Replaced as a whole: several threads go through it.
        self.samplers: Sequence[GpuSampler] = [self._sampler(device) for device in source.devices()]
        self._pace = UNEVEN * poll_period
        self._due = 0.0
        self._loops = [
            BackgroundLoop("gpu-energy", self._poll_on_schedule, max_error_pause=poll_period),
            BackgroundLoop("gpu-state", self.poll_state),
            BackgroundLoop("gpu-scan", self._scan_on_schedule),
        ]

    def _sampler(self, device: GpuDevice) -> GpuSampler:
        return GpuSampler(
            device,
            self._clock,
            poll_period=self._poll_period,
            state_period=self._state_period,
            ring_seconds=self._ring_seconds,
        )

    @property
    def source_name(self) -> str:
        """Name of the source; ``none`` as long as it has no GPU."""
        return self._source.name if self.samplers else "none"

    @property
    def expected_gpus(self) -> int | None:
        """GPUs that are there, readable or not, and those that were there within the ring; None before there was any."""
        if not self.samplers:
            return None
        unnamed = len(self._unreadable) - sum(sampler.is_down for sampler in self.samplers)
        return len(self.samplers) + max(unnamed, 0)

    @property
    def has_unnamed_gpus(self) -> bool:
        """Whether a GPU is there that could not be named yet, so that its energy is in no answer."""
        return self.expected_gpus is not None and self.expected_gpus > len(self.samplers)

    def _scan_on_schedule(self) -> float:
        # The first scan was made when the source was opened.
        pause = self._scan_pause
        if self._scanned:
            pause = self.scan()
        self._scanned = True
        return pause

    def scan(self) -> float:
        """Looks for GPUs that came, changed their index or are gone for good. Returns the seconds until the next scan.

        The pause grows while something is wrong: from ``FIRST_SCAN`` to ``LAST_SCAN``, which is the usual one.
        """
        self._unreadable = self._source.scan()
        devices = self._source.devices()
        known = {sampler.device.identity.uuid for sampler in self.samplers}
        present = {device.identity.uuid for device in devices}
        forgotten_before = self._clock.monotonic() - self._ring_seconds
        kept = [
            sampler for sampler in self.samplers if sampler.device.identity.uuid in present or sampler.good_at >= forgotten_before
        ]
        new = [device for device in devices if device.identity.uuid not in known]
        for device in new:
            log.info("GPU %d (%s) is there now", device.identity.index, device.identity.name)
        if new or len(kept) < len(self.samplers):
            self.samplers = sorted([*kept, *map(self._sampler, new)], key=lambda sampler: sampler.identity.index)
        if self._processes is not None:
            self._processes.set_devices(devices)
        healthy = self.samplers and not self._unreadable and not any(sampler.is_down for sampler in self.samplers)
        self._scan_pause = LAST_SCAN if healthy else min(2 * self._scan_pause, LAST_SCAN)
        if new:
            self._scan_pause = FIRST_SCAN
        return self._scan_pause

    @property
    def clock_steps(self) -> int:
        """Times that the wall clock jumped."""
        return self._wall.steps

    def start(self) -> None:
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """Returns after a moment even where a call into the driver hangs: the threads are daemons."""
        for loop in self._loops:
            loop.stop(timeout=1.0)

    def poll(self) -> None:
        """Reads the counters of every GPU once, in the calling thread."""
        now = self._clock.monotonic()
        if now >= self._wall_due:
            self._wall_due = now + WALL_CLOCK_PERIOD
            self._wall.compare()
        for sampler in self.samplers:
            sampler.poll()

    def _poll_on_schedule(self) -> float:
        """Waits until the next poll is due, and makes it. Polls that are overdue are left out, never made up for in a burst."""
        pause = self._due - self._clock.monotonic()
        if pause > 0:
            sleep_briefly(min(pause, self._pace))
        begun = self._clock.monotonic()
        if begun - self._due > self._pace:
            self._due = begun
        self.poll()
        self._due += self._pace
        return 0.0

    def poll_state(self) -> float:
        """Reads the state of every GPU once, in the calling thread. Returns the seconds until the next read."""
        for sampler in self.samplers:
            sampler.poll_state()
        return self._state_period

    def snapshot(self) -> Sequence[GpuState]:
        now = self._clock.monotonic()
        return [sampler.snapshot(now, self._wall, self._process_summary(sampler)) for sampler in self.samplers]

    def _process_summary(self, sampler: GpuSampler) -> ProcessSummary:
        return ProcessSummary() if self._processes is None else self._processes.summary(sampler.identity.index)

    def is_settled(self, end_unix: float) -> bool:
        """Whether every GPU's counter has passed this unix time, so that a window that ends there will not get better."""
        end = self._wall.window(end_unix, end_unix).end
        return not any(sampler.awaits_change(end) for sampler in self.samplers)

    def window(self, start_unix: float, end_unix: float) -> Sequence[tuple[GpuIdentity, WindowEnergy]]:
        """Estimates the energy of every GPU between two unix times, by what is known now.

        Reasons beyond those of ``window_energy``: ``clock_step``, ``counter_disagrees`` (with the power it was checked
        against), ``foreign_process`` (as far as it was seen by now), ``part_time_sensor``.
        """
        window = self._wall.window(start_unix, end_unix)
        return [(sampler.identity, self._window_energy(sampler, window)) for sampler in self.samplers]

    def parts(
        self, edges_unix: Sequence[float], uncertainty: float, changes_unix: Sequence[float] = ()
    ) -> Sequence[tuple[GpuIdentity, Sequence[WindowEnergy]]]:
        """Estimates the energy of every GPU between each two neighbouring unix times; none where the wall clock was set.

        ``uncertainty``: seconds by which any edge may be off; the bounds hold for all of it. ``changes_unix``: further times at
        which power may change.
        """
        window = self._wall.window(edges_unix[0], edges_unix[-1])
        if window.skipped or window.touches_step:
            return []
        edges, changes = ([window.start + (at - edges_unix[0]) for at in times] for times in (edges_unix, changes_unix))
        return [(sampler.identity, sampler.parts(edges, uncertainty, changes)) for sampler in self.samplers]

    def _window_energy(self, sampler: GpuSampler, window: MonotonicWindow) -> WindowEnergy:
        if window.skipped:
            return missing(sampler.energy_method, (Reason.CLOCK_STEP.value,))
        energy = sampler.window(window.start, window.end)
        if window.touches_step:
            energy = as_suspect(energy, Reason.CLOCK_STEP)
        if self._processes is not None and self._processes.has_foreign_use(sampler.identity.index, window.start, window.end):
            energy = as_suspect(energy, Reason.FOREIGN_PROCESS)
        # A property of the sensor, not of this window: it averages out over longer windows, so the quality stays.
        if has_part_time_sensor(sampler.identity.name, sampler.identity.architecture):
            energy = replace(energy, reasons=(*energy.reasons, Reason.PART_TIME_SENSOR.value))
        return energy

    def device_use(self, owner: OwnerName | None, start_unix: float, end_unix: float) -> Sequence[GpuUse | None]:
        """Returns how every GPU was used between two unix times: by the owner, by others; None where that is unknown."""
        if self._processes is None:
            return [None] * len(self.samplers)
        window = self._wall.window(start_unix, end_unix)
        use = self._processes.use
        return [use.use(sampler.identity.uuid, owner, window.start, window.end) for sampler in self.samplers]

    def instance_use(self, owner: OwnerName | None, start_unix: float, end_unix: float) -> Sequence[Sequence[InstanceUse]]:
        """Returns the MIG instances of every GPU between two unix times, and how each was used; none where MIG is off."""
        window = self._wall.window(start_unix, end_unix)
        use = None if self._processes is None else self._processes.use
        return [
            [
                InstanceUse(instance, None if use is None else use.use(instance.uuid, owner, window.start, window.end), activity)
                for instance, activity in sampler.instances(window.start, window.end)
            ]
            for sampler in self.samplers
        ]

    def refresh_use(self, until_unix: float) -> None:
        """Reads the processes of all GPUs unless they were read after this unix time."""
        if self._processes is not None:
            self._processes.poll_unless_after(self._wall.window(until_unix, until_unix).end)

    def throttled(self, start_unix: float, end_unix: float) -> Sequence[tuple[GpuIdentity, Mapping[str, Seconds | None]]]:
        """Returns the seconds for which each reason reduced the clocks of every GPU between two unix times.

        None where they are unknown, as in a window whose times are ambiguous because the wall clock was set.
        """
        window = self._wall.window(start_unix, end_unix)
        unknown: Mapping[str, Seconds | None] = dict.fromkeys(THROTTLE_REASONS)
        return [
            (sampler.identity, unknown if window.touches_step else sampler.throttled(window.start, window.end))
            for sampler in self.samplers
        ]
