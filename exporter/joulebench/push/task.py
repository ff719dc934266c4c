"""One task of a run: its window, its verdict, its calls.

A verdict is given, never assumed: without one the status is ``unknown`` and the success absent. An exception that leaves the
block is recorded (``TimeoutError`` as ``timeout``, any other as ``error``) and goes on; it undoes an earlier ``succeed``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from types import TracebackType

from joulebench.confidence.measures import CallConfidence
from joulebench.errors import UserError
from joulebench.push.call import Call, Tool, in_words
from joulebench.push.recorder import TaskRecorder
from joulebench.push.state import TaskEnd
from joulebench.units import Joules, Seconds


class Task:
    """Made by ``Run.task``. ``task_id`` is the id as recorded: it differs from the given one where that was already taken."""

    def __init__(self, recorder: TaskRecorder) -> None:
        totals = recorder.state.snapshot()
        self.task_id = recorder.task_id
        self.name = totals.task_name
        self.model = totals.model
        self._suite = totals.suite
        self._recorder = recorder
        self._started = recorder.clock.monotonic()
        self._calls = itertools.count(1)
        self._tools = itertools.count(1)
        self._last_call: int | None = None
        self._verdict: tuple[str, bool | None, str] = ("unknown", None, "")
        self._ended = False

    def __enter__(self) -> Task:
        start = self._recorder.clock.unix()
        self._started = self._recorder.clock.monotonic()
        with self._recorder.state as totals:
            totals.start = start
        with self._recorder.run as run:
            run.start_task(self.model)
        self._recorder.of_run.energy.task_started(self._recorder, start)
        self._recorder.write("TASK_START", start, task_name=self.name, model_name=self.model, suite=self._suite)
        self._recorder.changed()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        ended = self._recorder.clock.monotonic()
        end = self._recorder.clock.unix()
        self._ended = True
        status, success, reason = self._verdict if error is None else self._broken(error)
        duration = Seconds(ended - self._started)
        self._recorder.write("TASK_END", end, status=status, success=success, reason=reason, duration_seconds=duration)
        with self._recorder.state as totals:
            start = totals.start
            totals.end = TaskEnd(end, duration, status, success)
            tokens = totals.tokens
        with self._recorder.run as run:
            run.end_task(self.model, status, tokens)
        self._recorder.changed()
        self._recorder.of_run.energy.task_ended(self._recorder, start, end)

    @property
    def joules(self) -> Joules | None:
        """Energy of the task over all GPUs; None until the exporter has answered, a moment after the end, or one is unknown."""
        known = [gpu.joules for gpu in self._recorder.state.snapshot().energy]
        found = [value for value in known if value is not None]
        return Joules(sum(found)) if found and len(found) == len(known) else None

    def succeed(self) -> None:
        """The task was graded and passed."""
        self._judge("success", True, "")

    def fail(self, reason: str = "") -> None:
        """The task was graded and did not pass."""
        self._judge("failure", False, reason)

    def time_out(self, reason: str = "") -> None:
        """The task ran out of time or steps; counts as not passed."""
        self._judge("timeout", False, reason)

    def key_step(self, index: int, name: str = "") -> None:
        """A step that the task's grader counts was reached."""
        self._recorder.write("KEY_STEP_COMPLETED", self._recorder.clock.unix(), step_index=index, step_name=name)

    def call(self, model: str | None = None) -> Call:
        """An LLM call, to be used in ``with``."""
        number = next(self._calls)
        self._last_call = number
        return Call(self._recorder, number, model or self.model)

    def declare_tools(self, names: Iterable[str]) -> None:
        """As ``Run.declare_tools``, for a benchmark that knows a task's tools only then."""
        with self._recorder.run as run:
            run.declare_tools(names)

    def tool(self, name: str, args: object, confidence: CallConfidence | None = None) -> Tool:
        """A tool call that the model tried in the last LLM call, to be used in ``with``; ``args`` as far as they parse."""
        number = next(self._tools)
        return Tool(
            self._recorder,
            number,
            call=self._last_call,
            model=self.model,
            name=name,
            args=args,
            confidence=confidence,
        )

    def _judge(self, status: str, success: bool, reason: str) -> None:
        if self._ended:
            raise UserError(f"task {self.task_id!r} has ended; give its verdict inside the 'with' block")
        self._verdict = (status, success, reason)

    def _broken(self, error: BaseException) -> tuple[str, bool | None, str]:
        told = in_words(error)
        status, success, reason = self._verdict
        if status in ("failure", "timeout"):
            return status, success, f"{reason}; then {told}" if reason else told
        if isinstance(error, TimeoutError):
            return "timeout", False, told
        return "error", None, told
