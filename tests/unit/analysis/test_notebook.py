"""``scripts/analysis.ipynb`` runs from its first cell to its last, and its tables say what the rows say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from joulebench.results.write import merge_rows
from joulebench.schema.columns import CellValue

ROOT = Path(__file__).parents[3]
NOTEBOOK = ROOT / "scripts/analysis.ipynb"

Row = dict[str, CellValue]
ASKED = """import json
print("ASKED", json.dumps({name: json.loads(globals()[name].to_json()) for name in NAMES}))"""


def executed(pattern: Path, names: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The tables of these names after all cells ran."""
    monkeypatch.setenv("JOULEBENCH_RESULTS", str(pattern))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(ASKED.replace("NAMES", repr(list(names)))))
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    said = "".join(output["text"] for output in notebook.cells[-1].outputs if output.get("name") == "stdout")
    errors = [out["text"] for cell in notebook.cells for out in cell.get("outputs", ()) if out.get("name") == "stderr"]
    assert errors == [], "a cell warns"
    found: dict[str, Any] = json.loads(said.partition("ASKED ")[2])
    return found


def row(number: int, model: str, joules: float | None, success: bool | None, **more: CellValue) -> Row:
    return {
        "run_id": "run-1",
        "task_id": f"t{number}",
        "worker": "w1",
        "task_name": f"Task {number}",
        "model_name": model,
        "success": success,
        "start_timestamp_seconds": 1_790_000_000.0 + number,
        "total_duration_seconds": 10.0,
        "total_energy_joules": joules,
        "total_energy_kwh": None if joules is None else joules / 3.6e6,
        "quality": "ok",
        "reasons": "",
        "energy_simulated": False,
        **more,
    }


ROWS = (
    row(1, "a", 100.0, True, min_tool_confidence=0.9, prefill_energy_joules=20.0, decode_energy_joules=60.0),
    row(2, "a", 300.0, False, min_tool_confidence=0.2, prefill_energy_joules=20.0, tool_wait_energy_joules=100.0),
    row(3, "a", 500.0, True, reasons="throttled", quality="suspect", throttled_seconds=4.0),
    row(4, "a", None, True, quality="missing"),
    row(5, "b", 50.0, None),
    row(6, "b", 60.0, False, min_tool_confidence=0.4),
)


def test_its_tables_are_those_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, rows in enumerate((ROWS[:3], ROWS[3:])):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "results.csv").write_text(merge_rows("", rows))
    names = ("models", "per_success", "cost", "shares", "heat", "unsure", "quality")
    found = executed(tmp_path / "*/results.csv", names, monkeypatch)

    assert found["models"]["tasks"] == {"a": 2, "b": 2}, "neither the throttled one nor the one without joules"
    assert found["models"]["mean_joules"] == {"a": 200.0, "b": 55.0}
    assert found["models"]["success_rate"] == {"a": 0.5, "b": 0.0}, "an unknown outcome is no failure"
    per_success: Mapping[str, Any] = found["per_success"]["joules_per_success"]
    assert per_success["a"] == 400.0
    assert per_success["b"] is None, "no success, and no number"
    assert found["cost"]["total"]["a"] == pytest.approx(900 / 3.6e6 * 0.12)
    assert found["cost"]["tasks_with_energy"] == {"a": 3, "b": 2}
    assert found["shares"]["decode"] == {"a": pytest.approx(0.3), "b": None}
    assert found["heat"]["throttled_tasks"] == {"a": 1, "b": 0}
    assert list(found["unsure"]["min_tool_confidence"].values()) == [0.2, 0.4]
    assert found["quality"]["suspect"] == {"a": 1, "b": 0}


def test_models_are_compared_at_the_tasks_that_they_have_in_common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repetitions of a task are one task, and one that only one of them did does not count."""
    rows = [
        row(1, "a", 100.0, True, task_id="t1", model_offload_ratio=1.0, pcie_rx_bytes=3e6),
        row(2, "a", 300.0, True, task_id="t1#2", worker="w2", model_offload_ratio=1.0),
        row(3, "a", 100.0, False, task_id="t2"),
        row(4, "a", 999.0, True, task_id="t3"),
        row(5, "b", 400.0, False, task_id="t1", model_offload_ratio=0.75, server_waiting_requests=2.0),
        row(6, "b", 50.0, True, task_id="t2", model_offload_ratio=0.25),
    ]
    for model in ("a", "b"):
        own = [{**one, "run_id": f"run-{model}"} for one in rows if one["model_name"] == model]
        (tmp_path / model).mkdir()
        (tmp_path / model / "results.csv").write_text(merge_rows("", own))
    found = executed(tmp_path / "*/results.csv", ("against", "limited"), monkeypatch)
    assert {name: told["b"] for name, told in found["against"].items()} == {
        "tasks in common": 2,
        "median of joules / those of a": pytest.approx((2.0 + 0.5) / 2),
        "dearer in": 1,
        "won where it lost": 1,
        "lost where it won": 1,
    }
    assert found["limited"]["on_gpu"] == {"a": 1.0, "b": 0.5}
    assert found["limited"]["waiting"] == {"a": None, "b": 2.0}
    assert found["limited"]["pcie_rx_mb"] == {"a": 3.0, "b": None}


def test_it_runs_on_a_table_that_an_export_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    found = executed(ROOT / "tests/goldens/results/run-1.csv", ("models", "cost", "by_confidence"), monkeypatch)
    (model,) = found["models"]["tasks"]
    assert model == "qwen3:8b"
    cost = found["cost"]
    assert cost["total"][model] == pytest.approx(cost["per_task"][model] * cost["tasks_with_energy"][model], rel=1e-5)
    assert sum(found["by_confidence"]["tasks"].values()) > 0


def test_it_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code), "clear all outputs before a commit"
