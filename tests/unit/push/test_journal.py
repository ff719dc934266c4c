"""The journal outlives what may happen to a benchmark: a kill in mid-line, a full disk, arguments that are no JSON."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from joulebench.errors import UserError
from joulebench.push.journal import Journal


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_one_flat_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "j.jsonl", "r", "w")
    journal.write("TASK_START", 1.25, "täsk\n1", task_name="x")
    journal.write("RUN_END", 2.5)
    journal.close()
    assert lines(journal.path) == [
        {"event_type": "TASK_START", "timestamp": 1.25, "run_id": "r", "task_id": "täsk\n1", "worker": "w", "task_name": "x"},
        {"event_type": "RUN_END", "timestamp": 2.5, "run_id": "r", "worker": "w"},
    ]
    assert journal.lost == 0


def test_what_is_no_json_is_told_as_well_as_it_can_be(tmp_path: Path) -> None:
    loop: list[object] = []
    loop.append(loop)
    journal = Journal(tmp_path / "j.jsonl", "r", "w")
    journal.write("A", 1.0, args={"nan": math.nan, "inf": [math.inf], ("a", 1): {1, 2}, "path": Path("/x")})
    journal.write("B", 1.0, args=loop)
    journal.write("C", 1.0, args="\ud800")
    journal.close()
    first, second, third = lines(journal.path)
    assert first["args"] == {"nan": None, "inf": [None], "('a', 1)": "{1, 2}", "path": "/x"}
    assert isinstance(second["args"], list)
    assert third["args"] == "\ufffd"


def test_a_torn_last_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text('{"event_type":"TASK_START","task_id":"one"}\n{"event_type":"TASK_START","task_id":"tw')
    journal = Journal(path, "r", "w")
    assert journal.task_ids() == {"one"}
    journal.write("TASK_START", 1.0, "three")
    journal.close()
    whole, torn, new = path.read_text().splitlines()
    assert json.loads(whole)["task_id"] == "one"
    assert torn.endswith("tw")
    assert json.loads(new)["task_id"] == "three"


def test_a_full_disk_is_counted_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "j.jsonl"
    path.symlink_to("/dev/full")
    journal = Journal(path, "r", "w")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            journal.write("A", 1.0)
    journal.close()
    assert journal.lost == 3
    assert len([record for record in caplog.records if "No space left" in record.message]) == 1


def test_two_writers_of_one_worker_are_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl", "r", "w")
    with pytest.raises(UserError, match="worker"):
        Journal(tmp_path / "j.jsonl", "r", "w")
    journal.close()
    Journal(tmp_path / "j.jsonl", "r", "w").close()


def test_a_directory_that_cannot_be_made_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="runs_dir"):
        Journal(tmp_path / "file" / "run" / "j.jsonl", "r", "w")


def test_a_killed_benchmark_loses_no_event(tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from joulebench import Run\n"
        "with Run(run_id='killed', worker='w', gateway_url='http://127.0.0.1:9') as run:\n"
        "    for n in range(200):\n"
        "        with run.task('t') as task, task.call() as call:\n"
        "            call.finish(prompt_tokens=n, completion_tokens=n)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    died = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={**os.environ}, timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    seen = lines(tmp_path / "runs" / "killed" / "journal-w.jsonl")
    assert [e["prompt_tokens"] for e in seen if e["event_type"] == "LLM_QUERY_END"] == list(range(200))
    assert len([e for e in seen if e["event_type"] == "TASK_END"]) == 200
