"""The monitor over known joules: windows against the truth, and each fault as what it should look like."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from joulebench.gpu.nvml import NvmlSource
from joulebench.gpu.reading import NO_STATE
from tests.fakes.nvml import During, Every, FakeGpu, Fault, OnCalls, calls, fails, field_answers, field_fails, gone, slow
from tests.fakes.nvml.script import HW_THERMAL, SW_POWER_CAP, SW_THERMAL
from tests.unit.gpu.rig import POLL, Play, Rig

GETTER = "nvmlDeviceGetTotalEnergyConsumption"
NO_COUNTER = (field_fails(191), field_fails(83), fails(GETTER))
ENERGY, POWER = 191, 186


def agent_work(seed: int, seconds: float) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(power curve, tasks): each task begins and ends where power jumps, as inference on a card does."""
    chance = random.Random(seed)
    power, tasks, at = [(0.0, 60.0)], [], 3.0
    while at < seconds - 10:
        length = chance.uniform(0.6, 6.0)
        power += [(at, chance.uniform(280, 420)), (at + length * 0.2, chance.uniform(180, 320)), (at + length, 60.0)]
        tasks.append((at, at + length))
        at += length + chance.uniform(0.3, 1.5)
    return power, tasks


def test_task_energy_is_right_and_its_bounds_hold(play: Play) -> None:
    power, tasks = agent_work(seed=1, seconds=180)
    # A step that is no multiple of the poll, as on real cards, lets polls meet it at every phase.
    rig = play(FakeGpu(power=power, step=0.1013, phase=0.033))
    rig.run(181)
    errors = []
    for start, end in tasks:
        energy, truth = rig.window(start, end), rig.truth(start, end)
        assert energy.joules is not None
        assert energy.low is not None
        assert energy.high is not None
        assert energy.low - 0.002 <= truth <= energy.high + 0.002
        errors.append(abs(energy.joules - truth) / truth)
    assert len(errors) > 30
    assert sorted(errors)[len(errors) // 2] < 0.003
    assert sorted(errors)[int(len(errors) * 0.95)] < 0.015


def test_neighbouring_windows_add_up_to_the_window_around_them(play: Play) -> None:
    power, _ = agent_work(seed=2, seconds=60)
    rig = play(FakeGpu(power=power))
    rig.run(61)
    edges = [5 + 0.37 * number for number in range(120)]
    parts = [rig.window(start, end).joules for start, end in pairwise(edges)]
    assert sum(part for part in parts if part is not None) == pytest.approx(rig.window(edges[0], edges[-1]).joules, abs=1e-6)


def test_a_snapshot_and_a_window_ask_the_card_nothing(play: Play) -> None:
    rig = play(FakeGpu())
    rig.run(3)
    before = calls("nvmlDeviceGetFieldValues", 0)
    assert rig.state().up
    assert rig.window(1, 2).joules is not None
    assert calls("nvmlDeviceGetFieldValues", 0) == before


def test_the_state_shows_counter_and_change_time_as_a_pair(play: Play) -> None:
    rig = play(FakeGpu(power=((0.0, 100.0),), base_mj=5_000_000), phase=0.007)
    rig.run(12)
    state = rig.state()
    assert (state.up, state.energy_method, state.energy_resets) == (True, "counter", 0)
    assert state.energy_at is not None
    assert state.energy_uncertainty is not None
    step_at = state.energy_at - rig.script.origin_unix
    assert state.energy == pytest.approx(5000 + 100 * round(step_at, 1), abs=0.01)
    assert abs(step_at - round(step_at, 1)) <= state.energy_uncertainty <= POLL / 2 + 1e-6
    assert state.power == pytest.approx(100)
    assert state.state.temperature is not None
    assert state.read_errors == {"fast": 0, "slow": 0, "energy": 0, "power": 0, "throttle": 0}


@pytest.mark.parametrize("step", [0.02, 0.1, 0.1013])
def test_the_counter_step_is_learned(play: Play, step: float) -> None:
    rig = play(FakeGpu(step=step))
    rig.run(15)
    assert rig.state().energy_step == pytest.approx(step, rel=0.02)


def test_an_hour_of_a_fast_counter_stays_small(play: Play) -> None:
    rig = play(FakeGpu(step=0.02, power=((0.0, 100.0), (30.0, 300.0))))
    rig.run(60)
    assert rig.window(20, 40).joules == pytest.approx(rig.truth(20, 40), rel=0.001)


def test_a_counter_that_agrees_with_power_passes_the_check(play: Play) -> None:
    power, _ = agent_work(seed=3, seconds=40)
    rig = play(FakeGpu(power=power))
    rig.run(9)
    assert rig.state().energy_crosscheck is None
    rig.run(20)
    assert rig.state().energy_crosscheck == pytest.approx(1.0, abs=0.05)
    assert rig.window(5, 15).reasons == ()


def test_a_counter_at_half_speed_is_found_out(play: Play) -> None:
    rig = play(FakeGpu(counter_gain=0.5))
    rig.run(15)
    assert rig.state().energy_crosscheck == pytest.approx(0.5, abs=0.02)
    energy = rig.window(5, 12)
    assert energy.quality == "suspect"
    assert "counter_disagrees" in energy.reasons


def test_a_card_whose_sensor_looks_part_of_the_time_says_so_in_every_window(play: Play) -> None:
    rig = play(FakeGpu(name="NVIDIA H100 80GB HBM3", sensor_window=0.025))
    rig.run(20)
    energy = rig.window(5, 15)
    assert (energy.quality, energy.reasons) == ("ok", ("part_time_sensor",))


def test_a_counter_reset_is_a_new_epoch_and_its_window_has_no_upper_bound(play: Play) -> None:
    rig = play(FakeGpu(power=((0.0, 200.0),), resets=(10.03,)))
    rig.run(20)
    assert rig.state().energy_resets == 1
    assert rig.state().energy == pytest.approx(200 * 9.97, abs=20)
    across = rig.window(8, 12)
    assert across.resets == 1
    assert across.high is None
    assert across.quality == "suspect"
    assert across.low is not None
    assert across.low <= rig.truth(8, 12)
    assert across.joules == pytest.approx(rig.truth(8, 12), rel=0.06)
    after = rig.window(12, 18)
    assert after.joules == pytest.approx(1200, rel=0.005)
    assert after.quality == "ok"


def test_one_misread_counter_is_no_reset(play: Play) -> None:
    rig = play(FakeGpu(power=((0.0, 200.0),), faults=(field_answers(ENERGY, 0, OnCalls(150, 150)),)))
    rig.run(12)
    state = rig.state()
    assert state.energy_resets == 0
    assert state.glitches["energy"] == 1
    window = rig.window(2, 10)
    assert window.joules == pytest.approx(1600, rel=0.002)
    assert (window.quality, window.reasons) == ("suspect", ("glitch",))


def test_sporadic_refusals_widen_steps_but_lose_no_joule(play: Play) -> None:
    faults = (field_fails(ENERGY, Every(3)), field_answers(POWER, 0, Every(4)))
    rig = play(FakeGpu(power=((0.0, 200.0), (5.0, 350.0)), faults=faults))
    rig.run(12)
    energy = rig.window(2, 10)
    assert energy.joules == pytest.approx(rig.truth(2, 10), rel=0.005)
    assert energy.low is not None
    assert energy.high is not None
    assert energy.low <= rig.truth(2, 10) <= energy.high
    state = rig.state()
    assert state.read_errors["energy"] == pytest.approx(state.polls / 3, abs=2)
    assert state.read_errors["power"] == pytest.approx(state.polls / 4, abs=2)
    assert state.power == pytest.approx(350)
    assert state.energy_crosscheck is None or state.energy_crosscheck == pytest.approx(1.0, abs=0.02)


def test_power_that_stays_zero_is_absent_and_energy_goes_on(play: Play) -> None:
    rig = play(FakeGpu(power=((0.0, 200.0),), faults=(field_answers(POWER, 0, During(5.0)),)))
    rig.run(8)
    assert rig.state().power is None
    assert rig.window(6, 7).joules == pytest.approx(200, rel=0.01)


def test_a_counter_that_stops_answering_leaves_windows_missing_not_zero(play: Play) -> None:
    rig = play(FakeGpu(power=((0.0, 200.0),), faults=(field_fails(ENERGY, During(5.0)),)))
    rig.run(10)
    energy = rig.window(6, 9)
    assert (energy.joules, energy.quality) == (None, "missing")
    assert rig.state().read_errors["energy"] > 200


def test_a_lost_gpu_is_down_alone_and_comes_back(play: Play) -> None:
    rig = play(FakeGpu(power=((0.0, 200.0),), faults=(gone(5.0, 8.0),)), FakeGpu(power=((0.0, 100.0),)))
    rig.run(7)
    lost, other = rig.state(0), rig.state(1)
    assert (lost.up, lost.power, lost.state) == (False, None, NO_STATE)
    assert 2 <= lost.read_errors["fast"] <= 4, "a lost card is asked seldom"
    assert other.up
    assert rig.window(5.5, 6.5, gpu=1).joules == pytest.approx(100, rel=0.01)
    assert rig.window(5.5, 6.5, gpu=0).joules is None
    rig.run(15)
    back = rig.state(0)
    assert (back.up, back.energy_resets) == (True, 0)
    assert back.power == pytest.approx(200)
    across = rig.window(4, 12)
    assert across.joules == pytest.approx(1600, rel=0.01), "the counter went on while nobody looked"
    inside = rig.window(5.5, 6.5)
    assert (inside.quality, "gap" in inside.reasons) == ("suspect", True)
    assert rig.window(12, 14).quality == "ok"


def test_a_gpu_that_only_fails_is_down_after_a_while(play: Play) -> None:
    rig = play(FakeGpu(faults=(fails("nvmlDeviceGetFieldValues", During(3.0, 7.0), code=999),)))
    rig.run(4)
    assert rig.state().up
    rig.run(6.5)
    assert not rig.state().up
    rig.run(12)
    assert rig.state().up


def test_a_thread_that_hangs_in_the_driver_shows_as_down(play: Play) -> None:
    rig = play(FakeGpu())
    rig.run(3)
    assert rig.state().up
    rig.clock.advance(2.5)
    state = rig.state()
    assert (state.up, state.power) == (False, None)


def test_a_slow_call_is_an_overrun_of_its_gpu_and_the_bounds_still_hold(play: Play) -> None:
    power = ((0.0, 100.0), (5.0, 300.0), (5.3, 120.0))
    rig = play(FakeGpu(power=power), FakeGpu(power=power, faults=(slow(0.2, During(4.95, 5.0)),)))
    rig.run(12)
    assert [rig.state(gpu).overruns for gpu in (0, 1)] == [0, 1]
    for gpu in (0, 1):
        energy = rig.window(5.0, 5.3, gpu)
        assert energy.low is not None
        assert energy.high is not None
        assert energy.low <= rig.truth(5.0, 5.3, gpu) <= energy.high
        assert rig.window(3, 8, gpu).joules == pytest.approx(rig.truth(3, 8, gpu), rel=0.02)


def test_a_call_that_hangs_for_seconds_costs_certainty_and_no_joule(play: Play) -> None:
    power = ((0.0, 100.0), (6.0, 300.0), (7.0, 120.0))
    rig = play(FakeGpu(power=power, faults=(slow(3.0, During(4.95, 5.0)),)), FakeGpu(power=power))
    rig.run(15)
    assert [rig.state(gpu).up for gpu in (0, 1)] == [True, True]
    for gpu in (0, 1):
        across, inside = rig.window(3, 12, gpu), rig.window(5.5, 6.5, gpu)
        assert across.joules == pytest.approx(rig.truth(3, 12, gpu), rel=0.02), "the counter went on while nobody looked"
        assert (inside.quality, "gap" in inside.reasons) == ("suspect", True)
        for window, truth in ((across, rig.truth(3, 12, gpu)), (inside, rig.truth(5.5, 6.5, gpu))):
            assert window.low is not None
            assert window.high is not None
            assert window.low <= truth <= window.high
        assert rig.window(10, 13, gpu).quality == "ok"


def test_without_a_counter_power_is_integrated_and_named_so(play: Play) -> None:
    power, tasks = agent_work(seed=4, seconds=60)
    rig = play(FakeGpu(power=power, faults=NO_COUNTER))
    rig.run(61)
    assert rig.state().energy_method == "power_integration"
    for start, end in tasks:
        if end - start > 2:
            energy = rig.window(start, end)
            assert energy.method == "power_integration"
            assert (energy.low, energy.high) == (None, None)
            assert energy.joules == pytest.approx(rig.truth(start, end), rel=0.12)
    assert rig.window(5, 50).joules == pytest.approx(rig.truth(5, 50), rel=0.01)


def test_integrated_power_never_bridges_a_long_gap(play: Play) -> None:
    rig = play(FakeGpu(power=((0.0, 200.0),), faults=(*NO_COUNTER, field_answers(POWER, 0, During(5.0, 8.0)))))
    rig.run(12)
    assert rig.state().energy_resets == 1
    assert rig.window(4, 10).joules is None
    assert rig.window(9, 11).joules == pytest.approx(400, rel=0.01)


def test_a_card_without_energy_and_power_has_no_method_and_no_joules(play: Play) -> None:
    rig = play(FakeGpu(faults=(fails("nvmlDeviceGetFieldValues"), fails(GETTER), fails("nvmlDeviceGetPowerUsage"))))
    rig.run(5)
    state = rig.state()
    assert (state.up, state.energy_method, state.energy, state.power) == (True, "none", None, None)
    energy = rig.window(1, 4)
    assert (energy.joules, energy.low, energy.quality, energy.method) == (None, None, "missing", "none")


@pytest.mark.parametrize(
    "faults",
    [
        (fails("nvmlDeviceGetFieldValues"), fails(GETTER), fails("nvmlDeviceGetPowerUsage")),
        (field_answers(ENERGY, 0), field_answers(POWER, 0), fails("nvmlDeviceGetPowerUsage")),
    ],
    ids=["neither counter nor power", "a counter that never moves"],
)
def test_nobody_waits_for_the_energy_of_a_card_that_has_none(play: Play, faults: tuple[Fault, ...]) -> None:
    rig = play(FakeGpu(faults=faults), FakeGpu())
    rig.run(0.5)
    assert not rig.monitor.is_settled(rig.script.origin_unix + 0.1), "it may still come"
    rig.run(10)
    assert rig.monitor.is_settled(rig.script.origin_unix + 9)
    assert not rig.monitor.is_settled(rig.script.origin_unix + 9.95), "the other card's counter has not passed that"
    assert [rig.window(3, 9, gpu).quality for gpu in (0, 1)] == ["missing", "ok"]


@pytest.mark.parametrize("jump", [5.0, -5.0])
def test_a_wall_clock_step_moves_no_joules_and_is_told(play: Play, jump: float) -> None:
    rig = play(FakeGpu(power=((0.0, 100.0), (10.0, 300.0), (20.0, 150.0))))
    rig.run(15)
    rig.clock.step_wall(jump)
    rig.run(30)
    assert rig.monitor.clock_steps == 1
    before = rig.window(5, 9)
    assert before.joules == pytest.approx(rig.truth(5, 9), rel=0.01)
    assert before.reasons == ()
    after = rig.window(22 + jump, 28 + jump)
    assert after.joules == pytest.approx(rig.truth(22, 28), rel=0.01)
    assert after.reasons == ()
    across = rig.window(8, 22 + jump)
    assert across.joules == pytest.approx(rig.truth(8, 22), rel=0.01)
    assert (across.quality, across.reasons) == ("suspect", ("clock_step",))


def test_of_a_time_that_the_wall_clock_never_showed_no_joules_are_told(play: Play) -> None:
    rig = play(FakeGpu(power=((0.0, 100.0),)))
    rig.run(15)
    rig.clock.step_wall(5.0)
    rig.run(30)
    energy = rig.window(8, 17)
    assert (energy.joules, energy.low, energy.quality, energy.reasons) == (None, None, "missing", ("clock_step",))


def test_throttling_is_the_drivers_own_time(play: Play) -> None:
    rig = play(FakeGpu(reasons=((0.0, 0.0), (2.0, SW_THERMAL), (2.003, 0.0), (3.0, HW_THERMAL), (3.5, 0.0))))
    rig.run(5)
    assert rig.state().throttle == pytest.approx(
        {"sw_power_cap": 0, "sync_boost": 0, "sw_thermal": 0.003, "hw_thermal": 0.5, "hw_power_brake": 0, "other": 0}, abs=1e-8
    )


def test_an_old_driver_still_counts_short_throttles_by_its_thermal_total(play: Play) -> None:
    reasons = ((0.0, 0.0), (2.0, SW_THERMAL), (2.003, 0.0), (3.0, HW_THERMAL), (3.5, 0.0), (4.0, SW_POWER_CAP), (4.25, 0.0))
    rig = play(FakeGpu(power=((0.0, 440.0),), reasons=reasons), driver="570.86.16", phase=0.007)
    rig.run(5)
    throttle = rig.state().throttle
    assert throttle["sw_thermal"] == pytest.approx(0.003, abs=1e-6)
    assert throttle["hw_thermal"] == pytest.approx(0.5, abs=1e-6)
    assert throttle["sw_power_cap"] == pytest.approx(0.25, abs=1e-6)
    assert throttle["hw_power_brake"] == pytest.approx(0)


def test_without_any_driver_counter_bits_are_added_up(play: Play) -> None:
    faults = (field_fails(74), field_fails(75), field_fails(76))
    rig = play(FakeGpu(reasons=((0.0, 0.0), (3.0, HW_THERMAL), (3.5, 0.0)), faults=faults), driver="570.86.16", phase=0.007)
    rig.run(5)
    assert rig.state().throttle["hw_thermal"] == pytest.approx(0.5, abs=POLL)
    assert rig.state().throttle["sw_power_cap"] == pytest.approx(0)


def test_power_that_the_workload_switches_is_measured_and_known(play: Play) -> None:
    rig = play(FakeGpu(power=((0.0, 55.0),)), busy=True)
    assert rig.busy is not None
    rig.run(5)
    begin = rig.busy.draw(0, 310.0) - rig.script.origin_unix
    rig.run(7.5)
    end = rig.busy.draw(0, 55.0) - rig.script.origin_unix
    rig.run(12)
    assert rig.truth(begin, end) == pytest.approx(310 * (end - begin))
    assert rig.window(begin, end).joules == pytest.approx(rig.truth(begin, end), rel=0.01)


def test_the_monitor_leaves_the_source_open(play: Play) -> None:
    rig: Rig = play(FakeGpu())
    rig.monitor.start()
    rig.monitor.stop()
    assert isinstance(rig.source, NvmlSource)
    assert rig.source.devices()[0].read_counters().power == pytest.approx(50)
