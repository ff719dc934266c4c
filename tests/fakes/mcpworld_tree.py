"""37 result files as the MCPWorld client leaves them, made from its schema, with what goes wrong in real ones.

GPU 0 draws 300 W during LLM calls and 60 W otherwise, GPU 1 always 45 W; so the energy of every window is known. Sessions follow
one another, but for two that overlap; one lies before any telemetry began.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tests.fakes.nvml.curve import integral

START = 1_700_000_000.0
IDLE_WATTS, BUSY_WATTS, STEADY_WATTS = 60.0, 300.0, 45.0
MODELS = ("qwen3-vl:8b", "hf.co/org/llama-3.1:8b")
TOOLS = ["computer", "edit_file", "run_command"]
FAILED = "ERROR_GETTING_VALUE: 'NoneType' object has no attribute 'get'"
WAIT_SECONDS = 120.0
LONG_AGO = START - 90_000.0

Json = dict[str, Any]


@dataclass
class Made:
    """One session. ``headline``: the window it should be charged for. ``calls``: when its LLM calls ran."""

    index: int
    application: str
    number: int
    model: str
    start: float
    path: Path = field(default_factory=Path)
    body: Json = field(default_factory=dict)
    headline: tuple[float, float] = (0.0, 0.0)
    calls: list[tuple[float, float]] = field(default_factory=list)
    text: str = ""
    readable: bool = True

    @property
    def folder_id(self) -> str:
        return f"task{self.number:02}_{'updateColorTheme' if self.application == 'vscode' else 'createNote'}{self.number}"

    @property
    def events(self) -> list[Json]:
        found: list[Json] = self.body["raw_events"]
        return found


@dataclass
class Tree:
    root: Path
    made: list[Made]

    def power(self) -> list[tuple[float, float]]:
        """Of GPU 0: (unix time, watts)."""
        points = [(LONG_AGO - 1000, IDLE_WATTS)]
        edges = sorted(
            [*((a, 1) for one in self.made for a, _ in one.calls), *((b, -1) for one in self.made for _, b in one.calls)]
        )
        busy = 0
        for at, step in edges:
            busy += step
            points.append((at, BUSY_WATTS if busy else IDLE_WATTS))
        return points

    def joules(self, start: float, end: float) -> float:
        """Of both GPUs together."""
        return integral(self.power(), start, end) + STEADY_WATTS * (end - start)

    @property
    def end(self) -> float:
        return max(one.body["metadata"].get("session_end_unix") or one.headline[1] for one in self.made)


def make(root: Path) -> Tree:
    made: list[Made] = []
    at = START + 20.0
    for index in range(37):
        application, number = ("vscode", index + 1) if index < 25 else ("obsidian", index - 24)
        one = Made(index, application, number, MODELS[index % 2], LONG_AGO if index == 30 else at)
        _session(one)
        if index in ODDITIES:
            ODDITIES[index](one)
        made.append(one)
        if index != 30:
            # Session 23 begins while 22 still runs.
            at = (
                one.start + 4.0
                if index == 22
                else max(at, one.body["metadata"]["session_end_unix"] or 0.0, one.headline[1]) + 3.0
            )
            at = round(at, 3) if index % 3 else at + 0.000123
    for one in made:
        _place(root, one)
    _copy_of_the_first(made)
    return Tree(root, made)


def _session(one: Made) -> None:
    """Three calls of which two use a tool, a verdict a second after the last event."""
    start = one.start
    events: list[Json] = [_event("TASK_START", start), _event("TOOLS_INITIALIZED", start + 0.01, tool_names=TOOLS)]
    at = start + 2.0
    for turn in range(3):
        length = 1.5 + 0.25 * ((one.index + turn) % 4)
        one.calls.append((at, at + length))
        events.append(_event("LLM_QUERY_START", at, model_name=one.model))
        events.append(_event("LLM_FIRST_TOKEN_RECEIVED", at + length - 0.004))
        tokens = {"prompt_tokens": 1000 + turn, "completion_tokens": 60 + one.index, "cost": None}
        events.append(_event("LLM_QUERY_END", at + length, status="success", error=None, **tokens))
        at += length
        if turn < 2:
            tool = TOOLS[turn]
            events.append(
                _event("TOOL_CALL_START", at + 0.05, tool_name=tool, args={"n": turn}, confidence=0.9 - 0.01 * one.index)
            )
            events.append(
                _event("TOOL_CALL_END", at + 0.85, tool_name=tool, success=True, error=None, result="[Screenshot Taken]")
            )
            at += 0.9
    events.append(_event("KEY_STEP_COMPLETED", at + 0.2, step_index=1, step_name="opened"))
    verdict = at + 1.0
    status = "success" if one.index % 3 else "failure"
    events.append(_event("TASK_END", verdict, status=status, reason="handler said so"))
    one.headline = (start, verdict)
    one.body = _body(one, events, verdict + 0.6)


def _body(one: Made, events: list[Json], end: float) -> Json:
    status = next(event for event in events if event["event_type"] == "TASK_END")
    seconds = [b - a for a, b in one.calls]
    tokens = 3 * (60 + one.index)
    return {
        "metadata": {
            "session_start_iso": datetime.fromtimestamp(one.start, tz=timezone.utc).isoformat(),
            "session_start_unix": one.start,
            "session_end_iso": datetime.fromtimestamp(end, tz=timezone.utc).isoformat(),
            "session_end_unix": end,
            "session_duration_seconds": round(end - one.start, 3),
            "model_name": one.model,
            "temperature": 0.7,
            "infrastructure_tag": "a100" if one.index % 5 == 0 else "",
            "available_tools": TOOLS,
            "app_path": None,
            "app_process_pid": 4242,
            "task_config_at_start": {
                "task_id": f"{one.number:02}",
                "task_name": f"Task {one.number}, of {one.application}",
                "description": "First line.\nSecond line.",
                "application_info": {"name": one.application, "executable_path": "/opt/app"},
                "task_parameters": {},
                "total_key_steps": 2,
                "exec_mode": "mixed",
            },
        },
        "raw_events": events,
        "computed_metrics": {
            "total_duration_seconds": status["timestamp"] - one.start,
            "llm_call_count": 3,
            "llm_token_usage": {"total_prompt_tokens": 3003, "total_completion_tokens": tokens, "total_tokens": 3003 + tokens},
            "task_completion_status": {"status": status["status"], "reason": status["reason"]},
            "agent_reported_completion": {"completed": False, "reasoning": None},
            "tool_usage_stats": {
                "total_tool_calls": 2,
                "tools": {name: {"total_count": 1, "success_count": 1, "failure_count": 0} for name in TOOLS[:2]},
            },
            "error_summary": {"total_error_count": 0, "errors_by_source": {}},
            "ttft_metrics": _spread("ttft_ms", "ttft_ms", seconds),
            "generation_time_metrics": _spread("generation_time_ms", "generation_times_ms", seconds),
            "processing_overhead_metrics": {
                "processing_overhead_ms": 12.5,
                "total_task_time_ms": 9000.0,
                "overhead_percentage": 0.1,
            },
            "token_efficiency_metrics": {"token_efficiency_ratio": 3003 / tokens, "average_tokens_per_call": 7.5},
            "tool_hallucination_metrics": {
                "hallucination_detected": False,
                "total_hallucinated_calls": 0,
                "hallucinated_tool_names": [],
            },
            "loop_detection_metrics": {"loop_detected": False, "total_loop_detections": 0, "loop_types": {}},
            "throughput_metrics": {
                "avg_tokens_per_second": tokens / sum(seconds),
                "overall_tokens_per_second": tokens / sum(seconds),
                "total_completion_tokens": tokens,
                "total_generation_time_sec": sum(seconds),
                "call_count": 3,
            },
            "tool_confidence_metrics": {"avg_tool_confidence": 0.9 - 0.01 * one.index, "tool_calls_with_confidence": 2},
            "key_step_tracker": {
                "total_steps": 2,
                "completed_steps_count": 1,
                "highest_index_reached": 1,
                "completion_rate_by_count": 0.5,
                "completion_rate_by_progress": 0.5,
                "final_step_reached": False,
            },
        },
    }


def _spread(name: str, all_name: str, seconds: list[float]) -> Json:
    values = [1000 * one for one in seconds]
    spread = {f"average_{name}": sum(values) / len(values), f"min_{name}": min(values), f"max_{name}": max(values)}
    return {**spread, "total_llm_calls": len(values), f"all_{all_name}": values}


def _event(kind: str, at: float, **fields: object) -> Json:
    return {"event_type": kind, "timestamp": at, **fields}


def _last_work(one: Made) -> float:
    return one.calls[-1][1]


def _metrics_failed(one: Made) -> None:
    for name in (
        "total_duration_seconds",
        "tool_usage_stats",
        "throughput_metrics",
        "key_step_tracker",
        "loop_detection_metrics",
    ):
        one.body["computed_metrics"][name] = FAILED


def _no_key_steps(one: Made) -> None:
    del one.body["computed_metrics"]["key_step_tracker"]


def _end_repeated(one: Made) -> None:
    end = one.body["metadata"]["session_end_unix"]
    one.events.append(_event("TASK_END", end, status="stopped", reason="Evaluator stopped"))


def _no_verdict(one: Made) -> None:
    end = _last_work(one) + WAIT_SECONDS + 1
    one.events[:] = [event for event in one.events if event["event_type"] not in ("TASK_END", "KEY_STEP_COMPLETED")]
    one.events.append(_event("TASK_END", end, status="stopped", reason="Evaluator shutdown timeout"))
    one.body["metadata"]["session_end_unix"] = end + 0.1
    one.body["computed_metrics"]["task_completion_status"] = {"status": "stopped", "reason": "Evaluator shutdown timeout"}
    one.headline = (one.start, _last_work(one))


def _no_task_end(one: Made) -> None:
    _no_verdict(one)
    one.events[:] = [event for event in one.events if event["event_type"] != "TASK_END"]
    one.body["computed_metrics"]["task_completion_status"] = {"status": None, "reason": None}


def _clients_zeros(one: Made) -> None:
    one.body["gpu_hardware_metrics"] = {"avg_power_w": 0.0, "total_energy_joules": 0.0, "sample_count": 12}


def _null_hardware(one: Made) -> None:
    one.body = {"gpu_hardware_metrics": None, **one.body}


def _hallucinated(one: Made) -> None:
    one.events.insert(-1, _event("TOOL_CALL_START", _last_work(one) + 0.1, tool_name="no_such_tool", args={}, confidence=None))
    one.body["computed_metrics"]["tool_hallucination_metrics"]["hallucinated_tool_names"] = ["no_such_tool"]


def _llm_error(one: Made) -> None:
    ends = [event for event in one.events if event["event_type"] == "LLM_QUERY_END"]
    ends[-1].update(status="error", error="HTTP 500", prompt_tokens=None, completion_tokens=None)


def _no_events(one: Made) -> None:
    one.body["raw_events"] = None
    one.headline = (one.start, one.body["metadata"]["session_end_unix"])


def _no_session_end(one: Made) -> None:
    one.body["metadata"]["session_end_unix"] = None


def _strange_text(one: Made) -> None:
    config = one.body["metadata"]["task_config_at_start"]
    config["task_name"] = '=HYPERLINK("http://x")'
    config["description"] = "Ünïcode \u2603 \ud83d and 𝄞"
    one.body["metadata"]["app_process_pid"] = 12345678901234567890
    one.body["computed_metrics"]["token_efficiency_metrics"]["token_efficiency_ratio"] = float("nan")


def _out_of_order(one: Made) -> None:
    one.events.reverse()


def _garbage_events(one: Made) -> None:
    one.events[1:1] = ["text", {"event_type": "LLM_QUERY_START"}, {"timestamp": 5.0}, None]  # type: ignore[list-item]


def _timed_out(one: Made) -> None:
    end = next(event for event in one.events if event["event_type"] == "TASK_END")
    end.update(status="timeout", reason="too slow")
    one.body["computed_metrics"]["task_completion_status"] = {"status": "timeout", "reason": "too slow"}


def _work_after_verdict(one: Made) -> None:
    end = next(event for event in one.events if event["event_type"] == "TASK_END")
    end["timestamp"] = one.calls[-1][0] + 0.5
    one.headline = (one.start, one.body["metadata"]["session_end_unix"])


def _streamed(one: Made) -> None:
    for event in one.events:
        if event["event_type"] == "LLM_FIRST_TOKEN_RECEIVED":
            event["timestamp"] = next(a for a, b in one.calls if a <= event["timestamp"] <= b) + 0.3


def _unreadable(text: str) -> Callable[[Made], None]:
    def spoil(one: Made) -> None:
        one.text, one.readable, one.calls = text, False, []

    return spoil


ODDITIES: dict[int, Callable[[Made], None]] = {
    1: _metrics_failed,
    2: _no_key_steps,
    3: _end_repeated,
    4: _no_verdict,
    5: _no_task_end,
    7: _unreadable('{\n    "metadata": {\n        "session_start_'),
    8: _unreadable(""),
    9: _clients_zeros,
    10: _hallucinated,
    11: _llm_error,
    12: _no_events,
    13: _no_session_end,
    17: _strange_text,
    19: _out_of_order,
    20: _garbage_events,
    21: _timed_out,
    24: _null_hardware,
    26: _work_after_verdict,
    27: _streamed,
}


def _place(root: Path, one: Made) -> None:
    model = one.model.replace(":", "-").replace("/", "_")
    tag = one.body["metadata"]["infrastructure_tag"]
    tail = f"{model}_{tag}" if tag else model
    stamp = f"{datetime.fromtimestamp(one.start, tz=timezone.utc):%Y%m%d_%H%M%S}"
    runs = root / f"{one.application}_runs" / f"20231114_2213_{tail}" / f"{one.folder_id}_{tail}" / f"session_{one.index}"
    runs.mkdir(parents=True, exist_ok=True)
    one.path = runs / f"result_{stamp}_{tail}_{one.folder_id}.json"
    if one.readable:
        one.text = _text(one)
    one.path.write_bytes(one.text.encode("utf-8", "surrogatepass"))


def _text(one: Made) -> str:
    """As ``json.dump(indent=4, ensure_ascii=False)`` writes it, but for some that another version wrote."""
    match one.index:
        case 14:
            return json.dumps(one.body)
        case 15:
            return json.dumps(one.body, indent=4).replace("\n", "\r\n")
        case 16:
            return "\ufeff" + json.dumps(one.body, indent=2)
        case 17:
            return json.dumps(one.body, indent=4, ensure_ascii=True)
        case _:
            return json.dumps(one.body, indent=4, ensure_ascii=False)


def _copy_of_the_first(made: list[Made]) -> None:
    """File 18 is file 0 once more, in another folder: somebody kept a copy."""
    copy, first = made[18], made[0]
    copy.path.unlink()
    copy.path = copy.path.with_name(first.path.name)
    copy.text, copy.body, copy.headline, copy.calls = first.text, first.body, first.headline, []
    copy.path.write_bytes(copy.text.encode())


def monitor_rows(tree: Tree, start: float, end: float, interval: float = 0.25) -> Iterator[str]:
    """The lines of a monitor's CSV over [start, end]."""
    yield "timestamp,gpu_util_pct,vram_mb,temp_c,power_w,container_cpu_pct,container_mem_mb"
    points = tree.power()
    at, place = start, 0
    while at <= end:
        while place + 1 < len(points) and points[place + 1][0] <= at:
            place += 1
        watts = points[place][1]
        busy = watts > IDLE_WATTS
        yield f"{at:.6f},{95 if busy else 0},{9000.0},{70 if busy else 40},{watts + STEADY_WATTS},{150.5},{2048}"
        at += interval
