"""Polls that read what the poll before read, or another energy and power only: the short ways give what the long ways give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from joulebench.gpu.energy_meter import EnergyMeter
from joulebench.gpu.nvml import NvmlSource
from joulebench.gpu.reading import CounterReading
from joulebench.gpu.sampler import GpuSampler
from joulebench.units import Joules, Watts
from tests.fakes.nvml import During, FakeGpu, OnCalls, fails, field_answers, field_fails, field_moves, gone
from tests.unit.gpu.rig import Play

ENERGY_FIELD, POWER_FIELD, SW_POWER_CAP_FIELD = 191, 186, 74


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


def test_each_reading_is_that_of_a_device_that_reads_for_the_first_time(play: Play) -> None:
    rig = play(
        FakeGpu(
            power=[(0.25 * change, 100.0 + 37.0 * (change % 5)) for change in range(16)],
            reasons=((0.0, 0), (2.0, 0x04), (2.5, 0), (3.1, 0x40), (3.3, 0)),
            faults=(
                field_answers(POWER_FIELD, 0, During(1.0, 1.3)),
                field_moves(ENERGY_FIELD, -1000, During(3.5, 3.6)),
            ),
        )
    )
    device = rig.source.devices()[0]
    kinds = set()
    last: CounterReading | None = None
    for _ in range(120):
        rig.clock.advance(0.03)
        reading = device.read_counters()
        first = NvmlSource()
        assert reading == first.devices()[0].read_counters()
        first.close()
        kinds.add((reading is last, reading.power is None, last is not None and reading.throttle is last.throttle))
        last = reading
    assert {(True, False, True), (False, False, True), (False, True, True), (False, False, False)} <= kinds


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


def test_what_is_answered_does_not_depend_on_when_polls_are_taken_in(play: Play) -> None:
    gpu = FakeGpu(
        power=[(1.3 * change, 100.0 + 61.0 * (change % 4)) for change in range(30)],
        step=0.1013,
        limit=280.0,
        reasons=((0.0, 0), (5.0, 0x04), (9.0, 0x44), (11.0, 0)),
        faults=(
            field_answers(ENERGY_FIELD, 9e9, During(3.0, 3.2)),
            field_answers(POWER_FIELD, 0xFFFFFFFF, During(6.0, 6.5)),
            field_fails(ENERGY_FIELD, During(8.0, 8.3), code=999),
            fails("nvmlDeviceGetFieldValues", OnCalls(600, 603), code=999),
            gone(14.0, 18.0),
        ),
    )
    rig = play(gpu, gpu)
    asked, left_alone = rig.monitor.samplers

    def ask() -> None:
        answers(asked, rig.clock.monotonic())

    rig.run(30.0, at_poll=ask)
    assert answers(asked, rig.clock.monotonic()) == answers(left_alone, rig.clock.monotonic())
    states = [replace(state, identity=rig.state().identity) for state in rig.monitor.snapshot()]
    assert states[0] == states[1]
    assert min(states[0].glitches["energy"], states[0].glitches["power"], states[0].read_errors["energy"]) > 0
    assert states[0].read_errors["fast"] > 3


def answers(sampler: GpuSampler, now: float) -> tuple[object, ...]:
    """What a sampler says of itself and of some windows."""
    windows = [(now - 25.0, now - 20.0), (now - 20.0, now - 12.0), (now - 5.0, now)]
    return (
        [sampler.window(*window) for window in windows],
        [dict(sampler.throttled(*window)) for window in windows],
        sampler.parts([now - 9.0, now - 6.5, now - 1.0], 0.01),
        sampler.awaits_change(now - 0.2),
    )
