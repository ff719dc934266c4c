"""Confidence by tool: declared tools have series of their own, and whatever a model invents adds none."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulebench import Run, metrics
from joulebench.confidence.measures import CallConfidence
from joulebench.push.task_metrics import run_families
from joulebench.push.totals import MAX_TOOL_LENGTH, MAX_TOOLS, OTHER, RunTotals, declared_tools, tool_label
from joulebench.units import Ratio, Seconds
from tests.unit.push.conftest import RealGateway, scrape

INVENTED = 1_000


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def counts(totals: RunTotals) -> dict[tuple[str, str], float]:
    """(model, tool) -> calls."""
    (family,) = [found for found in run_families(totals, Seconds(0)) if found.name == metrics.TOOL_CONFIDENCE.name]
    return {
        (sample.labels["model"], sample.labels["tool"]): sample.value
        for sample in family.samples
        if sample.name.endswith("_count")
    }


def test_a_thousand_invented_tools_are_one_series() -> None:
    totals = RunTotals("suite", "1")
    totals.declare_tools(["read_file", "finish"])
    for number in range(INVENTED):
        totals.add_confidence("m", f"invented_{number}", Ratio(0.5))
    totals.add_confidence("m", "read_file", Ratio(0.9))
    assert counts(totals) == {("m", OTHER): INVENTED, ("m", "read_file"): 1}


def test_a_thousand_declared_tools_are_bounded_too() -> None:
    totals = RunTotals("suite", "1")
    totals.declare_tools(f"tool_{number}" for number in range(INVENTED))
    for number in range(INVENTED):
        totals.add_confidence("m", f"tool_{number}", Ratio(0.5))
    found = counts(totals)
    assert len(found) == MAX_TOOLS + 1
    assert found[("m", OTHER)] == INVENTED - MAX_TOOLS
    assert found[("m", "tool_0")] == 1


def test_names_are_cleaned_and_cut() -> None:
    known = declared_tools({}, ["a\nb\ud800", "x" * 500, "", "\x00"])
    assert tool_label(known, "a\nb\ud800") == "a b?"
    assert len(tool_label(known, "x" * 500)) == MAX_TOOL_LENGTH
    assert {tool_label(known, ""), tool_label(known, "\x00"), tool_label(known, "unknown")} == {OTHER}


def test_declaring_again_adds_and_changes_nothing_else() -> None:
    once = declared_tools({}, ["a", "b"])
    assert declared_tools(once, ["b", "c"]) == {"a": "a", "b": "b", "c": "c"}
    assert once == {"a": "a", "b": "b"}


def test_the_gateway_holds_confidences_by_tool_and_no_text_of_the_model(in_tmp: Path, gateway: RealGateway) -> None:
    score = CallConfidence("ok", "x", 0.75, {})
    with Run(model="m", gateway_url=gateway.url, prometheus_url="none") as run, run.task("t") as task:
        run.declare_tools(["read_file"])
        task.declare_tools(["finish"])
        for name in ("read_file", "read_file", "finish", "my secret"):
            with task.tool(name, {}, score):
                pass
    found = scrape(gateway.url)
    calls = {labels["tool"]: value for name, labels, value in found if name == f"{metrics.TOOL_CONFIDENCE.name}_count"}
    assert calls == {"read_file": 2, "finish": 1, OTHER: 1}
    assert not [labels for _, labels, _ in found if "secret" in str(labels)]
