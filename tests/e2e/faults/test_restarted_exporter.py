"""An exporter that is killed and started again in the middle of a task: its memory is gone, the card's counter is not."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from joulebench import metrics
from joulebench.clients.exporter import ExporterApi
from joulebench.units import Seconds
from tests.e2e.faults.hosts import Host
from tests.e2e.faults.machines import RESTARTED, RESTARTED_POWER

pytestmark = pytest.mark.e2e


@pytest.fixture
def host(machines: Mapping[str, Host]) -> Host:
    return machines[RESTARTED]


def test_the_counter_of_the_card_goes_on(host: Host) -> None:
    before, after = host.seen["before"], host.seen["after"]
    counter = after.value(metrics.GPU_ENERGY, gpu=0)
    assert counter is None or counter >= (before.value(metrics.GPU_ENERGY, gpu=0) or 0)
    assert (after.value(metrics.METER_POLLS, gpu=0) or 0) < (before.value(metrics.METER_POLLS, gpu=0) or 0)


def test_the_new_exporter_does_not_know_the_window_and_says_so(host: Host) -> None:
    start, end = host.results["restarted"].window
    api = ExporterApi(host.url, 5.0)
    (gpu,) = api.energy(Seconds(start), Seconds(end), 0.0).raw_gpus
    api.close()
    assert (gpu["joules"], gpu["high"], gpu["quality"]) == (None, None, "missing")
    assert "uncovered_start" in gpu["reasons"]
    assert 0 < gpu["low"] < host.joules(0, host.results["restarted"])
    (journal,) = (host.runs / host.name).glob("journal-*.jsonl")
    (told,) = [e for e in map(json.loads, journal.read_text().splitlines()) if e["event_type"] == "TASK_ENERGY"]
    assert (told["total"]["joules"], told["total"]["quality"]) == (None, "missing")


def test_prometheus_stands_in_and_the_result_names_it(host: Host) -> None:
    result = host.results["restarted"]
    truth, measured = host.joules(0, result), result.record["measurement"]
    # How soon the new exporter is scraped depends on the machine, and so does how near the estimate is; the bounds do not.
    assert result.cell("total_energy_joules") == pytest.approx(truth, rel=0.05)
    assert measured["low_joules"] <= truth <= measured["high_joules"]
    assert (result.row["energy_source"], result.row["energy_method"]) == ("prometheus", "counter")
    assert (result.row["energy_exporter_joules"], measured["energy_exporter"]["joules"]) == ("", None)
    assert result.cell("energy_prometheus_joules") == result.cell("total_energy_joules")
    assert result.row["quality"] in ("ok", "short")
    assert result.row["counter_resets"] == "0"


def test_throttled_seconds_are_the_drivers_and_prometheus_kept_them(host: Host) -> None:
    result = host.results["restarted"]
    assert (result.row["throttled_seconds"], result.row["throttled_source"]) == ("0", "prometheus")
    assert result.record["throttle"]["throttled_seconds_exporter"] is None


# --- the same on a card without a counter: then the exporter's own sum is gone with it ----------------------------------


@pytest.fixture
def integrated(machines: Mapping[str, Host]) -> Host:
    return machines[RESTARTED_POWER]


def test_a_sum_of_power_begins_anew(integrated: Host) -> None:
    before, inside = integrated.seen["before"], integrated.seen["inside"]
    assert before.label(metrics.GPU_INFO, "energy_method", gpu=0) == "power_integration"
    assert (before.value(metrics.GPU_ENERGY, gpu=0) or 0) > 0
    assert 0 < (inside.value(metrics.GPU_ENERGY, gpu=0) or 0) < integrated.joules(0, integrated.results["restarted"])
    assert inside.value(metrics.GPU_ENERGY_RESETS, gpu=0) == 0, "the new exporter saw no fall"


def test_a_task_over_a_new_sum_has_no_joules_and_tells_the_epoch_and_the_gap(integrated: Host) -> None:
    result = integrated.results["restarted"]
    energy = result.energy(0)
    assert (energy["joules"], energy["high_joules"], energy["quality"]) == (None, None, "missing")
    assert energy["counter_resets"] == 1
    assert energy["coverage"] < 0.95
    assert energy["longest_gap_seconds"] > 0.5
    row = result.row
    assert [row[name] for name in ("total_energy_joules", "total_energy_kwh", "energy_high_joules")] == ["", "", ""]
    assert (row["quality"], row["energy_method"], row["counter_resets"]) == ("missing", "power_integration", "1")
    assert "reset" in result.reasons
    truth = integrated.joules(0, result)
    assert energy["low_joules"] is None or energy["low_joules"] <= truth
    assert result.record["measurement"]["energy_exporter"]["joules"] is None
    assert (row["status"], row["total_tokens"]) == ("success", "150")
