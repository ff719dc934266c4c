"""A monitor over NVML over the fake library, all on one clock that only the test moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from joulebench.energy.window import WindowEnergy
from joulebench.gpu.monitor import GpuMonitor
from joulebench.gpu.nvml import NvmlSource
from joulebench.gpu.reading import GpuState
from tests.fakes.nvml import BusyFile, FakeGpu, FakeGpuScript, VirtualClock

POLL = 0.02


class Play(Protocol):
    def __call__(self, *gpus: FakeGpu, driver: str = ..., busy: bool = ..., phase: float = ...) -> Rig: ...


class Rig:
    """``phase``: seconds by which polls are out of beat with the counter's steps."""

    def __init__(self, directory: Path, gpus: tuple[FakeGpu, ...], *, driver: str, busy: bool, phase: float) -> None:
        self.clock = VirtualClock(directory / "clock")
        self.busy = BusyFile(directory / "busy", self.clock) if busy else None
        self.script = FakeGpuScript(gpus, driver=driver, busy=self.busy, clock=self.clock)
        self.path = self.script.write(directory / "script")
        self._phase = phase
        self._polls = 0

    def open(self) -> None:
        self.source = NvmlSource()
        self.monitor = GpuMonitor(self.source, self.clock, poll_period=POLL)

    @property
    def now(self) -> float:
        """Seconds since the origin."""
        return self.clock.monotonic() - self.script.origin_monotonic

    def run(self, until: float, at_poll: Callable[[], None] = lambda: None) -> None:
        """Polls on the beat, as the threads would, until that many seconds since the origin."""
        while (due := self._polls * POLL + self._phase) <= until + 1e-9:
            self.clock.advance_to(self.script.origin_monotonic + due)
            at_poll()
            self.monitor.poll()
            if self._polls % 50 == 0:
                self.monitor.poll_state()
            self._polls = max(self._polls + 1, int((self.now - self._phase) / POLL))

    def window(self, start: float, end: float, gpu: int = 0) -> WindowEnergy:
        """A window in seconds since the origin, asked in the unix times of an undisturbed wall clock."""
        return self.monitor.window(self.script.origin_unix + start, self.script.origin_unix + end)[gpu][1]

    def truth(self, start: float, end: float, gpu: int = 0) -> float:
        return self.script.joules_at(gpu, start, end)

    def state(self, gpu: int = 0) -> GpuState:
        return self.monitor.snapshot()[gpu]
