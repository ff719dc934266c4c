"""``computed_metrics`` of a task: totals as both sources agree on them, and what only single events tell.

Lists, minima and maxima over calls need the journal; without it they are empty or null while the totals still stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from joulebench.results.hardware import ratio
from joulebench.results.journal import count, number, text
from joulebench.results.task import Event, Task

Section = dict[str, Any]


def computed_metrics(task: Task) -> Section:
    values, events = task.values, task.events
    calls = _of(events, "LLM_QUERY_END")
    ttfts = [1000 * one for call in calls if (one := number(call.get("ttft_seconds"))) is not None]
    durations = [1000 * one for call in calls if (one := number(call.get("duration_seconds"))) is not None]
    return {
        "total_duration_seconds": duration(task),
        "llm_call_count": values.llm_calls,
        "llm_token_usage": {
            "total_prompt_tokens": values.prompt_tokens,
            "total_completion_tokens": values.completion_tokens,
            "total_tokens": total_tokens(task),
        },
        "task_completion_status": {"status": task.status, "reason": values.reason, "success": values.success},
        "agent_reported_completion": {"completed": None, "reasoning": None},
        "tool_usage_stats": _tools(task),
        "error_summary": _errors(events),
        "ttft_metrics": _spread("ttft_ms", ttfts, values.ttft_seconds, values.ttft_count),
        "generation_time_metrics": _spread(
            "generation_time_ms", durations, values.llm_seconds, values.llm_calls, "generation_times_ms"
        ),
        "processing_overhead_metrics": _overhead(task),
        "token_efficiency_metrics": {
            "token_efficiency_ratio": ratio(values.completion_tokens, values.prompt_tokens),
            "total_prompt_tokens": values.prompt_tokens,
            "total_completion_tokens": values.completion_tokens,
            "total_tokens": total_tokens(task),
            "average_tokens_per_call": ratio(total_tokens(task), values.llm_calls),
        },
        "throughput_metrics": _throughput(task, calls),
        "tool_confidence_metrics": {
            "avg_tool_confidence": ratio(values.confidence_sum, values.confidence_count),
            "min_tool_confidence": values.confidence_min,
            "max_tool_confidence": values.confidence_max,
            "tool_calls_with_confidence": values.confidence_count,
        },
        "tool_hallucination_metrics": _hallucinations(task),
        "key_step_tracker": _key_steps(events),
    }


def duration(task: Task) -> float | None:
    """By the monotonic clock where it was kept, else end minus start."""
    if task.values.duration is not None:
        return task.values.duration
    return None if task.window is None else task.window[1] - task.window[0]


def total_tokens(task: Task) -> int | None:
    prompt, completion = task.values.prompt_tokens, task.values.completion_tokens
    return None if prompt is None or completion is None else prompt + completion


def _of(events: Sequence[Event], event_type: str) -> list[Event]:
    return [event for event in events if event["event_type"] == event_type]


def _spread(name: str, found: Sequence[float], seconds: float | None, times: int | None, all_name: str | None = None) -> Section:
    average = sum(found) / len(found) if found else None
    if average is None and seconds is not None and times:
        average = 1000 * seconds / times
    return {
        f"average_{name}": average,
        f"min_{name}": min(found, default=None),
        f"max_{name}": max(found, default=None),
        "total_llm_calls": times,
        f"all_{all_name or name}": list(found),
    }


def _overhead(task: Task) -> Section:
    whole, llm, tool = duration(task), task.values.llm_seconds, task.values.tool_seconds
    rest = None if whole is None else max(whole - (llm or 0.0) - (tool or 0.0), 0.0)
    return {
        "processing_overhead_ms": None if rest is None else 1000 * rest,
        "total_task_time_ms": None if whole is None else 1000 * whole,
        "total_llm_time_ms": None if llm is None else 1000 * llm,
        "total_tool_time_ms": None if tool is None else 1000 * tool,
        "overhead_percentage": None if rest is None or not whole else 100 * rest / whole,
    }


def _throughput(task: Task, calls: Sequence[Event]) -> Section:
    rates = []
    for call in calls:
        tokens, seconds = number(call.get("completion_tokens")), number(call.get("duration_seconds"))
        if tokens is not None and seconds:
            rates.append(tokens / seconds)
    values = task.values
    return {
        "avg_tokens_per_second": sum(rates) / len(rates) if rates else None,
        "min_tokens_per_second": min(rates, default=None),
        "max_tokens_per_second": max(rates, default=None),
        "overall_tokens_per_second": ratio(values.completion_tokens, values.llm_seconds),
        "decode_tokens_per_second": ratio(values.decode_tokens, values.decode_seconds),
        "total_completion_tokens": values.completion_tokens,
        "total_generation_time_sec": values.llm_seconds,
        "call_count": values.llm_calls,
    }


def _tools(task: Task) -> Section:
    starts = {event.get("tool_call"): event for event in _of(task.events, "TOOL_CALL_START")}
    tools: dict[str, Section] = {}
    for end in _of(task.events, "TOOL_CALL_END"):
        start = starts.get(end.get("tool_call"), {})
        tool = tools.setdefault(text(end.get("tool_name")) or "", {"total_count": 0, "success_count": 0, "failure_count": 0})
        tool["total_count"] += 1
        tool["success_count" if end.get("success") is True else "failure_count"] += 1
        tool["last_call"] = {
            "start_time": start.get("timestamp"),
            "args": start.get("args"),
            "end_time": end["timestamp"],
            "success": end.get("success"),
            "result": end.get("result"),
            "error": end.get("error"),
        }
    outcomes = task.values.tool_calls
    return {
        "total_tool_calls": None if outcomes is None else sum(outcomes.values()),
        "outcomes": None if outcomes is None else dict(outcomes),
        "tools": tools,
    }


def _errors(events: Sequence[Event]) -> Section:
    by_source: dict[str, Section] = {}
    failed = [("LLM", e) for e in _of(events, "LLM_QUERY_END") if e.get("status") == "error"]
    failed += [("Tool", e) for e in _of(events, "TOOL_CALL_END") if e.get("success") is False]
    for source, event in failed:
        kept = by_source.setdefault(source, {"count": 0, "errors": []})
        kept["count"] += 1
        kept["errors"].append({"timestamp": event["timestamp"], "details": event.get("error") or event.get("outcome")})
    return {"total_error_count": len(failed), "errors_by_source": by_source}


def _hallucinations(task: Task) -> Section:
    """Calls of tools that were never declared."""
    outcomes = task.values.tool_calls
    calls = None if outcomes is None else outcomes.get("undeclared", 0)
    found = [event for event in _of(task.events, "TOOL_CALL_END") if event.get("outcome") == "undeclared"]
    return {
        "hallucination_detected": None if calls is None else calls > 0,
        "total_hallucinated_calls": calls,
        "hallucinated_tool_names": sorted({text(event.get("tool_name")) or "" for event in found}),
    }


def _key_steps(events: Sequence[Event]) -> Section:
    steps = _of(events, "KEY_STEP_COMPLETED")
    indices = [index for event in steps if (index := count(event.get("step_index"))) is not None]
    return {
        "completed_steps_count": len(set(indices)),
        "highest_index_reached": max(indices, default=None),
        "completed_indices_list": sorted(set(indices)),
        "completion_timeline": [
            {"step_index": e.get("step_index"), "step_name": e.get("step_name"), "timestamp": e["timestamp"]} for e in steps
        ],
    }
