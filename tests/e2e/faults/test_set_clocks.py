"""A wall clock that is set by 5 s in the middle of a task, of the benchmark or of the exporter or of both: durations stay right,
no joules are told of a time that nobody knows, and it is told."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from joulebench import metrics
from tests.e2e.faults.hosts import Host
from tests.e2e.faults.machines import (
    BACK,
    BEFORE_TASK,
    BOTH_FORWARD,
    EXPORTER_BACK,
    EXPORTER_FORWARD,
    EXPORTERS_TASK,
    FORWARD,
    STEPPED_TASK,
)

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


# --- the exporter's clock, that of its machine --------------------------------------------------------------------------

LASTED = EXPORTERS_TASK[1] - EXPORTERS_TASK[0]


@pytest.mark.parametrize("name", [EXPORTER_FORWARD, EXPORTER_BACK, BOTH_FORWARD])
def test_an_exporter_counts_the_jump_and_goes_on_measuring(machines: Mapping[str, Host], name: str) -> None:
    host = machines[name]
    stepped = host.seen["stepped"]
    assert stepped.value(metrics.EXPORTER_CLOCK_STEPS) == 1
    assert stepped.value(metrics.GPU_UP, gpu=0) == 1
    assert (stepped.value(metrics.GPU_POWER, gpu=0) or 0) > 0
    before = host.results["before"]
    truth = host.joules(0, before)
    assert before.cell("total_energy_joules") == pytest.approx(truth, rel=0.02)
    assert before.record["measurement"]["low_joules"] <= truth <= before.record["measurement"]["high_joules"]
    assert before.cell("total_duration_seconds") == pytest.approx(BEFORE_TASK[1] - BEFORE_TASK[0], abs=0.3)


@pytest.mark.parametrize("name", [EXPORTER_FORWARD, EXPORTER_BACK])
def test_of_a_window_on_two_clocks_no_joules_are_told(machines: Mapping[str, Host], name: str) -> None:
    result = machines[name].results["stepped"]
    assert result.cell("total_duration_seconds") == pytest.approx(LASTED, abs=0.3)
    energies = ("total_energy_joules", "energy_low_joules", "energy_high_joules", "energy_exporter_joules")
    assert [result.row[column] for column in energies] == [""] * len(energies)
    assert result.row["quality"] == "missing"
    assert "clock_step" in result.reasons
    derived = ("attributed_energy_joules", "decode_energy_joules", "tool_wait_energy_joules", "joules_per_call")
    assert [result.row[column] for column in derived] == [""] * len(derived)
    (call,) = result.record["calls"]
    assert (call["joules"], call["low_joules"], call["high_joules"]) == (None, None, None)
    assert result.record["gpu_hardware_metrics"]["total_energy_joules"] is None
    # Other gauges carry the times of Prometheus, which nobody set.
    assert result.cell("avg_temp_c") == 40
    assert (result.row["throttled_seconds"], result.row["throttled_source"]) == ("0", "prometheus")
    assert (result.row["status"], result.row["total_tokens"]) == ("success", "150")


def test_a_benchmark_on_the_same_machine_keeps_its_joules_and_is_suspect(machines: Mapping[str, Host]) -> None:
    host = machines[BOTH_FORWARD]
    result = host.results["stepped"]
    start, end = result.window
    assert end - start == pytest.approx(LASTED + 5, abs=0.3)
    assert result.cell("total_duration_seconds") == pytest.approx(LASTED, abs=0.3)
    # The exporter knows which moments were meant; the truth is that of the time in which the task ran.
    truth = host.script.joules(0, start, end - 5)
    measured = result.record["measurement"]
    assert result.cell("total_energy_joules") == pytest.approx(truth, rel=0.01)
    assert measured["low_joules"] <= truth <= measured["high_joules"]
    assert (result.row["energy_source"], result.row["quality"]) == ("exporter", "suspect")
    assert "clock_step" in result.reasons


@pytest.mark.parametrize("name", [EXPORTER_FORWARD, EXPORTER_BACK, BOTH_FORWARD])
def test_a_clock_that_stays_off_is_told_of_every_later_task(machines: Mapping[str, Host], name: str) -> None:
    result = machines[name].results["after"]
    assert result.row["quality"] in ("suspect", "missing")
    assert "clock_offset" in result.reasons
    assert "clock_step" not in result.reasons
    assert abs(result.record["measurement"]["clock_offset_seconds"]["exporter_to_prometheus"]) == pytest.approx(5.0, abs=0.3)


def test_a_benchmark_on_the_same_clock_has_the_right_joules_all_the_same(machines: Mapping[str, Host]) -> None:
    host = machines[BOTH_FORWARD]
    result = host.results["after"]
    start, end = result.window
    assert result.cell("total_energy_joules") == pytest.approx(host.script.joules(0, start - 5, end - 5), rel=0.01)
    assert result.row["energy_source"] == "exporter"
