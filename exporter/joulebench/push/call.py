"""One LLM call and one tool call of a task, as context managers.

Times are taken here, by the monotonic clock for durations and by the wall clock for timestamps; what only the server knows
(token counts, prefill and decode time) is passed in, and stays unknown where it is not. Each ends exactly once: the first of
``finish``/``fail`` or the end of the block counts, and an exception in the block is recorded as the error and goes on.
A number that cannot be true (negative, a text, not finite) is refused with a warning and stays unknown.
"""

from __future__ import annotations

import logging
import math
import numbers
import threading
from dataclasses import dataclass
from types import TracebackType

from joulebench.confidence.measures import CallConfidence
from joulebench.errors import UserError, format_error
from joulebench.metrics import TOOL_OUTCOMES
from joulebench.parsing import as_float
from joulebench.push.ids import bounded_name
from joulebench.push.journal import plain_text
from joulebench.push.recorder import TaskRecorder
from joulebench.schema import events
from joulebench.units import Ratio, Seconds

log = logging.getLogger(__name__)

MAX_RESULT_CHARACTERS = 65_536
MAX_ERROR_CHARACTERS = 2_000
MAX_TOKENS = 1e12
MAX_SECONDS = 1e9


@dataclass(frozen=True, slots=True)
class ServerStats:
    """What the server reported of a call; None where it reported nothing."""

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
        recorder = self._recorder
        if recorder.is_inherited:
            self._ended = True
            return self
        self._start = recorder.clock.unix()
        self._started = recorder.clock.monotonic()
        recorder.write(events.LLM_QUERY_START, self._start, call=self.number, model_name=self.model)
        with recorder.state as task:
            task.llm_calls += 1
        self._enter_phase("prefill")
        recorder.changed()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._ended:
            return
        if error is not None:
            self.fail(format_error(error))
        else:
            self.finish()

    def first_token(self) -> None:
        """The first streamed token has come. Further calls of this method change nothing."""
        if self._first is not None or self._ended or self._recorder.is_inherited:
            return
        self._first = self._recorder.clock.monotonic()
        self._recorder.write(events.LLM_FIRST_TOKEN_RECEIVED, self._recorder.clock.unix(), call=self.number)
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
        completion = checked_count(completion_tokens, "completion_tokens")
        seconds = checked_seconds(decode_seconds, "decode_seconds")
        decoded = checked_count(decode_tokens, "decode_tokens")
        if seconds is None and self._first is not None and completion is not None and completion > 1:
            seconds = ended - self._first
            decoded = completion - 1
        elif seconds is not None and decoded is None:
            decoded = completion
        stats = ServerStats(
            checked_count(prompt_tokens, "prompt_tokens"),
            checked_count(cached_tokens, "cached_tokens"),
            completion,
            checked_seconds(prefill_seconds, "prefill_seconds"),
            seconds,
            decoded,
            checked_seconds(load_seconds, "load_seconds"),
        )
        self._end(ended, None, stats)

    def fail(self, error: str) -> None:
        """The call is over and gave no answer."""
        if not self._ended:
            self._end(self._recorder.clock.monotonic(), plain_text(error, MAX_ERROR_CHARACTERS), ServerStats())

    def _end(self, ended: Seconds, error: str | None, stats: ServerStats) -> None:
        self._ended = True
        recorder = self._recorder
        if recorder.is_inherited:
            return
        end = recorder.clock.unix()
        duration = Seconds(ended - self._started)
        ttft = None if self._first is None else Seconds(self._first - self._started)
        recorder.write(
            events.LLM_QUERY_END,
            end,
            call=self.number,
            status="success" if error is None else "error",
            error=error,
            prompt_tokens=stats.prompt_tokens,
            cached_tokens=stats.cached_tokens,
            completion_tokens=stats.completion_tokens,
            duration_seconds=duration,
            ttft_seconds=ttft,
            prefill_seconds=stats.prefill_seconds,
            decode_seconds=stats.decode_seconds,
            decode_tokens=stats.decode_tokens,
            load_seconds=stats.load_seconds,
        )
        with recorder.state as task:
            task.llm_errors += error is not None
            task.llm_duration = task.llm_duration.plus(duration)
            task.ttft = task.ttft.plus(ttft)
            task.prefill = task.prefill.plus(stats.prefill_seconds)
            task.load = task.load.plus(stats.load_seconds)
            task.prompt_tokens = _add_known(task.prompt_tokens, stats.prompt_tokens)
            if stats.prompt_tokens is not None and stats.cached_tokens is not None:
                from_cache = min(stats.cached_tokens, stats.prompt_tokens)
                task.cached_prompt_tokens = _add_known(task.cached_prompt_tokens, from_cache)
            task.completion_tokens = _add_known(task.completion_tokens, stats.completion_tokens)
            if stats.decode_seconds is not None and stats.decode_tokens is not None:
                # The two are divided by one another, so neither counts without the other.
                task.decode = task.decode.plus(stats.decode_seconds)
                task.decode_tokens += stats.decode_tokens
        with recorder.run as run:
            run.add_call(self.model, duration, ttft)
            run.change_phase(self._phase, None)
        self._phase = None
        recorder.changed()
        recorder.run_recorder.energy.call_ended(recorder, self.number, self._start, end)

    def _enter_phase(self, phase: str) -> None:
        with self._recorder.run as run:
            run.change_phase(self._phase, phase)
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
        self._score = None if confidence is None else checked_ratio(confidence.score, "confidence")
        self._started = recorder.clock.monotonic()
        self._outcome = "ok"
        self._error: str | None = None
        self._result: str | None = None

    def __enter__(self) -> Tool:
        recorder = self._recorder
        if recorder.is_inherited:
            return self
        self._started = recorder.clock.monotonic()
        confidence = self._confidence
        recorder.write(
            events.TOOL_CALL_START,
            recorder.clock.unix(),
            tool_call=self.number,
            call=self._call,
            tool_name=self.name,
            args=self._args,
            confidence=self._score,
            confidence_measures=None if confidence is None else dict(confidence.measures),
            span_status=None if confidence is None else confidence.span_status,
        )
        with recorder.run as run:
            run.change_phase(None, "tool")
        recorder.run_changed()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        recorder = self._recorder
        if recorder.is_inherited:
            return
        if error is not None:
            self.outcome("tool_error", format_error(error))
        duration = Seconds(recorder.clock.monotonic() - self._started)
        score = self._score
        result, cut = self._result, {}
        if result is not None and len(result) > MAX_RESULT_CHARACTERS:
            cut = {"result_characters": len(result)}
            result = result[:MAX_RESULT_CHARACTERS]
        recorder.write(
            events.TOOL_CALL_END,
            recorder.clock.unix(),
            tool_call=self.number,
            tool_name=self.name,
            outcome=self._outcome,
            success=self._outcome == "ok",
            error=self._error,
            result=result,
            duration_seconds=duration,
            **cut,
        )
        with recorder.state as task:
            task.tool_calls = {**task.tool_calls, self._outcome: task.tool_calls[self._outcome] + 1}
            task.tool_duration = task.tool_duration.plus(duration)
            if score is not None:
                task.add_confidence(score)
        with recorder.run as run:
            run.change_phase("tool", None)
            if score is not None:
                run.add_confidence(self._model, self.name, score)
        recorder.changed()

    def result(self, text: str) -> None:
        """What the tool answered; the journal keeps its first MAX_RESULT_CHARACTERS."""
        self._result = text if isinstance(text, str) else bounded_name(text)

    def outcome(self, outcome: str, error: str = "") -> None:
        """How the call went, if not ``ok``: one of ``metrics.TOOL_OUTCOMES``."""
        if outcome not in TOOL_OUTCOMES:
            raise UserError(f"tool outcome {outcome!r} is not one of {', '.join(TOOL_OUTCOMES)}")
        self._outcome = outcome
        self._error = plain_text(error, MAX_ERROR_CHARACTERS) or None


