"""One task as an evaluator reports it, event by event, replayed into our task with its calls and tools at the events' own
times.

The evaluator does not keep order: a call without an end, an end without a start and work after the verdict are ordinary.
A verdict is
not the end of a task: its session ends it, and the last verdict counts.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from joulebench.clock import Clock, SystemClock
from joulebench.confidence.call_confidence import CallConfidence
from joulebench.mcpworld.client_events import was_streamed
from joulebench.mcpworld.client_names import VERDICTS
from joulebench.mcpworld.windows import task_end
from joulebench.parsing import as_float, as_int, as_name
from joulebench.push.call import Call, Tool
from joulebench.push.task import Task
from joulebench.schema import events
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


Data = Mapping[str, Any]


class TaskReplay:
    """``task`` is entered and left here. Times are unix seconds, as the events give them."""

    def __init__(self, task: Task, clock: ReplayClock, start: float) -> None:
        self.ended = False
        self._task = task
        self._clock = clock
        self._start = start
        self._last_work: float | None = None
        self._last_task_end: float | None = None
        self._declared: Collection[str] = ()
        self._call: tuple[Call, float] | None = None
        self._first_token: float | None = None
        self._tools: list[tuple[str, Tool]] = []
        self._verdict: _Verdict | None = None
        with clock.at(start):
            task.__enter__()

    def event(self, kind: str, at: float, data: Data) -> None:
        """Replays any event but TASK_START. Events after the end of the session change nothing."""
        if self.ended:
            return
        handler = _HANDLERS.get(kind)
        if handler is None:
            return
        with self._clock.at(at):
            handler(self, at, data)

    def end(self, session_end: float | None = None) -> None:
        """Ends the task with its session, whose unix time may be given; what is still open broke off.

        Which time the task is charged until is ``windows.task_end``'s to say, as for a file of the client.
        """
        if self.ended:
            return
        self.ended = True
        at, _ = task_end(
            self._verdict.at if self._verdict is not None else None,
            self._last_work,
            self._last_task_end,
            self._clock.unix() if session_end is None else session_end,
        )
        with self._clock.at(self._start if at is None else max(at, self._start)):
            for name, tool in reversed(self._tools):
                self._close_tool(name, tool, None, "the tool call has no end")
            if self._call is not None:
                self._call[0].fail("the call has no end")
            if self._verdict is not None:
                self._verdict.give(self._task)
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
        opened = next((tool for tool in reversed(self._tools) if tool[0] == name), None)
        if opened is None:
            return
        self._tools.remove(opened)
        result = data.get("result")
        if result is not None:
            opened[1].result(str(result))
        success = data.get("success")
        self._close_tool(name, opened[1], success if isinstance(success, bool) else None, str(data.get("error") or ""))

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

    def _agent_error(self, at: float, data: Data) -> None:  # noqa: ARG002
        details = next((text for name in ("message", "details", "stack_trace") if (text := as_name(data.get(name)))), "")
        self._task.agent_error(as_name(data.get("error")) or "error", details, as_name(data.get("tool_name")))

    def _task_end(self, at: float, data: Data) -> None:
        """Notes the verdict; the last one counts, and one that says only that the task was stopped is none."""
        self._last_task_end = at
        status = data.get("status")
        if status in VERDICTS:
            self._verdict = _Verdict(at, str(status), as_name(data.get("reason")) or "")

    def _works(self, at: float) -> None:
        self._last_work = at if self._last_work is None else max(self._last_work, at)


@dataclass(frozen=True, slots=True)
class _Verdict:
    at: float
    status: str
    reason: str

    def give(self, task: Task) -> None:
        judge = {"success": task.succeed, "failure": task.fail, "timeout": task.time_out}[self.status]
        judge(self.reason)


_HANDLERS = {
    "TOOLS_INITIALIZED": TaskReplay._tools_initialized,
    "LLM_QUERY_START": TaskReplay._query_start,
    "LLM_FIRST_TOKEN_RECEIVED": TaskReplay._first,
    "LLM_QUERY_END": TaskReplay._query_end,
    "TOOL_CALL_START": TaskReplay._tool_start,
    "TOOL_CALL_END": TaskReplay._tool_end,
    "KEY_STEP_COMPLETED": TaskReplay._key_step,
    "TASK_END": TaskReplay._task_end,
    "AGENT_ERROR_OCCURRED": TaskReplay._agent_error,
}


def _confidence(name: str, value: object) -> CallConfidence | None:
    score = as_float(value)
    if score is None or not 0 <= score <= 1:
        return None
    return CallConfidence(events.REPORTED, name, score, {"reported": score})
