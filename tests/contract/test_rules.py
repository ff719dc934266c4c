"""Rules and routing load in the real programs, every alert fires and stays silent in a test, and says what to do."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.contract.sources import DASHBOARDS, ROOT, RULES, RUNBOOK, loaded, rules
from tests.dashboard_queries import panels_of
from tests.needs import need_program

RULE_TESTS = sorted((ROOT / "tests/rules").glob("*.yml"))
SEVERITIES = {"critical", "warning", "info"}
PARTS = ("Meaning", "Impact", "Diagnosis", "Mitigation")

alerts = pytest.mark.parametrize("alert", rules("alert"), ids=lambda alert: alert["alert"])


def run(*command: str | Path) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_configuration_with_its_rules(promtool: Path) -> None:
    run(promtool, "check", "config", ROOT / "prometheus/prometheus.yml")


def test_prometheus_accepts_the_rules(promtool: Path) -> None:
    run(promtool, "check", "rules", *RULES)


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_rules_do_what_they_should(promtool: Path, path: Path) -> None:
    run(promtool, "test", "rules", path)


def test_alertmanager_accepts_the_routing() -> None:
    amtool = need_program("alertmanager").with_name("amtool")
    run(amtool, "check-config", ROOT / "prometheus/alertmanager.yml")


def test_every_severity_is_routed_to_a_receiver_that_exists_and_info_notifies_nobody() -> None:
    config = loaded(ROOT / "prometheus/alertmanager.yml")
    receivers = {receiver["name"]: receiver for receiver in config["receivers"]}
    routes = config["route"]["routes"]
    assert {config["route"]["receiver"], *(route["receiver"] for route in routes)} <= set(receivers)
    (info,) = [route for route in routes if 'severity="info"' in route["matchers"]]
    assert receivers[info["receiver"]] == {"name": info["receiver"]}


def test_rules_never_read_the_fine_scrape_beside_the_full_one() -> None:
    """Each selector of ours names the job, or both copies of the energy counter are read."""
    bare = re.compile(r"\bjoulebench_\w+(?!\{|\w|:)")
    for kind in ("record", "alert"):
        for rule in rules(kind):
            expr = re.sub(r"\w+:joulebench_\w+:\w+", "", rule["expr"])
            assert not bare.search(expr), f"{rule[kind]}: a selector without a job"
            for name, selector in re.findall(r"\b(joulebench_\w+)\{([^}]*)\}", expr):
                job = "joulebench-proxy" if name.startswith("joulebench_proxy_") else "joulebench"
                assert f'job="{job}"' in selector, f"{rule[kind]}: {selector}"


@alerts
def test_an_alert_says_how_bad_it_is_what_happened_and_what_to_do(alert: dict[str, Any]) -> None:
    assert re.fullmatch(r"Joulebench[A-Z]\w+", alert["alert"])
    assert alert["labels"]["severity"] in SEVERITIES
    notes = alert["annotations"]
    assert set(notes) == {"summary", "description", "dashboard_url", "runbook_url"}
    assert len(notes["summary"]) < 120
    assert not notes["summary"].endswith(".")
    assert notes["description"].rstrip().endswith(".")
    board = re.match(r"/d/([\w-]+)", notes["dashboard_url"])
    assert board is not None
    assert (ROOT / f"dashboards/{board[1]}.json").is_file()
    assert notes["runbook_url"] == f"prometheus/RUNBOOK.md#{alert['alert'].lower()}"


@alerts
def test_the_runbook_tells_meaning_impact_diagnosis_and_mitigation(alert: dict[str, Any]) -> None:
    sections = re.split(r"^## ", RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = [section for section in sections if section.splitlines()[0] == alert["alert"]]
    assert len(found) == 1, f"RUNBOOK.md needs one heading '## {alert['alert']}'"
    for part in PARTS:
        assert f"**{part}.**" in found[0], f"{alert['alert']}: {part} is missing"


def test_every_panel_that_the_runbook_names_is_on_a_board() -> None:
    titles = {panel["title"] for path in DASHBOARDS for panel in panels_of(loaded(path))}
    named = re.findall(r"(?<!\*)\*([A-Z][^*\n]+)\*(?!\*)", RUNBOOK.read_text(encoding="utf-8").partition("\n## ")[2])
    assert len(named) > 10
    assert set(named) <= titles, set(named) - titles


def test_the_runbook_has_no_section_for_an_alert_that_is_gone() -> None:
    headings = re.findall(r"^## (\w+)$", RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings == [*dict.fromkeys(headings)]
    assert set(headings) == {alert["alert"] for alert in rules("alert")}


@alerts
def test_an_alert_is_tested_firing_and_silent(alert: dict[str, Any]) -> None:
    fires, silent = _cases(alert["alert"])
    assert fires, f"tests/rules has no case in which {alert['alert']} fires"
    assert silent, f"tests/rules has no case in which {alert['alert']} stays silent"


def test_how_many_alerts_fire_and_stay_silent() -> None:
    cases = [_cases(alert["alert"]) for alert in rules("alert")]
    firing, silent = (sum(counts) for counts in zip(*cases, strict=True))
    print(f"{len(cases)} alerts, {firing} cases firing, {silent} silent; {len(rules('record'))} recording rules")  # noqa: T201
    assert min(firing, silent) >= len(cases)


def _cases(name: str) -> tuple[int, int]:
    """How many checks expect the alert, and how many expect that it is not there."""
    expected: list[list[Any]] = []
    for test in itertools.chain.from_iterable(loaded(path)["tests"] for path in RULE_TESTS):
        expected += [case["exp_alerts"] for case in test.get("alert_rule_test", []) if case["alertname"] == name]
        expected += [case["exp_samples"] for case in test.get("promql_expr_test", []) if f'"{name}"' in case["expr"]]
    firing = sum(1 for found in expected if found)
    return firing, len(expected) - firing
