"""One task of a run: its window, its verdict, its calls.

A verdict is given, never assumed: without one the status is ``unknown`` and the success absent. An exception that leaves the
block is recorded (``TimeoutError`` as ``timeout``, any other as ``error``) and goes on; it undoes an earlier ``succeed``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

from joulebench.confidence.call_confidence import CallConfidence
from joulebench.errors import UserError, format_error
from joulebench.parsing import sum_or_none
from joulebench.push import current
from joulebench.push.call import MAX_ERROR_CHARACTERS, Call, RequestedTool, ServerStats, Tool, checked_count, checked_window
from joulebench.push.ids import bounded_name
from joulebench.push.journal import plain_text
from joulebench.push.recorder import TaskRecorder
from joulebench.push.totals import TaskEnd
from joulebench.schema import events
from joulebench.units import Joules, Seconds


class Task:
    """Made by ``Run.task``. ``task_id`` is the id as recorded: it differs from the given one where that was already taken."""

    def __init__(self, recorder: TaskRecorder, metadata: Mapping[str, object] | None = None) -> None:
        totals = recorder.state.snapshot()
        self.task_id = recorder.task_id
        self.name = totals.task_name
        self.model = totals.model
        self._suite = totals.suite
        self._recorder = recorder
        self._details: dict[str, object] = {"task_metadata": dict(metadata)} if metadata else {}
        self._started = recorder.clock.monotonic()
        self._lock = threading.Lock()
        self._calls = 0
        self._tools = 0
        self._verdict: tuple[str, bool | None, str] = ("unknown", None, "")
        self._ended = False
        self._outer: Task | None = None
        self.records_clients = True
        """Whether calls of instrumented clients are recorded here; False where whoever opened the task records its calls."""

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def is_inherited(self) -> bool:
        """Whether this process was forked off while the task was open: its parent alone records it."""
        return self._recorder.run_recorder.is_inherited

    def now(self) -> Seconds:
        """Unix time of the run's clock."""
        return self._recorder.clock.unix()

    def __enter__(self) -> Task:
        if self._recorder.is_inherited:
            return self
        self._outer = current.task_began(self)
        start = self._recorder.clock.unix()
        self._started = self._recorder.clock.monotonic()
        with self._recorder.state as totals:
            totals.start = start
        with self._recorder.run as run:
            run.start_task(self.model)
        self._recorder.run_recorder.recent_edges.append(start)
        self._recorder.run_recorder.energy.task_started(self._recorder, start)
        self._recorder.write(
            events.TASK_START, start, task_name=self.name, model_name=self.model, suite=self._suite, **self._details
        )
        self._recorder.changed()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        ended = self._recorder.clock.monotonic()
        end = self._recorder.clock.unix()
        self._ended = True
        current.task_ended(self, self._outer)
        if self._recorder.is_inherited:
            return
        status, success, reason = self._verdict if error is None else self._broken_off(error)
        duration = Seconds(ended - self._started)
        self._recorder.write(events.TASK_END, end, status=status, success=success, reason=reason, duration_seconds=duration)
        with self._recorder.state as totals:
            start = totals.start
            totals.end = TaskEnd(end, duration, status, success)
            tokens = totals.tokens
        with self._recorder.run as run:
            run.end_task(self.model, status, tokens)
        self._recorder.changed()
        self._recorder.run_recorder.recent_edges.append(end)
        self._recorder.run_recorder.energy.task_ended(self._recorder, start, end)

    @property
    def joules(self) -> Joules | None:
        """Energy of the task over all GPUs; None until the exporter has answered, a moment after the end, or one is unknown."""
        if self._recorder.is_inherited:
            return None
        joules: Joules | None = sum_or_none(gpu.joules for gpu in self._recorder.state.snapshot().energy)
        return joules

    def succeed(self, reason: str = "") -> None:
        """The task was graded and passed."""
        self._judge("success", True, reason)

    def fail(self, reason: str = "") -> None:
        """The task was graded and did not pass."""
        self._judge("failure", False, reason)

    def time_out(self, reason: str = "") -> None:
        """The task ran out of time or steps; counts as not passed."""
        self._judge("timeout", False, reason)

    def key_step(self, index: int, name: str = "") -> None:
        """A step that the task's grader counts was reached."""
        if not self._recorder.is_inherited:
            self._recorder.write(
                events.KEY_STEP_COMPLETED, self._recorder.clock.unix(), step_index=index, step_name=bounded_name(name)
            )

    def agent_error(self, error: str, message: str = "", tool_name: str | None = None) -> None:
        """Something went wrong in the benchmark itself, outside of its LLM and tool calls."""
        if not self._recorder.is_inherited:
            self._recorder.write(
                events.AGENT_ERROR_OCCURRED,
                self._recorder.clock.unix(),
                error=plain_text(error, MAX_ERROR_CHARACTERS),
                message=plain_text(message, MAX_ERROR_CHARACTERS),
                tool_name=tool_name,
            )

    def call(self, model: str | None = None) -> Call:
        """An LLM call, to be used in ``with``."""
        with self._lock:
            self._calls += 1
            number = self._calls
        return Call(self._recorder, number, bounded_name(model or "") or self.model, self._new_tool)

    def add_call(
        self,
        start: float,
        end: float,
        *,
        model: str | None = None,
        first_token: float | None = None,
        response: object = None,
        tools: Iterable[object] = (),
        error: str | None = None,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
        cached_tokens: int | None = None,
    ) -> Call | None:
        """An LLM call that is over, for a harness that reports it afterwards; times are unix seconds.

        ``response`` gives what ``Call.record`` takes; numbers that are given beside it win. Returns the call, whose tool calls
        are added by ``add_tool(..., call=)``, and None, with a warning, for times that cannot be.
        """
        from joulebench.push.responses import read_response, requested_tools

        times = checked_window(start, end, first_token, "add_call")
        if times is None:
            return None
        call = self.call(model)
        reply = None if response is None else read_response(response)
        if reply is not None:
            call.requested = requested_tools(reply, tools)
            error = error or reply.error
        given: dict[str, Any] = {
            "prompt_tokens": checked_count(prompt_tokens, "prompt_tokens"),
            "completion_tokens": checked_count(completion_tokens, "completion_tokens"),
            "cached_tokens": checked_count(cached_tokens, "cached_tokens"),
        }
        stats = ServerStats() if reply is None else ServerStats.of_reply(reply)
        stats = replace(stats, **{name: count for name, count in given.items() if count is not None})
        call.record_past(*times, error, stats)
        return call

    def add_tool(
        self,
        name: str | RequestedTool,
        args: object = None,
        *,
        start: float,
        end: float,
        call: Call | None = None,
        confidence: CallConfidence | None = None,
        outcome: str = "ok",
        error: str = "",
        result: str | None = None,
    ) -> None:
        """A tool call that is over, between two unix times; ``call`` is the LLM call that asked for it, by default the last."""
        times = checked_window(start, end, None, "add_tool")
        if times is None:
            return
        if isinstance(name, RequestedTool):
            args, confidence = name.arguments, name.confidence
            name = name.name
        number = call.number if call is not None else self._last_call()
        tool = self._new_tool(number, name, args, confidence)
        tool.outcome(outcome, error)
        if result is not None:
            tool.result(result)
        tool.record_past(times[0], times[1])

    def declare_tools(self, names: Iterable[str]) -> None:
        """As ``Run.declare_tools``, for a benchmark that knows a task's tools only then."""
        if not self._recorder.is_inherited:
            with self._recorder.run as run:
                run.declare_tools(names)

    def tool(self, name: str, args: object, confidence: CallConfidence | None = None) -> Tool:
        """A tool call that the model tried in the last LLM call, to be used in ``with``; ``args`` as far as they parse.

        Where LLM calls of a task overlap, ``Call.tool`` says which of them asked for it.
        """
        return self._new_tool(self._last_call(), name, args, confidence)

    def _last_call(self) -> int | None:
        with self._lock:
            return self._calls or None

    def _new_tool(self, call: int | None, name: str, args: object, confidence: CallConfidence | None) -> Tool:
        with self._lock:
            self._tools += 1
            number = self._tools
        return Tool(
            self._recorder,
            number,
            call=call,
            model=self.model,
            name=bounded_name(name),
            args=args,
            confidence=confidence,
        )

    def _judge(self, status: str, success: bool, reason: str) -> None:
        if self._ended:
            raise UserError(f"task {self.task_id!r} has ended; give its verdict inside the 'with' block")
        self._verdict = (status, success, plain_text(reason, MAX_ERROR_CHARACTERS))

    def _broken_off(self, error: BaseException) -> tuple[str, bool | None, str]:
        cause = format_error(error)
        status, success, reason = self._verdict
        if status in ("failure", "timeout"):
            return status, success, f"{reason}; then {cause}" if reason else cause
        if isinstance(error, TimeoutError):
            return "timeout", False, cause
        return "error", None, cause
