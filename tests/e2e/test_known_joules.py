"""From a fake GPU with known joules to results.csv, through real Prometheus, Pushgateway, exporter, runner and export.

What could go wrong and would be seen here: windows cut at scrape times, counters read late, tokens lost on the way, a GPU left
out, a failure written as a success. Energy within 1 % for tasks of 5 s and more, inside the bounds for all; tokens exact for all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import wait_until
from joulebench.stack.native import NativeStack, Ports
from tests.dashboard_queries import EMPTY_WHEN_WELL, queries_of
from tests.e2e.scene import (
    STEADY_WATTS,
    PlannedTask,
    PowerScript,
    Scene,
    bench_arguments,
    fake_gpus,
    joulebench,
    read_results,
    start_exporter,
    write_suite,
)
from tests.fakes.model_server import ModelServer
from tests.needs import need_program

pytestmark = pytest.mark.e2e

TASKS = [
    PlannedTask("long-1", 5.3, 0.95),
    PlannedTask("short-1", 0.8, 0.9),
    PlannedTask("short-2", 0.5, 0.45),
    PlannedTask("middle-1", 2.2, 0.8, passes=False),
    PlannedTask("long-2", 6.1, 0.7),
    PlannedTask("short-3", 1.1, 0.99, passes=False),
    PlannedTask("middle-2", 3.4, 0.6),
    PlannedTask("long-3", 5.6, 0.85),
]
RUN_ID = "known-joules"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Scene, NativeStack]]:
    for name in ("prometheus", "pushgateway"):
        need_program(name)
    directory = tmp_path_factory.mktemp("known-joules")
    gpus = fake_gpus(directory)
    assert gpus.busy is not None
    suite = write_suite(directory / "suite.yaml", TASKS)
    stack = NativeStack(directory / "stack", Ports.free(), with_exporter=False, with_alertmanager=False)
    with stack, ModelServer(PowerScript(gpus.busy, TASKS)) as server:
        start_exporter(stack, gpus, directory, server.ollama_url)
        api = PrometheusApi(stack.prometheus_url)
        scraped = f'count({metrics.GPU_ENERGY.name}{{job="joulebench-energy"}}) == 2'
        assert wait_until(lambda: bool(api.query(scraped)), 20.0), "Prometheus does not scrape both fake GPUs"
        api.close()
        joulebench(*bench_arguments(stack, server, suite, RUN_ID, directory / "runs"))
        joulebench("export", "--run-id", RUN_ID, "--runs-dir", str(directory / "runs"), "--prometheus-url", stack.prometheus_url)
        yield read_results(Scene(gpus, {task.task_id: task for task in TASKS}, directory / "runs" / RUN_ID)), stack


def events(scene: Scene) -> list[dict[str, Any]]:
    (journal,) = scene.run_directory.glob("journal-*.jsonl")
    return [json.loads(line) for line in journal.read_text().splitlines()]


def test_every_task_has_one_row_and_one_file(scene: tuple[Scene, NativeStack]) -> None:
    assert set(scene[0].rows) == set(scene[0].records) == {task.task_id for task in TASKS}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task_id)
def test_energy_is_the_true_energy(scene: tuple[Scene, NativeStack], task: PlannedTask) -> None:
    found, truth = scene[0].records[task.task_id], scene[0].joules(task.task_id)
    measured = found["measurement"]
    assert measured["low_joules"] <= truth <= measured["high_joules"]
    if task.seconds >= 5:
        assert measured["joules"] == pytest.approx(truth, rel=0.01)
    assert float(scene[0].rows[task.task_id]["total_energy_joules"]) == pytest.approx(measured["joules"])


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task_id)
def test_prometheus_alone_tells_the_same(scene: tuple[Scene, NativeStack], task: PlannedTask) -> None:
    alone, truth = scene[0].records[task.task_id]["measurement"]["energy_prometheus"], scene[0].joules(task.task_id)
    assert alone["low"] <= truth <= alone["high"]
    if task.seconds >= 5:
        assert alone["joules"] == pytest.approx(truth, rel=0.01)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task_id)
def test_prefill_and_decode_have_their_own_joules_by_the_exporters_record(
    scene: tuple[Scene, NativeStack], task: PlannedTask
) -> None:
    record = scene[0].records[task.task_id]
    truths = {"prefill": 0.0, "decode": 0.0}
    for event in record["raw_events"]:
        if event["event_type"] == "LLM_QUERY_END":
            first = event["timestamp"] - event["decode_seconds"]
            truths["prefill"] += scene[0].joules_between(first - event["prefill_seconds"], first)
            truths["decode"] += scene[0].joules_between(first, event["timestamp"])
    assert record["phases"]["source"] == scene[0].rows[task.task_id]["phase_energy_source"] == "exporter"
    for phase, truth in truths.items():
        found = record["phases"]["by_phase"][phase]
        assert found["low_joules"] - 0.01 <= truth <= found["high_joules"] + 0.01
        if task.seconds >= 5 and phase == "decode":
            assert found["joules"] == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task_id)
def test_tokens_calls_and_confidence_are_exact(scene: tuple[Scene, NativeStack], task: PlannedTask) -> None:
    row = scene[0].rows[task.task_id]
    assert int(row["total_prompt_tokens"]) == sum(turn.prompt_tokens for turn in task.turns)
    assert int(row["total_completion_tokens"]) == sum(turn.completion_tokens for turn in task.turns)
    assert int(row["llm_call_count"]) == int(row["total_tool_calls"]) == int(row["tool_calls_ok"]) == len(task.turns)
    assert float(row["min_ttft_ms"]) >= 1000 * task.turns[0].first_token_after
    assert row["success"] == str(task.passes)
    # A confidence is a product over several tokens of the scripted chance: below it, and only for tokens that were found.
    assert 0 < float(row["min_tool_confidence"]) <= task.confidence
    assert int(row["tool_calls_with_confidence"]) == len(task.turns)


def test_both_gpus_are_told_apart(scene: tuple[Scene, NativeStack]) -> None:
    for task in TASKS:
        record = scene[0].records[task.task_id]
        seconds = record["metadata"]["session_end_unix"] - record["metadata"]["session_start_unix"]
        by_gpu = {one["gpu"]: one["energy"]["joules"] for one in record["per_gpu"]}
        assert by_gpu["1"] == pytest.approx(STEADY_WATTS * seconds, rel=0.02)
        assert by_gpu["0"] > by_gpu["1"]


def test_nothing_is_left_on_the_pushgateway_and_nothing_failed(scene: tuple[Scene, NativeStack]) -> None:
    (state,) = [event for event in events(scene[0]) if event["event_type"] == "PUSH_STATE"]
    assert (state["groups_left"], state["groups_unpushed"], state["failures"]) == (0, 0, 0)


def test_a_measured_gpu_is_not_called_simulated(scene: tuple[Scene, NativeStack]) -> None:
    assert {(row["gpu_source"], row["energy_simulated"]) for row in scene[0].rows.values()} == {("nvml", "False")}


def test_published_analysis_lines_run_unchanged(scene: tuple[Scene, NativeStack]) -> None:
    df = pandas.read_csv(scene[0].run_directory / "results.csv")
    by_model = df.groupby("model_name").agg({"total_energy_joules": "mean", "total_duration_seconds": "mean"})
    assert by_model.loc["scripted:1b", "total_energy_joules"] == pytest.approx(df["total_energy_joules"].mean())
    assert (df["total_energy_kwh"] * 0.12).sum() == pytest.approx(df["total_energy_joules"].sum() / 3.6e6 * 0.12)
    assert df["total_energy_joules"].corr(df["total_duration_seconds"]) > 0.9
    assert set(df[df["min_tool_confidence"] < 0.5]["task_id"]) == {task.task_id for task in TASKS if task.confidence < 0.5}
    assert df["success"].mean() == pytest.approx(sum(task.passes for task in TASKS) / len(TASKS))


def test_a_second_export_changes_nothing(scene: tuple[Scene, NativeStack]) -> None:
    directory = scene[0].run_directory
    before = {path.name: path.read_bytes() for path in directory.glob("result*")}
    joulebench("export", "--run-id", RUN_ID, "--runs-dir", str(directory.parent), "--prometheus-url", scene[1].prometheus_url)
    assert {path.name: path.read_bytes() for path in directory.glob("result*")} == before


def test_every_live_panel_has_data(scene: tuple[Scene, NativeStack]) -> None:
    """On what the real exporter and the real runner left behind, as of the last task: later its groups are gone."""
    dashboard = json.loads((Path(__file__).parents[2] / "dashboards/llm-live.json").read_text())
    at = max(event["timestamp"] for event in events(scene[0]) if event["event_type"] == "LLM_QUERY_END")
    api = PrometheusApi(scene[1].prometheus_url)
    # A row of something that this scene does without; on a recording that has them tests/contract asks these too.
    without = ("Metering proxy", "Model server:")
    dashboard["panels"] = [panel for panel in dashboard["panels"] if not panel["title"].startswith(without)]
    queries = queries_of(dashboard, {"api_model": ".+"})
    with_data = {title for title, expr in queries if api.query(expr, at)}
    api.close()
    assert len(queries) >= 20
    assert {title for title, _ in queries} - with_data - EMPTY_WHEN_WELL == set()


def test_a_report_of_the_run_tells_what_was_planned(scene: tuple[Scene, NativeStack]) -> None:
    played = scene[0]
    report = json.loads(joulebench("report", str(played.run_directory), "--format", "json").stdout)
    (model,) = report["models"]
    truth = sum(played.joules(task.task_id) for task in TASKS)
    passed = sum(task.passes for task in TASKS)
    turns = [turn for task in TASKS for turn in task.turns]
    assert (model["counted"], model["successes"]) == (len(TASKS), passed)
    assert model["joules_low"] <= truth <= model["joules_high"]
    assert model["joules"] == pytest.approx(truth, rel=0.01)
    measures = model["measures"]
    assert measures["joules_per_success"]["value"] == pytest.approx(truth / passed, rel=0.01)
    assert measures["joules_per_success"]["low"] <= truth / passed
    assert measures["success_rate"]["value"] == pytest.approx(passed / len(TASKS))
    tokens = sum(turn.completion_tokens for turn in turns)
    assert measures["joules_per_completion_token"]["value"] == pytest.approx(truth / tokens, rel=0.01)
    # The server waits at least so long before its first token, and says so; what comes on top is this machine's.
    assert model["ttft_seconds"] >= turns[0].first_token_after
    told = {one["task_id"]: one for one in report["tasks"]}
    for task in TASKS:
        one = told[task.task_id]
        assert one["joules_low"] <= played.joules(task.task_id) <= one["joules_high"]
        assert one["completion_tokens"] == sum(turn.completion_tokens for turn in task.turns)
        assert one["success"] is task.passes
    assert report["runs"][0]["missing"] == 0
    # The server says that it holds a quarter of the model on the CPU.
    assert {row["model_offload_ratio"] for row in played.rows.values()} == {"0.75"}
    (elsewhere,) = [one for one in report["findings"] if one["kind"] == "layers run on the CPU"]
    assert elsewhere["evidence"].startswith("25 % of the model runs on the CPU by the server's own account: 1.5 of its 2.0 GB")
