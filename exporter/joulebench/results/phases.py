"""What a task's energy was spent on: the window cut at its journal events, each moment given to one phase.

A moment belongs to the first of decode, prefill, load, llm and tool that goes on then, and to other if none does, so the
phases add up to the window. Prefill and decode are told apart by the first token, or by the server's own durations counted
back from the end of the call; a call with neither is ``llm`` as a whole. Time in the server's queue is other, not prefill.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from joulebench.energy.trace import CounterTrace
from joulebench.energy.window import energy_between
from joulebench.results.journal import number
from joulebench.results.task import Event

PHASES = ("decode", "prefill", "load", "llm", "tool", "other")

Interval = tuple[float, float]


def intervals(events: Sequence[Event], start: float, end: float) -> dict[str, list[Interval]]:
    """The window cut into pieces of one phase each."""
    spans: dict[str, list[Interval]] = {"other": [], **_calls(events, end)}
    spans["tool"] = list(_pairs(events, "TOOL_CALL_START", "TOOL_CALL_END", "tool_call", end).values())
    cuts = sorted({start, end, *(t for some in spans.values() for span in some for t in span if start < t < end)})
    pieces: dict[str, list[Interval]] = {phase: [] for phase in PHASES}
    going = _Going(spans)
    for piece in itertools.pairwise(cuts):
        pieces[going.phase_at(*piece)].append(piece)
    return pieces


def energy(pieces: Mapping[str, Sequence[Interval]], traces: Iterable[CounterTrace]) -> dict[str, float] | None:
    """Joules by phase over all GPUs; None where a trace does not reach over the window."""
    result = dict.fromkeys(PHASES, 0.0)
    for trace in traces:
        for phase, some in pieces.items():
            joules = energy_between(trace, some)
            if joules is None:
                return None
            result[phase] += joules
    return result


def calls_in_flight(events: Sequence[Event], end: float) -> list[Interval]:
    return list(_pairs(events, "LLM_QUERY_START", "LLM_QUERY_END", "call", end).values())


class _Going:
    """Which phases go on in a piece; spans are walked once, since pieces come in order."""

    def __init__(self, spans: Mapping[str, Sequence[Interval]]) -> None:
        self._spans = {phase: sorted(spans[phase]) for phase in PHASES}

    def phase_at(self, start: float, end: float) -> str:
        for phase, some in self._spans.items():
            while some and some[0][1] <= start:
                some.pop(0)
            if any(a <= start and end <= b for a, b in some):
                return phase
        return "other"


def _calls(events: Sequence[Event], task_end: float) -> dict[str, list[Interval]]:
    found: dict[str, list[Interval]] = {"decode": [], "prefill": [], "load": [], "llm": []}
    first_tokens = {e.get("call"): float(e["timestamp"]) for e in events if e["event_type"] == "LLM_FIRST_TOKEN_RECEIVED"}
    ends = {e.get("call"): e for e in events if e["event_type"] == "LLM_QUERY_END"}
    for call, (start, end) in _pairs(events, "LLM_QUERY_START", "LLM_QUERY_END", "call", task_end).items():
        told = ends.get(call, {})
        prefill, decode = number(told.get("prefill_seconds")), number(told.get("decode_seconds"))
        first = first_tokens.get(call)
        if first is None and decode is not None and prefill is not None:
            first = max(end - decode, start)
        if first is None:
            found["llm"].append((start, end))
            continue
        found["decode"].append((first, end))
        began = start if prefill is None else max(first - prefill, start)
        found["prefill"].append((began, first))
        load = number(told.get("load_seconds"))
        if load is not None:
            found["load"].append((max(began - load, start), began))
    return found


def _pairs(events: Sequence[Event], opening: str, closing: str, key: str, task_end: float) -> dict[object, Interval]:
    """Intervals by their number; one without a closing event lasts until the end of the task."""
    closed = {e.get(key): float(e["timestamp"]) for e in events if e["event_type"] == closing}
    return {
        e.get(key): (float(e["timestamp"]), max(closed.get(e.get(key), task_end), float(e["timestamp"])))
        for e in events
        if e["event_type"] == opening
    }
