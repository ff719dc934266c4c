"""Checks of power on the states of real cards: by the limit of the card itself, and skipped with a reason where it has none."""

from __future__ import annotations

from typing import Any

import pytest

from joulebench.doctor import reference_ranges
from joulebench.doctor.findings import FAILURE, OK, SKIPPED, CheckResult
from joulebench.doctor.plausibility_checks import KnownPower, plausibility_checks
from joulebench.schema import TaskResult
from joulebench.schema.result import GpuResult, HardwareMetrics
from tests.captures.nvml.derive import State, card_name, states

POWER_CHECKS = ("power above idle", "power within limit")
TOO_LOW = {1000, 1620}
"""Milliwatts of two RTX 2080, whose sensor cannot be right."""


def watts(milliwatts: float | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def task_of(state: State) -> TaskResult:
    """A task whose mean power is the one that the card shows."""
    nvml: dict[str, Any] = state["nvml"]
    task = TaskResult()
    task.per_gpu = [GpuResult(name=card_name(state), power_limit_w=watts(nvml["power_limit_enforced_mw"]))]
    task.gpu_hardware_metrics = HardwareMetrics(avg_power_w=watts(nvml["power_instant_mw"] or nvml["power_usage_mw"]))
    return task


def power_checks(task: TaskResult) -> dict[str, CheckResult]:
    return {check.check: check for check in plausibility_checks([task], KnownPower()) if check.check in POWER_CHECKS}


@pytest.mark.parametrize("state", states(), ids=lambda state: f"{state['card']} {state['driver']} {state['state']}")
def test_a_real_card_passes_what_can_be_checked_and_the_rest_is_skipped_with_a_reason(state: State) -> None:
    nvml, task = state["nvml"], task_of(state)
    checks = power_checks(task)
    power, name = nvml["power_instant_mw"] or nvml["power_usage_mw"], card_name(state)
    has_limit = nvml["power_limit_enforced_mw"] is not None or reference_ranges.board_power(name) is not None
    if power is None or not has_limit:
        reasons = {check.reason for check in checks.values()}
        assert {check.severity for check in checks.values()} == {SKIPPED}
        assert all(
            ("no file has power" if power is None else f"the power limit of {name} is not known") in one for one in reasons
        )
    else:
        assert checks["power within limit"].severity == OK
        assert checks["power above idle"].severity == (FAILURE if power in TOO_LOW else OK)


def test_a_table_of_power_limits_allows_what_the_driver_of_the_card_does() -> None:
    for state in states():
        known, most = reference_ranges.board_power(card_name(state)), watts(state["nvml"]["power_limit_max_mw"])
        assert known is None or most is None or known >= most, card_name(state)


@pytest.mark.parametrize(
    ("card", "driver", "shown"),
    [("RTX PRO 6000 Blackwell Max-Q", "590.44.01", 3.99), ("Quadro P2000", "525.125.06", 4.61), ("GB10", "580.126.09", 3.0)],
)
def test_cards_that_idle_below_5_w_are_not_called_idle_by_that(card: str, driver: str, shown: float) -> None:
    (state,) = [one for one in states() if card in one["card"] and one["driver"] == driver]
    task = task_of(state)
    assert task.gpu_hardware_metrics is not None
    assert task.gpu_hardware_metrics.avg_power_w == pytest.approx(shown)
    assert power_checks(task)["power above idle"].severity in (OK, SKIPPED)


def test_the_limit_that_a_card_enforced_counts_before_the_table() -> None:
    """An RTX 3090 that is set to 200 W; cards of its name may be set to 480 W."""
    task = TaskResult()
    task.per_gpu = [GpuResult(name="NVIDIA GeForce RTX 3090", power_limit_w=200.0)]
    task.gpu_hardware_metrics = HardwareMetrics(avg_power_w=300.0)
    assert power_checks(task)["power within limit"].severity == FAILURE
    task.per_gpu[0].power_limit_w = None
    assert power_checks(task)["power within limit"].severity == OK
    task.per_gpu.append(GpuResult(name="NVIDIA Graphics Device"))
    skipped = power_checks(task)["power within limit"]
    assert (skipped.severity, "NVIDIA Graphics Device" in skipped.reason) == (SKIPPED, True)
