"""The numbers of a run once more, from its journal, by the formulas in docs/RESULTS.md; nothing of the export is used.

The counter's changes, utilization and the highest power are not in the journal, so what comes from them alone is not here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import fsum
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

Event: TypeAlias = Mapping[str, Any]

TROUBLE = ("hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake")
"""Reasons that count as throttled."""


def load_events(run: Path) -> list[Event]:
    return [json.loads(line) for path in run.glob("journal-*.jsonl") for line in path.read_text("utf-8").splitlines()]


def recompute(run_events: Sequence[Event], task_id: str) -> dict[str, float | None]:
    """Values of a task by the name of their column in results.csv."""
    of_task = [event for event in run_events if event.get("task_id") == task_id]

    def events(kind: str) -> list[Event]:
        return [event for event in of_task if event["event_type"] == kind]

    (begun,), (ended,), (energy,) = events("TASK_START"), events("TASK_END"), events("TASK_ENERGY")
    start, end = begun["timestamp"], ended["timestamp"]
    calls, gpus = events("LLM_QUERY_END"), energy["gpus"]
    starts = {event["call"]: event["timestamp"] for event in events("LLM_QUERY_START")}
    completion = sum(call["completion_tokens"] for call in calls)
    latency = sum(call["duration_seconds"] for call in calls)
    decode_tokens, decode_seconds = (sum(call[name] for call in calls) for name in ("decode_tokens", "decode_seconds"))
    joules = sum(gpu["joules"] for gpu in gpus)
    ttfts = [1000 * call["ttft_seconds"] for call in calls]
    idle_watts = _idle_watts(run_events)
    tools = [tool["confidence_measures"] for tool in events("TOOL_CALL_START")]
    prefill_joules, decode_joules = 0.0, 0.0
    for call in calls:
        first = call["timestamp"] - call["decode_seconds"]
        prefill_joules += _joules_of_parts(energy, first - call["prefill_seconds"], first)
        decode_joules += _joules_of_parts(energy, first, call["timestamp"])
    return {
        "total_duration_seconds": ended["duration_seconds"],
        "tokens_per_second": completion / latency,
        "decode_tokens_per_second": decode_tokens / decode_seconds,
        "time_per_output_token_ms": 1000 * decode_seconds / decode_tokens,
        "wall_tokens_per_second": completion
        / _covered([(starts[call["call"]], starts[call["call"]] + call["duration_seconds"]) for call in calls]),
        "avg_ttft_ms": fmean(ttfts),
        "avg_tool_confidence": fmean(min(tool["name_branch"], tool["args_min"]) for tool in tools),
        "total_energy_joules": joules,
        "energy_low_joules": sum(gpu["low"] for gpu in gpus),
        "energy_high_joules": sum(gpu["high"] for gpu in gpus),
        "avg_power_w": joules / (end - start),
        "energy_longest_gap_seconds": max(gpu["longest_gap_seconds"] for gpu in gpus),
        "idle_energy_joules": idle_watts * (end - start),
        "active_energy_joules": max(joules - idle_watts * (end - start), 0.0) or None,
        "attributed_energy_joules": joules,
        "prefill_energy_joules": prefill_joules,
        "decode_energy_joules": decode_joules,
        "joules_per_prompt_token": prefill_joules / sum(call["prompt_tokens"] for call in calls),
        "joules_per_decode_token": decode_joules / decode_tokens,
        "joules_per_completion_token": joules / completion,
        "throttled_seconds": max(max(gpu["throttled_seconds"][reason] for reason in TROUBLE) for gpu in gpus),
        "overlap_fraction": _overlap(run_events, task_id, start, end),
    }


def _idle_watts(run_events: Sequence[Event]) -> float:
    """Of all GPUs, each the lowest of its measurements."""
    measured = [gpu for event in run_events if event["event_type"] == "IDLE_POWER" for gpu in event["gpus"]]
    return fsum(min(gpu["watts"] for gpu in measured if gpu["uuid"] == uuid) for uuid in {gpu["uuid"] for gpu in measured})


def _joules_of_parts(energy: Event, start: float, end: float) -> float:
    """Joules of the parts of the task's window that lie within [start, end]."""
    edges = [0.0, *energy["cuts"], energy["end"] - energy["start"]]
    middles = [energy["start"] + (a + b) / 2 for a, b in pairwise(edges)]
    inside = [place for place, middle in enumerate(middles) if start < middle < end]
    return fsum(gpu["parts"][place][0] for gpu in energy["gpus"] for place in inside)


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds in at least one of the spans."""
    covered, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return covered


def _overlap(run_events: Sequence[Event], task_id: str, start: float, end: float) -> float:
    begun = {event["task_id"]: event["timestamp"] for event in run_events if event["event_type"] == "TASK_START"}
    ended = {event["task_id"]: event["timestamp"] for event in run_events if event["event_type"] == "TASK_END"}
    others = [(max(begun[task], start), min(ended[task], end)) for task in begun if task != task_id]
    return _covered([(a, b) for a, b in others if a < b]) / (end - start)
