"""Polls that read what the poll before read: the same object, taken in the short way with the same outcome as the long way."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from joulebench.gpu.energy_meter import EnergyMeter
from joulebench.units import Joules, Watts
from tests.fakes.nvml import During, FakeGpu, fails, field_answers, field_fails
from tests.unit.gpu.rig import Play

SW_POWER_CAP_FIELD = 74


def test_a_reading_is_the_same_object_until_a_field_changes(play: Play) -> None:
    rig = play(FakeGpu(power=((0.0, 50.0), (2.0, 90.0)), step=0.1))
    device = rig.source.devices()[0]
    rig.clock.advance(1.01)
    first = device.read_counters()
    rig.clock.advance(0.02)
    assert device.read_counters() is first
    rig.clock.advance(0.1)
    later = device.read_counters()
    assert later.energy is not None
    assert first.energy is not None
    assert later.energy - first.energy == pytest.approx(5.0)


def test_a_throttle_counter_alone_makes_a_new_reading(play: Play) -> None:
    rig = play(FakeGpu(step=10.0, faults=(field_answers(SW_POWER_CAP_FIELD, 7e9, During(1.05, 9.0)),)))
    device = rig.source.devices()[0]
    rig.clock.advance(1.01)
    first = device.read_counters()
    rig.clock.advance(0.1)
    later = device.read_counters()
    assert (later.energy, later.throttle["sw_power_cap"]) == (first.energy, 7.0)


def test_a_field_that_failed_meanwhile_is_read_anew(play: Play) -> None:
    rig = play(FakeGpu(step=10.0, faults=(field_fails(191, During(1.05, 1.15), code=999),)))
    device = rig.source.devices()[0]
    rig.clock.advance(1.01)
    first = device.read_counters()
    rig.clock.advance(0.1)
    assert device.read_counters().failed == ("energy",)
    rig.clock.advance(0.1)
    assert device.read_counters() == first


def test_a_call_that_failed_meanwhile_leaves_no_reading_behind(play: Play) -> None:
    rig = play(FakeGpu(step=10.0, faults=(fails("nvmlDeviceGetFieldValues", During(1.05, 1.15), code=3),)))
    device = rig.source.devices()[0]
    rig.clock.advance(1.01)
    first = device.read_counters()
    rig.clock.advance(0.1)
    assert device.read_counters().energy is None
    rig.clock.advance(0.1)
    assert device.read_counters() == first


def polls(seed: int) -> Iterator[tuple[float, float, Joules, Watts]]:
    """(before, after, joules, watts) of a counter that steps each 100 ms, jumps, falls, begins anew and stalls."""
    random = Random(seed)
    watts, joules, shown = 100.0, 1000.0, 1000.0
    at, step_at = 0.0, 0.05
    for number in range(6000):
        at += 0.02 + random.uniform(-0.002, 0.002)
        if number in (1500, 3000):
            joules -= 400.0 if number == 3000 else -9000.0
        if at >= step_at:
            step_at += 0.1
            if not 4500 <= number < 5200:
                joules += 0.1 * watts
                shown = joules
            if random.random() < 0.1:
                watts = random.choice([60.0, 100.0, 240.0])
        glitch = 5e6 if number % 700 == 350 else 0.0
        yield at, at + 1e-4, Joules(shown + glitch), Watts(watts)


@pytest.mark.parametrize("seed", range(3))
def test_the_short_way_leaves_the_meter_as_the_long_way_does(seed: int) -> None:
    long, short = EnergyMeter(600.0, 450.0), EnergyMeter(600.0, 450.0)
    before: tuple[float, float] | None = None
    shortened = 0
    for start, end, joules, watts in polls(seed):
        long.observe(start, end, joules, watts)
        if (joules, watts) == before and short.observe_again(start, end, watts):
            shortened += 1
        else:
            short.observe(start, end, joules, watts)
        before = (joules, watts)
        assert (short.latest, short.method, short.step, short.glitches) == (long.latest, long.method, long.step, long.glitches)
        assert (short.stalled_at, short.crosscheck.ratio, short.accepted) == (
            long.stalled_at,
            long.crosscheck.ratio,
            long.accepted,
        )
    assert shortened > 2000
    assert long.glitches > 0
    assert long.stalled_at is not None
    ours, theirs = short.trace.curve(), long.trace.curve()
    assert (ours.at.tolist(), ours.joules.tolist()) == (theirs.at.tolist(), theirs.joules.tolist())
