"""docs/RESULTS.md is what the schema says, and the code writes and uses no event or reason that the schema does not have."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from joulebench.push.run import Run
from joulebench.schema import events
from joulebench.schema.columns import COLUMN_NAMES
from joulebench.schema.reasons import QUALITIES, Reason
from tests.contract.sources import PACKAGE

ROOT = Path(__file__).parent.parent.parent


def test_results_md_is_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "scripts" / "render_results_doc.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_every_column_is_in_results_md() -> None:
    text = (ROOT / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    assert [name for name in COLUMN_NAMES if f"| `{name}` |" not in text] == []


def test_every_reason_has_a_verdict_and_a_sentence() -> None:
    assert [reason for reason in Reason if reason.verdict not in QUALITIES or not reason.sentence.endswith(".")] == []


LISTS = ("reasons", "findings", "doubts", "notes")


@pytest.mark.parametrize("room", ["energy", "gpu"])
def test_reasons_of_rooms_below_the_schema_are_declared_in_it(room: str) -> None:
    """What is given to ``missing`` or appended to a list of reasons; the rooms above use ``Reason`` itself."""
    used: set[str] = set()
    for path in sorted((PACKAGE / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _takes_reasons(ast.unparse(node.func)):
                texts = (one.value for one in ast.walk(node) if isinstance(one, ast.Constant))
                used |= {text for text in texts if isinstance(text, str) and "_" in text}
    assert used - {reason.value for reason in Reason} == set()


def _takes_reasons(function: str) -> bool:
    return function.endswith("missing") or function in {f"{name}.append" for name in LISTS}


def test_a_run_writes_only_what_the_schema_declares(tmp_path: Path) -> None:
    with (
        Run("m", "s", runs_dir=tmp_path, gateway_url="none", exporter_url="none", prometheus_url="none") as run,
        run.task("t") as task,
    ):
        with task.call() as call:
            call.first_token()
            call.finish(3, 4)
        with task.tool("f", {"a": 1}) as tool:
            tool.result("x")
        task.key_step(1)
    lines = [json.loads(line) for path in tmp_path.rglob(events.JOURNAL_PATTERN) for line in path.read_text().splitlines()]
    assert {"RUN_START", "TASK_END", "LLM_QUERY_END", "TOOL_CALL_END", "PUSH_STATE"} <= {line["event_type"] for line in lines}
    for line in lines:
        declared = {*events.COMMON, *events.EVENTS[line["event_type"]].fields}
        assert set(line) <= declared, f"{line['event_type']}: declare {sorted(set(line) - declared)} in schema/events.py"
