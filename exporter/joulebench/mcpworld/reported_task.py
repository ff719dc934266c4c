"""One task as an evaluator reports it, event by event, turned into our task with its calls and tools.

The evaluator is not asked to keep order: a call without an end, an end without a start and events after the verdict are ordinary.
The task ends with its verdict, or where none comes with the agent's last event, so that waiting for a verdict is not charged.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from joulebench.confidence.measures import CallConfidence
from joulebench.mcpworld.event_clock import EventClock
from joulebench.push.call import Call, Tool
from joulebench.push.task import Task

VERDICTS = ("success", "failure", "timeout")
FASTEST_TOKENS_PER_SECOND = 1000.0
"""No self-hosted model decodes one sequence faster: tokens that came faster came all at once, in a whole reply."""
REPORTED = "reported"
"""Span status of a confidence that the benchmark worked out itself, from whichever tokens it took."""

Data = Mapping[str, Any]


class ReportedTask:
    """``task`` is entered and left here. Times are unix seconds, as the events give them."""

    def __init__(self, task: Task, clock: EventClock, start: float) -> None:
        self.ended = False
        self._task = task
        self._clock = clock
        self._last_work = start
        self._worked = False
        self._declared: Collection[str] = ()
        self._call: tuple[Call, float] | None = None
        self._first_token: float | None = None
        self._tools: list[tuple[str, Tool]] = []
        self._verdict_at: float | None = None
        with clock.at(start):
            task.__enter__()

    def event(self, kind: str, at: float, data: Data) -> None:
        """Any event but TASK_START. Events after the end change nothing."""
        if self.ended:
            return
        handler = _HANDLERS.get(kind)
        if handler is None:
            return
        with self._clock.at(at):
            handler(self, at, data)
        if self._verdict_at is not None and self._call is None and not self._tools:
            self.end(max(self._verdict_at, self._last_work))

    def end(self, at: float | None = None) -> None:
        """The task is over, by default since the agent's last event; what was still open broke off."""
        if self.ended:
            return
        self.ended = True
        if at is None:
            at = self._last_work if self._worked else self._clock.unix()
        with self._clock.at(at):
            for name, tool in reversed(self._tools):
                self._close_tool(name, tool, None, "the tool call has no end")
            if self._call is not None:
                self._call[0].fail("the call has no end")
            self._task.__exit__(None, None, None)

    def _tools_initialized(self, at: float, data: Data) -> None:  # noqa: ARG002
        names = data.get("tool_names")
        self._declared = {name for name in names if isinstance(name, str)} if isinstance(names, list | tuple | set) else ()
        self._task.declare_tools(sorted(self._declared))

    def _query_start(self, at: float, data: Data) -> None:
        self._works(at)
        if self._call is not None:
            self._call[0].fail("the call has no end")
        call = self._task.call(text(data.get("model_name")))
        call.__enter__()
        self._call, self._first_token = (call, at), None

    def _first(self, at: float, data: Data) -> None:  # noqa: ARG002
        if self._first_token is None:
            self._first_token = at

    def _query_end(self, at: float, data: Data) -> None:
        self._works(at)
        if self._call is None:
            return
        call, start = self._call
        self._call = None
        if data.get("status") == "error":
            call.fail(str(data.get("error") or "error"))
            return
        tokens = whole(data.get("completion_tokens"))
        first = self._first_token
        if first is not None and was_streamed(start, first, at, tokens):
            with self._clock.at(first):
                call.first_token()
        with self._clock.at(at):
            call.finish(
                whole(data.get("prompt_tokens")),
                tokens,
                prefill_seconds=number(data.get("prefill_seconds")),
                decode_seconds=number(data.get("decode_seconds")),
                decode_tokens=whole(data.get("decode_tokens")),
                load_seconds=number(data.get("load_seconds")),
            )

    def _tool_start(self, at: float, data: Data) -> None:
        self._works(at)
        name = text(data.get("tool_name")) or ""
        tool = self._task.tool(name, data.get("args"), _confidence(name, data.get("confidence")))
        tool.__enter__()
        self._tools.append((name, tool))

    def _tool_end(self, at: float, data: Data) -> None:
        self._works(at)
        name = text(data.get("tool_name")) or ""
        mine = next((one for one in reversed(self._tools) if one[0] == name), None)
        if mine is None:
            return
        self._tools.remove(mine)
        result = data.get("result")
        if result is not None:
            mine[1].result(str(result))
        success = data.get("success")
        self._close_tool(name, mine[1], success if isinstance(success, bool) else None, str(data.get("error") or ""))

    def _close_tool(self, name: str, tool: Tool, success: bool | None, error: str) -> None:
        if self._declared and name not in self._declared:
            tool.outcome("undeclared", error or f"there is no tool {name!r}")
        elif success is not True:
            tool.outcome("tool_error", error)
        tool.__exit__(None, None, None)

    def _key_step(self, at: float, data: Data) -> None:  # noqa: ARG002
        index = whole(data.get("step_index"))
        if index is not None:
            self._task.key_step(index, text(data.get("step_name")) or "")

    def _task_end(self, at: float, data: Data) -> None:
        status, reason = data.get("status"), text(data.get("reason")) or ""
        if status not in VERDICTS or self._verdict_at is not None:
            # Somebody ended it, which is no verdict; one may still come.
            return
        self._verdict_at = at
        if status == "success":
            self._task.succeed()
        elif status == "failure":
            self._task.fail(reason)
        else:
            self._task.time_out(reason)

    def _works(self, at: float) -> None:
        self._last_work, self._worked = max(self._last_work, at), True


_HANDLERS = {
    "TOOLS_INITIALIZED": ReportedTask._tools_initialized,
    "LLM_QUERY_START": ReportedTask._query_start,
    "LLM_FIRST_TOKEN_RECEIVED": ReportedTask._first,
    "LLM_QUERY_END": ReportedTask._query_end,
    "TOOL_CALL_START": ReportedTask._tool_start,
    "TOOL_CALL_END": ReportedTask._tool_end,
    "KEY_STEP_COMPLETED": ReportedTask._key_step,
    "TASK_END": ReportedTask._task_end,
}


def was_streamed(start: float, first: float, end: float, completion_tokens: int | None) -> bool:
    """Whether ``first`` can be the time of a first token: the others must have had the time to come after it."""
    if completion_tokens is None or completion_tokens < 2 or not start <= first <= end:
        return False
    return end - first >= (completion_tokens - 1) / FASTEST_TOKENS_PER_SECOND


def number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def whole(value: object) -> int | None:
    found = number(value)
    return None if found is None else round(found)


def text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _confidence(name: str, value: object) -> CallConfidence | None:
    score = number(value)
    if score is None or not 0 <= score <= 1:
        return None
    return CallConfidence(REPORTED, name, score, {"reported": score})
