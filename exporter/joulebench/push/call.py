"""One LLM call and one tool call of a task, as context managers.

Times are taken here, by the monotonic clock for durations and by the wall clock for timestamps; what only the server knows
(token counts, prefill and decode time) is passed in, and stays unknown where it is not. Each ends exactly once: the first of
``finish``/``fail`` or the end of the block counts, and an exception in the block is recorded as the error and goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

from joulebench.confidence.measures import CallConfidence
from joulebench.errors import UserError
from joulebench.metrics import TOOL_OUTCOMES
from joulebench.push.recorder import TaskRecorder
from joulebench.units import Ratio, Seconds

MAX_RESULT_CHARACTERS = 65_536


@dataclass(frozen=True, slots=True)
class Reported:
    """What the server told of a call; None where it did not."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    prefill_seconds: float | None = None
    decode_seconds: float | None = None
    decode_tokens: int | None = None
    load_seconds: float | None = None


class Call:
    """``number`` counts the calls of the task from 1. Made by ``Task.call``."""

    def __init__(self, recorder: TaskRecorder, number: int, model: str) -> None:
        self.number = number
        self.model = model
        self._recorder = recorder
        self._start = recorder.clock.unix()
        self._started = recorder.clock.monotonic()
        self._first: Seconds | None = None
        self._phase: str | None = None
        self._ended = False

    def __enter__(self) -> Call:
        self._start = self._recorder.clock.unix()
        self._started = self._recorder.clock.monotonic()
        self._recorder.write("LLM_QUERY_START", self._start, call=self.number, model_name=self.model)
        with self._recorder.state as task:
            task.llm_calls += 1
        self._enter_phase("prefill")
        self._recorder.changed()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._ended:
            return
        if error is not None:
            self.fail(in_words(error))
        else:
            self.finish()

    def first_token(self) -> None:
        """The first streamed token has come. Further calls of this method change nothing."""
        if self._first is not None or self._ended:
            return
        self._first = self._recorder.clock.monotonic()
        self._recorder.write("LLM_FIRST_TOKEN_RECEIVED", self._recorder.clock.unix(), call=self.number)
        self._enter_phase("decode")
        self._recorder.run_changed()

    def finish(
        self,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
        *,
        prefill_seconds: float | None = None,
        decode_seconds: float | None = None,
        decode_tokens: int | None = None,
        load_seconds: float | None = None,
        cached_tokens: int | None = None,
    ) -> None:
        """The call is over and went well; the arguments are what the server reported, None where it did not.

        ``cached_tokens``: those of the prompt that the server had computed before, part of ``prompt_tokens``.
        Without ``decode_seconds`` a streamed call gets the time from the first token to now, over one token fewer.
        """
        if self._ended:
            return
        ended = self._recorder.clock.monotonic()
        if decode_seconds is None and self._first is not None and completion_tokens is not None and completion_tokens > 1:
            decode_seconds = ended - self._first
            decode_tokens = completion_tokens - 1
        elif decode_seconds is not None and decode_tokens is None:
            decode_tokens = completion_tokens
        reported = Reported(
            prompt_tokens, cached_tokens, completion_tokens, prefill_seconds, decode_seconds, decode_tokens, load_seconds
        )
        self._end(ended, None, reported)

    def fail(self, error: str) -> None:
        """The call is over and gave no answer."""
        if not self._ended:
            self._end(self._recorder.clock.monotonic(), error, Reported())

    def _end(self, ended: Seconds, error: str | None, reported: Reported) -> None:
        self._ended = True
        end = self._recorder.clock.unix()
        duration = Seconds(ended - self._started)
        ttft = None if self._first is None else Seconds(self._first - self._started)
        self._recorder.write(
            "LLM_QUERY_END",
            end,
            call=self.number,
            status="success" if error is None else "error",
            error=error,
            prompt_tokens=reported.prompt_tokens,
            cached_tokens=reported.cached_tokens,
            completion_tokens=reported.completion_tokens,
            duration_seconds=duration,
            ttft_seconds=ttft,
            prefill_seconds=reported.prefill_seconds,
            decode_seconds=reported.decode_seconds,
            decode_tokens=reported.decode_tokens,
            load_seconds=reported.load_seconds,
        )
        with self._recorder.state as task:
            task.llm_errors += error is not None
            task.llm_duration = task.llm_duration.plus(duration)
            task.ttft = task.ttft.plus(ttft)
            task.prefill = task.prefill.plus(reported.prefill_seconds)
            task.load = task.load.plus(reported.load_seconds)
            task.prompt_tokens = _sum(task.prompt_tokens, reported.prompt_tokens)
            if reported.prompt_tokens is not None and reported.cached_tokens is not None:
                from_cache = min(reported.cached_tokens, reported.prompt_tokens)
                task.cached_prompt_tokens = _sum(task.cached_prompt_tokens, from_cache)
            task.completion_tokens = _sum(task.completion_tokens, reported.completion_tokens)
            if reported.decode_seconds is not None and reported.decode_tokens is not None:
                # The two are divided by one another, so neither counts without the other.
                task.decode = task.decode.plus(reported.decode_seconds)
                task.decode_tokens += reported.decode_tokens
        with self._recorder.run as run:
            run.add_call(self.model, duration, ttft)
            run.move(self._phase, None)
        self._phase = None
        self._recorder.changed()
        self._recorder.of_run.energy.call_ended(self._recorder, self.number, self._start, end)

    def _enter_phase(self, phase: str) -> None:
        with self._recorder.run as run:
            run.move(self._phase, phase)
        self._phase = phase


