"""How often a card is asked, and that nothing that goes wrong in a poll passes for a reading or ends the polling."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pynvml
import pytest

from joulebench.clock import SystemClock
from joulebench.gpu.monitor import GpuMonitor
from joulebench.gpu.reading import FastReading, GpuIdentity, SlowReading
from joulebench.gpu.simulated import SimulatedSource
from joulebench.units import Joules, Ratio, Seconds, Watts
from tests.fakes.nvml import During, Every, FakeGpu, FakeGpuScript, VirtualClock, calls, environment, fails, field_fails
from tests.fakes.nvml.script import HW_THERMAL
from tests.unit.gpu.rig import POLL, Play

FIELDS = "nvmlDeviceGetFieldValues"


def test_a_card_is_left_alone_while_its_counter_cannot_move(play: Play) -> None:
    rig = play(FakeGpu(step=0.1013, power=((0.0, 80.0), (20.0, 300.0), (21.3, 90.0))))
    rig.run(15)
    before, polls = calls(FIELDS, 0), rig.state().polls
    rig.run(35)
    steps = 20 / 0.1013
    assert calls(FIELDS, 0) - before == rig.state().polls - polls
    assert 2 * steps < calls(FIELDS, 0) - before < 3.5 * steps
    widths = rig.monitor.channels[0].meter.trace.view(20, 30).uncertainty
    assert max(widths) <= POLL + 1e-6, "and no change is found later for it"
    energy = rig.window(20.0, 21.3)
    assert energy.joules == pytest.approx(rig.truth(20.0, 21.3), rel=0.02)


def test_a_counter_that_moves_with_every_poll_or_no_beat_is_polled_as_ever(play: Play) -> None:
    rig = play(
        FakeGpu(step=0.02), FakeGpu(faults=(field_fails(191), field_fails(83), fails("nvmlDeviceGetTotalEnergyConsumption")))
    )
    rig.run(10)
    assert [rig.state(gpu).polls for gpu in (0, 1)] == [501, 501]


def test_a_poll_that_says_nothing_new_returns_the_very_reading_of_before(play: Play) -> None:
    rig = play(FakeGpu(reasons=((0.0, 0.0), (1.05, HW_THERMAL))))
    rig.clock.advance(1.01)
    first = rig.source.read_fast(0)
    rig.clock.advance(0.02)
    assert rig.source.read_fast(0) is first
    rig.clock.advance(0.04)
    throttled = rig.source.read_fast(0)
    assert (throttled.energy, throttled.power) == (first.energy, first.power)
    assert throttled.throttle["hw_thermal"] == pytest.approx(0.02, abs=1e-6), "a counter of another kind moved"
    rig.clock.advance(0.03)
    moved = rig.source.read_fast(0)
    assert moved.energy is not None
    assert first.energy is not None
    assert moved.energy - first.energy == pytest.approx(5.0)


def test_a_power_field_that_comes_and_goes_is_never_an_old_value(play: Play) -> None:
    rig = play(FakeGpu(faults=(field_fails(186, Every(2)),)))
    rig.clock.advance(1.01)
    powers = {rig.source.read_fast(0).power for _ in range(4)}
    assert powers == {None, 50.0}


def test_power_that_has_long_been_the_same_outlives_one_failed_poll(play: Play) -> None:
    rig = play(FakeGpu(step=60.0, faults=(fails(FIELDS, During(3.0, 3.05), code=999),)))
    rig.run(3.03)
    state = rig.state()
    assert (state.power, state.read_errors["fast"]) == (50.0, 2)


READ = """
import pynvml
assert not hasattr(pynvml, "_nvmlGetFunctionPointer")
from joulebench.gpu.nvml import NvmlSource
reading = NvmlSource().read_fast(0)
print(reading.energy >= 1000, reading.power, sorted(reading.throttle))
"""


def test_a_binding_that_hides_its_function_pointers_is_asked_by_its_wrapper(tmp_path: Path) -> None:
    script = FakeGpuScript([FakeGpu()]).write(tmp_path / "script")
    real = Path(pynvml.__file__).read_text(encoding="utf-8")
    (tmp_path / "pynvml.py").write_text(real.replace("_nvmlGetFunctionPointer", "_hidden"), encoding="utf-8")
    variables = {**os.environ, **environment(script), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", READ], env=variables, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == "True 50.0 ['hw_power_brake', 'hw_thermal', 'sw_power_cap', 'sw_thermal', 'sync_boost']\n"


class OneCard:
    """A source whose fast and slow reads are what the test says."""

    name = "test"

    def __init__(self, fast: Callable[[], FastReading], slow: Callable[[], SlowReading] = SlowReading) -> None:
        self._fast, self._slow = fast, slow

    def gpus(self) -> Sequence[GpuIdentity]:
        return [GpuIdentity(0, "GPU-test", "Card", "unknown", "580.95.05")]

    def read_fast(self, index: int) -> FastReading:
        assert index == 0
        return self._fast()

    def read_slow(self, index: int) -> SlowReading:
        assert index == 0
        return self._slow()

    def close(self) -> None:
        pass


def good(clock: VirtualClock) -> FastReading:
    return FastReading(Joules(round(clock.monotonic(), 1) * 100), Watts(100.0))


def strange(reading: FastReading) -> FastReading:
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

    def fast() -> FastReading:
        if not 5 <= clock.monotonic() - begun < 10:
            return good(clock)
        if where == "while reading":
            raise RuntimeError("nobody thought of this")
        return strange(good(clock))

    monitor = GpuMonitor(OneCard(fast), clock)

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
    def slow() -> SlowReading:
        if clock.monotonic() > 1002:
            raise RuntimeError("nobody thought of this")
        return SlowReading(utilization=Ratio(0.5))

    monitor = GpuMonitor(OneCard(lambda: good(clock), slow), clock)
    for _ in range(8):
        monitor.poll()
        monitor.poll_slow()
        clock.advance(1.0)
    monitor.poll()
    state = monitor.snapshot()[0]
    assert (state.up, state.slow, state.read_errors["slow"]) == (True, None, 5)
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

    def fast() -> FastReading:
        polled.release()
        return FastReading(Joules(clock.monotonic()), Watts(100.0))

    monitor = GpuMonitor(OneCard(fast), clock)
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


def test_one_idle_card_lets_the_thread_sleep_through_beats(tmp_path: Path) -> None:
    clock = SystemClock()
    seen: list[float] = []

    def fast() -> FastReading:
        seen.append(clock.monotonic())
        return FastReading(Joules(int(seen[-1] * 10) * 5.0), Watts(50.0))

    monitor = GpuMonitor(OneCard(fast), clock)
    monitor.start()
    try:
        begin = clock.unix()
        monitor.window(begin, begin + 2.5, wait=10.0)
    finally:
        monitor.stop()
    late = [at for at in seen if at > seen[0] + 1.5]
    assert len(late) < 45 * (late[-1] - late[0]), "fewer than 50 a second, and enough to see each of ten steps"
    assert len(late) > 15 * (late[-1] - late[0])


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
    fast = threading.Thread(target=source.read_fast, args=(0,))
    slow = threading.Thread(target=source.read_slow, args=(0,))
    fast.start()
    assert entered.wait(5)
    slow.start()
    slow.join(0.2)
    assert slow.is_alive(), "it waits for the fast read"
    leave.set()
    fast.join()
    slow.join()
    assert met == [False], "and then finds the load just read"


@pytest.mark.parametrize("jitter", [0.0, 0.002, 0.005, 0.02])
def test_a_counter_that_strays_from_its_beat_is_bracketed_as_closely_as_one_that_keeps_it(
    clock: VirtualClock, jitter: float
) -> None:
    random = Random(1)
    begun = clock.monotonic()
    changes = [begun + index * 0.1 + random.uniform(-jitter, jitter) for index in range(1, 800)]

    def fast() -> FastReading:
        return FastReading(Joules(20.0 * bisect_right(changes, clock.monotonic())), Watts(200.0))

    monitor = GpuMonitor(OneCard(fast), clock)
    due: float = begun
    while due < begun + 70:
        clock.advance_to(due)
        monitor.poll()
        due += 0.965 * POLL
    trace = monitor.channels[0].meter.trace.view(begun + 30, begun + 65)
    inside = [
        min(abs(at - change) for change in changes) <= width + 1e-9 for at, width in zip(trace.at, trace.uncertainty, strict=True)
    ]
    assert all(inside), "bounds hold whatever the counter does"
    wide = sum(width > POLL for width in trace.uncertainty)
    assert wide <= 0.03 * len(trace.at)
    polls_a_step = monitor.snapshot()[0].polls / 700
    assert polls_a_step < (3.0 if jitter <= 0.005 else 5.3)
