"""One task as an evaluator reports it, event by event, replayed into our task with its calls and tools at the events' own
times.

The evaluator does not keep order: a call without an end, an end without a start and events after the verdict are ordinary.
The task ends with its verdict, or where none comes with the agent's last event, so that waiting for a verdict is not
charged.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from joulebench.clock import Clock, SystemClock
from joulebench.confidence.measures import CallConfidence
from joulebench.mcpworld.client_events import was_streamed
from joulebench.mcpworld.client_names import VERDICTS
from joulebench.parsing import as_float, as_int, as_name
from joulebench.push.call import Call, Tool
from joulebench.push.task import Task
from joulebench.units import Seconds


class ReplayClock:
    """A ``Clock`` that can be set to the time of an event, for benchmarks that report events after the fact.

    Only the thread that reports sees the time of its event; the threads that push and ask for energy keep the real time.
    """

    def __init__(self, real: Clock | None = None) -> None:
        self.real = real or SystemClock()
        self._now = threading.local()

    def unix(self) -> Seconds:
        at: Seconds | None = getattr(self._now, "unix", None)
        return self.real.unix() if at is None else at

    def monotonic(self) -> Seconds:
        at: Seconds | None = getattr(self._now, "monotonic", None)
        return self.real.monotonic() if at is None else at

    @contextmanager
    def at(self, unix: float) -> Iterator[None]:
        """In this thread it is ``unix`` (unix seconds) until the end of the block."""
        monotonic = self.real.monotonic() - (self.real.unix() - unix)
        self._now.unix, self._now.monotonic = Seconds(unix), Seconds(monotonic)
        try:
            yield
        finally:
            self._now.unix = self._now.monotonic = None


REPORTED = "reported"
"""Span status of a confidence that the benchmark worked out itself, from whichever tokens it took."""

Data = Mapping[str, Any]


class TaskReplay:
    """``task`` is entered and left here. Times are unix seconds, as the events give them."""

    def __init__(self, task: Task, clock: ReplayClock, start: float) -> None:
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
        call = self._task.call(as_name(data.get("model_name")))
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
        tokens = as_int(data.get("completion_tokens"))
        first = self._first_token
        if first is not None and was_streamed(start, first, at, tokens):
            with self._clock.at(first):
                call.first_token()
        with self._clock.at(at):
            call.finish(
                as_int(data.get("prompt_tokens")),
                tokens,
                prefill_seconds=as_float(data.get("prefill_seconds")),
                decode_seconds=as_float(data.get("decode_seconds")),
                decode_tokens=as_int(data.get("decode_tokens")),
                load_seconds=as_float(data.get("load_seconds")),
            )

    def _tool_start(self, at: float, data: Data) -> None:
        self._works(at)
        name = as_name(data.get("tool_name")) or ""
        tool = self._task.tool(name, data.get("args"), _confidence(name, data.get("confidence")))
        tool.__enter__()
        self._tools.append((name, tool))

    def _tool_end(self, at: float, data: Data) -> None:
        self._works(at)
        name = as_name(data.get("tool_name")) or ""
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
        index = as_int(data.get("step_index"))
        if index is not None:
            self._task.key_step(index, as_name(data.get("step_name")) or "")

    def _task_end(self, at: float, data: Data) -> None:
        status, reason = data.get("status"), as_name(data.get("reason")) or ""
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
    "TOOLS_INITIALIZED": TaskReplay._tools_initialized,
    "LLM_QUERY_START": TaskReplay._query_start,
    "LLM_FIRST_TOKEN_RECEIVED": TaskReplay._first,
    "LLM_QUERY_END": TaskReplay._query_end,
    "TOOL_CALL_START": TaskReplay._tool_start,
    "TOOL_CALL_END": TaskReplay._tool_end,
    "KEY_STEP_COMPLETED": TaskReplay._key_step,
    "TASK_END": TaskReplay._task_end,
}


def _confidence(name: str, value: object) -> CallConfidence | None:
    score = as_float(value)
    if score is None or not 0 <= score <= 1:
        return None
    return CallConfidence(REPORTED, name, score, {"reported": score})
