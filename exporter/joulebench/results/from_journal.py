"""The values of a task from its journal events, counted as the pusher counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from joulebench.metrics import THROTTLE_REASONS, TOOL_OUTCOMES
from joulebench.results.journal import count, number, text
from joulebench.results.task import Event, GpuJoules, TaskValues


def values(events: Sequence[Event], run: Mapping[str, object]) -> TaskValues:
    """``run``: the worker's RUN_START, for what a task event leaves out."""
    start = _last(events, "TASK_START")
    end = _last(events, "TASK_END")
    calls = [event for event in events if event["event_type"] == "LLM_QUERY_END"]
    tools = [event for event in events if event["event_type"] == "TOOL_CALL_END"]
    outcomes = Counter(text(event.get("outcome")) for event in tools)
    scores = _scores(events)
    ttfts = _numbers(calls, "ttft_seconds")
    timed = [c for c in calls if number(c.get("decode_seconds")) is not None and count(c.get("decode_tokens")) is not None]
    success = end.get("success")
    return TaskValues(
        task_name=text(start.get("task_name")),
        model_name=text(start.get("model_name")) or text(run.get("model_name")),
        suite=text(start.get("suite")) or text(run.get("suite")),
        start=number(start.get("timestamp")),
        end=number(end.get("timestamp")),
        duration=number(end.get("duration_seconds")),
        status=text(end.get("status")),
        success=success if isinstance(success, bool) else None,
        reason=text(end.get("reason")),
        llm_calls=sum(event["event_type"] == "LLM_QUERY_START" for event in events),
        llm_errors=sum(call.get("status") == "error" for call in calls),
        prompt_tokens=_whole(_numbers(calls, "prompt_tokens")),
        completion_tokens=_whole(_numbers(calls, "completion_tokens")),
        llm_seconds=_total(_numbers(calls, "duration_seconds")),
        ttft_count=len(ttfts),
        ttft_seconds=_total(ttfts),
        prefill_seconds=_total(_numbers(calls, "prefill_seconds")),
        decode_seconds=_total(_numbers(timed, "decode_seconds")),
        decode_tokens=_whole(_numbers(timed, "decode_tokens")),
        load_seconds=_total(_numbers(calls, "load_seconds")),
        tool_calls={outcome: outcomes[outcome] for outcome in TOOL_OUTCOMES},
        tool_seconds=_total(_numbers(tools, "duration_seconds")),
        confidence_count=len(scores),
        confidence_sum=_total(scores),
        confidence_min=min(scores, default=None),
        confidence_max=max(scores, default=None),
    )


def exporter_energy(events: Sequence[Event]) -> tuple[tuple[GpuJoules, ...], str | None]:
    """The exporter's answer for the whole task and its GPU source; the last one counts."""
    answer = _last(events, "TASK_ENERGY")
    rows = answer.get("gpus")
    gpus = [_gpu(row) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return tuple(gpus), text(answer.get("source"))


def _gpu(row: Mapping[str, object]) -> GpuJoules:
    reasons = row.get("reasons")
    return GpuJoules(
        gpu=str(row.get("gpu", "")),
        uuid=str(row.get("uuid", "")),
        joules=number(row.get("joules")),
        low=number(row.get("low")),
        high=number(row.get("high")),
        method=text(row.get("method")),
        samples=count(row.get("samples")),
        quality=text(row.get("quality")),
        reasons=tuple(map(str, reasons)) if isinstance(reasons, list) else (),
        throttled=throttled(row),
    )


def throttled(row: Mapping[str, object]) -> dict[str, float]:
    """Seconds by reason as the exporter told them of one GPU, those that it knew."""
    told = row.get("throttled_seconds")
    pairs = ((reason, number(told.get(reason))) for reason in THROTTLE_REASONS) if isinstance(told, dict) else ()
    return {reason: seconds for reason, seconds in pairs if seconds is not None and seconds >= 0}


def _last(events: Sequence[Event], event_type: str) -> Event:
    return next((event for event in reversed(events) if event["event_type"] == event_type), {})


def _scores(events: Sequence[Event]) -> list[float]:
    """Confidences of tool calls that ended: the pusher counts a call at its end."""
    ended = {event.get("tool_call") for event in events if event["event_type"] == "TOOL_CALL_END"}
    starts = [e for e in events if e["event_type"] == "TOOL_CALL_START" and e.get("tool_call") in ended]
    return _numbers(starts, "confidence")


def _numbers(events: Iterable[Event], name: str) -> list[float]:
    return [value for event in events if (value := number(event.get(name))) is not None]


def _total(found: Sequence[float]) -> float | None:
    return sum(found) if found else None


def _whole(found: Sequence[float]) -> int | None:
    return round(sum(found)) if found else None
