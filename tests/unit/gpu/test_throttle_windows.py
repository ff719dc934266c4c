"""Throttled seconds of any window, from the driver's counters or from bits seen at each poll, against the scripted truth."""

from __future__ import annotations

import pytest

from joulebench.metrics import THROTTLE_REASONS
from joulebench.units import Seconds
from tests.fakes.nvml import During, FakeGpu, fails, field_answers, field_fails, gone
from tests.fakes.nvml.script import HW_THERMAL, SW_POWER_CAP, SW_THERMAL
from tests.unit.gpu.rig import Play, Rig

COUNTED, BITS_ONLY = "580.95.05", "470.42.01"
HOT = FakeGpu(
    power=((0.0, 440.0),),
    reasons=(
        (0.0, 0.0),
        (4.003, float(SW_THERMAL)),
        (5.25, float(SW_THERMAL | HW_THERMAL)),
        (6.111, float(SW_THERMAL)),
        (7.5, 0.0),
        (9.0, float(SW_POWER_CAP)),
        (9.1, 0.0),
    ),
)
SW, HW, CAP = (4.003, 7.5), (5.25, 6.111), (9.0, 9.1)
"""Fine counters need the driver to number them: 269 to 271 under this one."""
SW_FIELD, HW_FIELD, CAP_FIELD = 269, 270, 74
NO_BITS = (fails("nvmlDeviceGetCurrentClocksEventReasons"), fails("nvmlDeviceGetCurrentClocksThrottleReasons"))


def slowed(rig: Rig, start: float, end: float, gpu: int = 0) -> dict[str, Seconds | None]:
    origin = rig.script.origin_unix
    return dict(rig.monitor.throttled(origin + start, origin + end)[gpu][1])


def inside(span: tuple[float, float], start: float, end: float) -> float:
    return max(min(span[1], end) - max(span[0], start), 0.0)


@pytest.mark.parametrize(("driver", "within"), [(COUNTED, 0.03), (BITS_ONLY, 0.05)])
def test_a_window_has_the_seconds_of_each_reason_that_lie_in_it(play: Play, driver: str, within: float) -> None:
    rig = play(HOT, driver=driver)
    rig.run(12.0)
    for start, end in ((0.5, 3.5), (1.0, 11.0), (4.5, 5.0), (5.0, 5.5), (3.9, 4.1), (6.0, 9.05), (8.0, 8.9), (9.2, 11.9)):
        found = slowed(rig, start, end)
        for reason, span in (("sw_thermal", SW), ("hw_thermal", HW), ("sw_power_cap", CAP)):
            assert found[reason] == pytest.approx(inside(span, start, end), abs=within), (reason, start, end)
        assert found["hw_power_brake"] == 0.0


def test_every_reason_is_told_of_and_what_the_card_does_not_tell_is_not_known(play: Play) -> None:
    counted = play(HOT)
    counted.run(3.0)
    found = slowed(counted, 1.0, 2.0)
    assert tuple(found) == THROTTLE_REASONS
    assert found["hw_slowdown"] is None
    assert {found[reason] for reason in THROTTLE_REASONS if reason != "hw_slowdown"} == {0.0}


def test_a_card_that_tells_nothing_has_no_zeros(play: Play) -> None:
    rig = play(FakeGpu(faults=(*(field_fails(field) for field in (74, 75, 76, 269, 270, 271)), *NO_BITS)))
    rig.run(3.0)
    assert set(slowed(rig, 1.0, 2.0).values()) == {None}


def test_before_the_exporter_began_nothing_is_known(play: Play) -> None:
    rig = play(HOT)
    rig.run(3.0)
    assert set(slowed(rig, -1.0, 2.0).values()) == {None}
    assert set(slowed(rig, 1.0, 5.0).values()) == {None}, "nor after the last poll"
    assert slowed(rig, 1.0, 3.05)["sw_thermal"] == 0.0


def test_a_counter_that_does_not_answer_for_a_while_is_not_known_then_and_whole_around_it(play: Play) -> None:
    rig = play(FakeGpu(reasons=HOT.reasons, faults=(field_fails(HW_FIELD, During(4.5, 5.6)),)))
    rig.run(5.5)
    assert slowed(rig, 5.0, 5.5)["hw_thermal"] is None
    assert slowed(rig, 5.0, 5.5)["sw_thermal"] == pytest.approx(0.5, abs=0.03)
    rig.run(10.0)
    assert slowed(rig, 4.0, 8.0)["hw_thermal"] == pytest.approx(HW[1] - HW[0], abs=0.01)
    assert slowed(rig, 5.0, 8.0)["hw_thermal"] is None, "where in the gap it began is not known"
    assert slowed(rig, 5.7, 8.0)["hw_thermal"] == pytest.approx(HW[1] - 5.7, abs=0.03)


