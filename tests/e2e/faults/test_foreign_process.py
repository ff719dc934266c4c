"""A program that is no model server beside the benchmark: the joules stay right, and the result says whose they may be."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping

import pytest

from joulebench import metrics
from tests.e2e.faults.hosts import Host
from tests.e2e.faults.machines import BESIDE_OTHERS, OLD_DRIVER, OTHERS_TIME

pytestmark = pytest.mark.e2e

REASON = "foreign_process"


@pytest.fixture
def host(machines: Mapping[str, Host]) -> Host:
    return machines["foreign"]


def test_only_the_task_beside_the_other_program_says_so(host: Host) -> None:
    assert {name: REASON in host.results[name].reasons for name in BESIDE_OTHERS} == {
        "alone": False,
        "beside": True,
        "after": False,
    }
    assert host.results["beside"].row["quality"] == "suspect"
    assert REASON in host.results["beside"].row["reasons"].split(";")


@pytest.mark.parametrize("task", BESIDE_OTHERS)
def test_the_joules_are_those_of_the_cards_whoever_used_them(host: Host, task: str) -> None:
    result = host.results[task]
    assert result.cell("total_energy_joules") == pytest.approx(host.all_joules(result), rel=0.01)


def test_the_exporter_says_it_of_the_card_that_was_shared_and_of_no_other(host: Host) -> None:
    start, end = host.results["beside"].window
    with urllib.request.urlopen(f"{host.url}/api/v1/energy?start={start}&end={end}", timeout=10) as answer:
        gpus = json.load(answer)["gpus"]
    assert [(REASON in gpu["reasons"], gpu["quality"]) for gpu in gpus] == [(True, "suspect"), (False, "ok")]


def test_a_scrape_shows_when_it_was_seen_and_no_name(host: Host) -> None:
    end = host.seen["end"]
    used = end.value(metrics.GPU_FOREIGN_USE, gpu=0)
    assert used == pytest.approx(host.begin + OTHERS_TIME[1], abs=1.0)
    assert end.value(metrics.GPU_FOREIGN_USE, gpu=1) is None
    assert end.value(metrics.GPU_FOREIGN_PROCESSES, gpu=1) == 0
    assert not any("game" in value for _, labels in end.samples for _, value in labels)
    assert "game (pid" in host.exporter.log.read_text()


def test_a_driver_that_cannot_tell_leaves_no_count_behind(machines: Mapping[str, Host]) -> None:
    seen = machines[f"driver-{OLD_DRIVER}"].seen["inside"]
    assert seen.value(metrics.GPU_FOREIGN_PROCESSES, gpu=0) is None
    assert seen.value(metrics.GPU_UNNAMED_PROCESSES, gpu=0) is None
