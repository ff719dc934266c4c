"""The same events, replayed live and read from the client's file, give the same task: its end, its verdict, its calls, its id."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from joulebench import cli
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


def test_the_task_that_runs_stands_in_the_task_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "task.json"
    monkeypatch.setenv("JOULEBENCH_TASK_FILE", str(path))
    clock = ReplayClock(SetClock())
    hook = Hook(Run("m", "s", run_id="r", gateway_url=NOWHERE, runs_dir=tmp_path, clock=clock, drain_seconds=0.1), clock)
    hook.event("vscode/task01_x", "TASK_START", {"timestamp": T0})
    assert json.loads(path.read_text()) == {"run_id": "r", "task_id": "vscode/task01_x"}
    hook.session_over("vscode/task01_x")
    assert json.loads(path.read_text()) == {}
    hook.close()


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


CONFIG = {
    "task_id": "01",
    "task_name": "Theme",
    "application_info": {"name": "vscode"},
    "total_key_steps": 4,
    "exec_mode": "mixed",
}
KNOWN = {"infrastructure_tag": "H100", "temperature": 0.7, "model_name": "qwen3:8b", "task_config_at_start": CONFIG}
LOOP = {"error": "loop_detection", "message": "Detected 3 consecutive identical calls"}
FULL = [
    START,
    *call(0.0, 2.0, prompt_tokens=100, completion_tokens=40),
    ("TOOL_CALL_START", 2.1, {"tool_name": "f", "args": {"a": 1}, "confidence": 0.75}),
    ("TOOL_CALL_END", 2.2, {"tool_name": "f", "success": True}),
    ("KEY_STEP_COMPLETED", 2.3, {"step_index": 1, "step_name": "opened"}),
    ("LLM_QUERY_START", 3.0, {"model_name": "m"}),
    ("LLM_QUERY_END", 6.0, {"status": "error", "error": "overloaded"}),
    ("AGENT_ERROR_OCCURRED", 6.1, LOOP),
    *call(7.0, 9.0, prompt_tokens=200, completion_tokens=60),
    ("KEY_STEP_COMPLETED", 9.1, {"step_index": 3, "step_name": "saved"}),
    ("TASK_END", 9.5, {"status": "success", "reason": "the file is there"}),
]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """The result file of FULL, measured live."""
    replay(tmp_path, FULL, 10.0, KNOWN)
    assert cli.main(["export", "--run-id", "r", "--runs-dir", str(tmp_path), "--prometheus-url", "none"]) == 0
    (path,) = (tmp_path / "r").glob("result_*.json")
    return path


def test_a_key_of_the_client_has_the_clients_meaning(exported: Path) -> None:
    computed = json.loads(exported.read_text())["computed_metrics"]
    expected = {
        "tokens_per_second": 25.0,
        "avg_tokens_per_second": 25.0,
        "min_tokens_per_second": 20.0,
        "max_tokens_per_second": 30.0,
        "overall_tokens_per_second": 25.0,
        "decode_tokens_per_second": None,
        "total_completion_tokens": 100,
        "total_generation_time_sec": 4.0,
        "call_count": 2,
    }
    assert computed["throughput_metrics"].items() >= expected.items()
    times = computed["generation_time_metrics"]
    assert (times["min_generation_time_ms"], times["total_llm_calls"]) == (2000.0, 2)
    assert times["all_generation_times_ms"] == [2000.0, 2000.0]
    efficiency = computed["token_efficiency_metrics"]
    assert efficiency["token_efficiency_ratio"] == 3.0
    assert efficiency["average_tokens_per_call"] == 4.0
    assert efficiency["tokens_per_call"] == pytest.approx(400 / 3)
    assert computed["processing_overhead_metrics"]["total_llm_time_ms"] == 4000.0


def test_an_exported_task_has_what_the_client_knew_of_it(exported: Path) -> None:
    body = json.loads(exported.read_text())
    metadata, computed = body["metadata"], body["computed_metrics"]
    assert metadata["task_id"] == "vscode/task01_x"
    assert [metadata[name] for name in ("infrastructure_tag", "temperature", "application")] == ["H100", 0.7, "vscode"]
    config = metadata["task_config_at_start"]
    assert [config[name] for name in ("task_id", "task_name", "total_key_steps", "exec_mode")] == ["01", "Theme", 4, "mixed"]
    assert computed["task_completion_status"] == {"status": "success", "reason": "the file is there", "success": True}
    steps = computed["key_step_tracker"]
    assert (steps["total_steps"], steps["completed_steps_count"], steps["highest_index_reached"]) == (4, 2, 3)
    assert (steps["completion_rate_by_count"], steps["completion_rate_by_progress"]) == (0.5, 0.75)
    assert steps["final_step_reached"] is False
    assert computed["loop_detection_metrics"]["loop_types"] == {"consecutive_identical": 1}
    errors = computed["error_summary"]
    assert (errors["total_error_count"], sorted(errors["errors_by_source"])) == (2, ["Agent", "LLM"])


def test_events_are_read_flat_and_by_their_data(exported: Path) -> None:
    raw = json.loads(exported.read_text())["raw_events"]
    assert all(event["event"] == event["event_type"] and isinstance(event["data"], dict) for event in raw)
    assert [event["data"]["confidence"] for event in raw if event["event"] == "TOOL_CALL_START"] == [0.75]
    (tool,) = [event["data"] for event in raw if event["event"] == "TOOL_CALL_START"]
    assert (tool["tool_name"], tool["arguments"]) == ("f", {"a": 1})
    calls = [event["data"] for event in raw if event["event"] == "LLM_QUERY_END"]
    assert [one["generation_time_ms"] for one in calls] == [2000.0, 3000.0, 2000.0]
    assert [(one["prompt_tokens"], one["completion_tokens"]) for one in calls] == [(100, 40), (None, None), (200, 60)]


@pytest.mark.parametrize(
    ("filter_", "shown"),
    [
        (".computed_metrics.throughput_metrics.tokens_per_second", "25"),
        ('.raw_events[] | select(.event == "TOOL_CALL_START") | .data.confidence', "0.75"),
        (".metadata.infrastructure_tag", '"H100"'),
    ],
)
def test_the_jq_lines_that_users_have_written_down_work(filter_: str, shown: str, exported: Path) -> None:
    program = shutil.which("jq")
    if program is None:
        pytest.skip("jq is not installed")
    done = subprocess.run([program, filter_, str(exported)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == shown