def test_bits_that_nobody_saw_for_a_while_are_lost(play: Play) -> None:
    blind = During(5.0, 6.5)
    faults = (
        fails("nvmlDeviceGetCurrentClocksEventReasons", blind),
        fails("nvmlDeviceGetCurrentClocksThrottleReasons", blind),
        *(field_fails(field) for field in (75, SW_FIELD, HW_FIELD)),
    )
    rig = play(FakeGpu(reasons=HOT.reasons, faults=faults))
    rig.run(6.0)
    assert slowed(rig, 4.0, 5.9)["sw_thermal"] is None
    rig.run(10.0)
    assert slowed(rig, 4.0, 8.0)["sw_thermal"] is None
    assert slowed(rig, 4.0, 4.9)["sw_thermal"] == pytest.approx(0.897, abs=0.05)
    assert slowed(rig, 6.6, 8.0)["sw_thermal"] == pytest.approx(0.9, abs=0.05)
    assert slowed(rig, 4.0, 8.0)["sw_power_cap"] == 0.0, "that one is counted"


def test_a_gpu_that_was_lost_is_not_known_then(play: Play) -> None:
    rig = play(FakeGpu(reasons=HOT.reasons, faults=(gone(5.0, 6.0),)))
    rig.run(5.9)
    assert set(slowed(rig, 4.5, 5.8).values()) == {None}
    rig.run(12.0)
    assert slowed(rig, 1.0, 11.0)["sw_thermal"] == pytest.approx(SW[1] - SW[0], abs=0.02)


@pytest.mark.parametrize("jump", [5.0, -5.0])
def test_a_window_over_a_step_of_the_wall_clock_is_not_known_and_those_beside_it_are(play: Play, jump: float) -> None:
    rig = play(HOT)
    rig.run(6.5)
    rig.clock.step_wall(jump)
    rig.run(20.0)
    assert set(slowed(rig, 4.2, 8.0 + jump).values()) == {None}
    if jump > 0:
        assert slowed(rig, 3.0, 5.0)["sw_thermal"] == pytest.approx(0.997, abs=0.03)
        assert slowed(rig, 7.0 + jump, 8.0 + jump)["sw_thermal"] == pytest.approx(0.5, abs=0.03)


def test_a_throttle_of_a_millisecond_is_in_the_window_it_was_in_and_in_no_other(play: Play) -> None:
    rig = play(FakeGpu(reasons=((0.0, 0.0), (5.0513, float(HW_THERMAL)), (5.0523, 0.0))))
    rig.run(8.0)
    assert slowed(rig, 4.5, 5.5)["hw_thermal"] == pytest.approx(0.001, abs=1e-6)
    assert [slowed(rig, *window)["hw_thermal"] for window in ((3.0, 5.0), (5.2, 7.5))] == [0.0, 0.0]
    assert rig.state().throttle["hw_thermal"] == pytest.approx(0.001, abs=1e-6)


@pytest.mark.parametrize("field", [SW_FIELD, 75, CAP_FIELD])
@pytest.mark.parametrize("seconds", [400_000.0, 9e9, 0.0])
def test_seconds_that_a_counter_cannot_have_are_no_reading(play: Play, field: int, seconds: float) -> None:
    warm = (field_answers(field, 3000e9), field_answers(field, seconds * 1e9, During(10.0, 11.0)))
    rig = play(FakeGpu(power=((0.0, 440.0),), faults=warm))
    shown = set()
    for until in (9.0, 10.5, 12.0, 20.0):
        rig.run(until)
        shown |= {*rig.state().throttle.values()}
    assert max(shown) <= 3000.0
    for reason, found in slowed(rig, 9.0, 12.0).items():
        assert found in (0.0, None), reason
    assert rig.state().read_errors["throttle"] > 0


def test_a_counter_that_stays_at_other_seconds_began_anew(play: Play) -> None:
    rig = play(FakeGpu(faults=(field_answers(SW_FIELD, 10e9), field_answers(SW_FIELD, 900e9, During(10.0)))))
    rig.run(30.0)
    assert rig.state().throttle["sw_thermal"] == 900.0
    assert [slowed(rig, *window)["sw_thermal"] for window in ((3.0, 9.0), (9.0, 12.0), (18.0, 28.0))] == [0.0, None, 0.0]
