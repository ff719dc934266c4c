"""The exporter's sampler of a GPU whose energy is known, on a clock that the test moves: windows are asked for as they end."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from random import Random

from joulebench.energy.window import WindowEnergy
from joulebench.gpu.reading import CounterReading, GpuIdentity, ProcessUse, StateReading
from joulebench.gpu.sampler import GpuSampler
from joulebench.units import Joules, Seconds, Watts
from tests.unit.energy.truth import START, Machine, Timers

ASK_AFTER, LONGEST_WAIT = 0.15, 1.0
"""Seconds after its end that a window is asked for, and for which the exporter waits until its counter has passed the end."""


class SetClock:
    """A ``Clock`` that stands still until it is set."""

    def __init__(self) -> None:
        self.now = START

    def monotonic(self) -> Seconds:
        return Seconds(self.now)

    def unix(self) -> Seconds:
        return Seconds(self.now)


@dataclass
class KnownGpu:
    """A ``GpuDevice`` that uses the energy of ``machine``. ``averaging``: of a card without a counter, the seconds that its power
    is the mean of; 0 for a card with a counter."""

    machine: Machine
    clock: SetClock
    random: Random
    timers: Timers
    averaging: float = 0.0
    identity = GpuIdentity(0, "GPU-known", "Card", "unknown", "580.95.05")
    power_ceiling = None

    def __post_init__(self) -> None:
        self.power_averaging = Seconds(self.averaging)
        self._latest = self._update = self._following = START + self.random.uniform(0.0, self.timers.step)

    def read_counters(self) -> CounterReading:
        while self._following <= self.clock.now:
            self._latest, self._update = self._following, self._update + self.timers.step
            self._following = max(self._update + self.random.gauss(0.0, self.timers.update_jitter), self._latest)
        shown = self._latest - self.timers.lag
        if self.averaging:
            mean = self.machine.between(shown - self.averaging, shown) / self.averaging
            return CounterReading(None, Watts(floor(1000 * mean) / 1000))
        return CounterReading(Joules(floor(1000 * self.machine.energy(shown)) / 1000 + 1000.0), None)

    def read_state(self) -> StateReading:
        return StateReading()

    def read_residents(self) -> Mapping[str, Sequence[int] | None]:
        return {}

    def read_processes(self, since: Seconds) -> Sequence[ProcessUse] | None:
        return None


def sampler_of(gpu: KnownGpu) -> GpuSampler:
    ring_seconds = gpu.machine.times[-1] - START
    return GpuSampler(gpu, gpu.clock, poll_period=gpu.timers.poll, state_period=1.0, ring_seconds=ring_seconds)


def polls(gpu: KnownGpu, sampler: GpuSampler) -> Iterator[None]:
    """Polls the GPU until the end of its machine's time, and yields after each poll."""
    clock, timers = gpu.clock, gpu.timers
    due = clock.now = START + 2 * timers.step
    while clock.now < gpu.machine.times[-1]:
        sampler.poll()
        yield
        due += timers.poll
        clock.now = max(due + gpu.random.uniform(0.0, timers.poll_jitter), clock.now + 1e-4)


def ask_as_they_end(gpu: KnownGpu, windows: Sequence[tuple[float, float]]) -> list[WindowEnergy]:
    """Returns the exporter's answers, each asked for ``ASK_AFTER`` its end and waited for, as the push library does."""
    clock, timers = gpu.clock, gpu.timers
    sampler = sampler_of(gpu)
    waiting = [(end + ASK_AFTER, index) for index, (_, end) in enumerate(windows)]
    heapq.heapify(waiting)
    answers: dict[int, WindowEnergy] = {}
    for _ in polls(gpu, sampler):
        if not waiting:
            break
        while waiting and waiting[0][0] <= clock.now:
            _, index = heapq.heappop(waiting)
            start, end = windows[index]
            if sampler.awaits_change(end) and clock.now < end + ASK_AFTER + LONGEST_WAIT:
                heapq.heappush(waiting, (clock.now + timers.poll / 2, index))
            else:
                answers[index] = sampler.window(start, end)
    return [answers[index] for index in range(len(windows))]
