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
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from joulebench.confidence.call_confidence import CallConfidence
from joulebench.energy.calls import LlmCall, pieces
from joulebench.errors import UserError, format_error
from joulebench.llm.reply import ONE_CHOICE, Reply
from joulebench.metrics import TOOL_OUTCOMES
from joulebench.parsing import as_float, as_unix_time
from joulebench.push import current
from joulebench.push.ids import bounded_name
from joulebench.push.journal import plain_text
from joulebench.push.recorder import TaskRecorder
from joulebench.schema import events
from joulebench.units import Ratio, Seconds

if TYPE_CHECKING:
    from joulebench.push.responses import ResponseReader

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
    remote_host: str | None = None
    """The host that ran the model, where it is another one (Ollama cloud)."""
    response_id: str | None = None
    streamed_tokens: int | None = None
    choices: int | None = None
    usage_problem: str | None = None

    @classmethod
    def of_reply(cls, reply: Reply) -> ServerStats:
        return cls(
            reply.prompt_tokens,
            reply.cached_tokens,
            reply.completion_tokens,
            reply.prefill_seconds,
            reply.decode_seconds,
            reply.decode_tokens,
            reply.load_seconds,
            reply.remote_host or None,
            reply.response_id or None,
            reply.arrivals.count or None,
            reply.choices if reply.choices > 1 else None,
            reply.problem if reply.problem == ONE_CHOICE else None,
        )


@dataclass(frozen=True, slots=True)
class RequestedTool:
    """A tool call that the model asked for; give it to ``Call.tool``. ``arguments`` is None where they are no JSON."""

    name: str
    arguments: object
    confidence: CallConfidence
    problem: str = ""


def query_end_fields(
    status: str, error: str | None, duration: float, ttft: float | None, stats: ServerStats
) -> dict[str, object]:
    """The fields of LLM_QUERY_END beside the number of the call; ``duration`` and ``ttft`` in seconds."""
    return {
        "status": status,
        "error": None if error is None else plain_text(error, MAX_ERROR_CHARACTERS),
        "duration_seconds": duration,
        "ttft_seconds": ttft,
        **{name: getattr(stats, name) for name in ServerStats.__slots__},
    }


def tool_start_fields(
    tool_call: int, call: int | None, name: str, args: object, confidence: CallConfidence | None
) -> dict[str, object]:
    """The fields of TOOL_CALL_START."""
    return {
        "tool_call": tool_call,
        "call": call,
        "tool_name": name,
        "args": args,
        "confidence": None if confidence is None else checked_ratio(confidence.score, "confidence"),
        "confidence_measures": None if confidence is None else dict(confidence.measures),
        "span_status": None if confidence is None else confidence.span_status,
    }


Chunk = TypeVar("Chunk")
NewTool: TypeAlias = "Callable[[int, str, object, CallConfidence | None], Tool]"
"""Makes a tool call of a task from the number of its LLM call, its name, arguments and confidence."""


