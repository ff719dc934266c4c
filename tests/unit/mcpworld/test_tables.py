"""Both tables of the client: its columns first and unchanged, and no cell that says more than its file."""

from __future__ import annotations

import csv
import json
import threading
from pathlib import Path
from typing import Any

import pandas
import pytest

from joulebench import cli
from joulebench.errors import UserError
from joulebench.mcpworld import client_names, tables
from joulebench.mcpworld.backfill import Options, backfill
from joulebench.mcpworld.tables import SuiteRow, put_suite_rows
from tests.fakes import mcpworld_tree
from tests.fakes.mcpworld_tree import Tree
from tests.goldens_support import Golden


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    made = mcpworld_tree.make(tmp_path_factory.mktemp("logs"))
    log = made.root / "gpu_metrics_x.csv"
    log.write_text("\n".join(mcpworld_tree.monitor_rows(made, mcpworld_tree.START, made.end + 10)) + "\n")
    backfill(Options(made.root), None)
    return made


@pytest.fixture(scope="module")
def frame(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> pandas.DataFrame:
    out = tmp_path_factory.mktemp("out") / "benchmark_results.csv"
    assert cli.main(["json-to-csv", "-i", str(tree.root), "-o", str(out), "-q"]) == 1
    return pandas.read_csv(out)


def test_the_columns_are_the_golden(golden: Golden) -> None:
    assert len(tables.BENCHMARK_COLUMNS) == 104
    golden("mcpworld/benchmark_columns.txt", "\n".join(tables.BENCHMARK_COLUMNS) + "\n")
    golden("mcpworld/our_columns.txt", "\n".join(tables.OUR_COLUMNS) + "\n")
    assert (len(client_names.METRICS_COLUMNS), len(client_names.SUMMARY_COLUMNS)) == (30, 4)
    golden("mcpworld/metrics_columns.txt", "\n".join(client_names.METRICS_COLUMNS) + "\n")


def test_every_readable_file_is_a_row_and_the_first_columns_are_the_clients(frame: pandas.DataFrame) -> None:
    assert len(frame) == 35
    assert tuple(frame.columns[:104]) == tables.BENCHMARK_COLUMNS


def test_columns_parse_as_numbers_without_a_special_case(frame: pandas.DataFrame) -> None:
    numbers = [name for name, (cell, _) in tables.FROM_KEYS.items() if cell is tables.NUMBER]
    assert len(numbers) > 70
    for name in numbers:
        assert pandas.api.types.is_numeric_dtype(frame[name]), name
    by_model = frame.groupby("model_name").agg({"gpu_total_energy_joules": "mean", "total_duration_seconds": "mean"})
    assert (by_model["gpu_total_energy_joules"] > 2000).all()


def test_nothing_missing_became_a_zero_or_a_success(tree: Tree, frame: pandas.DataFrame) -> None:
    by_file = frame.set_index("result_file")

    def row(index: int) -> dict[str, Any]:
        (found,) = by_file.loc[[str(tree.made[index].path.relative_to(tree.root))]].to_dict("records")
        return {str(name): value for name, value in found.items()}

    failed, unseen, undecided, open_end = row(1), row(30), row(4), row(5)
    for name in ("total_duration_seconds", "total_tool_calls", "unique_tools_used", "overall_tokens_per_second", "loop_types"):
        assert pandas.isna(failed[name]), name
    gpu = [name for name in frame.columns[:104] if name.startswith(("gpu_", "container_"))]
    assert len(gpu) == 43
    assert all(pandas.isna(unseen[name]) for name in gpu)
    assert (undecided["task_status"], str(undecided["success"])) == ("stopped", "nan")
    assert pandas.isna(open_end["task_status"])
    assert pandas.isna(open_end["success"])
    assert int((frame["success"] == True).sum()) == int((frame["task_status"] == "success").sum())  # noqa: E712
    assert not (frame[["gpu_energy_rate_ratio_h2_h1", "gpu_vram_ratio_h2_h1"]] == 0).to_numpy().any()


def test_text_cannot_become_a_formula(frame: pandas.DataFrame) -> None:
    names = frame["task_name"].astype(str)
    assert not names.str.startswith(("=", "+", "-", "@")).any()
    assert names.str.startswith("'=HYPERLINK").sum() == 1


def test_lists_are_as_python_writes_them(frame: pandas.DataFrame) -> None:
    assert frame["all_generation_times_ms"].iloc[0].startswith("[")
    assert set(frame["loop_types"].dropna()) == {"[]"}
    assert set(frame["tool_names_used"].dropna()) == {"computer, edit_file"}


def call(tmp_path: Path, **changes: object) -> SuiteRow:
    given = {"task_id": "vscode/task01", "log_dir": "logs/a", "summary": tmp_path / "s.csv", "metrics": tmp_path / "m.csv"}
    return SuiteRow(**{**given, **changes})  # type: ignore[arg-type]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_result_becomes_a_row_in_both_tables(tree: Tree, tmp_path: Path) -> None:
    found = tree.made[2]
    put_suite_rows(call(tmp_path, result=found.path, fallback_status="success"))
    (metrics,), (summary,) = rows(tmp_path / "m.csv"), rows(tmp_path / "s.csv")
    assert tuple(metrics) == client_names.METRICS_COLUMNS
    assert tuple(summary) == client_names.SUMMARY_COLUMNS
    assert (metrics["status"], metrics["llm_call_count"], metrics["total_steps"]) == ("success", "3", "")
    energy = json.loads(found.path.read_text())["gpu_hardware_metrics"]["total_energy_joules"]
    assert float(metrics["total_energy_joules"]) == energy


@pytest.mark.parametrize("result", [None, "none.json", "torn.json"])
def test_a_missing_result_is_never_a_success(tmp_path: Path, result: str | None) -> None:
    (tmp_path / "torn.json").write_text('{"computed_metrics": {"task_completion_status": {"status": "succ')
    path = tmp_path / result if result else None
    row = put_suite_rows(call(tmp_path, result=path, fallback_status="success", fallback_reason="exit code 0"))
    assert row["status"] == "missing"
    assert "not counted as success" in row["reason"]
    assert {row[name] for name in client_names.METRICS_COLUMNS[3:-1]} == {""}


def test_a_fallback_that_claims_nothing_is_taken(tmp_path: Path) -> None:
    row = put_suite_rows(call(tmp_path, fallback_status="timeout", fallback_reason="killed, after 300 s\nby us"))
    assert (row["status"], row["reason"]) == ("timeout", "killed; after 300 s by us")


def test_a_failed_metric_is_an_empty_cell(tree: Tree, tmp_path: Path) -> None:
    row = put_suite_rows(call(tmp_path, result=tree.made[1].path))
    assert (row["total_duration_seconds"], row["total_tool_calls"], row["total_steps"]) == ("", "", "")
    assert row["llm_call_count"] == "3"


def test_a_task_that_is_collected_again_has_one_row(tree: Tree, tmp_path: Path) -> None:
    put_suite_rows(call(tmp_path))
    put_suite_rows(call(tmp_path, task_id="vscode/task02"))
    put_suite_rows(call(tmp_path, result=tree.made[2].path))
    assert [(row["task_id"], row["status"]) for row in rows(tmp_path / "m.csv")] == [
        ("vscode/task01", "success"),
        ("vscode/task02", "unknown"),
    ]


def test_a_torn_last_row_is_dropped_and_other_columns_are_refused(tmp_path: Path) -> None:
    put_suite_rows(call(tmp_path))
    with (tmp_path / "m.csv").open("a") as file:
        file.write("vscode/task09,succ")
    put_suite_rows(call(tmp_path, task_id="vscode/task02"))
    assert [row["task_id"] for row in rows(tmp_path / "m.csv")] == ["vscode/task01", "vscode/task02"]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="other columns"):
        put_suite_rows(call(tmp_path, metrics=tmp_path / "other.csv"))


