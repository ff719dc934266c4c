"""Backfilled files of the client are compared, reported on and analysed like exported runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from joulebench import cli
from joulebench.analysis.runs import load_run, load_runs
from joulebench.mcpworld.backfill import Options, backfill
from joulebench.schema import UnreadableResult, load_result
from tests.fakes import mcpworld_tree
from tests.fakes.mcpworld_tree import Tree


def backfilled(root: Path) -> Tree:
    tree = mcpworld_tree.make(root)
    log = tree.root / "gpu_metrics_x.csv"
    log.write_text("\n".join(mcpworld_tree.monitor_rows(tree, mcpworld_tree.START, tree.end + 10)) + "\n")
    backfill(Options(tree.root), None)
    return tree


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tree, Tree]:
    return backfilled(tmp_path_factory.mktemp("first")), backfilled(tmp_path_factory.mktemp("second"))


def test_a_log_root_is_a_run_with_its_settings_as_groups(trees: tuple[Tree, Tree]) -> None:
    tree = trees[0]
    run = load_run(tree.root)
    assert len(run.attempts) == 34
    assert len([note for note in run.notes if "left out" in note]) == 3
    assert {attempt.model for attempt in run.attempts} == {
        f"{model} ({tag})" for model in mcpworld_tree.MODELS for tag in ("no tag", "a100")
    }
    by_task = {attempt.task_id: attempt for attempt in run.attempts}
    first = by_task["vscode/task01_updateColorTheme1"]
    assert first.joules == pytest.approx(tree.joules(*tree.made[0].headline), rel=0.01)
    assert (first.suite, first.success, first.status) == ("vscode", False, "failure")


def test_two_backfilled_trees_are_compared(trees: tuple[Tree, Tree], capsys: pytest.CaptureFixture[str]) -> None:
    roots = [str(tree.root) for tree in trees]
    code = cli.main(["compare", *roots, "--format", "json", "--allow", "overlap"])
    pairs = json.loads(capsys.readouterr().out)["pairs"]
    assert code == 1
    counted = [pair for pair in pairs if not pair["refusals"]]
    assert {pair["tasks"] for pair in counted} >= {4, 13}


def test_a_report_and_the_bottlenecks_of_backfilled_trees(
    trees: tuple[Tree, Tree], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotly")
    roots = [str(tree.root) for tree in trees]
    out = tmp_path / "report.html"
    assert cli.main(["report", *roots, "--out", str(out)]) == 0
    assert "vscode/task01_updateColorTheme1" in out.read_text()
    assert cli.main(["analyze", "bottlenecks", roots[0]]) == 0
    assert "qwen3-vl:8b" in capsys.readouterr().out


def is_readable(path: Path) -> bool:
    try:
        load_result(path)
    except UnreadableResult:
        return False
    return True


def copy_with(source: Path, target: Path, **metadata: Any) -> None:
    body = json.loads(source.read_text())
    body["metadata"].update(metadata)
    target.write_text(json.dumps(body))


def test_a_second_session_of_a_task_is_a_repetition_and_a_copy_is_none(trees: tuple[Tree, Tree], tmp_path: Path) -> None:
    source = trees[0].made[0].path
    shutil.copy(source, tmp_path / source.name)
    shutil.copy(source, tmp_path / source.name.replace("result_", "result_copy_"))
    later = source.name.replace("_2023", "_2024")
    copy_with(source, tmp_path / later, session_start_unix=1_800_000_000.0, session_end_unix=1_800_000_010.0)
    run = load_run(tmp_path)
    assert sorted(attempt.task_id for attempt in run.attempts) == [
        "vscode/task01_updateColorTheme1",
        "vscode/task01_updateColorTheme1#2",
    ]
    assert {attempt.task for attempt in run.attempts} == {"vscode/task01_updateColorTheme1"}


def test_a_file_of_all_tasks_is_left_out_by_name(trees: tuple[Tree, Tree], tmp_path: Path) -> None:
    body = json.loads(trees[0].made[0].path.read_text())
    path = tmp_path / "result_20260301_100000_all.json"
    path.write_text(json.dumps({"task01_x": body, "task02_y": body}))
    with pytest.raises(UnreadableResult, match="holds the results of several tasks"):
        load_result(path)
    assert cli.main(["compare", str(tmp_path)]) == 2


def test_a_list_of_result_files_is_the_run_that_they_name(
    trees: tuple[Tree, Tree], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a shell writes ``result_*.json`` out: files of the client, which name no run, are one run."""
    files = [made.path for made in trees[0].made if made.path.exists()]
    (run,) = load_runs([*files, files[0]])
    assert len(run.attempts) == 34
    whole = load_run(trees[0].root)
    assert sorted(attempt.task_id for attempt in run.attempts) == sorted(attempt.task_id for attempt in whole.attempts)
    cli.main(["compare", *map(str, files), "--format", "json", "--allow", "overlap"])
    by_list = json.loads(capsys.readouterr().out)["pairs"]
    cli.main(["compare", str(trees[0].root), "--format", "json", "--allow", "overlap"])
    by_directory = json.loads(capsys.readouterr().out)["pairs"]
    assert [pair["tasks"] for pair in by_list] == [pair["tasks"] for pair in by_directory]

    for number, run_id in enumerate(("monday", "tuesday", "monday")):
        body = {"schema_version": 1, "metadata": {"run_id": run_id, "task_id": f"t{number}", "model_name": "m"}, "raw_events": []}
        (tmp_path / f"result_{number}.json").write_text(json.dumps(body))
    ours = load_runs(sorted(tmp_path.glob("result_*.json")))
    assert {run.name: len(run.attempts) for run in ours} == {"monday": 2, "tuesday": 1}


def test_the_usual_analyses_by_pandas_run_on_the_clients_table(trees: tuple[Tree, Tree], tmp_path: Path) -> None:
    """By the client's column names alone, over the table that ``json_to_csv.py`` makes: the numbers are those of the files."""
    table = tmp_path / "benchmark_results.csv"
    assert cli.main(["json-to-csv", "-i", str(trees[0].root), "-o", str(table), "-q"]) == 1
    df = pd.read_csv(table)
    results = [load_result(made.path) for made in trees[0].made if made.path.exists() and is_readable(made.path)]

    energy = df.groupby("model_name")["gpu_total_energy_joules"].mean()
    for model, mean in energy.items():
        known = [r.measurement.joules for r in results if r.metadata.model_name == model and r.measurement.joules is not None]
        assert mean == pytest.approx(sum(known) / len(known), rel=0.05)

    success = df["task_status"].eq("success").groupby([df["model_name"], df["infrastructure_tag"]]).mean()
    assert success.between(0, 1).all()
    # The client writes N/A for a run without a tag, which pandas reads as missing.
    assert {model for model, _ in success.index} == set(mcpworld_tree.MODELS)

    growth = df[["gpu_vram_ratio_h2_h1", "gpu_energy_rate_ratio_h2_h1"]].dropna()
    assert len(growth) > 0
    assert (growth["gpu_energy_rate_ratio_h2_h1"] >= 0).all()

    sure = df.dropna(subset=["avg_tool_confidence"]).groupby("task_status")["avg_tool_confidence"].mean()
    assert sure.between(0, 1).all()
    assert len(sure) > 0
