"""What a task's joules were spent on, and whose joules they are where tasks overlapped: journal events in, energy splits out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joulebench.energy.attribution import TaskAttribution, attribute
from joulebench.energy.bins import TaskWork
from joulebench.energy.calls import LlmCall
from joulebench.energy.ledger import METHODS, GpuBalance
from joulebench.energy.phases import PHASES, phase_energy, timeline, total_phases
from joulebench.energy.window import WindowEnergy, total
from joulebench.results.calls import cached
from joulebench.results.journal import number
from joulebench.results.ownership import own_gpus
from joulebench.results.samples import GpuSamples
from joulebench.results.task import Event, Task, TaskKey

EXCLUSIVE = METHODS[0]

Interval = tuple[float, float]


def llm_calls(events: Sequence[Event], task_end: float) -> list[LlmCall]:
    """The task's calls. Prefill tokens are known where the server told how much of a prompt came from its cache."""
    first = {e.get("call"): float(e["timestamp"]) for e in events if e["event_type"] == "LLM_FIRST_TOKEN_RECEIVED"}
    ends = {e.get("call"): e for e in events if e["event_type"] == "LLM_QUERY_END"}
    found = []
    for call, (start, end) in _pairs(events, "LLM_QUERY_START", "LLM_QUERY_END", "call", task_end).items():
        told = ends.get(call, {})
        ttft = number(told.get("ttft_seconds"))
        found.append(
            LlmCall(
                start,
                end,
                load_seconds=number(told.get("load_seconds")),
                prefill_seconds=number(told.get("prefill_seconds")),
                decode_seconds=number(told.get("decode_seconds")),
                ttft_seconds=first[call] - start if ttft is None and call in first else ttft,
                prefill_tokens=cached(told)[0],
                decode_tokens=number(told.get("completion_tokens")),
            )
        )
    return found


def tool_spans(events: Sequence[Event], task_end: float) -> list[Interval]:
    return list(_pairs(events, "TOOL_CALL_START", "TOOL_CALL_END", "tool_call", task_end).values())


def _pairs(events: Sequence[Event], opening: str, closing: str, key: str, task_end: float) -> dict[object, Interval]:
    """Intervals by their number; one without a closing event lasts until the end of the task."""
    closed = {e.get(key): float(e["timestamp"]) for e in events if e["event_type"] == closing}
    return {
        e.get(key): (float(e["timestamp"]), max(closed.get(e.get(key), task_end), float(e["timestamp"])))
        for e in events
        if e["event_type"] == opening
    }


def phases(task: Task, verdict: WindowEnergy, gpus: Sequence[GpuSamples]) -> dict[str, Any]:
    """Seconds and joules by phase. Joules come from the stored samples, scaled to add up to the task's joules.

    None where the journal does not tell of calls.
    """
    if task.window is None or not task.events:
        return {"by_phase": None, "scale": None}
    start, end = task.window
    line = timeline(start, end, llm_calls(task.events, end), tool_spans(task.events, end))
    parts = [phase_energy(gpu.energy, line, method=gpu.method or "counter") for gpu in gpus]
    together = total_phases(parts, total(part.whole for part in parts))
    whole = together.whole.joules
    scale = None if not whole or verdict.joules is None else verdict.joules / whole
    seconds: dict[str, float | None] = {p: None if p in line.unknown else 0.0 for p in PHASES}
    for span in line.spans:
        seconds[span.phase] = (seconds[span.phase] or 0.0) + span.end - span.start
    found = {}
    for phase in PHASES:
        one = together.phases.get(phase)
        joules = None if one is None or one.joules is None or scale is None else one.joules * scale
        notes = list(one.notes if one else line.notes.get(phase, ()))
        found[phase] = {"seconds": seconds[phase], "joules": joules, "notes": notes}
    return {"by_phase": found, "scale": scale}


@dataclass(frozen=True, slots=True)
class Books:
    """The shares of tasks that ran on the same GPUs, and the balance of each of these over ``start`` to ``end``, unix seconds.

    sum of shares + unattributed + shared idle + withheld + residual = the counter's own difference.
    """

    start: float
    end: float
    shares: Mapping[TaskKey, TaskAttribution]
    balances: Mapping[str, GpuBalance]


def books(tasks: Sequence[Task], gpus: Sequence[GpuSamples], idle_watts: Mapping[str, float | None] | None = None) -> list[Books]:
    """For every task with a window; the window of an unfinished task is not known, so it shares nothing here.

    Tasks share a GPU only with those that ran on it. ``idle_watts`` by uuid.
    """
    own = own_gpus(tasks)
    found = []
    for uuids in dict.fromkeys(own.values()):
        traces = {gpu.uuid: gpu.energy for gpu in gpus if uuids is None or gpu.uuid in uuids}
        ended = [(task, task.window) for task in tasks if task.window is not None and own[task.key] == uuids]
        if not ended:
            continue
        work = [
            TaskWork(str(task.key), start, end, llm_calls(task.events, end) if task.events else None)
            for task, (start, end) in ended
        ]
        done = attribute(traces, work, idle_watts=idle_watts)
        shares = {task.key: share for (task, _), share in zip(ended, done.tasks, strict=True)}
        found.append(Books(min(w.start for w in work), max(w.end for w in work), shares, done.gpus))
    return found


def attributions(found: Sequence[Books]) -> Mapping[TaskKey, TaskAttribution]:
    return {key: share for one in found for key, share in one.shares.items()}