def test_two_at_once_lose_no_row(tmp_path: Path) -> None:
    threads = [threading.Thread(target=put_suite_rows, args=(call(tmp_path, task_id=f"t{i}"),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {row["task_id"] for row in rows(tmp_path / "m.csv")} == {f"t{i}" for i in range(8)}


@pytest.mark.parametrize(
    ("cell", "value", "shown"),
    [
        (tables.number_cell, 0, "0"),
        (tables.number_cell, 1e-7, "1e-07"),
        (tables.number_cell, True, ""),
        (tables.number_cell, float("nan"), ""),
        (tables.number_cell, "ERROR_GETTING_VALUE: x", ""),
        (tables.bool_cell, False, "False"),
        (tables.bool_cell, "ERROR_GETTING_VALUE: x", ""),
        (tables.text_cell, "ERROR_GETTING_VALUE: x", ""),
        (tables.text_cell, -3, "-3"),
        (tables.text_cell, "-x", "'-x"),
        (tables.text_cell, None, ""),
        (tables.list_cell, [1, None], "[1, None]"),
        (tables.list_cell, "ERROR_GETTING_VALUE: x", ""),
    ],
)
def test_a_cell_says_no_more_than_is_known(cell: tables.Cell, value: object, shown: str) -> None:
    assert cell(value) == shown