class _Refusals:
    """Names of arguments whose refused values were logged."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()

    def log_once(self, name: str, value: object, wanted: str) -> None:
        with self._lock:
            is_new = name not in self._names
            self._names.add(name)
        if is_new:
            log.warning(
                "%s=%s is not recorded: it is not %s; further such values are not logged", name, bounded_name(value), wanted
            )


_REFUSALS = _Refusals()


def checked_count(value: object, name: str) -> int | None:
    """A whole number from 0, of any number type (numpy, Decimal); None, with a warning, for what is none."""
    if value is None:
        return None
    number = as_float(value)
    if number is None or not 0 <= number <= MAX_TOKENS or number != math.floor(number):
        _REFUSALS.log_once(name, value, "a whole number from 0")
        return None
    return int(number) if not isinstance(value, numbers.Integral) else int(value)


def checked_seconds(value: object, name: str) -> float | None:
    """Seconds from 0, of any number type; None, with a warning, for what is none."""
    if value is None:
        return None
    number = as_float(value)
    if number is None or not 0 <= number <= MAX_SECONDS:
        _REFUSALS.log_once(name, value, "a number of seconds from 0")
        return None
    return number


def checked_ratio(value: object, name: str) -> Ratio | None:
    """A ratio from 0 to 1; None, with a warning, for what is none."""
    if value is None:
        return None
    number = as_float(value)
    if number is None or not 0 <= number <= 1:
        _REFUSALS.log_once(name, value, "a ratio from 0 to 1")
        return None
    return Ratio(number)


def _add_known(total: int | None, more: int | None) -> int | None:
    return total if more is None else (total or 0) + more
