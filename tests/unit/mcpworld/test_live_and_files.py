"""The same events, replayed live and read from the client's file, give the same task: its end, its verdict, its calls, its id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from joulebench.mcpworld.hook import Hook
from joulebench.mcpworld.replay import ReplayClock
from joulebench.mcpworld.session import load_session
from joulebench.push.run import Run
from joulebench.units import Seconds

T0 = 1_700_000_000.0
NOWHERE = "http://127.0.0.1:9"
Event = tuple[str, float, dict[str, Any]]


def call(start: float, end: float, **fields: Any) -> list[Event]:
    done = {"status": "success", "prompt_tokens": 30, "completion_tokens": 40, **fields}
    return [("LLM_QUERY_START", start, {"model_name": "m"}), ("LLM_QUERY_END", end, done)]


START: Event = ("TASK_START", 0.0, {})
WORK_AFTER_THE_VERDICT = [
    START,
    *call(0.2, 1.0),
    ("TASK_END", 1.1, {"status": "success"}),
    *call(2.0, 2.8),
    *call(3.0, 3.8),
    *call(4.0, 4.8),
]
TOOL_CALL_WITHOUT_AN_END = [
    START,
    *call(0.1, 0.9),
    ("TOOL_CALL_START", 1.0, {"tool_name": "f"}),
    ("TASK_END", 3.0, {"status": "failure"}),
]
TWO_VERDICTS = [START, ("TASK_END", 1.0, {"status": "failure"}), ("TASK_END", 2.0, {"status": "success"})]
NO_VERDICT = [START, *call(0.2, 1.0), ("TASK_END", 121.0, {"status": "stopped"})]
NOTHING_BUT_A_STOP = [START, ("TASK_END", 4.0, {"status": "stopped"})]

CASES = pytest.mark.parametrize(
    ("events", "session_end", "expected"),
    [
        (WORK_AFTER_THE_VERDICT, 6.0, (6.0, "success", 4, 160)),
        (TOOL_CALL_WITHOUT_AN_END, 3.0, (3.0, "failure", 1, 40)),
        (TWO_VERDICTS, 2.0, (2.0, "success", 0, None)),
        (NO_VERDICT, 121.5, (1.0, "unknown", 1, 40)),
        (NOTHING_BUT_A_STOP, 4.5, (4.0, "unknown", 0, None)),
    ],
    ids=["work after the verdict", "tool call without an end", "two verdicts", "no verdict", "nothing but a stop"],
)


class SetClock:
    now = T0

    def unix(self) -> Seconds:
        return Seconds(self.now)

    def monotonic(self) -> Seconds:
        return Seconds(self.now - T0 + 50)


def replay(directory: Path, events: list[Event], session_end: float, metadata: dict[str, Any] | None = None) -> list[Any]:
    """Returns the events of the journal."""
    real = SetClock()
    clock = ReplayClock(real)
    hook = Hook(Run("m", "s", run_id="r", gateway_url=NOWHERE, runs_dir=directory, clock=clock, drain_seconds=0.1), clock)
    hook.sessions = {"task01_x": {"metadata": metadata or {}}}
    for kind, at, data in events:
        real.now = T0 + at
        hook.event("task01_x", kind, {"timestamp": T0 + at, **data})
    real.now = T0 + session_end
    hook.session_over("task01_x")
    hook.close()
    (path,) = directory.glob("r/journal-*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def result_file(directory: Path, events: list[Event], session_end: float, name: str, **metadata: Any) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {"session_start_unix": T0, "session_end_unix": T0 + session_end, "model_name": "m", **metadata}
    raw = [{"event_type": kind, "timestamp": T0 + at, **data} for kind, at, data in events]
    path.write_text(json.dumps({"metadata": known, "raw_events": raw}))
    return path


@CASES
def test_a_task_lasts_and_ends_live_as_in_the_clients_file(
    events: list[Event], session_end: float, expected: tuple[float, str, int, int | None], tmp_path: Path
) -> None:
    duration, status, calls, tokens = expected
    journal = replay(tmp_path, events, session_end)
    (end,) = [event for event in journal if event["event_type"] == "TASK_END"]
    ended = [event for event in journal if event["event_type"] == "LLM_QUERY_END"]
    assert (end["duration_seconds"], end["status"]) == (pytest.approx(duration, abs=0.05), status)
    assert len(ended) == calls
    assert sum(event["completion_tokens"] for event in ended) == (tokens or 0)
    session = load_session(result_file(tmp_path, events, session_end, "result_20231114_221320_m_task01_x.json"))
    assert session.windows.headline is not None
    assert session.windows.headline == pytest.approx((T0, T0 + duration), abs=0.05)
    assert session.task.values.status == status
    assert session.task.values.llm_calls == calls
    assert session.task.values.completion_tokens == tokens


def test_a_live_task_keeps_what_the_session_knows(tmp_path: Path) -> None:
    config = {
        "task_id": "01",
        "task_name": "Update the theme",
        "application_info": {"name": "VSCode", "args": ["--secret"]},
        "total_key_steps": 3,
        "exec_mode": "mixed",
        "task_parameters": {"password": "x"},
    }
    known = {"infrastructure_tag": "H100", "temperature": 0.7, "model_name": "qwen3:8b", "task_config_at_start": config}
    journal = replay(tmp_path, [START, *call(0.2, 1.0)], 2.0, known)
    (start,) = [event for event in journal if event["event_type"] == "TASK_START"]
    assert (start["task_id"], start["task_name"], start["model_name"]) == ("vscode/task01_x", "Update the theme", "qwen3:8b")
    assert start["task_metadata"] == {
        "infrastructure_tag": "H100",
        "temperature": 0.7,
        "application": "vscode",
        "task_config_at_start": {
            "task_id": "01",
            "task_name": "Update the theme",
            "total_key_steps": 3,
            "exec_mode": "mixed",
            "application_info": {"name": "VSCode"},
        },
    }


def test_errors_of_the_agent_are_journalled(tmp_path: Path) -> None:
    error = {"error": "loop_detection", "message": "Detected 3 consecutive identical calls", "tool_name": "computer"}
    journal = replay(tmp_path, [START, *call(0.2, 1.0), ("AGENT_ERROR_OCCURRED", 1.5, error)], 2.0)
    (found,) = [event for event in journal if event["event_type"] == "AGENT_ERROR_OCCURRED"]
    assert (found["error"], found["message"], found["tool_name"]) == tuple(error.values())


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("result_20260301_100000_m_H100_task05_create-note.json", "task05_create-note"),
        ("result_20260301_100000_m_H100_task05_create-file.json", "task05_create-file"),
        ("result_task05_create-note_20260301_100000.json", "task05_create-note"),
        ("result_task05_create-note_20260301_110000.json", "task05_create-note"),
        ("result_20260301_100000_other-model_task05_x.json", "task05_x"),
    ],
)
def test_the_id_of_a_task_is_whole_and_has_no_time_in_it(name: str, task: str, tmp_path: Path) -> None:
    config = {"task_id": "05", "application_info": {"name": "obsidian"}}
    path = result_file(tmp_path, [START, *call(0.2, 1.0)], 2.0, name, infrastructure_tag="H100", task_config_at_start=config)
    assert load_session(path).identity.task_key == f"obsidian/{task}"


def test_one_name_in_two_applications_is_two_tasks(tmp_path: Path) -> None:
    config = {"task_id": "01", "application_info": {"name": "obsidian"}}
    named = "result_20260301_100000_m_task01_open.json"
    one = result_file(tmp_path, [START, *call(0.2, 1.0)], 2.0, f"vscode_runs/r/t/s/{named}")
    other = result_file(tmp_path, [START, *call(0.2, 1.0)], 2.0, f"x/{named}", task_config_at_start=config)
    assert [load_session(path).identity.task_key for path in (one, other)] == ["vscode/task01_open", "obsidian/task01_open"]
