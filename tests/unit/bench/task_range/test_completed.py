"""Which tasks a second start runs again: those without a verdict of their own, and those that met a silent server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from joulebench.bench.task_range.completed import AGAIN, DONE, CompletedTasks
from joulebench.bench.task_range.runner import newest_result
from joulebench.errors import UserError


def ends(directory: Path, **statuses: str | None) -> None:
    directory.mkdir(exist_ok=True)
    lines = []
    for task_id, status in statuses.items():
        head = {"timestamp": 1.0, "run_id": "r", "task_id": task_id, "worker": "w"}
        lines.append({"event_type": "TASK_START", **head})
        if status is not None:
            lines.append({"event_type": "TASK_END", "status": status, **head})
    (directory / "journal-w.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_verdict_in_the_journal_is_enough(tmp_path: Path) -> None:
    ends(tmp_path / "r", a="success", b="failure", c="timeout", d="error", e=None)
    assert CompletedTasks(tmp_path / "r").done() == {"a", "b", "c"}


def test_a_line_of_the_ledger_counts_before_the_journal(tmp_path: Path) -> None:
    ends(tmp_path / "r", a="timeout", d="error")
    completed = CompletedTasks(tmp_path / "r")
    completed.write("a", AGAIN, "timeout", "silent")
    completed.write("d", DONE, "error", "HTTP 500")
    assert completed.done() == {"d"}
    completed.write("a", DONE, "success", "")
    assert completed.done() == {"a", "d"}


def test_a_torn_line_is_a_task_to_run_again(tmp_path: Path) -> None:
    completed = CompletedTasks(tmp_path / "r")
    assert completed.done() == set()
    completed.write("a", DONE, "success", "")
    with (tmp_path / "r" / "range.jsonl").open("a") as file:
        file.write('{"task_id": "b", "sta')
    assert completed.done() == {"a"}


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        CompletedTasks(tmp_path / "r").write("a", DONE, "success", "")


def test_the_newest_result_of_a_task_counts(tmp_path: Path) -> None:
    for name, task_id, start in (("1", "a", 5.0), ("2", "a", 9.0), ("3", "b", 20.0), ("4", "a", None)):
        body = {"metadata": {"task_id": task_id, "session_start_unix": start}}
        (tmp_path / f"result_{name}.json").write_text(json.dumps(body))
    (tmp_path / "result_9.json").write_text("{torn")
    assert newest_result(tmp_path, "a") == tmp_path / "result_2.json"
    assert newest_result(tmp_path, "c") is None
