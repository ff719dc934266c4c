"""Drivers of several ages: throttle counters that moved to other field ids, and a library without half of its functions."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from joulebench import metrics
from tests.e2e.faults.hosts import Host
from tests.e2e.faults.machines import HW_SECONDS, NEW_NUMBERS, OLD_DRIVER, OLD_NUMBERS, SW_SECONDS

pytestmark = pytest.mark.e2e

POLLED = 0.06
"""How far off seconds of throttling are that were seen as bits at 50 Hz, twice."""


@pytest.mark.parametrize(
    ("version", "within"), [*((version, 0.002) for version in (*OLD_NUMBERS, *NEW_NUMBERS)), (OLD_DRIVER, POLLED)]
)
def test_throttled_seconds_are_right_whatever_the_driver_numbers_them(
    machines: Mapping[str, Host], version: str, within: float
) -> None:
    host = machines[f"driver-{version}"]
    seen, result = host.seen["inside"], host.results["one"]
    expected = {"hw_thermal": HW_SECONDS, "sw_thermal": SW_SECONDS, "sw_power_cap": 0.0, "hw_power_brake": 0.0}
    for reason, seconds in expected.items():
        assert seen.value(metrics.GPU_THROTTLE_SECONDS, gpu=0, reason=reason) == pytest.approx(seconds, abs=within)
        assert result.cell(f"throttled_{reason}_seconds") == pytest.approx(seconds, abs=within)
        assert result.gpu(0)["throttle_seconds_by_reason"][reason] == pytest.approx(seconds, abs=within)
    assert result.cell("throttled_seconds") == pytest.approx(HW_SECONDS, abs=within)
    assert result.row["throttled_source"] == "exporter"
    assert result.record["throttle"]["throttled_seconds_prometheus"] == pytest.approx(HW_SECONDS, abs=within)
    assert (result.row["quality"], result.reasons) == ("suspect", {"throttled"})
    assert result.record["throttle"]["throttled_seconds"] == pytest.approx(result.cell("throttled_seconds"))


@pytest.mark.parametrize("version", [*OLD_NUMBERS, *NEW_NUMBERS, OLD_DRIVER])
def test_energy_is_right_under_every_driver(machines: Mapping[str, Host], version: str) -> None:
    host = machines[f"driver-{version}"]
    result = host.results["one"]
    truth = host.joules(0, result)
    assert host.seen["inside"].label(metrics.GPU_INFO, "driver_version", gpu=0) == version
    assert result.cell("total_energy_joules") == pytest.approx(truth, rel=0.01)
    assert result.record["measurement"]["low_joules"] <= truth <= result.record["measurement"]["high_joules"]
    assert result.row["energy_method"] == "counter"


def test_functions_that_an_old_driver_lacks_are_stood_in_for_or_absent(machines: Mapping[str, Host]) -> None:
    host = machines[f"driver-{OLD_DRIVER}"]
    seen, result = host.seen["inside"], host.results["one"]
    assert seen.value(metrics.GPU_UP, gpu=0) == 1
    assert seen.value(metrics.GPU_TEMPERATURE, gpu=0) == 40
    assert seen.value(metrics.GPU_MEMORY_USED, gpu=0) == 512 << 20
    assert seen.value(metrics.GPU_TEMPERATURE_MARGIN, gpu=0) == 97 - 40
    assert (seen.value(metrics.GPU_POWER, gpu=0) or 0) > 0
    errors = [seen.value(metrics.GPU_READ_ERRORS, gpu=0, group=group) for group in ("fast", "slow", "energy", "power")]
    assert errors == [0, 0, 0, 0], "what a driver does not have is no error"
    assert (result.cell("avg_temp_c"), result.cell("avg_vram_mb")) == (40, 512)
