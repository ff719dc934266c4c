"""How often a card is asked, and that nothing that goes wrong in a poll passes for a reading or ends the polling."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from joulebench.clock import SystemClock
from joulebench.gpu.monitor import GpuMonitor
from joulebench.gpu.reading import NO_STATE, CounterReading, GpuIdentity, StateReading
from joulebench.gpu.simulated import SimulatedSource
from joulebench.units import Joules, Ratio, Seconds, Watts
from tests.fakes.nvml import During, Every, FakeGpu, VirtualClock, fails, field_fails
from tests.unit.gpu.rig import POLL, Play

FIELDS = "nvmlDeviceGetFieldValues"


def test_a_power_field_that_comes_and_goes_is_never_an_old_value(play: Play) -> None:
    rig = play(FakeGpu(faults=(field_fails(186, Every(2)),)))
    rig.clock.advance(1.01)
    powers = {rig.source.devices()[0].read_counters().power for _ in range(4)}
    assert powers == {None, 50.0}


def test_power_that_has_long_been_the_same_outlives_one_failed_poll(play: Play) -> None:
    rig = play(FakeGpu(step=60.0, faults=(fails(FIELDS, During(3.0, 3.05), code=999),)))
    rig.run(3.03)
    state = rig.state()
    assert (state.power, state.read_errors["fast"]) == (50.0, 2)


class OneGpu:
    """A source of one GPU whose readings are what the test says."""

    name = "test"
    power_ceiling = None
    power_averaging = Seconds(0.0)
    identity = GpuIdentity(0, "GPU-test", "Card", "unknown", "580.95.05")

    def __init__(self, counters: Callable[[], CounterReading], state: Callable[[], StateReading] = StateReading) -> None:
        self._counters, self._state = counters, state

    def devices(self) -> Sequence[OneGpu]:
        return [self]

    def read_counters(self) -> CounterReading:
        return self._counters()

    def read_state(self) -> StateReading:
        return self._state()

    def read_residents(self) -> dict[str, None]:
        return {}

    def read_processes(self, since: Seconds) -> None:
        return None

    def scan(self) -> Sequence[str]:
        return ()

    def process_name(self, pid: int) -> None:
        return None

    def close(self) -> None:
        pass


def good(clock: VirtualClock) -> CounterReading:
    return CounterReading(Joules(round(clock.monotonic(), 1) * 100), Watts(100.0))


def strange(reading: CounterReading) -> CounterReading:
    """One that the meter cannot take."""
    return reading._replace(energy="no number")  # type: ignore[arg-type]


@pytest.fixture
def clock(tmp_path: Path) -> VirtualClock:
    return VirtualClock(tmp_path / "clock")


@pytest.mark.parametrize("where", ["while reading", "while taking the reading in"])
def test_an_unforeseen_fault_shows_as_a_gpu_that_is_down_and_ends_with_it(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    begun = clock.monotonic()

    def fast() -> CounterReading:
        if not 5 <= clock.monotonic() - begun < 10:
            return good(clock)
        if where == "while reading":
            raise RuntimeError("nobody thought of this")
        return strange(good(clock))

    monitor = GpuMonitor(OneGpu(fast), clock)

    def run(until: float) -> None:
        while clock.monotonic() - begun < until:
            monitor.poll()
            clock.advance(POLL)

    run(5)
    assert monitor.snapshot()[0].up
    with caplog.at_level(logging.WARNING):
        run(9)
    down = monitor.snapshot()[0]
    assert (down.up, down.power) == (False, None)
    assert down.read_errors["fast"] >= 100
    told = [record for record in caplog.records if record.exc_info]
    assert len(told) == 1, "told once with its traceback, not fifty times a second"
    run(25)
    back = monitor.snapshot()[0]
    assert (back.up, back.energy_resets) == (True, 0)
    assert back.energy == pytest.approx(clock.monotonic() * 100, abs=20)


def test_an_unforeseen_fault_of_slow_reads_is_told_once_and_leaves_no_old_state(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    def slow() -> StateReading:
        if clock.monotonic() > 1002:
            raise RuntimeError("nobody thought of this")
        return StateReading(utilization=Ratio(0.5))

    monitor = GpuMonitor(OneGpu(lambda: good(clock), slow), clock)
    for _ in range(8):
        monitor.poll()
        monitor.poll_state()
        clock.advance(1.0)
    monitor.poll()
    state = monitor.snapshot()[0]
    assert (state.up, state.state, state.read_errors["slow"]) == (True, NO_STATE, 5)
    assert len([record for record in caplog.records if record.exc_info]) == 1


class FaultyClock(SystemClock):
    """The system's, but its wall time cannot be read for a while once ``broken`` is set."""

    def __init__(self) -> None:
        self.broken = threading.Event()
        self.refused = threading.Semaphore(0)

    def unix(self) -> Seconds:
        if self.broken.is_set():
            self.refused.release()
            raise OSError("no wall clock")
        return SystemClock.unix()


def test_a_fault_outside_of_any_gpu_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    clock = FaultyClock()
    polled = threading.Semaphore(0)

    def fast() -> CounterReading:
        polled.release()
        return CounterReading(Joules(clock.monotonic()), Watts(100.0))

    monitor = GpuMonitor(OneGpu(fast), clock)
    monitor.start()
    try:
        assert polled.acquire(timeout=5)
        clock.broken.set()
        assert all(clock.refused.acquire(timeout=5) for _ in range(3))
        clock.broken.clear()
        while polled.acquire(blocking=False):
            pass
        assert polled.acquire(timeout=5), "it polls again"
    finally:
        monitor.stop()
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_fast_and_slow_reads_of_the_simulation_never_meet(clock: VirtualClock) -> None:
    inside = threading.Lock()
    entered, leave = threading.Event(), threading.Event()
    met: list[bool] = []

    def load() -> Ratio:
        met.append(not inside.acquire(blocking=False))
        entered.set()
        leave.wait(5)
        inside.release()
        return Ratio(0.5)

    source = SimulatedSource(1, clock=clock, load=load)
    clock.advance(1.0)
    fast = threading.Thread(target=source.devices()[0].read_counters)
    slow = threading.Thread(target=source.devices()[0].read_state)
    fast.start()
    assert entered.wait(5)
    slow.start()
    slow.join(0.2)
    assert slow.is_alive(), "it waits for the fast read"
    leave.set()
    fast.join()
    slow.join()
    assert met == [False], "and then finds the load just read"
