"""Watches every GPU: a fast thread for what integrates, a slow one for the rest, and answers that touch no hardware.

The fast thread keeps an absolute schedule, so that its polls do not drift; what made it late is counted on the GPU whose call was
slow. A GPU whose counter has just moved is left alone until it can move again, which spares its driver two polls of five.
``snapshot`` and ``window`` only read what the threads left behind, so a scrape costs the driver nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil

from joulebench.catalogue import THROTTLE_REASONS
from joulebench.clock import Clock
from joulebench.energy.window import QUALITIES, WindowEnergy, missing, window_energy
from joulebench.sensors.channel import GpuChannel
from joulebench.sensors.driver import has_part_time_sensor
from joulebench.sensors.reading import GpuIdentity, GpuSource, GpuState
from joulebench.sensors.wall_clock import MonotonicWindow, WallClock
from joulebench.units import Seconds

log = logging.getLogger(__name__)

UNEVEN = 0.965
"""A poll period that divides the 100 ms of a card would find each of its changes at one place between two polls, for ever."""
LONGEST_PAUSE = 0.1
"""Seconds."""


class GpuMonitor:
    """``poll_period``, ``slow_period``, ``ring_seconds``: seconds. The source stays the caller's to close, after ``stop``."""

    def __init__(
        self,
        source: GpuSource,
        clock: Clock,
        poll_period: float = 0.02,
        slow_period: float = 1.0,
        ring_seconds: float = 3600.0,
    ) -> None:
        self._clock = clock
        self._wall = WallClock(clock, ring_seconds)
        self.channels = [
            GpuChannel(source, identity, clock, poll_period=poll_period, slow_period=slow_period, ring_seconds=ring_seconds)
            for identity in source.gpus()
        ]
        self._stop = threading.Event()
        # Held until the end, so that waiting for it is one call: an Event's wait costs as much as the polls of two GPUs.
        self._pace = threading.Lock()
        self._pace.acquire()
        self._polled = threading.Condition()
        self._waiting = 0
        self._threads = [
            threading.Thread(
                target=self._run, args=(self.poll, UNEVEN * poll_period, self._due_at), name="gpu-energy", daemon=True
            ),
            threading.Thread(target=self._run, args=(self.poll_slow, slow_period, lambda: 0.0), name="gpu-state", daemon=True),
        ]

    @property
    def clock_steps(self) -> int:
        """Times the wall clock was seen to jump."""
        return self._wall.steps

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Returns after a moment even where a call into the driver hangs: the threads are daemons."""
        if not self._stop.is_set():
            self._stop.set()
            self._pace.release()
        with self._polled:
            self._polled.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=1.0)

    def poll(self) -> None:
        """One fast read of every GPU, in the calling thread."""
        self._wall.watch()
        at: float = self._clock.monotonic()
        for channel in self.channels:
            at = channel.poll(at)
        if self._waiting:
            with self._polled:
                self._polled.notify_all()

    def poll_slow(self) -> None:
        """One slow read of every GPU, in the calling thread."""
        for channel in self.channels:
            channel.poll_slow()

    def snapshot(self) -> Sequence[GpuState]:
        now = self._clock.monotonic()
        return [channel.state(now, self._wall) for channel in self.channels]

    def window(self, start_unix: float, end_unix: float, wait: float = 0.0) -> Sequence[tuple[GpuIdentity, WindowEnergy]]:
        """Energy of every GPU between two unix times; waits up to ``wait`` seconds until the counters have passed the end.

        Reasons beyond those of ``window_energy``: ``clock_step``, ``counter_disagrees`` (with the power it was checked
        against), ``part_time_sensor``.
        """
        self._await_changes(self._wall.window(start_unix, end_unix).end, wait)
        asked = self._wall.window(start_unix, end_unix)
        return [(channel.identity, _energy(channel, asked)) for channel in self.channels]

    def throttled(self, start_unix: float, end_unix: float) -> Sequence[tuple[GpuIdentity, Mapping[str, Seconds | None]]]:
        """Seconds for which each reason held the clocks of every GPU down between two unix times; None where it is not known,
        as in a window whose times are ambiguous because the wall clock was set. Never waits: ask for the ``window`` before."""
        asked = self._wall.window(start_unix, end_unix)
        unknown: Mapping[str, Seconds | None] = dict.fromkeys(THROTTLE_REASONS)
        return [
            (channel.identity, unknown if asked.touches_step else channel.throttled(asked.start, asked.end))
            for channel in self.channels
        ]

    def _await_changes(self, end: float, wait: float) -> None:
        deadline = self._clock.monotonic() + wait
        with self._polled:
            self._waiting += 1
            try:
                while not self._stop.is_set() and any(channel.awaits_change(end) for channel in self.channels):
                    left = deadline - self._clock.monotonic()
                    if left <= 0:
                        return
                    self._polled.wait(left)
            finally:
                self._waiting -= 1

    def _due_at(self) -> float:
        """When the first GPU is due, but soon in any case: the wall clock has to be watched."""
        return min(self._clock.monotonic() + LONGEST_PAUSE, *(channel.due_at for channel in self.channels))

    def _run(self, poll: Callable[[], None], period: float, due_at: Callable[[], float]) -> None:
        due: float = self._clock.monotonic()
        puzzled = False
        while not self._stop.is_set():
            try:
                poll()
                puzzled = False
            except Exception:
                # The thread goes on, or every GPU would stand still; what was not polled is soon down, which shows.
                if not puzzled:
                    log.exception("a poll of all GPUs failed")
                puzzled = True
            now = self._clock.monotonic()
            # Beats that passed meanwhile are left out, never made up for in a burst; those on which nothing is due, too.
            due += period * max(1, ceil((max(now, due_at()) - due) / period))
            if self._pace.acquire(timeout=max(0.0, due - now)):
                self._pace.release()


def _energy(channel: GpuChannel, asked: MonotonicWindow) -> WindowEnergy:
    meter = channel.meter
    if asked.skipped:
        return missing(meter.method, ("clock_step",))
    energy = window_energy(meter.trace, asked.start, asked.end, method=meter.method)
    doubts = []
    if asked.touches_step:
        doubts.append("clock_step")
    if meter.crosscheck.disagrees:
        doubts.append("counter_disagrees")
    quality = max(energy.quality, "suspect", key=QUALITIES.index) if doubts else energy.quality
    # What a sensor misses by design is no doubt about this window: it averages out over longer ones.
    if has_part_time_sensor(channel.identity.name):
        doubts.append("part_time_sensor")
    return replace(energy, quality=quality, reasons=(*energy.reasons, *doubts))