class Tool:
    """One tool call the model tried, valid or not. ``number`` counts those of the task from 1. Made by ``Task.tool``."""

    def __init__(
        self,
        recorder: TaskRecorder,
        number: int,
        *,
        call: int | None,
        model: str,
        name: str,
        args: object,
        confidence: CallConfidence | None,
    ) -> None:
        self.number = number
        self.name = name
        self._recorder = recorder
        self._call = call
        self._model = model
        self._args = args
        self._confidence = confidence
        self._started = recorder.clock.monotonic()
        self._outcome = "ok"
        self._error: str | None = None
        self._result: str | None = None

    def __enter__(self) -> Tool:
        self._started = self._recorder.clock.monotonic()
        confidence = self._confidence
        self._recorder.write(
            "TOOL_CALL_START",
            self._recorder.clock.unix(),
            tool_call=self.number,
            call=self._call,
            tool_name=self.name,
            args=self._args,
            confidence=None if confidence is None else confidence.score,
            confidence_measures=None if confidence is None else dict(confidence.measures),
            span_status=None if confidence is None else confidence.span_status,
        )
        with self._recorder.run as run:
            run.move(None, "tool")
        self._recorder.run_changed()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.outcome("tool_error", in_words(error))
        duration = Seconds(self._recorder.clock.monotonic() - self._started)
        score = None if self._confidence is None else self._confidence.score
        result, cut = self._result, {}
        if result is not None and len(result) > MAX_RESULT_CHARACTERS:
            cut = {"result_characters": len(result)}
            result = result[:MAX_RESULT_CHARACTERS]
        self._recorder.write(
            "TOOL_CALL_END",
            self._recorder.clock.unix(),
            tool_call=self.number,
            tool_name=self.name,
            outcome=self._outcome,
            success=self._outcome == "ok",
            error=self._error,
            result=result,
            duration_seconds=duration,
            **cut,
        )
        with self._recorder.state as task:
            task.tool_calls = {**task.tool_calls, self._outcome: task.tool_calls[self._outcome] + 1}
            task.tool_duration = task.tool_duration.plus(duration)
            if score is not None:
                task.add_confidence(Ratio(score))
        with self._recorder.run as run:
            run.move("tool", None)
            if score is not None:
                run.add_confidence(self._model, self.name, Ratio(score))
        self._recorder.changed()

    def result(self, text: str) -> None:
        """What the tool answered; the journal keeps its first MAX_RESULT_CHARACTERS."""
        self._result = text

    def outcome(self, outcome: str, error: str = "") -> None:
        """How the call went, if not ``ok``: one of ``metrics.TOOL_OUTCOMES``."""
        if outcome not in TOOL_OUTCOMES:
            raise UserError(f"tool outcome {outcome!r} is not one of {', '.join(TOOL_OUTCOMES)}")
        self._outcome = outcome
        self._error = error or None


def in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _sum(known: int | None, more: int | None) -> int | None:
    return known if more is None else (known or 0) + more
