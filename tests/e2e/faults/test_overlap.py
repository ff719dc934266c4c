"""Tasks that overlap, one to four at a time: every joule of the device is given out once."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from joulebench.clients.exporter import ExporterApi
from joulebench.units import Seconds
from tests.e2e.faults.hosts import Host
from tests.e2e.faults.machines import OVERLAPPING

pytestmark = pytest.mark.e2e


@pytest.fixture
def host(machines: Mapping[str, Host]) -> Host:
    return machines["shared"]


def device(host: Host, start: float, end: float) -> float:
    """What the exporter says that both cards used."""
    api = ExporterApi(host.url, 5.0)
    joules = [gpu.joules for gpu in api.energy(Seconds(start), Seconds(end)).gpus]
    api.close()
    known = [one for one in joules if one is not None]
    assert len(known) == len(joules) == 2
    return sum(known)


def test_shares_and_what_nobody_used_add_up_to_the_device(host: Host) -> None:
    tasks = host.results.tasks
    given = [result.cell("attributed_energy_joules") for result in tasks.values()]
    known = [one for one in given if one is not None]
    assert len(known) == len(OVERLAPPING) + 1
    begin, end = min(result.window[0] for result in tasks.values()), max(result.window[1] for result in tasks.values())
    pause = max(tasks[name].window[1] for name in OVERLAPPING), tasks["e"].window[0]
    whole = device(host, begin, end)
    assert sum(known) + device(host, *pause) == pytest.approx(whole, rel=1e-3)
    assert whole == pytest.approx(sum(host.script.joules(gpu, begin, end) for gpu in (0, 1)), rel=2e-3)


@pytest.mark.parametrize("gpu", [0, 1])
def test_the_books_of_a_card_balance_and_name_every_remainder(host: Host, gpu: int) -> None:
    (card,) = (one for one in host.results.run["gpus"] if one["gpu"] == str(gpu))
    (balance,) = card["balances"]
    assert balance["tasks"] == len(OVERLAPPING) + 1
    shares = [result.record["attribution"]["gpus"][card["uuid"]] for result in host.results.tasks.values()]
    given = sum(share["attributed"] for share in shares)
    rest = balance["shared_idle"] + balance["unattributed"] + balance["withheld"]
    assert given + rest == pytest.approx(balance["joules"], rel=1e-9)
    assert abs(balance["residual"]) < 1e-6 * balance["joules"]
    assert balance["withheld"] == 0
    assert balance["unattributed"] > 0, "the pause before the last task"
    truth = host.script.joules(gpu, balance["start_unix"], balance["end_unix"])
    assert balance["joules"] == pytest.approx(truth, rel=1e-3)


def test_whole_windows_would_count_shared_joules_more_than_once(host: Host) -> None:
    tasks = [host.results[name] for name in OVERLAPPING]
    whole = device(host, min(task.window[0] for task in tasks), max(task.window[1] for task in tasks))
    assert sum(task.cell("total_energy_joules") or 0 for task in tasks) > 1.5 * whole
    for task in tasks:
        assert task.cell("total_energy_joules") == pytest.approx(host.all_joules(task), rel=0.01)


@pytest.mark.parametrize("name", OVERLAPPING)
def test_a_share_lies_between_what_was_alone_and_the_whole_window(host: Host, name: str) -> None:
    result = host.results[name]
    share = result.record["attribution"]
    assert 0 <= share["lower"] <= share["attributed"] <= share["upper"]
    assert share["upper"] == pytest.approx(host.all_joules(result), rel=0.08), "Prometheus alone, down to a second"
    assert share["overlap_fraction"] == pytest.approx(result.cell("overlap_fraction"))
    assert (result.row["quality"], "overlap" in result.reasons) == ("suspect", True)


def test_how_much_of_a_task_was_shared_is_told(host: Host) -> None:
    fractions = {name: host.results[name].cell("overlap_fraction") for name in (*OVERLAPPING, "e")}
    (begin, end), (first, last) = OVERLAPPING["a"], OVERLAPPING["b"]
    assert fractions == pytest.approx({"a": (last - first) / (end - begin), "b": 1, "c": 1, "d": 1, "e": 0}, abs=0.02)


def test_a_task_alone_has_all_of_its_window(host: Host) -> None:
    alone = host.results["e"]
    share = alone.record["attribution"]
    assert share["method"] == "exclusive"
    assert share["lower"] == share["attributed"] == share["upper"] == pytest.approx(alone.cell("total_energy_joules"))
    assert "overlap" not in alone.reasons


def test_a_task_that_only_waited_is_given_less_than_one_that_called(host: Host) -> None:
    attributed = {name: host.results[name].cell("attributed_energy_joules") or 0 for name in OVERLAPPING}
    assert attributed["d"] < 0.05 * attributed["a"]
    assert attributed["c"] < attributed["b"] < attributed["a"]
