"""Runs whose truth the test sets: result files in the very shape that the export writes, without an export."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joulebench.analysis.runs import Attempt, attempt_of_result
from joulebench.schema import result_from_json

START = 1_790_000_000.0


@dataclass(frozen=True)
class Scripted:
    """One attempt. It takes ``seconds``, a tenth of them prefill, the rest decode, less ``tool_seconds`` at the end."""

    task_id: str
    success: bool | None = True
    joules: float | None = 100.0
    seconds: float = 10.0
    tool_seconds: float = 1.0
    prompt_tokens: int = 500
    cached_tokens: int | None = None
    completion_tokens: int = 50
    model: str = "model-a"
    suite: str = "files"
    simulated: bool = False
    quality: str = "ok"
    reasons: tuple[str, ...] = ()
    overlap: float = 0.0
    idle_watts: float | None = None
    confidence: float | None = 0.9
    name: str = ""
    basis: str | None = None
    devices: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


def write(directory: Path, attempts: Iterable[Scripted], run_id: str = "", planned: int | None = None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    start, written = START, 0
    for number, attempt in enumerate(attempts):
        content = record(attempt, run_id or directory.name, start)
        path = directory / f"result_20260921_000000_{number:05}_{attempt.model.replace('/', '_')}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        start += attempt.seconds + 1
        written += 1
    (directory / "run.json").write_text(json.dumps({"planned_tasks": planned or written, "notes": []}), encoding="utf-8")
    return directory


def record(one: Scripted, run_id: str, start: float) -> dict[str, Any]:
    end = start + one.seconds
    thinking = one.seconds - one.tool_seconds
    prefill, decode = 0.1 * thinking, 0.9 * thinking
    common = {"run_id": run_id, "task_id": one.task_id, "worker": "w1"}
    tool_at = start + thinking
    watts = None if one.joules is None else one.joules / one.seconds
    status = "unknown" if one.success is None else "success" if one.success else "failure"
    bounds = (None, None) if one.joules is None else (0.99 * one.joules, 1.01 * one.joules)
    phases = {"prefill": prefill, "decode": decode, "tool_wait": one.tool_seconds}
    tool = {"tool_call": 1, "call": 1, "tool_name": "read_file"}
    return {
        "schema_version": 1,
        "metadata": {
            **common,
            "task_name": one.name or f"Task {one.task_id}",
            "suite": one.suite,
            "model_name": one.model,
            "session_start_unix": start,
            "session_end_unix": end,
        },
        "llm_error_count": 0,
        "raw_events": [
            {"event_type": "TASK_START", "timestamp": start, **common},
            {"event_type": "TOOL_CALL_START", "timestamp": tool_at, **common, **tool, "confidence": one.confidence},
            {"event_type": "TOOL_CALL_END", "timestamp": end, **common, **tool, "outcome": "ok", "success": True},
            {"event_type": "TASK_END", "timestamp": end, **common, "status": status, "success": one.success},
        ],
        "computed_metrics": {
            "total_duration_seconds": one.seconds,
            "llm_call_count": 1,
            "llm_token_usage": {
                "total_prompt_tokens": one.prompt_tokens,
                "total_completion_tokens": one.completion_tokens,
                "total_tokens": one.prompt_tokens + one.completion_tokens,
            },
            "task_completion_status": {"status": status, "reason": "", "success": one.success},
            "tool_usage_stats": {"total_tool_calls": 1},
            "tool_confidence_metrics": {
                "avg_tool_confidence": one.confidence,
                "min_tool_confidence": one.confidence,
                "max_tool_confidence": one.confidence,
            },
        },
        "gpu_hardware_metrics": {
            "avg_gpu_util_pct": 80.0,
            "avg_power_w": watts,
            "max_temp_c": 70.0,
            "peak_vram_mb": 8000.0,
            **{f"avg_power_q{part}_w": watts for part in range(1, 6)},
        },
        "measurement": {
            "joules": one.joules,
            "low_joules": bounds[0],
            "high_joules": bounds[1],
            "quality": one.quality,
            "reasons": list(one.reasons),
            "simulated": one.simulated,
            "device_basis": one.basis,
            "devices": [{"uuid": uuid, "gpu": str(number)} for number, uuid in enumerate(one.devices)],
        },
        "per_gpu": [{"gpu": "0", "uuid": "GPU-0", "name": "GPU of a test"}],
        "throttle": {"throttled_seconds": one.seconds / 2 if "throttled" in one.reasons else 0.0},
        "phases": {
            "by_phase": {
                phase: {"seconds": seconds, "joules": None if watts is None else watts * seconds, "notes": []}
                for phase, seconds in phases.items()
            }
        },
        "idle": {"watts": one.idle_watts},
        "calls": [
            {
                "call": 1,
                "start": start,
                "end": tool_at,
                "duration_seconds": thinking,
                "ttft_seconds": prefill,
                "prompt_tokens": one.prompt_tokens,
                "cached_tokens": one.cached_tokens,
                "completion_tokens": one.completion_tokens,
                "decode_tokens": one.completion_tokens,
                "prefill_seconds": prefill,
                "decode_seconds": decode,
                "joules": None if watts is None else watts * thinking,
            }
        ],
        "attribution": {
            "overlap_fraction": one.overlap,
            "attributed": None if one.joules is None else one.joules * (1 - one.overlap / 2),
            "lower": bounds[0],
            "upper": bounds[1],
        },
        **one.extra,
    }


def attempt_of(one: Scripted, run_id: str, start: float) -> Attempt:
    """The attempt that would be loaded from its result file."""
    return attempt_of_result(result_from_json(record(one, run_id, start), Path("result_scripted.json")))
