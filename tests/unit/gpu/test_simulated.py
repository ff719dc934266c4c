"""The simulation is honest about being one, and its counter is the integral of the power it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulebench.devices import parse_devices
from joulebench.errors import UserError
from joulebench.gpu.monitor import GpuMonitor
from joulebench.gpu.simulated import IDLE_WATTS, LIMIT_WATTS, CpuLoad, SimulatedSource, ThrottleSchedule
from joulebench.units import Ratio
from tests.fakes.nvml import VirtualClock


@pytest.fixture
def clock(tmp_path: Path) -> VirtualClock:
    return VirtualClock(tmp_path / "clock")


def test_simulated_gpus_cannot_be_taken_for_real_ones(clock: VirtualClock) -> None:
    source = SimulatedSource(2, clock=clock)
    assert source.name == "simulated"
    assert [(gpu.identity.index, gpu.identity.uuid, gpu.identity.name) for gpu in source.devices()] == [
        (0, "SIMULATED-0", "Simulated GPU 0"),
        (1, "SIMULATED-1", "Simulated GPU 1"),
    ]


def test_the_gpus_of_two_hosts_have_ids_of_their_host() -> None:
    uuids = [gpu.identity.uuid for host in ("box-a", "box-b") for gpu in SimulatedSource(2, host=host).devices()]
    assert uuids == ["SIMULATED-box-a-0", "SIMULATED-box-a-1", "SIMULATED-box-b-0", "SIMULATED-box-b-1"]
    assert [name.name for name in parse_devices(uuids, "gpus")] == uuids


def test_the_counter_is_the_integral_of_the_power_shown_up_to_the_last_step(clock: VirtualClock) -> None:
    loads = iter([0.0, 0.5, 1.0, 0.25] * 100)
    source = SimulatedSource(1, clock=clock, load=lambda: Ratio(next(loads)))
    truth, at_last_step, power = 0.0, 0.0, IDLE_WATTS
    for poll in range(1, 500):
        clock.advance(0.02)
        truth += power * 0.02
        reading = source.devices()[0].read_counters()
        if poll % 5 == 0:
            at_last_step = truth
        assert reading.energy == pytest.approx(at_last_step, abs=0.01)
        assert reading.power is not None
        power = reading.power


def test_the_first_gpu_is_as_busy_as_the_cpu_and_the_others_idle(clock: VirtualClock) -> None:
    source = SimulatedSource(2, clock=clock, load=lambda: Ratio(0.5))
    clock.advance(1.0)
    assert source.devices()[0].read_counters().power == pytest.approx(IDLE_WATTS + 0.5 * (LIMIT_WATTS - IDLE_WATTS))
    assert source.devices()[1].read_counters().power == pytest.approx(IDLE_WATTS)
    assert source.devices()[0].read_state().utilization == pytest.approx(0.5)
    assert source.devices()[1].read_state().utilization == pytest.approx(0.0)


def test_an_overheating_gpu_throttles_recovers_and_counts_the_time(clock: VirtualClock) -> None:
    source = SimulatedSource(2, "overheating", clock=clock, load=lambda: Ratio(0.0))
    hot_seconds, hottest, lowest_margin = 0.0, 0.0, 100.0
    for _ in range(1800):
        clock.advance(0.05)
        source.devices()[1].read_counters()
        slow = source.devices()[1].read_state()
        assert slow.temperature is not None
        assert slow.temperature_margin is not None
        hottest, lowest_margin = max(hottest, slow.temperature), min(lowest_margin, slow.temperature_margin)
        hot_seconds += 0.05 * slow.throttle_active["hw_thermal"]
    assert 90 <= hottest < 96
    assert lowest_margin <= 0
    throttled = source.devices()[1].read_counters().throttle["hw_thermal"]
    assert 3 < throttled < 45
    assert throttled == pytest.approx(hot_seconds, abs=0.2)
    assert not source.devices()[1].read_state().throttle_active["hw_thermal"], "it cools down between two hot phases"
    assert source.devices()[0].read_counters().throttle["hw_thermal"] == pytest.approx(0)


def test_a_recovering_gpu_is_held_down_by_its_timetable_and_by_nothing_else(clock: VirtualClock) -> None:
    schedule = ThrottleSchedule(40.0, clock.unix() + 10.0)
    source = SimulatedSource(2, "recovering", clock=clock, load=lambda: Ratio(0.0), schedule=schedule)
    begin = clock.monotonic() + 10.0
    sw, hw = (30.0, 70.0), (40.0, 60.0)
    celsius = {}
    for _ in range(8000):
        clock.advance(0.05)
        reading, at = source.devices()[1].read_counters(), clock.monotonic() - begin
        full, rest = divmod(max(at, 0.0), 300.0)
        for reason, (since, until) in (("sw_thermal", sw), ("hw_thermal", hw)):
            expected = full * (until - since) + min(max(rest - since, 0.0), until - since)
            assert reading.throttle[reason] == pytest.approx(expected, abs=1e-6)
        assert reading.thermal == reading.throttle["sw_thermal"]
        slow = source.devices()[1].read_state()
        assert slow.throttle_active["hw_thermal"] == (at > 0 and hw[0] <= rest < hw[1])
        assert slow.throttle_active["sw_thermal"] == (at > 0 and sw[0] <= rest < sw[1])
        celsius[round(at)] = slow.temperature or 0.0
    assert 90 <= celsius[31] <= 93, "hot when it begins"
    assert 90 <= celsius[69] <= 93
    assert celsius[3] < 40, "well before"
    assert celsius[200] < 40, "and after"
    assert celsius[331] >= 90, "and hot again five minutes later"
    assert set(source.devices()[0].read_counters().throttle.values()) == {0.0}


def test_a_timetable_that_began_long_ago_goes_on(clock: VirtualClock) -> None:
    source = SimulatedSource(
        1, "recovering", clock=clock, schedule=ThrottleSchedule(40.0, clock.unix() - 350.0), load=lambda: Ratio(0.0)
    )
    clock.advance(1.0)
    assert source.devices()[0].read_counters().throttle["sw_thermal"] == pytest.approx(40.0 + 21.0)
    assert source.devices()[0].read_counters().power == pytest.approx(IDLE_WATTS + 0.5 * (LIMIT_WATTS - IDLE_WATTS)), (
        "slower and cheaper"
    )


@pytest.mark.parametrize("length", [0.5, 121.0])
def test_a_spell_that_leaves_no_time_to_recover_is_refused(length: float) -> None:
    with pytest.raises(UserError, match=r"--simulated.throttle-seconds: [\d.]+ is not between 1 and 120 seconds"):
        ThrottleSchedule(length)


def test_a_monitor_measures_the_simulation_as_it_would_a_card(clock: VirtualClock) -> None:
    source = SimulatedSource(1, clock=clock, load=lambda: Ratio(0.2))
    monitor = GpuMonitor(source, clock)
    start = clock.unix()
    for _ in range(700):
        clock.advance(0.02)
        monitor.poll()
    state = monitor.snapshot()[0]
    assert (state.energy_method, state.up) == ("counter", True)
    assert state.energy_crosscheck == pytest.approx(1.0, abs=0.02)
    watts = IDLE_WATTS + 0.2 * (LIMIT_WATTS - IDLE_WATTS)
    assert monitor.window(start + 3, start + 13)[0][1].joules == pytest.approx(10 * watts, rel=0.005)


def test_cpu_load_is_the_busy_share_since_the_call_before(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 100 800 0 0 0 0 0 0\n")
    load = CpuLoad(stat)
    stat.write_text("cpu  160 0 115 825 0 0 0 0 0 0\n")
    assert load() == pytest.approx(0.75)
    assert load() == pytest.approx(0.0), "no time has passed"


def test_a_machine_without_proc_stat_idles(tmp_path: Path) -> None:
    assert CpuLoad(tmp_path / "missing")() == pytest.approx(0.0)


def test_an_unknown_scenario_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="steady, overheating"):
        SimulatedSource(1, "exploding")
