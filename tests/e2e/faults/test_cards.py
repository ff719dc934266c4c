"""A card for each fault, in one machine: what the exporter shows of it, and what the result says of it.

Two things must never happen: that a fault becomes a 0, and that it takes the numbers of a healthy card with it.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from joulebench import metrics
from tests.e2e.faults.hosts import LOW_WATTS, Host
from tests.e2e.faults.machines import HEALTHY, LOST, RESET, SLOW, SPORADIC, ZERO_WATTS
from tests.e2e.faults.results import TaskResult

pytestmark = pytest.mark.e2e

CARDS = (HEALTHY, ZERO_WATTS, SPORADIC, RESET, LOST, SLOW)
TASKS = ("quiet", "slow", "reset", "lost")


@pytest.fixture
def zoo(machines: Mapping[str, Host]) -> Host:
    return machines["zoo"]


def assert_right(host: Host, result: TaskResult, gpu: int, within: float = 0.01) -> None:
    """The energy of one card: near the truth and, where a counter bounds it, around it."""
    energy, truth = result.energy(gpu), host.joules(gpu, result)
    assert energy["joules"] == pytest.approx(truth, rel=within)
    if energy["method"] == "counter":
        assert energy["low_joules"] <= truth
        assert energy["high_joules"] is None or truth <= energy["high_joules"]


@pytest.mark.parametrize("task", TASKS)
def test_what_happens_to_one_card_costs_no_other_card_its_energy(zoo: Host, task: str) -> None:
    result = zoo.results[task]
    for gpu in CARDS:
        if (task, gpu) != ("reset", RESET):
            assert_right(zoo, result, gpu)
            assert result.energy(gpu)["quality"] == "ok", result.energy(gpu)
    assert result.row["energy_method"] == "counter"
    assert result.row["energy_source"] == "exporter"
    assert result.cell("gpu_count") == len(CARDS)
    low = result.cell("energy_low_joules")
    assert low is not None
    assert low <= zoo.all_joules(result)
    assert result.cell("total_energy_joules") == pytest.approx(zoo.all_joules(result), rel=0.01)


def test_an_undisturbed_task_is_ok(zoo: Host) -> None:
    assert (zoo.results["quiet"].row["quality"], zoo.results["quiet"].reasons) == ("ok", set())


def test_zero_watts_are_no_power_and_no_less_energy(zoo: Host) -> None:
    for name, seen in zoo.seen.items():
        power = seen.value(metrics.GPU_POWER, gpu=ZERO_WATTS)
        assert power is None or power >= LOW_WATTS, name
    dark = zoo.seen["slow"]
    assert dark.value(metrics.GPU_POWER, gpu=ZERO_WATTS) is None
    assert dark.value(metrics.GPU_POWER, gpu=HEALTHY) is not None
    assert dark.value(metrics.GPU_UP, gpu=ZERO_WATTS) == 1
    assert (dark.value(metrics.GPU_READ_ERRORS, gpu=ZERO_WATTS, group="power") or 0) > 50
    for task in TASKS:
        stats = zoo.results[task].gpu(ZERO_WATTS)["power_w"]
        assert stats is None or stats["low"] >= LOW_WATTS
        average = zoo.results[task].cell("avg_power_w")
        assert average is not None
        assert average > len(CARDS) * LOW_WATTS


def test_a_counter_that_sometimes_refuses_loses_no_joule(zoo: Host) -> None:
    end = zoo.seen["end"]
    assert (end.value(metrics.GPU_READ_ERRORS, gpu=SPORADIC, group="energy") or 0) > 100
    assert end.value(metrics.GPU_READ_ERRORS, gpu=HEALTHY, group="energy") == 0
    assert end.value(metrics.GPU_ENERGY_RESETS, gpu=SPORADIC) == 0
    assert end.label(metrics.GPU_INFO, "energy_method", gpu=SPORADIC) == "counter"


def test_calls_that_take_200_ms_are_counted_on_their_card_and_energy_stays_in_its_bounds(zoo: Host) -> None:
    assert zoo.seen["begin"].value(metrics.METER_OVERRUNS, gpu=SLOW) == 0
    after = {gpu: zoo.seen["slow"].value(metrics.METER_OVERRUNS, gpu=gpu) or 0 for gpu in CARDS}
    assert after[SLOW] >= 1
    assert max(after, key=lambda gpu: after[gpu]) == SLOW
    result = zoo.results["slow"]
    low, high = result.cell("energy_low_joules"), result.cell("energy_high_joules")
    assert low is not None
    assert high is not None
    assert low <= zoo.all_joules(result) <= high
    # The window has a gap that is told, and fewer counter changes than one without.
    assert (result.cell("energy_samples") or 0) < (zoo.results["quiet"].cell("energy_samples") or 0) * 2.0 / 2.2


def test_a_counter_reset_is_suspect_and_keeps_a_lower_bound(zoo: Host) -> None:
    assert zoo.seen["slow"].value(metrics.GPU_ENERGY_RESETS, gpu=RESET) == 0
    after = zoo.seen["reset"]
    assert after.value(metrics.GPU_ENERGY_RESETS, gpu=RESET) == 1
    assert after.value(metrics.GPU_ENERGY_RESETS, gpu=HEALTHY) == 0
    assert (after.value(metrics.GPU_ENERGY, gpu=RESET) or 0) > 0
    result = zoo.results["reset"]
    energy, truth = result.energy(RESET), zoo.joules(RESET, result)
    assert (energy["quality"], energy["reasons"], energy["counter_resets"]) == ("suspect", ["reset"], 1)
    assert energy["high_joules"] is None
    # What was spent around the reset is lost: at most two steps and a poll.
    assert truth - 60 <= energy["low_joules"] <= energy["joules"] <= truth + 1
    row = result.row
    assert (row["quality"], result.reasons, row["counter_resets"]) == ("suspect", {"reset"}, "1")
    assert row["energy_high_joules"] == row["energy_coverage"] == ""
    assert zoo.results["lost"].reasons == {"gpu_lost"}, "the next task knows nothing of it"


def test_a_lost_card_shows_as_down_without_readings_and_its_task_says_so(zoo: Host) -> None:
    lost, back = zoo.seen["lost"], zoo.seen["back"]
    for metric in (metrics.GPU_ENERGY, metrics.GPU_POWER, metrics.GPU_TEMPERATURE, metrics.GPU_UTILIZATION):
        assert lost.value(metric, gpu=LOST) is None, metric.name
        assert lost.value(metric, gpu=HEALTHY) is not None, metric.name
    assert lost.value(metrics.GPU_UP, gpu=LOST) == 0
    assert (lost.value(metrics.GPU_READ_ERRORS, gpu=LOST, group="fast") or 0) >= 1
    assert back.value(metrics.GPU_UP, gpu=LOST) == 1
    assert (back.value(metrics.GPU_ENERGY, gpu=LOST) or 0) > (zoo.seen["reset"].value(metrics.GPU_ENERGY, gpu=LOST) or 0)
    result = zoo.results["lost"]
    assert (result.row["quality"], result.reasons) == ("suspect", {"gpu_lost"})
    gap = result.energy(LOST)["longest_gap_seconds"]
    assert 1.2 < gap < 3.0
    assert result.cell("energy_longest_gap_seconds") == pytest.approx(gap)
    assert result.energy(HEALTHY)["longest_gap_seconds"] < 1.0


# --- cards without a counter, without anything, and no card at all -----------------------------------------------------


def test_a_card_without_a_counter_is_integrated_says_so_and_errs_little(machines: Mapping[str, Host]) -> None:
    host = machines["no-counter"]
    seen, result = host.seen["integrated"], host.results["integrated"]
    assert seen.label(metrics.GPU_INFO, "energy_method", gpu=0) == "counter"
    assert seen.label(metrics.GPU_INFO, "energy_method", gpu=1) == "power_integration"
    assert (seen.value(metrics.GPU_ENERGY, gpu=1) or 0) > 0
    assert (result.energy(0)["method"], result.energy(1)["method"]) == ("counter", "power_integration")
    assert result.energy(1)["low_joules"] is None
    assert result.energy(1)["high_joules"] is None
    assert_right(host, result, 0)
    assert_right(host, result, 1, within=0.02)
    assert (result.row["energy_method"], result.row["quality"], result.reasons) == ("mixed", "ok", set())
    assert result.cell("total_energy_joules") == pytest.approx(host.all_joules(result), rel=0.015)
    assert result.row["energy_low_joules"] == result.row["energy_high_joules"] == ""


def test_without_a_counter_and_without_power_there_is_no_energy_and_no_sum(machines: Mapping[str, Host]) -> None:
    host = machines["no-counter"]
    seen, result = host.seen["dark"], host.results["dark"]
    assert seen.value(metrics.GPU_POWER, gpu=1) is None
    assert seen.value(metrics.GPU_UP, gpu=1) == 1
    assert_right(host, result, 0)
    energy = result.energy(1)
    assert (energy["joules"], energy["quality"], energy["reasons"]) == (None, "missing", ["reset"])
    assert (result.row["total_energy_joules"], result.row["quality"], result.reasons) == ("", "missing", {"reset"})
    assert result.record["gpu_hardware_metrics"]["total_energy_joules"] is None
    assert result.row["joules_per_completion_token"] == result.row["total_energy_kwh"] == ""


def test_a_card_that_tells_nothing_has_no_method_and_no_joules(machines: Mapping[str, Host]) -> None:
    host = machines["mute"]
    seen, result = host.seen["inside"], host.results["one"]
    assert seen.label(metrics.GPU_INFO, "energy_method", gpu=0) == "none"
    assert seen.value(metrics.GPU_UP, gpu=0) == 1
    assert not {metrics.GPU_ENERGY.name, metrics.GPU_ENERGY_SAMPLE_TIMESTAMP.name, metrics.GPU_POWER.name} & seen.names()
    assert seen.value(metrics.GPU_TEMPERATURE, gpu=0) is not None
    row = result.row
    assert (row["total_energy_joules"], row["energy_low_joules"], row["avg_power_w"]) == ("", "", "")
    assert (row["quality"], result.reasons, row["energy_method"]) == ("missing", {"no_samples"}, "none")
    assert result.cell("avg_temp_c") == 40
    assert (row["status"], row["total_tokens"]) == ("success", "150")


def test_without_nvml_there_is_no_gpu_family_and_the_row_says_why(machines: Mapping[str, Host]) -> None:
    """Other machines of the same Prometheus have GPUs; none of them is taken for this one's."""
    host = machines["bare"]
    seen, result = host.seen["inside"], host.results["one"]
    gpu_families = {metric.name for metric in metrics.METRICS if metrics.GPU[1] in metric.labels}
    assert not gpu_families & seen.names()
    assert seen.label(metrics.EXPORTER_INFO, "gpu_source") == "none"
    row = result.row
    assert (row["total_energy_joules"], row["gpu_count"], row["avg_power_w"], row["avg_temp_c"]) == ("", "", "", "")
    assert (row["quality"], result.reasons, row["throttled_seconds"]) == ("missing", {"no_gpu"}, "")
    assert result.record["per_gpu"] == []
    assert (row["status"], row["total_tokens"]) == ("success", "150")
