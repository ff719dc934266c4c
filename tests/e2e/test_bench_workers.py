"""A benchmark with three workers, from the command line to the result files: overlapping tasks share every joule once."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from joulebench import cli
from joulebench.stack.native import NativeStack, Ports
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import MODEL, Turn, by_instruction, call, say
from tests.needs import need_program
from tests.unit.push.conftest import events

pytestmark = pytest.mark.e2e

SUITE = """
name: three
tasks:
  - {id: write, name: Write, instruction: Write it., grade: [file_equals: {path: a.txt, text: x}]}
  - {id: answer, name: Answer, instruction: Say yes., grade: [answer_equals: {text: "yes"}]}
  - {id: think, name: Think, instruction: Think hard., grade: [answer_equals: {text: thought}]}
"""
ANSWERS = {
    "Write it.": [call("write_file", path="a.txt", text="x"), call("finish", answer="done")],
    "Say yes.": [say("yes")],
    "Think hard.": [say("well " * 40)],
    "Reply with the word ok.": [say("ok")],
}
SLOW: dict[str, list[Turn]] = {
    asked: [turn.with_(token_gap=0.03, first_token_after=0.2, prefill_ms=180.0, decode_ms=500.0) for turn in turns]
    for asked, turns in ANSWERS.items()
}


@dataclass(frozen=True)
class Exported:
    run: dict[str, Any]
    rows: list[dict[str, str]]
    records: list[dict[str, Any]]
    directory: Path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    for name in ("prometheus", "pushgateway"):
        need_program(name)
    directory = tmp_path_factory.mktemp("workers")
    (directory / "three.yaml").write_text(SUITE, encoding="utf-8")
    gpus = ["--gpu-source", "simulated", "--simulated.gpus=2"]
    with (
        NativeStack(directory / "stack", Ports.free(), gpus, with_alertmanager=False) as stack,
        ModelServer(by_instruction(SLOW)) as server,
    ):
        places = ["--run-id", "r", "--runs-dir", str(directory / "runs"), "--prometheus-url", stack.prometheus_url]
        model = ["--model", MODEL, "--base-url", server.openai_url]
        urls = ["--gateway-url", stack.gateway_url, "--exporter-url", stack.exporter_url]
        many = ["--suite", str(directory / "three.yaml"), "--workers", "3", "--repeat", "2", "--idle-seconds", "1"]
        assert cli.main(["bench", *model, *places, *urls, *many, "--no-progress"]) == 0
        assert cli.main(["export", *places]) == 0
    runs = directory / "runs" / "r"
    with (runs / "results.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    records = [json.loads((runs / row["result_file"]).read_text(encoding="utf-8")) for row in rows]
    return Exported(json.loads((runs / "run.json").read_text(encoding="utf-8")), rows, records, runs)


def test_the_shares_and_what_nobody_used_are_what_the_gpus_counted(exported: Exported) -> None:
    assert len(exported.rows) == 6
    assert max(float(row["overlap_fraction"]) for row in exported.rows) > 0.3, "nothing overlapped, so this test shows nothing"
    for gpu in exported.run["gpus"]:
        (balance,) = gpu["balances"]
        shares = [record["attribution"]["gpus"][gpu["uuid"]]["attributed"] for record in exported.records]
        apart = balance["unattributed"] + balance["shared_idle"] + balance["withheld"]
        assert sum(shares) + apart == pytest.approx(balance["joules"], rel=1e-3)
        assert balance["residual"] == pytest.approx(0.0, abs=1e-6)
        assert balance["shared_idle"] > 0, "idle power was measured, so shared time has its floor"


def test_shares_lie_between_their_bounds_and_windows_are_not_taken_for_them(exported: Exported) -> None:
    for record in exported.records:
        share = record["attribution"]
        assert share["lower"] <= share["attributed"] <= share["fully_loaded"] <= share["upper"] * (1 + 1e-9)
        if share["overlap_fraction"]:
            assert "overlap" in record["measurement"]["reasons"]
            assert record["efficiency"]["joules_per_call"] is None


def test_idle_power_was_measured_on_both_sides_of_the_tasks(exported: Exported) -> None:
    measured = events(exported.directory, "IDLE_POWER")
    assert [event["label"] for event in measured] == ["before", "after"]
    (warm_up,) = exported.run["warm_ups"]
    starts = [event["timestamp"] for event in events(exported.directory, "TASK_START")]
    ends = [event["timestamp"] for event in events(exported.directory, "TASK_END")]
    assert warm_up["timestamp"] <= measured[0]["start"] < measured[0]["end"] <= min(starts)
    assert max(ends) <= measured[1]["start"]
    for gpu in exported.run["gpus"]:
        labels = [one["label"] for one in gpu["idle"]["measurements"]]
        assert labels == ["before", "after"]
        assert gpu["idle"]["watts"] == min(one["watts"] for one in gpu["idle"]["measurements"])
    assert {row["idle_power_w"] for row in exported.rows} != {""}


def test_every_call_has_its_joules(exported: Exported) -> None:
    calls = [one for record in exported.records for one in record["calls"]]
    assert len(calls) == 8
    assert {one["energy_source"] for one in calls} == {"exporter"}
    assert all(one["low_joules"] <= one["joules"] <= one["high_joules"] for one in calls)
    assert not any("calls_exceed_task" in row["reasons"] for row in exported.rows)


def test_the_run_is_told_as_a_whole(exported: Exported) -> None:
    totals = exported.run["totals"]
    assert (totals["tasks"], totals["tasks_with_joules"], exported.run["planned_tasks"]) == (6, 6, 6)
    assert totals["joules"] == pytest.approx(sum(float(row["attributed_energy_joules"]) for row in exported.rows))
    assert [state["groups_unpushed"] for state in exported.run["push_state"]] == [0]
    assert {gpu["source"] for gpu in exported.run["gpus"]} == {"simulated"}
