"""Two runs whose every watt, token, wait and failure is known, exported from a real Prometheus: the report is true.

Headline numbers are compared with the script by their place in the document; numbers of single tasks by sums, shares and bounds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from joulebench import cli
from joulebench.clients.prometheus import PrometheusApi
from joulebench.results.export import Options, export
from joulebench.units import Seconds
from tests.needs import need_program
from tests.truth import expected, recorded, script
from tests.truth.leaves import AtLeast, AtMost, Is, Truth, Unknown, Within, leaves, numbers, wrong
from tests.unit.results.store import Store, prometheus

pytestmark = pytest.mark.e2e

Ask = Callable[..., Any]


class Later:
    """A clock that stands an hour after the runs."""

    def unix(self) -> Seconds:
        return Seconds(script.END + 3600.0)

    def monotonic(self) -> Seconds:
        return Seconds(1.0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return exported(tmp_path_factory.mktemp("truth"), "nvml")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return exported(tmp_path_factory.mktemp("simulated"), "simulated")


def exported(directory: Path, source: str) -> list[str]:
    """Directories of both runs, on cards of this source."""
    for name in ("prometheus", "promtool"):
        need_program(name)
    store = Store()
    recorded.fill(store, source)
    recorded.write_journals(directory / "runs")
    (directory / "prometheus").mkdir()
    with prometheus(directory / "prometheus", store.openmetrics()) as url:
        for run in script.RUNS:
            told = export(Options(run, directory / "runs"), PrometheusApi(url), Later())
            assert told.notes == [f"1 of {script.TASKS + 1} planned tasks are missing: {script.TASKS} are known"]
    (directory / "prices.yml").write_text(expected.PRICES)
    return [str(directory / "runs" / run) for run in script.RUNS]


@pytest.fixture
def ask(runs: list[str], capsys: pytest.CaptureFixture[str]) -> Ask:
    """The JSON that a command prints of both runs."""

    def asked(*command: str, flags: tuple[str, ...] = ()) -> Any:
        assert cli.main([*command, *runs, "--format", "json", *flags]) == 0
        return json.loads(capsys.readouterr().out)

    return asked


@pytest.fixture
def prices(runs: list[str]) -> tuple[str, ...]:
    return "--prices.file", str(Path(runs[0]).parents[1] / "prices.yml")


def test_headline_numbers_of_the_report_are_true(ask: Ask, prices: tuple[str, ...]) -> None:
    assert wrong(numbers(ask("analyze", "report", flags=prices)), expected.report()) == []
    assert 100 < len(expected.report()) < 250


def test_numbers_of_tasks_agree_with_the_script_and_with_each_other(ask: Ask, prices: tuple[str, ...]) -> None:
    report = ask("analyze", "report", flags=prices)
    by_name = {(task.model.name, task.name): task for tasks in script.RUNS.values() for task in tasks}
    for shown in report["tasks"]:
        task = by_name[shown["arm"], shown["task_id"]]
        assert shown["joules_low"] <= script.total(task) <= shown["joules_high"]
        assert shown["joules_low"] <= shown["joules"] <= shown["joules_high"]
        assert shown["joules"] == pytest.approx(script.total(task), rel=2 * expected.JOULES)
        assert shown["seconds"] == pytest.approx(task.seconds)
        assert (shown["prompt_tokens"], shown["completion_tokens"]) == (expected.prompt([task]), expected.completion([task]))
        assert shown["least_confidence"] == min(call.confidence for call in task.calls)
        assert sum(shown["seconds_share"].values()) == pytest.approx(1.0)
    for model in report["models"]:
        counted = [shown for shown in report["tasks"] if shown["arm"] == model["label"] and not shown["excluded"]]
        assert model["counted"] == len(counted)
        for key in ("joules", "joules_low", "joules_high"):
            assert model[key] == pytest.approx(sum(shown[key] for shown in counted))
        assert sum(model["joules_share"].values()) == pytest.approx(1.0)
    for arm in report["cost"]["arms"]:
        local = arm["local"]
        assert local["total"] == pytest.approx(local["electricity"] + local["hardware"] + local["idle"])
        at = dict(map(tuple, arm["sensitivity"]))
        assert at[1.0] < local["total"] < at[0.01]


def test_numbers_of_tasks_in_the_analyses_add_up(ask: Ask) -> None:
    for model in ask("analyze", "bottlenecks"):
        for task in model["tasks"]:
            assert sum(task["shares"].values()) == pytest.approx(1.0)
            assert 0 <= task["idle_share"] <= 1
        assert sum(model["waiting"]["seconds"].values()) == pytest.approx(model["waiting"]["total"])
    for model in ask("analyze", "balance"):
        busiest = max(card["util"] for card in model["cards"])
        for index, card in enumerate(model["cards"]):
            idle = sum(task["idle_seconds"][str(index)] for task in model["tasks"])
            assert idle == pytest.approx((busiest - card["util"]) / 100 * model["seconds"])


def test_headline_numbers_of_a_comparison_are_true(ask: Ask) -> None:
    assert wrong(numbers(ask("analyze", "compare")), expected.comparison()) == []


@pytest.mark.parametrize(
    ("analysis", "truth", "flags"),
    [
        ("bottlenecks", expected.bottlenecks, ("--weights", f"{script.ALPHA.name}={expected.WEIGHTS:.0f}")),
        ("throttling", expected.throttling, ()),
        ("balance", expected.balance, ()),
        ("kv-cache", expected.kv_cache, ()),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_headline_numbers_of_an_analysis_are_true(
    ask: Ask, analysis: str, truth: Callable[[], Truth], flags: tuple[str, ...]
) -> None:
    assert wrong(numbers(ask("analyze", analysis, flags=flags)), truth()) == []


def test_findings_are_those_that_the_script_holds_and_their_numbers_are_true(ask: Ask, prices: tuple[str, ...]) -> None:
    findings = ask("analyze", "report", flags=prices)["findings"]
    found = {(one["scope"], one["kind"]): f"{one['evidence']} | {one['gain']}" for one in findings}
    truths = list(expected.findings())
    assert set(found) == {(model, kind) for model, kind, _ in truths}
    for model, kind, part in truths:
        assert part in found[model, kind]


def test_the_verdict_holds_the_numbers_of_the_report(ask: Ask, prices: tuple[str, ...]) -> None:
    energy, success, caveats = ask("analyze", "report", flags=prices)["summary"]
    best = expected.measures(expected.COUNTED["run-a"])
    (joules,) = re.findall(r"([\d,]+) J ", energy)
    assert float(joules.replace(",", "")) == pytest.approx(best["joules_per_success"].value, rel=expected.JOULES)
    assert energy.startswith(f"{script.ALPHA.name} uses the fewest joules")
    assert f"finishes {100 * best['success_rate'].value:.1f} %" in success
    assert caveats.startswith(f"{2 * len(script.HOT)} of {2 * script.TASKS} attempts do not count")
    assert "2 planned tasks left no result" in caveats


def test_of_simulated_cards_the_numbers_are_as_true_and_marked(simulated: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    prices = str(Path(simulated[0]).parents[1] / "prices.yml")
    assert cli.main(["report", *simulated, "--format", "json", "--prices.file", prices]) == 0
    report = json.loads(capsys.readouterr().out)
    assert wrong(numbers(report), expected.report()) == []
    assert report["simulated"] is True
    assert {model["simulated"] for model in report["models"]} == {task["simulated"] for task in report["tasks"]} == {True}
    assert "SIMULATED" in report["summary"][2]
    assert cli.main(["analyze", "bottlenecks", *simulated, "--format", "json"]) == 0
    for model in json.loads(capsys.readouterr().out):
        assert (model["simulated"], model["decode"], model["memory"]) == (True, None, []), "no roof holds for an invented card"


def test_levels_belong_to_the_findings_that_they_carry(ask: Ask, prices: tuple[str, ...]) -> None:
    (pair,) = ask("analyze", "report", flags=prices)["pairs"]
    better = {key for key, one in pair["measures"].items() if one["p_adjusted"] < 0.05}
    assert better == {key for key, one in pair["measures"].items() if one["finding"] in ("better", "worse")}
    assert pair["measures"]["joules_per_success"]["finding"] == "worse"
    assert pair["measures"]["success_rate"]["finding"] == "no difference shown"


def test_lists_that_show_the_first_of_something_show_the_least_sure(ask: Ask, prices: tuple[str, ...]) -> None:
    failures = ask("analyze", "report", flags=prices)["failures"]
    for tasks in script.RUNS.values():
        name = tasks[0].model.name
        by_task = {task.name: sum(call.confidence for call in task.calls) / len(task.calls) for task in tasks}
        by_call = {(task.name, call.number): call.confidence for task in tasks for call in task.calls}
        shown = {one["name"] for one in failures["tasks"] if one["model"] == name}
        calls = {(one["task_id"], one["number"]) for one in failures["calls"] if one["model"] == name}
        assert shown
        assert calls
        assert max(by_task[one] for one in shown) <= min((by_task[one] for one in by_task.keys() - shown), default=1.0) + 1e-9
        assert max(by_call[one] for one in calls) <= min((by_call[one] for one in by_call.keys() - calls), default=1.0) + 1e-9


def test_a_false_number_fails_and_so_does_a_truth_without_its_number() -> None:
    assert wrong({"a": 1.0, "new": 2.0}, {"a": Is(1.0)}) == []
    assert wrong({"a": 1.5}, {"a": Is(1.0)}) != []
    assert wrong({"a": 1.0}, {"a": Is(1.0), "missing": Is(2.0)}) != []


@pytest.mark.parametrize(
    ("check", "right", "false"),
    [
        (Is(100.0, rel=0.01), (99.5, 100.0, 100.9), (98.0, 102.0, None)),
        (AtMost(100.0), (100.0, 1.0, None), (101.0,)),
        (AtLeast(100.0), (100.0, 101.0, None), (99.0,)),
        (Within(0.0, 1.0), (0.0, 1.0), (1.1, None)),
        (Unknown(), (None,), (0.0,)),
    ],
    ids=lambda one: type(one).__name__ if not isinstance(one, tuple) else "",
)
def test_a_check_tells_right_from_false(check: Any, right: tuple[Any, ...], false: tuple[Any, ...]) -> None:
    assert all(check.holds(value) for value in right)
    assert not any(check.holds(value) for value in false)


def test_numbers_have_places_of_their_own() -> None:
    document = {"a": [{"model": "m", "x": 1}, {"model": "n", "x": None}], "b": [[1, 2]], "c": True, "d": "3"}
    assert dict(leaves(document)) == {"a[m].x": 1, "a[n].x": None, "b[0][0]": 1, "b[0][1]": 2}
