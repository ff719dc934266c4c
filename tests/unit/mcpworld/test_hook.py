"""The live hook: events of an evaluator in, our journal out; and whatever goes wrong, the evaluator notices nothing."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from joulebench.mcpworld.hook import Hook, attach
from joulebench.mcpworld.replay import ReplayClock
from joulebench.push.run import Run
from joulebench.units import Seconds
from tests.fakes.mcpworld_client.evaluator.core.events import AgentEvent
from tests.fakes.mcpworld_client.evaluator.core.result_collector import ResultCollector

NOWHERE = "http://127.0.0.1:9"
T0 = 1_700_000_000.0


class FixedClock:
    def __init__(self) -> None:
        self.now = T0

    def unix(self) -> Seconds:
        return Seconds(self.now)

    def monotonic(self) -> Seconds:
        return Seconds(self.now - T0 + 50)


@pytest.fixture
def real() -> FixedClock:
    return FixedClock()


@pytest.fixture
def hook(tmp_path: Path, real: FixedClock) -> Hook:
    clock = ReplayClock(real)
    return Hook(Run("m", "s", run_id="r", gateway_url=NOWHERE, runs_dir=tmp_path, clock=clock, drain_seconds=0.1), clock)


def journal(tmp_path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    lines = [json.loads(line) for path in tmp_path.glob("r/journal-*.jsonl") for line in path.read_text().splitlines()]
    return [line for line in lines if kind is None or line["event_type"] == kind]


def tell(hook: Hook, *events: tuple[str, float, dict[str, Any]], task: str = "task01") -> None:
    for kind, offset, data in events:
        hook.event(task, AgentEvent[kind], {"timestamp": T0 + offset, **data})


CALL: tuple[tuple[str, float, dict[str, Any]], ...] = (
    ("TASK_START", 0.0, {}),
    ("TOOLS_INITIALIZED", 0.1, {"tool_names": ["computer"]}),
    ("LLM_QUERY_START", 1.0, {"model_name": "qwen3-vl:8b"}),
    ("LLM_FIRST_TOKEN_RECEIVED", 2.99, {}),
    ("LLM_QUERY_END", 3.0, {"status": "success", "prompt_tokens": 100, "completion_tokens": 40}),
    ("TOOL_CALL_START", 3.1, {"tool_name": "computer", "args": {"a": 1}, "confidence": 0.75}),
    ("TOOL_CALL_END", 4.0, {"tool_name": "computer", "success": True, "result": "[Screenshot Taken]"}),
)


def test_events_become_calls_and_tools_at_their_own_times(hook: Hook, tmp_path: Path) -> None:
    tell(hook, *CALL, ("TASK_END", 5.0, {"status": "success", "reason": "ok"}))
    hook.close()
    kinds = [one["event_type"] for one in journal(tmp_path)]
    assert kinds == [
        "RUN_START",
        "TASK_START",
        "LLM_QUERY_START",
        "LLM_QUERY_END",
        "TOOL_CALL_START",
        "TOOL_CALL_END",
        "TASK_END",
        "RUN_END",
        "PUSH_STATE",
    ]
    (call,), (end,) = journal(tmp_path, "LLM_QUERY_END"), journal(tmp_path, "TASK_END")
    assert (call["duration_seconds"], call["prompt_tokens"], call["completion_tokens"]) == (2.0, 100, 40)
    assert (call["ttft_seconds"], call["decode_seconds"]) == (None, None)
    assert (end["timestamp"], end["status"], end["success"], end["duration_seconds"]) == (T0 + 5, "success", True, 5.0)
    (tool,) = journal(tmp_path, "TOOL_CALL_START")
    assert (tool["confidence"], tool["span_status"], tool["call"]) == (0.75, "reported", 1)
    assert journal(tmp_path, "TOOL_CALL_END")[0]["outcome"] == "ok"


def test_a_streamed_reply_has_its_first_token(hook: Hook, tmp_path: Path) -> None:
    tell(hook, ("TASK_START", 0, {}), ("LLM_QUERY_START", 1, {}), ("LLM_FIRST_TOKEN_RECEIVED", 1.4, {}))
    tell(hook, ("LLM_QUERY_END", 3, {"status": "success", "completion_tokens": 41}))
    hook.close()
    (call,), (first,) = journal(tmp_path, "LLM_QUERY_END"), journal(tmp_path, "LLM_FIRST_TOKEN_RECEIVED")
    assert first["timestamp"] == T0 + 1.4
    assert (call["ttft_seconds"], call["decode_seconds"], call["decode_tokens"]) == (
        pytest.approx(0.4),
        pytest.approx(1.6),
        40,
    )


def test_waiting_for_a_verdict_that_never_comes_is_not_charged(hook: Hook, tmp_path: Path, real: FixedClock) -> None:
    tell(hook, *CALL)
    real.now = T0 + 124
    tell(hook, ("TASK_END", 124.0, {"status": "stopped", "reason": "Evaluator shutdown timeout"}))
    assert journal(tmp_path, "TASK_END") == []
    hook.session_over("task01")
    hook.close()
    (end,) = journal(tmp_path, "TASK_END")
    assert (end["timestamp"], end["status"], end["success"], end["duration_seconds"]) == (T0 + 4, "unknown", None, 4.0)


def test_a_verdict_waits_for_the_call_that_still_runs(hook: Hook, tmp_path: Path) -> None:
    tell(hook, *CALL, ("LLM_QUERY_START", 5, {}), ("TASK_END", 6, {"status": "failure", "reason": "no"}))
    assert journal(tmp_path, "TASK_END") == []
    tell(hook, ("LLM_QUERY_END", 8, {"status": "error", "error": "cut"}), ("TASK_END", 9, {"status": "success"}))
    hook.close()
    (end,) = journal(tmp_path, "TASK_END")
    assert (end["timestamp"], end["status"]) == (T0 + 9, "success")
    assert journal(tmp_path, "LLM_QUERY_END")[-1]["error"] == "cut"


def test_a_call_of_a_tool_that_does_not_exist_never_ends_and_is_told_so(hook: Hook, tmp_path: Path) -> None:
    tell(hook, *CALL, ("TOOL_CALL_START", 4.5, {"tool_name": "made_up", "confidence": 7}))
    hook.close()
    end = journal(tmp_path, "TOOL_CALL_END")[-1]
    assert (end["tool_name"], end["outcome"], end["success"]) == ("made_up", "undeclared", False)
    assert journal(tmp_path, "TOOL_CALL_START")[-1]["confidence"] is None
    assert journal(tmp_path, "TASK_END")[0]["status"] == "unknown"


def test_a_task_that_starts_again_is_a_second_measurement(hook: Hook, tmp_path: Path) -> None:
    tell(hook, *CALL, ("TASK_START", 10.0, {}), ("TASK_END", 11.0, {"status": "timeout", "reason": "slow"}))
    hook.close()
    ends = journal(tmp_path, "TASK_END")
    assert [(one["task_id"], one["status"]) for one in ends] == [("task01", "unknown"), ("task01#2", "timeout")]


def test_tasks_in_threads_are_kept_apart(hook: Hook, tmp_path: Path) -> None:
    def work(name: str) -> None:
        tell(hook, *CALL, ("TASK_END", 5.0, {"status": "success"}), task=name)

    threads = [threading.Thread(target=work, args=(f"task{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hook.close()
    assert len(journal(tmp_path, "TASK_END")) == 8
    assert {one["call"] for one in journal(tmp_path, "LLM_QUERY_END")} == {1}


@pytest.mark.parametrize(
    "event",
    [
        ("task01", None, None),
        (None, "LLM_QUERY_END", {}),
        ("task01", "LLM_QUERY_END", "no mapping"),
        ("task01", AgentEvent.LLM_QUERY_END, {"timestamp": "soon", "completion_tokens": "many"}),
        ("task01", AgentEvent.TOOL_CALL_END, {"tool_name": None}),
        ("task01", AgentEvent.KEY_STEP_COMPLETED, {"step_index": None}),
        ("task01", AgentEvent.AGENT_ERROR_OCCURRED, {"error": "loop_detection"}),
    ],
)
def test_strange_events_change_nothing(hook: Hook, tmp_path: Path, event: tuple[Any, Any, Any]) -> None:
    tell(hook, *CALL)
    hook.event(*event)
    tell(hook, ("TASK_END", 5.0, {"status": "success"}))
    hook.close()
    assert journal(tmp_path, "TASK_END")[0]["success"] is True
    assert len(journal(tmp_path, "LLM_QUERY_END")) == 1


def attached(collector: Any, tmp_path: Path) -> Hook:
    hook = attach(collector, run_id="r", model="m", gateway_url=NOWHERE, runs_dir=tmp_path)
    assert hook is not None
    return hook


@pytest.fixture
def collector_class() -> type[ResultCollector]:
    """A class of its own, so that what is attached to it ends with the test."""
    return type("Collector", (ResultCollector,), {})


@pytest.mark.parametrize("of", ["class", "object"])
def test_the_collector_itself_works_as_before(collector_class: type[ResultCollector], of: str, tmp_path: Path) -> None:
    collector = collector_class(str(tmp_path / "out"))
    hook = attached(collector_class if of == "class" else collector, tmp_path)
    assert attached(collector, tmp_path) is hook
    collector.start_session("task01_x", {"task_id": "01"})
    collector.record_event("task01_x", AgentEvent.TASK_START, {})
    collector.record_event(task_id="task01_x", event_type=AgentEvent.LLM_QUERY_START, data={"model_name": "m"})
    with pytest.raises(KeyError):
        collector.record_event("unknown", AgentEvent.TASK_START)
    collector.end_session("task01_x")
    saved = json.loads(Path(collector.save_results("task01_x")).read_text())
    hook.close()
    assert [one["event_type"] for one in saved["raw_events"]] == ["TASK_START", "LLM_QUERY_START"]
    assert len(journal(tmp_path, "LLM_QUERY_START")) == 1
    assert {one["task_id"] for one in journal(tmp_path, "TASK_END")} == {"task01_x"}


def test_what_cannot_be_measured_does_not_stop_the_benchmark(
    collector_class: type[ResultCollector], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "r").write_text("a file where the journal should be")
    hook = attached(collector_class, tmp_path)
    collector = collector_class(str(tmp_path / "out"))
    collector.start_session("t", {})
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            collector.record_event("t", AgentEvent.TASK_START, {})
    hook.close()
    assert len(collector.results["t"]["raw_events"]) == 3
    assert sum("the benchmark goes on" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tmp_path: {"gateway_url": "no url", "runs_dir": tmp_path},
        lambda tmp_path: {"run_id": "../x", "runs_dir": tmp_path},
    ],
)
def test_a_bad_setting_leaves_the_collector_alone(
    collector_class: type[ResultCollector], tmp_path: Path, spoil: Callable[[Path], dict[str, Any]]
) -> None:
    assert attach(collector_class, **spoil(tmp_path)) is None
    assert collector_class.record_event is ResultCollector.record_event
