"""A benchmark whose wall clock is set by 5 s in the middle of a task: durations stay right, and it is told."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.e2e.faults.hosts import Host
from tests.e2e.faults.machines import BACK, FORWARD, STEPPED_TASK

pytestmark = pytest.mark.e2e

SECONDS = STEPPED_TASK[1] - STEPPED_TASK[0]


@pytest.mark.parametrize("name", [FORWARD, BACK])
def test_the_duration_is_that_of_the_monotonic_clock(machines: Mapping[str, Host], name: str) -> None:
    result = machines[name].results["stepped"]
    assert result.cell("total_duration_seconds") == pytest.approx(SECONDS, abs=0.3)
    assert result.record["computed_metrics"]["total_duration_seconds"] == pytest.approx(result.cell("total_duration_seconds"))
    assert result.cell("tokens_per_second") == pytest.approx(50 / SECONDS, rel=0.15)
    assert (result.row["status"], result.row["total_tokens"]) == ("success", "150")


def test_a_window_that_ends_before_it_starts_has_no_energy_and_no_statistics(machines: Mapping[str, Host]) -> None:
    result = machines[BACK].results["stepped"]
    start, end = result.window
    assert end - start == pytest.approx(SECONDS - 5, abs=0.3)
    assert (result.row["quality"], result.reasons) == ("missing", {"ends_before_start", "clock_step"})
    assert result.row["total_energy_joules"] == result.row["avg_power_w"] == result.row["throttled_seconds"] == ""
    assert result.record["gpu_hardware_metrics"] is None


def test_a_window_that_is_longer_than_its_task_is_suspect(machines: Mapping[str, Host]) -> None:
    host = machines[FORWARD]
    result = host.results["stepped"]
    start, end = result.window
    assert end - start == pytest.approx(SECONDS + 5, abs=0.3)
    assert result.row["quality"] in ("suspect", "missing")
    assert {"clock_step", "clock_offset"} <= result.reasons
    if result.row["total_energy_joules"]:
        # Of the window as it is named, which is the only one that anybody can look up.
        assert result.cell("total_energy_joules") == pytest.approx(host.joules(0, result), rel=0.01)
