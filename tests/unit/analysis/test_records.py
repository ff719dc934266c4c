"""What is read of a run: outcomes, measures and joules, from result files where there are, else from the journals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from joulebench.analysis.prediction.records import load_task_records
from joulebench.errors import UserError
from tests.unit.analysis.runs import MODEL, Call, task_events, write_journal


def test_a_journal_tells_outcomes_measures_and_joules(tmp_path: Path) -> None:
    calls = [Call("ok", 0.8, joules=5.0), Call("malformed", None, joules=7.0, measures={"name_joint": 0.3})]
    journal = write_journal(tmp_path / "r1", task_events("a#2", calls, success=False, start=0.0, joules=15.0))
    (task,) = load_task_records([journal])
    assert (task.run, task.name, task.model, task.success, task.joules) == ("r1", "a", MODEL, False, 15.0)
    assert [call.outcome for call in task.calls] == ["ok", "malformed"]
    assert task.calls[0].measures == {"naive_mean": 0.8, "score": 0.8}
    assert task.calls[1].measures == {"name_joint": 0.3}
    assert task.call_joules == {1: 5.0, 2: 7.0}
    assert not task.simulated


def test_joules_of_tasks_at_the_same_time_are_not_known(tmp_path: Path) -> None:
    events = [
        event
        for name, start in (("a", 0.0), ("b", 5.0), ("c", 50.0))
        for event in task_events(name, [Call(joules=1.0)], success=True, start=start, joules=2.0)
    ]
    assert [task.joules for task in load_task_records([write_journal(tmp_path / "r1", events)])] == [None, None, 2.0]


def test_result_files_go_before_the_journal(tmp_path: Path) -> None:
    events = task_events("a", [Call()], success=True, start=0.0, joules=1.0)
    write_journal(tmp_path, events)
    record = {
        "metadata": {"run_id": "r7", "model_name": "m"},
        "raw_events": events,
        "measurement": {"joules": 3.5, "simulated": True},
        "attribution": {"overlap_fraction": 0.0},
        "calls": [{"call": 1, "joules": 3.0}, {"call": 2, "joules": None}],
    }
    path = tmp_path / "result_x.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    (task,) = load_task_records([tmp_path])
    assert (task.run, task.model, task.joules, task.call_joules, task.simulated) == ("r7", "m", 3.5, {1: 3.0}, True)
    record["attribution"] = {"overlap_fraction": 0.4}
    path.write_text(json.dumps(record), encoding="utf-8")
    (task,) = load_task_records([tmp_path])
    assert (task.joules, task.call_joules) == (None, {})


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the directory of a run"):
        load_task_records([tmp_path])
    (tmp_path / "result_x.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="it is no result of a task"):
        load_task_records([tmp_path])
