"""Watches every GPU: a fast thread for what integrates, a slow one for the rest, and answers that touch no hardware.

The fast thread keeps an absolute schedule, so that its polls do not drift; what made it late is counted on the GPU whose call was
slow. A GPU is polled shortly before its counter is due to move and until it has, which spares its driver three polls of five.
``snapshot`` and ``window`` only read what the threads left behind, so a scrape costs the driver nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from joulebench.clock import Clock
from joulebench.energy.window import QUALITIES, WindowEnergy, missing, window_energy
from joulebench.gpu.channel import GpuChannel
from joulebench.gpu.driver import has_part_time_sensor
from joulebench.gpu.reading import GpuIdentity, GpuSource, GpuState
from joulebench.gpu.wall_clock import MonotonicWindow, WallClock
from joulebench.metrics import THROTTLE_REASONS
from joulebench.units import Seconds

log = logging.getLogger(__name__)

UNEVEN = 0.965
"""A poll period that divides the 100 ms of a card would find each of its changes at one place between two polls, for ever."""
LONGEST_PAUSE = 0.1
"""Seconds between two looks at the wall clock."""
PLAN_SECONDS = 0.3
"""Between two times that what the polls put down is taken in, where nobody asks before."""


ForeignUses = Callable[[int, float, float], bool]
"""Whether a foreign program was seen on the GPU of this index between two monotonic times."""


class GpuMonitor:
    """``poll_period``, ``slow_period``, ``ring_seconds``: seconds. The source stays the caller's to close, after ``stop``."""

    def __init__(
        self,
        source: GpuSource,
        clock: Clock,
        poll_period: float = 0.02,
        slow_period: float = 1.0,
        ring_seconds: float = 3600.0,
        *,
        foreign_use: ForeignUses = lambda *_: False,
    ) -> None:
        self._foreign_use = foreign_use
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
        self._watch_at = self._plan_at = 0.0
        self._polled = threading.Condition()
        self._waiting = 0
        self._threads = [
            threading.Thread(target=self._run, args=(self.poll, UNEVEN * poll_period), name="gpu-energy", daemon=True),
            threading.Thread(target=self._run, args=(self.poll_slow, slow_period), name="gpu-state", daemon=True),
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

    def poll(self) -> float:
        """One fast read of every GPU that is due, in the calling thread; returns when the next is."""
        at: float = self._clock.monotonic()
        soonest = self._watch_at
        if at >= soonest:
            self._wall.watch()
            soonest = self._watch_at = at + LONGEST_PAUSE
        for channel in self.channels:
            if at >= channel.due_at:
                at = channel.poll(at)
            due_at = channel.due_at
            if due_at < soonest:  # noqa: PLR1730 - a call of min costs more than all of this
                soonest = due_at
        if at >= self._plan_at:
            self._plan_at = at + PLAN_SECONDS
            for channel in self.channels:
                channel.plan()
        if self._waiting:
            with self._polled:
                self._polled.notify_all()
        return soonest

    def poll_slow(self) -> float:
        """One slow read of every GPU, in the calling thread."""
        for channel in self.channels:
            channel.poll_slow()
        return 0.0

    def snapshot(self) -> Sequence[GpuState]:
        now = self._clock.monotonic()
        return [channel.state(now, self._wall) for channel in self.channels]

    def window(self, start_unix: float, end_unix: float, wait: float = 0.0) -> Sequence[tuple[GpuIdentity, WindowEnergy]]:
        """Energy of every GPU between two unix times; waits up to ``wait`` seconds until the counters have passed the end.

        Reasons beyond those of ``window_energy``: ``clock_step``, ``counter_disagrees`` (with the power it was checked
        against), ``foreign_process`` (as far as it was seen by now), ``part_time_sensor``.
        """
        self._await_changes(self._wall.window(start_unix, end_unix).end, wait)
        asked = self._wall.window(start_unix, end_unix)
        return [(channel.identity, _energy(channel, asked, self._foreign_use)) for channel in self.channels]

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

    def _run(self, poll: Callable[[], float], period: float) -> None:
        """``poll`` says from when on there is something to do; beats before that are slept through."""
        monotonic, stopped = self._clock.monotonic, self._pace.acquire
        due: float = monotonic()
        puzzled = False
        while True:
            soonest = 0.0
            try:
                soonest = poll()
                puzzled = False
            except Exception:
                # The thread goes on, or every GPU would stand still; what was not polled is soon down, which shows.
                if not puzzled:
                    log.exception("a poll of all GPUs failed")
                puzzled = True
            now: float = monotonic()
            # Beats that passed meanwhile are left out, never made up for in a burst.
            due += period * (1 + max(0, int(((soonest if soonest > now else now) - due) / period)))
            if stopped(True, max(0.0, due - now)):
                self._pace.release()
                return


def _energy(channel: GpuChannel, asked: MonotonicWindow, foreign_use: ForeignUses) -> WindowEnergy:
    channel.settle()
    meter = channel.meter
    if asked.skipped:
        return missing(meter.method, ("clock_step",))
    energy = window_energy(meter.trace, asked.start, asked.end, method=meter.method)
    doubts = []
    if asked.touches_step:
        doubts.append("clock_step")
    if meter.crosscheck.disagrees:
        doubts.append("counter_disagrees")
    if foreign_use(channel.identity.index, asked.start, asked.end):
        doubts.append("foreign_process")
    quality = max(energy.quality, "suspect", key=QUALITIES.index) if doubts else energy.quality
    # What a sensor misses by design is no doubt about this window: it averages out over longer ones.
    if has_part_time_sensor(channel.identity.name):
        doubts.append("part_time_sensor")
    return replace(energy, quality=quality, reasons=(*energy.reasons, *doubts))
