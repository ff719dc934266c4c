"""The client's flat events in the form of our journal: calls and tools numbered, with durations, and with a first token only
where it was measured.

The client stamps LLM_FIRST_TOKEN_RECEIVED when the whole reply is there, so its time to first token is the latency of the
call. An LLM call counts as streamed only where its tokens had the time to come one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from joulebench.mcpworld.windows import Interval, RawEvent
from joulebench.parsing import as_count, as_float, as_name

if TYPE_CHECKING:
    from joulebench.schema.result import Event

FASTEST_TOKENS_PER_SECOND = 1000.0
"""No self-hosted model decodes one sequence faster; tokens that came faster came all at once."""
PASSED_ON = ("prefill_seconds", "decode_seconds", "decode_tokens", "load_seconds")
"""Fields that a metering proxy or a newer client may add to LLM_QUERY_END."""


def journal_events(events: Sequence[RawEvent], window: Interval, declared: Sequence[str]) -> list[Event]:
    """Events of LLM calls, tools and key steps that began inside ``window``. ``declared``: offered tools, empty if unknown."""
    calls, tools = _CallReader(), _ToolReader(declared)
    read: list[Event] = []
    for event in events:
        at, kind = float(event["timestamp"]), event["event_type"]
        if at > window[1] and kind.endswith("_START"):
            break
        match kind:
            case "LLM_QUERY_START":
                read.append(calls.start(at, event))
            case "LLM_FIRST_TOKEN_RECEIVED":
                calls.first_token(at)
            case "LLM_QUERY_END":
                read += calls.end(at, event)
            case "TOOL_CALL_START":
                read.append(tools.start(at, event, calls.number))
            case "TOOL_CALL_END":
                read += tools.end(at, event)
            case "KEY_STEP_COMPLETED":
                step = {"step_index": event.get("step_index"), "step_name": event.get("step_name")}
                read.append(_event(kind, at, **step))
    return sorted(read, key=lambda event: float(event["timestamp"]))


def was_streamed(start: float, first: float, end: float, completion_tokens: int | None) -> bool:
    """Whether ``first`` can be the time of a first token: the others must have had the time to come after it."""
    if completion_tokens is None or completion_tokens < 2 or not start <= first <= end:
        return False
    return end - first >= (completion_tokens - 1) / FASTEST_TOKENS_PER_SECOND


class _CallReader:
    """Calls of one agent, which makes one at a time; a start without an end is a call that broke off."""

    def __init__(self) -> None:
        self.number = 0
        self._open: float | None = None
        self._first: float | None = None

    def start(self, at: float, event: RawEvent) -> Event:
        self.number += 1
        self._open, self._first = at, None
        return _event("LLM_QUERY_START", at, call=self.number, model_name=as_name(event.get("model_name")))

    def first_token(self, at: float) -> None:
        if self._open is not None and self._first is None:
            self._first = at

    def end(self, at: float, event: RawEvent) -> list[Event]:
        if self._open is None:
            return []
        start, first = self._open, self._first
        self._open = None
        tokens = as_count(event.get("completion_tokens"))
        reported: dict[str, Any] = {name: as_float(event.get(name)) for name in PASSED_ON}
        ended = []
        ttft = as_float(event.get("ttft_seconds"))
        if first is not None and was_streamed(start, first, at, tokens):
            ended.append(_event("LLM_FIRST_TOKEN_RECEIVED", first, call=self.number))
            ttft = first - start if ttft is None else ttft
            if reported["decode_seconds"] is None and tokens is not None:
                reported["decode_seconds"], reported["decode_tokens"] = at - first, tokens - 1
        if reported["decode_seconds"] is not None and reported["decode_tokens"] is None:
            reported["decode_tokens"] = tokens
        error = event.get("error")
        ended.append(
            _event(
                "LLM_QUERY_END",
                at,
                call=self.number,
                status="error" if event.get("status") == "error" else "success",
                error=None if error is None else str(error),
                prompt_tokens=as_count(event.get("prompt_tokens")),
                completion_tokens=tokens,
                duration_seconds=at - start,
                ttft_seconds=ttft,
                **reported,
            )
        )
        return ended


class _ToolReader:
    """Tool calls, paired by name: an end belongs to the latest open start of its tool."""

    def __init__(self, declared: Sequence[str]) -> None:
        self._declared = frozenset(declared)
        self._number = 0
        self._open: list[tuple[int, str, float]] = []

    def start(self, at: float, event: RawEvent, call: int) -> Event:
        self._number += 1
        name = as_name(event.get("tool_name")) or ""
        self._open.append((self._number, name, at))
        return _event(
            "TOOL_CALL_START",
            at,
            tool_call=self._number,
            call=call or None,
            tool_name=name,
            args=event.get("args"),
            confidence=as_float(event.get("confidence")),
        )

    def end(self, at: float, event: RawEvent) -> list[Event]:
        name = as_name(event.get("tool_name")) or ""
        opened = next((tool for tool in reversed(self._open) if tool[1] == name), None)
        if opened is None:
            return []
        self._open.remove(opened)
        success = event.get("success")
        undeclared = bool(self._declared) and name not in self._declared
        error = event.get("error")
        return [
            _event(
                "TOOL_CALL_END",
                at,
                tool_call=opened[0],
                tool_name=name,
                outcome="undeclared" if undeclared else "ok" if success is True else "tool_error",
                success=success if isinstance(success, bool) else None,
                error=None if error is None else str(error),
                duration_seconds=at - opened[2],
            )
        ]


def _event(kind: str, at: float, **fields: object) -> Event:
    return {"event_type": kind, "timestamp": at, **fields}
