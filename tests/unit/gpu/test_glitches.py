"""Readings that cannot be true: never in an estimate's bounds, named in the windows they touch, and no fault of other GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from joulebench.energy.window import WindowEnergy
from joulebench.gpu.plausibility import drop_impossible_state
from joulebench.gpu.reading import StateReading
from joulebench.units import Bytes, Celsius, Hertz, Ratio, Watts
from tests.fakes.nvml import During, FakeGpu, Fault, counter_freezes, fails, field_answers, field_fails, field_moves
from tests.unit.gpu.rig import Play, Rig

ENERGY, POWER = 191, 186
GETTER = "nvmlDeviceGetTotalEnergyConsumption"
NO_COUNTER = (field_fails(ENERGY), field_fails(83), fails(GETTER))
STEADY = ((0.0, 200.0),)
MILLION = 1_000_000
"""Joules that the counters of these tests begin at, in part: a card that has run for a while."""


def steady(*faults: Fault) -> FakeGpu:
    return FakeGpu(power=STEADY, faults=faults, step=0.1013, base_mj=MILLION * 1000)


def holds(window: WindowEnergy, truth: float) -> bool:
    """Whether the bounds hold, as far as there are any."""
    return (window.low is None or window.low <= truth + 0.003) and (window.high is None or truth - 0.003 <= window.high)


@pytest.mark.parametrize(
    "fault",
    [
        field_answers(ENERGY, 0, During(10.0, 10.8)),
        field_moves(ENERGY, -9_003_600_000, During(10.0, 10.8)),
        field_moves(ENERGY, 60_000_000, During(10.0, 10.02)),
        field_moves(ENERGY, 60_000_000, During(10.0, 11.5)),
        field_moves(ENERGY, -30_000, During(10.0, 10.3)),
        field_moves(ENERGY, 90_000, During(10.0, 10.3)),
    ],
    ids=["low for 0.8 s", "far lower", "one read 60 kJ too high", "60 kJ too high for a while", "a little low", "a little high"],
)
def test_a_counter_that_returns_did_nothing(play: Play, fault: Fault) -> None:
    rig = play(steady(fault), steady())
    rig.run(25)
    across, before, after = rig.window(8, 14), rig.window(3, 8), rig.window(18, 23)
    assert across.joules == pytest.approx(1200, rel=0.02)
    assert holds(across, 1200)
    assert (across.quality, "glitch" in across.reasons) == ("suspect", True)
    assert (before.quality, after.quality) == ("ok", "ok")
    assert rig.state().glitches["energy"] >= 1
    assert rig.state().energy_resets == 0
    healthy = rig.window(8, 14, gpu=1)
    assert (healthy.quality, rig.state(1).glitches["energy"]) == ("ok", 0)


def test_a_counter_that_jumps_and_stays_begins_a_new_epoch(play: Play) -> None:
    rig = play(steady(field_moves(ENERGY, 60_000_000, During(10.0))))
    rig.run(30)
    across = rig.window(8, 14)
    assert (across.quality, across.resets, across.high) == ("suspect", 1, None)
    assert holds(across, 1200)
    assert rig.window(20, 25).joules == pytest.approx(1000, rel=0.01)
    assert rig.window(20, 25).quality == "ok"


@pytest.mark.parametrize("joules", [5.0, 30.0, 200.0, 1000.0])
def test_a_counter_that_falls_by_a_little_and_stays_has_lost_what_was_used(play: Play, joules: float) -> None:
    rig = play(steady(field_moves(ENERGY, -1000.0 * joules, During(14.0))))
    rig.run(30)
    for window in ((8, 20), (13, 16), (2, 28)):
        across = rig.window(*window)
        assert holds(across, rig.truth(*window))
        assert across.quality in ("suspect", "missing")
    assert [rig.window(*window).quality for window in ((3, 9), (22, 28))] == ["ok", "ok"]


def test_a_counter_that_jumps_by_a_little_is_wrong_from_there_until_it_falls_back(play: Play) -> None:
    rig = play(steady(field_moves(ENERGY, 90_000, During(14.0, 17.0))))
    rig.run(30)
    for start in (13.6, 13.9, 14.2, 15.0, 16.8):
        window = rig.window(start, start + 0.5)
        assert holds(window, 100.0)
        assert window.quality != "ok"
    across = rig.window(10, 25)
    assert across.joules == pytest.approx(3000, rel=0.02)
    assert holds(across, 3000)


def test_a_window_is_suspect_while_a_glitch_is_not_yet_decided(play: Play) -> None:
    rig = play(steady(field_answers(ENERGY, 0, During(10.0, 10.8))))
    rig.run(10.5)
    assert rig.window(8, 10.4).quality in ("suspect", "missing")


def test_impossible_power_is_no_reading(play: Play) -> None:
    rig = play(FakeGpu(power=STEADY, faults=(*NO_COUNTER, field_answers(POWER, 0xFFFFFFFF, During(10.0, 10.4)))))
    rig.run(20)
    window = rig.window(8, 14)
    assert window.joules == pytest.approx(1200, rel=0.02)
    assert rig.state().glitches["power"] >= 10


FROZEN = {
    "588 W on a laptop of 35 W": (((0.0, 35.0),), 588_000),
    "100 W while the load changes": (((0.0, 100.0), (8.0, 300.0)), 100_000),
}
"""True power, and the milliwatts that the sensor answers all the time; both are within the limits of the card."""


@pytest.mark.parametrize("power", FROZEN)
def test_a_power_that_never_changes_while_the_counter_does_is_no_reading(play: Play, power: str) -> None:
    curve, milliwatts = FROZEN[power]
    rig = play(FakeGpu(power=curve, faults=(field_answers(POWER, milliwatts),)))
    rig.run(40)
    state, window = rig.state(), rig.window(15, 35)
    assert state.power is None
    assert state.glitches["power"] > 500
    assert window.joules == pytest.approx(rig.truth(15, 35), rel=0.003)
    assert window.quality == "ok"


WORKS = ((0.0, 0.0), (4.0, 95.0), (20.0, 0.0))
"""Percent of utilization of a card that works from second 4 to 20."""
NO_LIMITS = (fails("nvmlDeviceGetPowerManagementLimitConstraints"), fails("nvmlDeviceGetEnforcedPowerLimit"))
NO_UTILIZATION = fails("nvmlDeviceGetUtilizationRates")


@pytest.mark.parametrize("shown", ["utilization", "clock"])
def test_a_power_that_never_changes_while_a_card_without_counter_goes_to_work_is_no_reading(play: Play, shown: str) -> None:
    """588 W on a laptop of 35 W whose limits cannot be read."""
    clocks = tuple((at, 300.0 if percent == 0 else 2100.0) for at, percent in WORKS)
    faults = (*NO_COUNTER, *NO_LIMITS, field_answers(POWER, 588_000), *((NO_UTILIZATION,) if shown == "clock" else ()))
    rig = play(FakeGpu(power=((0.0, 35.0),), utilization=WORKS, clock_mhz=clocks, faults=faults))
    rig.run(3.5)
    assert rig.state().power == pytest.approx(588)
    rig.run(30)
    assert rig.state().power is None
    assert rig.state().glitches["power"] > 500
    early, late = rig.window(5, 9), rig.window(15, 25)
    assert (early.quality, "glitch" in early.reasons) == ("suspect", True)
    assert (late.joules, late.quality) == (None, "missing")


@pytest.mark.parametrize("milliwatts", [None, 100_000])
def test_a_power_that_stands_still_while_the_card_does_the_same_is_a_reading(play: Play, milliwatts: int | None) -> None:
    frozen = () if milliwatts is None else (field_answers(POWER, milliwatts),)
    steady_work = ((0.0, 95.0), (6.0, 60.0), (12.0, 100.0))
    rig = play(FakeGpu(power=((0.0, 100.0),), utilization=steady_work, faults=(*NO_COUNTER, *NO_LIMITS, *frozen)))
    rig.run(30)
    assert rig.state().power == pytest.approx(100)
    assert rig.state().glitches["power"] == 0
    assert rig.window(10, 20).joules == pytest.approx(1000, rel=0.01)


def test_a_power_that_changes_again_is_a_reading_again(play: Play) -> None:
    frozen = field_answers(POWER, 100_000, During(0.0, 20.0))
    rig = play(FakeGpu(power=((0.0, 200.0), (25.0, 210.0)), utilization=WORKS, faults=(*NO_COUNTER, frozen)))
    rig.run(19.0)
    assert rig.state().power is None
    rig.run(34.0)
    assert rig.state().power == pytest.approx(210)
    assert rig.window(26, 33).joules == pytest.approx(1470, rel=0.01)
    assert rig.window(26, 33).quality == "ok"


def test_a_steady_power_that_agrees_with_its_counter_is_a_reading(play: Play) -> None:
    rig = play(FakeGpu(power=((0.0, 3.0),), limit=60.0))
    rig.run(30)
    assert rig.state().power == pytest.approx(3.0)
    assert rig.state().glitches["power"] == 0


@pytest.mark.parametrize(("watts", "is_reading"), [(1.0, False), (1.62, False), (2.5, True)])
def test_less_than_a_hundredth_of_the_highest_limit_is_no_reading(play: Play, watts: float, is_reading: bool) -> None:
    rig = play(FakeGpu(name="NVIDIA GeForce RTX 2080", power=((0.0, watts),), limit=240.0))
    rig.run(5)
    assert rig.state().power == (pytest.approx(watts) if is_reading else None)


def test_a_counter_that_stands_still_while_power_flows_is_replaced_by_integration(play: Play) -> None:
    rig = play(steady(counter_freezes(ENERGY, 10.0, 1e9)), steady())
    rig.run(9.9)
    assert rig.state().energy_method == "counter"
    rig.run(40)
    assert (rig.state().energy_method, rig.state(1).energy_method) == ("power_integration", "counter")
    stalled = rig.window(20, 30)
    assert stalled.joules == pytest.approx(2000, rel=0.02)
    assert (stalled.method, stalled.low, stalled.high) == ("power_integration", None, None)
    assert (stalled.quality, "counter_stalled" in stalled.reasons) == ("suspect", True)
    assert rig.window(8, 20).joules == pytest.approx(2400, rel=0.03), "also while it was not yet known"
    before = rig.window(3, 8)
    assert (before.method, before.quality) == ("counter", "ok")
    assert rig.window(20, 30, gpu=1).quality == "ok"


def test_state_that_no_gpu_has_is_absent_and_counted() -> None:
    reading = StateReading(
        utilization=Ratio(8083349.05),
        memory_used=Bytes(0),
        memory_total=Bytes(0),
        memory_reserved=Bytes(0),
        temperature=Celsius(300),
        temperature_margin=Celsius(5),
        power_limit=Watts(4_294_967.0),
        clock={"sm": Hertz(0), "graphics": Hertz(1e9), "memory": Hertz(4e15)},
    )
    kept, glitches = drop_impossible_state(reading)
    assert kept == StateReading(clock={"graphics": Hertz(1e9)})
    assert glitches == ("utilization", "memory", "temperature", "power_limit", "clock")


def test_state_that_a_gpu_can_have_stays(play: Play) -> None:
    rig = play(FakeGpu())
    rig.run(3)
    assert rig.state().state.memory_total == Bytes(24 << 30)
    assert not any(rig.state().glitches.values())


SECONDS = 70.0
SCRIPTS, WINDOWS = 25, 80


def random_power(dice: Random) -> list[tuple[float, float]]:
    points, at = [(0.0, 30.0)], 0.0
    while at < SECONDS:
        at += dice.uniform(0.05, 4.0)
        points.append((at, dice.choice([25.0, dice.uniform(30, 440), dice.uniform(200, 440)])))
    return points


def random_faults(dice: Random) -> list[Fault]:
    """A few glitches that end: low, high, by a little and by a lot, for one read or for seconds."""
    faults = []
    at = dice.uniform(3.0, 12.0)
    while at < SECONDS - 15:
        length = dice.choice([0.015, 0.04, dice.uniform(0.1, 1.0), dice.uniform(0.5, 3.0)])
        during = During(at, at + length)
        moved = dice.choice([1e2, 1e3, 1e4, 3e4, 1e5, 1e6, 6e7, 9e9]) * dice.uniform(0.5, 2.0) * dice.choice([-1, 1])
        faults.append(
            dice.choice(
                [
                    field_moves(ENERGY, moved, during),
                    field_moves(ENERGY, moved, during),
                    field_answers(ENERGY, 0, during),
                    field_answers(ENERGY, dice.uniform(0, 2**63), during),
                    field_fails(ENERGY, during),
                    field_answers(POWER, 0xFFFFFFFF, during),
                    fails("nvmlDeviceGetFieldValues", during, 999),
                ]
            )
        )
        at += length + dice.uniform(0.05, 12.0)
    return faults


def random_windows(dice: Random) -> Sequence[tuple[float, float]]:
    starts = [dice.uniform(2.0, SECONDS - 12) for _ in range(WINDOWS)]
    return [(start, min(start + dice.choice([0.3, 1.0, 3.0, 10.0]) * dice.uniform(0.5, 2.0), SECONDS - 9)) for start in starts]


def wrong_answers(rig: Rig, dice: Random, gpu: int) -> list[str]:
    wrong = []
    for start, end in random_windows(dice):
        window, truth = rig.window(start, end, gpu), rig.truth(start, end, gpu)
        if not holds(window, truth):
            wrong.append(f"{start:.3f} to {end:.3f}: {truth:.3f} J are not in {window.low} to {window.high}: {window}")
        if window.quality == "ok" and window.joules is not None and abs(window.joules - truth) > 0.1 * truth:
            wrong.append(f"{start:.3f} to {end:.3f}: ok, but {window.joules} J instead of {truth:.3f} J")
    return wrong


def test_no_script_of_glitches_makes_a_bound_wrong_or_an_ok_false(play: Play) -> None:
    wrong: list[str] = []
    blamed = 0
    for seed in range(SCRIPTS):
        dice = Random(seed)
        sick = FakeGpu(
            power=random_power(dice),
            faults=random_faults(dice),
            step=dice.choice([0.1, 0.1013, 0.02]),
            base_mj=dice.choice([1_000_000, MILLION * 1000]),
        )
        well = FakeGpu(power=random_power(dice), step=0.1007, base_mj=MILLION * 1000)
        rig = play(sick, well, phase=dice.uniform(0, 0.02))
        rig.run(SECONDS)
        wrong += [f"script {seed}, {answer}" for answer in wrong_answers(rig, dice, 0)]
        wrong += [f"script {seed}, healthy GPU, {answer}" for answer in wrong_answers(rig, dice, 1)]
        blamed += "glitch" in rig.window(2.0, SECONDS - 9, gpu=1).reasons
        rig.source.close()
    assert not wrong, f"{len(wrong)} of {2 * SCRIPTS * WINDOWS}:\n" + "\n".join(wrong[:20])
    assert blamed == 0
