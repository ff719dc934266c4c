"""results.csv: the names that analyses read, the published snippets unchanged, and cells that nobody executes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest

from joulebench.errors import UserError
from joulebench.files import lock_directory, write_atomic
from joulebench.results.write import csv_cell, merge_rows, read_rows, result_json, result_name, run_directory
from joulebench.schema.columns import COLUMN_NAMES, CellValue
from joulebench.schema.result import CallResult, TaskResult

GOLDEN = Path(__file__).parents[2] / "goldens" / "results" / "run-1.csv"

PUBLISHED = {
    "task_name",
    "model_name",
    "success",
    "total_duration_seconds",
    "total_tokens",
    "tokens_per_second",
    "avg_gpu_util_pct",
    "max_gpu_util_pct",
    "min_gpu_util_pct",
    "avg_vram_mb",
    "peak_vram_mb",
    "min_vram_mb",
    "avg_temp_c",
    "max_temp_c",
    "avg_power_w",
    "max_power_w",
    "total_energy_joules",
    "total_energy_kwh",
    "avg_tool_confidence",
    "min_tool_confidence",
    "max_tool_confidence",
}


@pytest.fixture
def df() -> pd.DataFrame:
    return pd.read_csv(GOLDEN)


def test_every_published_column_is_there(df: pd.DataFrame) -> None:
    assert set(df.columns) >= PUBLISHED
    assert len(COLUMN_NAMES) == len(set(COLUMN_NAMES))


def test_the_published_snippets_run_unchanged(df: pd.DataFrame) -> None:
    means = df.groupby("model_name").agg({"total_energy_joules": "mean", "total_duration_seconds": "mean"})
    assert means.loc["qwen3:8b", "total_energy_joules"] == pytest.approx(2049.0, rel=0.02)
    assert (df["total_energy_kwh"] * 0.12).sum() == pytest.approx(df["total_energy_joules"].sum() / 3.6e6 * 0.12)
    assert df["total_energy_joules"].corr(df["total_duration_seconds"]) > 0.99
    assert list(df[df["min_tool_confidence"] < 0.5]["task_name"]) == ["Task =cmd()"]
    assert df["success"].mean() == pytest.approx(7 / 8)


def test_an_unknown_verdict_is_neither_a_success_nor_a_failure(df: pd.DataFrame) -> None:
    assert list(df[df["success"].isna()]["status"]) == ["unknown", "unfinished"]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\n=x"])
def test_text_that_a_spreadsheet_would_run_is_quoted(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


def test_cells() -> None:
    assert [csv_cell(v) for v in (None, True, 0, -1.5, 1.0, 1700000010.0371, 1e-9, "a,b", "")] == [
        "",
        "True",
        "0",
        "-1.5",
        "1",
        "1700000010.0371",
        "1e-09",
        "a,b",
        "",
    ]


def cells(**known: CellValue) -> dict[str, CellValue]:
    return {"run_id": "r", "task_id": "t", "worker": "w", **known}


def test_rows_of_the_same_key_are_replaced_and_others_stay() -> None:
    first = merge_rows("", [cells(task_id="b", success=False), cells(task_id="=a", status="unknown"), cells(run_id="q")])
    second = merge_rows(first, [cells(task_id="=a", status="success"), cells(task_id="c\r\nd", task_name='say "hi", x')])
    found = list(csv.DictReader(io.StringIO(second, newline="")))
    assert [(row["run_id"], row["task_id"], row["status"]) for row in found] == [
        ("q", "t", ""),
        ("r", "'=a", "success"),
        ("r", "b", ""),
        ("r", "c\r\nd", ""),
    ]
    assert found[3]["task_name"] == 'say "hi", x'
    assert merge_rows(second, []) == second


@pytest.mark.parametrize("text", ["", "\n", "a,b\n1,2\n", "run_id,task_id\n1,2\n", "\x01garbage"])
def test_a_file_that_is_no_table_of_ours_has_no_rows(text: str) -> None:
    assert read_rows(text) == []


@pytest.mark.parametrize(
    ("model", "task_id", "name"),
    [
        ("qwen3:8b", "task01", "result_20231114_221320_qwen3-8b_task01.json"),
        ("hf.co/x/y:Q4", "a#2", "result_20231114_221320_hf.co_x_y-Q4_a#2.json"),
        (None, "../../etc/passwd", "result_20231114_221320_unknown_.._.._etc_passwd.json"),
    ],
)
def test_file_names(model: str | None, task_id: str, name: str) -> None:
    assert result_name(1_700_000_000.5, model, task_id) == name


def test_strange_ids_stay_apart_and_in_place() -> None:
    strange = ["a b", "a\tb", "a\\b", "a\x00b", "x" * 200, "x" * 201, "", "ü"]
    names = {result_name(None, "m", task_id) for task_id in strange}
    assert len(names) == len(strange)
    for name in names:
        assert Path(name).name == name
        assert len(name) < 200
        assert name.isascii()


@pytest.mark.parametrize("run_id", ["", ".", "..", "../x", "a/b", "a\\b", "a\0"])
def test_a_run_id_is_one_directory(run_id: str) -> None:
    with pytest.raises(UserError, match="--run-id"):
        run_directory(Path("runs"), run_id)


def test_a_write_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    write_atomic(path, "one")
    write_atomic(path, "two")
    assert path.read_text() == "two"
    assert [one.name for one in tmp_path.iterdir()] == ["results.csv"]
    with pytest.raises(UserError, match="cannot be written"):
        write_atomic(tmp_path / "none" / "x", "three")
    with pytest.raises(UserError, match="cannot be used"), lock_directory(path):
        pass


def test_two_tasks_whose_names_differ_by_an_apostrophe_are_two_rows() -> None:
    table = merge_rows("", [cells(task_id=name) for name in ("=1", "'=1", "''=1")])
    assert len(read_rows(table)) == 3


def test_a_result_is_json_whatever_is_in_it() -> None:
    odd = {
        "event_type": "X",
        "timestamp": 1.0,
        "half": "\ud83d",
        "large": 10**30,
        "nan": float("nan"),
        "nested": [{"a": float("inf")}],
    }
    text = result_json(TaskResult(schema_version=1, raw_events=[odd, {"event_type": "Y"}], calls=[CallResult(call=1)]))
    loaded = json.loads(text)
    assert loaded["raw_events"][0] == {**odd, "nan": None, "nested": [{"a": None}]}
    assert loaded["calls"][0]["call"] == 1
    assert len(text.splitlines()) == 2 + len(loaded) + 3 + 2
