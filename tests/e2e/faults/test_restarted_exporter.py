"""An exporter that is killed and started again in the middle of a task: its memory is gone, the card's counter is not."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from joulebench import catalogue
from joulebench.clients.exporter_api import ExporterApi
from joulebench.units import Seconds
from tests.e2e.faults.hosts import Host

pytestmark = pytest.mark.e2e


@pytest.fixture
def host(machines: Mapping[str, Host]) -> Host:
    return machines["restarted"]


def test_the_counter_of_the_card_goes_on(host: Host) -> None:
    before, after = host.seen["before"], host.seen["after"]
    counter = after.value(catalogue.GPU_ENERGY, gpu=0)
    assert counter is None or counter >= (before.value(catalogue.GPU_ENERGY, gpu=0) or 0)
    assert (after.value(catalogue.METER_POLLS, gpu=0) or 0) < (before.value(catalogue.METER_POLLS, gpu=0) or 0)


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
    assert result.cell("total_energy_joules") == pytest.approx(truth, rel=0.01)
    assert measured["low_joules"] <= truth <= measured["high_joules"]
    assert (result.row["energy_source"], result.row["energy_method"]) == ("prometheus", "counter")
    assert (result.row["energy_exporter_joules"], measured["energy_exporter"]["joules"]) == ("", None)
    assert result.cell("energy_prometheus_joules") == result.cell("total_energy_joules")
    assert (result.row["quality"], result.row["counter_resets"]) == ("ok", "0")