class Call:
    """``number`` counts the calls of the task from 1. Made by ``Task.call``.

    ``requested``: the tool calls that a recorded reply asks for.
    """

    def __init__(self, recorder: TaskRecorder, number: int, model: str, new_tool: NewTool) -> None:
        self.requested: list[RequestedTool] = []
        self._new_tool = new_tool
        self._reader: ResponseReader | None = None
        self._declared: Iterable[object] = ()
        self.number = number
        self.model = model
        self._recorder = recorder
        self._start = recorder.clock.unix()
        self._started = recorder.clock.monotonic()
        self._first: Seconds | None = None
        self._phase: str | None = None
        self._ended = False

    @property
    def ended(self) -> bool:
        return self._ended

    def __enter__(self) -> Call:
        self.begin()
        current.call_began(self)
        return self

    def begin(self) -> None:
        """Records the start, for a call that ends in another context than it began in; it ends with ``record`` or ``end``."""
        recorder = self._recorder
        if recorder.is_inherited:
            self._ended = True
            return
        self._start = recorder.clock.unix()
        self._started = recorder.clock.monotonic()
        recorder.write(events.LLM_QUERY_START, self._start, call=self.number, model_name=self.model)
        with recorder.state as task:
            task.llm_calls += 1
        self._enter_phase("prefill")
        recorder.changed()
        recorder.run_recorder.energy.call_started(recorder, self.number, self._start)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        current.call_ended(self)
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """Ends the call, unless it has ended, with what was read of its response."""
        if self._ended:
            return
        if self._reader is not None:
            self._record(None if error is None else format_error(error))
        elif error is not None:
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
        remote_host: str | None = None,
    ) -> None:
        """The call is over and went well; the arguments are what the server reported, None where it did not.

        ``cached_tokens``: those of the prompt that the server had computed before, part of ``prompt_tokens``. ``remote_host``:
        where another host ran the model, so that no joules of this one are the task's.
        Without ``decode_seconds`` a streamed call gets the time from the first token to now, over one token fewer.
        """
        if self._ended:
            return
        clock = self._recorder.clock
        ended = clock.monotonic()
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
            plain_text(remote_host, MAX_ERROR_CHARACTERS) if remote_host else None,
        )
        self._end(clock.unix(), Seconds(ended - self._started), None, stats)

    def fail(self, error: str) -> None:
        """The call is over and gave no answer."""
        self._end_now(error, ServerStats())

    def record(self, response: object, tools: Iterable[object] = ()) -> list[RequestedTool]:
        """The call is over and gave ``response``: an object or dict of openai, ollama, anthropic or LiteLLM.

        Token counts, times of the server and tool calls are taken from it; ``tools`` (names or declarations of the request)
        gives the tool calls their confidence, where the request asked for log probabilities. Returns the tool calls that the
        model asked for, each to be given to ``tool``. A response that cannot be read ends the call without numbers.
        """
        reader = self._open_reader(tools)
        reader.read(response)
        self._record(None)
        return self.requested

    def chunk(self, chunk: object, tools: Iterable[object] = ()) -> None:
        """A chunk of a streamed response arrived, for a caller that passes them on itself; ``end`` ends the call."""
        reader = self._reader or self._open_reader(tools)
        reader.read(chunk, self._recorder.clock.monotonic())

    def stream(self, chunks: Iterable[Chunk], tools: Iterable[object] = ()) -> Iterator[Chunk]:
        """Passes the chunks of a streamed response on as they come, and ends the call with the last of them.

        Takes the time to first token and what ``record`` takes. Where the caller stops early, the call has what came until
        then; an error of the stream is the error of the call and goes on. ``requested`` has the tool calls afterwards.
        """
        with self._ends_with_stream(tools) as reader:
            for chunk in chunks:
                reader.read(chunk, self._recorder.clock.monotonic())
                yield chunk

    async def astream(self, chunks: AsyncIterable[Chunk], tools: Iterable[object] = ()) -> AsyncIterator[Chunk]:
        """``stream`` for asynchronous clients."""
        with self._ends_with_stream(tools) as reader:
            async for chunk in chunks:
                reader.read(chunk, self._recorder.clock.monotonic())
                yield chunk

    def tool(self, name: str | RequestedTool, args: object = None, confidence: CallConfidence | None = None) -> Tool:
        """A tool call that this LLM call asked for, to be used in ``with``; a RequestedTool brings its own arguments."""
        if isinstance(name, RequestedTool):
            args, confidence = name.arguments, name.confidence
            name = name.name
        return self._new_tool(self.number, name, args, confidence)

    def record_past(
        self, start: Seconds, end: Seconds, first_token: Seconds | None, error: str | None, stats: ServerStats
    ) -> None:
        """The call took place between two unix times; for ``Task.add_call``."""
        recorder = self._recorder
        if recorder.is_inherited:
            return
        self._start = start
        recorder.write(events.LLM_QUERY_START, start, call=self.number, model_name=self.model)
        with recorder.state as task:
            task.llm_calls += 1
        if first_token is not None:
            recorder.write(events.LLM_FIRST_TOKEN_RECEIVED, first_token, call=self.number)
        ttft = None if first_token is None else Seconds(first_token - start)
        self._end(end, Seconds(end - start), error, stats, ttft)

    @contextmanager
    def _ends_with_stream(self, tools: Iterable[object]) -> Iterator[ResponseReader]:
        """Ends the call with the block: with the error that left it, or with what was read where the caller stopped early."""
        reader = self._open_reader(tools)
        try:
            yield reader
        except GeneratorExit:
            raise
        except BaseException as error:
            self._record(format_error(error))
            raise
        finally:
            self._record(None)

    def _open_reader(self, tools: Iterable[object]) -> ResponseReader:
        # In its own list: an iterator could be read only once.
        self._declared = list(tools)
        # A benchmark that brings its numbers itself needs no reader of replies; ``joulebench.Run`` has it loaded before.
        from joulebench.push.responses import ResponseReader

        self._reader = ResponseReader(self.first_token)
        return self._reader

    def _record(self, error: str | None) -> None:
        """Ends the call with what was read of its response; ``error``: why it broke off."""
        if self._ended:
            return
        reply: Reply | None = None
        try:
            reply = None if self._reader is None else self._reader.finish()
            if reply is not None:
                from joulebench.push.responses import requested_tools

                self.requested = requested_tools(reply, self._declared)
        except Exception:
            log.warning("a reply could not be read; call %d of its task has no numbers", self.number, exc_info=True)
        if reply is None:
            self._end_now(error, ServerStats())
            return
        stats = ServerStats.of_reply(reply)
        self._end_now(error or reply.error, stats)

    def _end_now(self, error: str | None, stats: ServerStats) -> None:
        clock = self._recorder.clock
        self._end(clock.unix(), Seconds(clock.monotonic() - self._started), error, stats)

    def _end(self, end: Seconds, duration: Seconds, error: str | None, stats: ServerStats, ttft: Seconds | None = None) -> None:
        """``end``: unix time. ``ttft`` None: the time from the start to ``first_token``."""
        recorder = self._recorder
        if self._ended or recorder.is_inherited:
            return
        self._ended = True
        if ttft is None and self._first is not None:
            ttft = Seconds(self._first - self._started)
        status = "success" if error is None else "error"
        recorder.write(events.LLM_QUERY_END, end, call=self.number, **query_end_fields(status, error, duration, ttft, stats))
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
        parts = pieces(LlmCall(self._start, end, stats.load_seconds, stats.prefill_seconds, stats.decode_seconds, ttft))
        edges = [Seconds(edge) for part in parts for edge in (part.start, part.end)]
        recorder.note_phase_edges(edges)
        recorder.run_recorder.energy.call_ended(recorder, self.number, self._start, end, edges)

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
        self._in_phase = False
        self._outcome = "ok"
        self._error: str | None = None
        self._result: str | None = None

    def __enter__(self) -> Tool:
        recorder = self._recorder
        if recorder.is_inherited:
            return self
        self._started = recorder.clock.monotonic()
        self._write_start(recorder.clock.unix())
        with recorder.run as run:
            run.change_phase(None, "tool")
        self._in_phase = True
        recorder.run_changed()
        return self

    def _write_start(self, start: Seconds) -> None:
        fields = tool_start_fields(self.number, self._call, self.name, self._args, self._confidence)
        self._recorder.write(events.TOOL_CALL_START, start, **fields)
        self._recorder.note_phase_edges([start])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        recorder = self._recorder
        if recorder.is_inherited:
            return
        if error is not None:
            self.outcome("tool_error", format_error(error))
        self._end(recorder.clock.unix(), Seconds(recorder.clock.monotonic() - self._started))

    def _end(self, end: Seconds, duration: Seconds) -> None:
        recorder, score = self._recorder, self._score
        result, cut = self._result, {}
        if result is not None and len(result) > MAX_RESULT_CHARACTERS:
            cut = {"result_characters": len(result)}
            result = result[:MAX_RESULT_CHARACTERS]
        recorder.write(
            events.TOOL_CALL_END,
            end,
            tool_call=self.number,
            tool_name=self.name,
            outcome=self._outcome,
            success=self._outcome == "ok",
            error=self._error,
            result=result,
            duration_seconds=duration,
            **cut,
        )
        recorder.note_phase_edges([end])
        with recorder.state as task:
            task.tool_calls = {**task.tool_calls, self._outcome: task.tool_calls[self._outcome] + 1}
            task.tool_duration = task.tool_duration.plus(duration)
            if score is not None:
                task.add_confidence(score)
        with recorder.run as run:
            if self._in_phase:
                run.change_phase("tool", None)
            if score is not None:
                run.add_confidence(self._model, self.name, score)
        recorder.changed()

    def record_past(self, start: Seconds, end: Seconds) -> None:
        """The tool ran between two unix times; for ``Task.add_tool``."""
        if not self._recorder.is_inherited:
            self._write_start(start)
            self._end(end, Seconds(end - start))

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


def checked_window(start: object, end: object, first_token: object, name: str) -> tuple[Seconds, Seconds, Seconds | None] | None:
    """Start, end and first token as unix times in their order; None, with a warning, where they are none."""
    times = [as_unix_time(start), as_unix_time(end), as_unix_time(first_token)]
    begin, over, first = times
    if begin is None or over is None or begin > over:
        _REFUSALS.log_once(name, f"{bounded_name(start)} to {bounded_name(end)}", "a time from one unix second to a later one")
        return None
    if first is not None and not begin <= first <= over:
        _REFUSALS.log_once(f"{name}: first_token", first, "a unix time between start and end")
        first = None
    return Seconds(begin), Seconds(over), None if first is None else Seconds(first)


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
