"""One task of a run: its window, its verdict, its calls.

A verdict is given, never assumed: without one the status is ``unknown`` and the success absent. An exception that leaves the
block is recorded (``TimeoutError`` as ``timeout``, any other as ``error``) and goes on; it undoes an earlier ``succeed``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from types import TracebackType

from joulebench.confidence.measures import CallConfidence
from joulebench.errors import UserError, format_error
from joulebench.parsing import sum_or_none
from joulebench.push.call import MAX_ERROR_CHARACTERS, Call, Tool
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

    def __enter__(self) -> Task:
        if self._recorder.is_inherited:
            return self
        start = self._recorder.clock.unix()
        self._started = self._recorder.clock.monotonic()
        with self._recorder.state as totals:
            totals.start = start
        with self._recorder.run as run:
            run.start_task(self.model)
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
        return Call(self._recorder, number, bounded_name(model or "") or self.model)

    def declare_tools(self, names: Iterable[str]) -> None:
        """As ``Run.declare_tools``, for a benchmark that knows a task's tools only then."""
        if not self._recorder.is_inherited:
            with self._recorder.run as run:
                run.declare_tools(names)

    def tool(self, name: str, args: object, confidence: CallConfidence | None = None) -> Tool:
        """A tool call that the model tried in the last LLM call, to be used in ``with``; ``args`` as far as they parse."""
        with self._lock:
            self._tools += 1
            number, last_call = self._tools, self._calls or None
        return Tool(
            self._recorder,
            number,
            call=last_call,
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
