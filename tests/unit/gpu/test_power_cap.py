"""The software power cap counts only near the power limit, as drivers set and count it on idle cards too; and throttle reasons
that have no name here have seconds of their own.
"""

from __future__ import annotations

import pytest

from joulebench.units import Seconds
from tests.fakes.nvml import During, FakeGpu, fails, field_fails
from tests.fakes.nvml.script import HW_THERMAL, SW_POWER_CAP
from tests.unit.gpu.rig import Play, Rig

COUNTED, BITS_ONLY = "595.71.05", "470.42.01"
LIMIT = 250.0
CAPPED = ((0.0, float(SW_POWER_CAP)),)
NO_LIMIT = fails("nvmlDeviceGetEnforcedPowerLimit")
BOARD_LIMIT = float(0x400)
"""A bit that only newer drivers know."""

each_driver = pytest.mark.parametrize("driver", [COUNTED, BITS_ONLY])


def seconds(rig: Rig, start: float, end: float, reason: str = "sw_power_cap") -> Seconds | None:
    origin = rig.script.origin_unix
    return rig.monitor.throttled(origin + start, origin + end)[0][1][reason]


def is_active(rig: Rig, reason: str = "sw_power_cap") -> bool | None:
    return rig.state().state.throttle_active.get(reason)


@each_driver
@pytest.mark.parametrize("watts", [39.0, 0.88 * LIMIT])
def test_a_power_cap_far_from_the_limit_is_no_throttling(play: Play, driver: str, watts: float) -> None:
    rig = play(FakeGpu(power=((0.0, watts),), limit=LIMIT, reasons=CAPPED), driver=driver)
    rig.run(5.0)
    assert (seconds(rig, 1.0, 4.9), rig.state().throttle["sw_power_cap"], is_active(rig)) == (0.0, 0.0, False)


@each_driver
@pytest.mark.parametrize("watts", [0.97 * LIMIT, 1.1 * LIMIT])
def test_a_power_cap_at_the_limit_is_throttling(play: Play, driver: str, watts: float) -> None:
    rig = play(FakeGpu(power=((0.0, watts),), limit=LIMIT, reasons=CAPPED), driver=driver)
    rig.run(5.0)
    assert seconds(rig, 1.0, 4.9) == pytest.approx(3.9, abs=0.03)
    assert rig.state().throttle["sw_power_cap"] == pytest.approx(5.0, abs=0.05)
    assert is_active(rig)


@each_driver
def test_of_a_cap_that_is_always_set_the_time_near_the_limit_counts(play: Play, driver: str) -> None:
    rig = play(FakeGpu(power=((0.0, 40.0), (3.0, 248.0), (5.0, 40.0)), limit=LIMIT, reasons=CAPPED), driver=driver)
    rig.run(8.0)
    assert seconds(rig, 1.0, 2.9) == 0.0
    assert seconds(rig, 1.0, 7.9) == pytest.approx(2.0, abs=0.35)
    assert seconds(rig, 3.5, 4.5) == pytest.approx(1.0, abs=0.03)
    assert seconds(rig, 5.5, 7.9) == 0.0


@pytest.mark.parametrize(("watts", "share"), [(245.0, 1.0), (39.0, 0.0)])
def test_readings_that_repeat_for_seconds_keep_the_power_cap_known(play: Play, watts: float, share: float) -> None:
    """A counter that is updated every two seconds, and a cap that begins after a long rest."""
    rig = play(
        FakeGpu(power=((0.0, watts),), step=2.0, limit=LIMIT, reasons=((0.0, 0.0), (9.0, float(SW_POWER_CAP)))), driver=COUNTED
    )
    rig.run(12.9)
    assert seconds(rig, 2.0, 7.5) == 0.0
    assert seconds(rig, 8.5, 12.85) == pytest.approx(3.85 * share, abs=0.05)


@each_driver
def test_without_a_limit_the_seconds_of_the_power_cap_are_unknown_and_others_are_not(play: Play, driver: str) -> None:
    reasons = ((0.0, float(SW_POWER_CAP | HW_THERMAL)),)
    rig = play(FakeGpu(power=((0.0, 39.0),), limit=LIMIT, reasons=reasons, faults=(NO_LIMIT,)), driver=driver)
    rig.run(5.0)
    assert (seconds(rig, 1.0, 4.9), is_active(rig)) == (None, None)
    assert "sw_power_cap" not in rig.state().throttle
    assert seconds(rig, 1.0, 4.9, "hw_thermal") == pytest.approx(3.9, abs=0.03)


@each_driver
def test_while_the_power_cannot_be_read_the_seconds_of_the_power_cap_are_unknown(play: Play, driver: str) -> None:
    blind = During(3.0, 6.0)
    faults = (field_fails(186, blind, code=999), fails("nvmlDeviceGetPowerUsage", blind, code=999))
    rig = play(FakeGpu(power=((0.0, 248.0),), limit=LIMIT, reasons=CAPPED, faults=faults), driver=driver)
    rig.run(5.9)
    assert seconds(rig, 4.2, 5.8) is None
    assert "sw_power_cap" not in rig.state().throttle
    rig.run(9.0)
    assert seconds(rig, 2.0, 7.0) is None
    assert seconds(rig, 1.0, 2.5) == pytest.approx(1.5, abs=0.03)
    assert seconds(rig, 6.5, 8.5) == pytest.approx(2.0, abs=0.03)


@pytest.mark.parametrize("driver", ["615.23", BITS_ONLY])
def test_a_reason_without_a_name_has_seconds_of_its_own(play: Play, driver: str) -> None:
    rig = play(FakeGpu(reasons=((0.0, 0.0), (2.0, BOARD_LIMIT), (3.0, 0.0))), driver=driver)
    rig.run(5.0)
    assert seconds(rig, 1.0, 4.9, "other") == pytest.approx(1.0, abs=0.05)
    assert rig.state().throttle["other"] == pytest.approx(1.0, abs=0.05)
    assert seconds(rig, 3.5, 4.9, "other") == 0.0


@pytest.mark.parametrize("step", [0.1, 20.0], ids=["counter moves", "counter stands still"])
def test_a_driver_that_counts_all_its_reasons_has_no_others_until_it_shows_one(play: Play, step: float) -> None:
    rig = play(FakeGpu(reasons=((0.0, 0.0), (3.5, BOARD_LIMIT)), step=step), driver=COUNTED)
    rig.run(3.4)
    assert (seconds(rig, 1.0, 3.0, "other"), rig.state().throttle["other"], is_active(rig, "other")) == (0.0, 0.0, False)
    rig.run(8.0)
    assert is_active(rig, "other")
    assert seconds(rig, 5.0, 7.9, "other") == pytest.approx(2.9, abs=0.05)


def test_a_reason_without_a_name_is_unknown_where_its_bits_cannot_be_read(play: Play) -> None:
    unread = (fails("nvmlDeviceGetCurrentClocksEventReasons"), fails("nvmlDeviceGetCurrentClocksThrottleReasons"))
    rig = play(FakeGpu(faults=unread), driver="615.23")
    rig.run(3.0)
    assert (seconds(rig, 1.0, 2.5, "other"), seconds(rig, 1.0, 2.5, "hw_thermal")) == (None, 0.0)
