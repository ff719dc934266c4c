"""The LLM calls of a task, each with its tokens, times and joules, and what a token and a call cost.

A call's joules are the exporter's answer for its window, else read from the stored samples; they hold all that the GPUs took
meanwhile. Joules of a token are those of its phase, prefill or decode, over the tokens that this phase worked on. Where tasks
overlapped, a window holds the work of others too, and there is no such figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from joulebench.energy.window import total, window_energy
from joulebench.results import from_journal, throttle
from joulebench.results.hardware import ratio
from joulebench.results.journal import count, number, text
from joulebench.results.samples import GpuSamples
from joulebench.results.task import Event, Task

EXCEEDED = "calls_exceed_task"
COMPUTED, EFFECTIVE = "computed", "effective"
"""Prompt tokens less those from the server's cache, where every call tells how many; else all of them, cached or not."""

Row = dict[str, Any]


def rows(task: Task, gpus: Sequence[GpuSamples], throttled: float | None = None) -> list[Row]:
    """In the order in which the calls began; one that never ended has its start only. ``throttled``: seconds of the task."""
    ends = {event.get("call"): event for event in task.events if event["event_type"] == "LLM_QUERY_END"}
    answers = {event.get("call"): event for event in task.call_energy}
    found = []
    for event in task.events:
        if event["event_type"] == "LLM_QUERY_START":
            call = event.get("call")
            found.append(_row(event, ends.get(call), answers.get(call), gpus, throttled))
    return found


def exceed(calls: Sequence[Row], task_high: float | None) -> bool:
    """Whether calls that did not overlap surely took more than their whole task."""
    known = [one for one in calls if one["end"] is not None and one["low_joules"] is not None]
    apart = all(a["end"] <= b["start"] for a, b in pairwise(sorted(known, key=lambda one: float(one["start"]))))
    return task_high is not None and apart and sum(one["low_joules"] for one in known) > task_high + 0.01


def efficiency(task: Task, calls: Sequence[Row], phases: Mapping[str, Row] | None, overlap_fraction: float | None) -> Row:
    """Joules by token, call and waiting for tools. ``notes``: what they rest on, by phase as in ``phases``, and that of calls.

    ``reason`` says why nothing is known: ``overlap`` of tasks.
    """
    alone = not overlap_fraction
    prefill, decode = (_joules(phases, phase) if alone else None for phase in ("prefill", "decode"))
    prompt_tokens, basis = _prompt_tokens(calls) if prefill is not None else (None, None)
    decode_tokens = _decode_tokens(calls) if decode is not None else None
    joules = [one["joules"] for one in calls if one["joules"] is not None]
    per_call = sum(joules) / len(joules) if joules else None
    if not calls and task.pushed_call_energy is not None:
        per_call = ratio(task.pushed_call_energy[1], task.pushed_call_energy[0])
    return {
        "joules_per_prompt_token": ratio(prefill, prompt_tokens),
        "prompt_tokens": prompt_tokens,
        "prompt_token_basis": basis,
        "joules_per_decode_token": ratio(decode, decode_tokens),
        "decode_tokens": decode_tokens,
        "joules_per_call": per_call if alone else None,
        "calls_with_energy": len(joules) or (task.pushed_call_energy[0] if not calls and task.pushed_call_energy else 0),
        "tool_wait_joules": _joules(phases, "tool_wait") if alone else None,
        "notes": {
            **({phase: phases[phase]["notes"] for phase in ("prefill", "decode", "tool_wait")} if phases else {}),
            "calls": sorted({reason for one in calls if one["joules"] is not None for reason in one["reasons"]}),
        },
        "reason": None if alone else "overlap",
    }


def cached(told: Mapping[str, object]) -> tuple[int | None, int | None]:
    """(prompt tokens that were computed, those from the cache) of an LLM_QUERY_END; None where not told or contradictory."""
    prompt, from_cache = count(told.get("prompt_tokens")), count(told.get("cached_tokens"))
    if prompt is None or from_cache is None or not 0 <= from_cache <= prompt:
        return None, None
    return prompt - from_cache, from_cache


def _row(begun: Event, ended: Event | None, answer: Event | None, gpus: Sequence[GpuSamples], throttled: float | None) -> Row:
    start, end = float(begun["timestamp"]), float(ended["timestamp"]) if ended else None
    told = ended or {}
    return {
        "call": begun.get("call"),
        "model_name": begun.get("model_name"),
        "start": start,
        "end": end,
        "status": text(told.get("status")),
        **{name: number(told.get(name)) for name in ("duration_seconds", "ttft_seconds")},
        **{name: count(told.get(name)) for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "decode_tokens")},
        **{name: number(told.get(name)) for name in ("prefill_seconds", "decode_seconds", "load_seconds")},
        "computed_tokens": cached(told)[0],
        **_energy(start, end, answer, gpus),
        **throttle.within(gpus, start, end, throttled, _throttled(answer)),
    }


def _throttled(answer: Event | None) -> dict[str, dict[str, float]]:
    """Seconds by reason of each GPU's uuid, as the exporter told them of the call."""
    rows = answer.get("gpus") if answer else None
    found = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return {str(row.get("uuid", "")): from_journal.throttled(row) for row in found}


def _energy(start: float, end: float | None, answer: Event | None, gpus: Sequence[GpuSamples]) -> Row:
    whole = answer.get("total") if answer else None
    if isinstance(whole, dict) and (number(whole.get("joules")) is not None or not gpus):
        return _told(whole, "exporter")
    if end is None or end < start or not gpus:
        return _told({}, None)
    found = total(window_energy(gpu.energy, start, end, method=gpu.method or "counter") for gpu in gpus)
    return _told({name: getattr(found, name) for name in ("joules", "low", "high", "quality", "reasons")}, "prometheus")


def _told(energy: Mapping[str, object], source: str | None) -> Row:
    reasons = energy.get("reasons")
    return {
        "joules": number(energy.get("joules")),
        "low_joules": number(energy.get("low")),
        "high_joules": number(energy.get("high")),
        "quality": text(energy.get("quality")),
        "reasons": list(map(str, reasons)) if isinstance(reasons, list | tuple) else [],
        "energy_source": source,
    }


def _joules(phases: Mapping[str, Row] | None, phase: str) -> float | None:
    found = None if phases is None else phases[phase]["joules"]
    return None if found is None else float(found)


def _prompt_tokens(calls: Sequence[Row]) -> tuple[int | None, str | None]:
    """Those that the prefill phase worked on; None where it holds the work of a call that did not tell how many."""
    split = [one for one in calls if one["prefill_seconds"] is not None or one["ttft_seconds"] is not None]
    prompts, computed = [one["prompt_tokens"] for one in split], [one["computed_tokens"] for one in split]
    if None not in computed:
        return sum(computed), COMPUTED
    return (None, None) if None in prompts else (sum(prompts), EFFECTIVE)


def _decode_tokens(calls: Sequence[Row]) -> int | None:
    split = [one["decode_tokens"] for one in calls if one["decode_seconds"] is not None or one["ttft_seconds"] is not None]
    return None if None in split else sum(split)
