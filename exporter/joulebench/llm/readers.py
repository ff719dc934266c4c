"""Readers of the chat APIs: JSON values in the order of the reply -> one ``Reply``. They accept any JSON and never raise.

Each value may be a chunk of a stream or a whole reply. Only the first choice of a reply is read. A tool call that arrives
complete in one event says when the call was complete and not when a token was generated, so it counts as no token arrival.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from enum import Enum

from joulebench.confidence.tokens import TokenLogprob
from joulebench.llm.reply import IMPOSSIBLE_ZERO, ONE_CHOICE, Reply, TokenArrivals, ToolCall
from joulebench.parsing import Json, as_count, as_dict, as_float, as_list, as_seconds, as_text
from joulebench.units import Seconds

MAX_TEXT_CHARACTERS = 4 * 1024 * 1024
MAX_ROWS = 100_000
MAX_CALLS = 1000
MAX_ARGUMENT_CHARACTERS = 1024 * 1024
MAX_ID_CHARACTERS = 200
MAX_TOKENS = 10**9
"""A larger count is not a count of tokens."""


class Api(Enum):
    OPENAI_CHAT = "openai_chat"
    OPENAI_TEXT = "openai_text"
    OLLAMA_CHAT = "ollama_chat"
    OLLAMA_TEXT = "ollama_text"
    RESPONSES = "responses"
    MESSAGES = "messages"
    EMBEDDING = "embedding"

    @property
    def is_openai(self) -> bool:
        """True for completions, chat or plain, with ``choices``."""
        return self in (Api.OPENAI_CHAT, Api.OPENAI_TEXT)

    @property
    def is_ollama(self) -> bool:
        return self in (Api.OLLAMA_CHAT, Api.OLLAMA_TEXT)


class _CallBuilder:
    """A tool call while its parts arrive."""

    def __init__(self, name: str = "", call_id: str = "", arguments: object = None) -> None:
        self.name = name
        self.call_id = call_id
        self.object: object = None
        """The arguments, where the API gives them as an object."""
        self._parts: list[str] = []
        self._size = 0
        self.add_arguments(arguments)

    def add_arguments(self, arguments: object) -> None:
        if isinstance(arguments, str):
            self._size += len(arguments)
            if arguments and self._size <= MAX_ARGUMENT_CHARACTERS:
                self._parts.append(arguments)
        elif arguments is not None:
            self.object = arguments

    @property
    def has_arguments(self) -> bool:
        return bool(self._parts) or self.object is not None

    @property
    def has_complete_arguments(self) -> bool:
        if self.object is not None:
            return True
        written = "".join(self._parts).strip()
        return written.endswith(("}", "]", "null")) and is_json(written)

    def finish(self) -> ToolCall:
        if self.object is not None:
            return ToolCall(self.name, _dump(self.object), self.object, "", self.call_id)
        written = "".join(self._parts)
        if self._size > MAX_ARGUMENT_CHARACTERS:
            return ToolCall(self.name, written, None, f"the arguments exceed {MAX_ARGUMENT_CHARACTERS} characters", self.call_id)
        return parse_tool_call(self.name, written, self.call_id)


class ReplyReader:
    """Collects one reply. ``on_first_token`` is called when the first token arrives."""

    def __init__(self, on_first_token: Callable[[], None] | None = None) -> None:
        self.reply = Reply(arrivals=TokenArrivals(on_first=on_first_token))
        self._texts: list[str] = []
        self._characters = 0
        self._rows: list[TokenLogprob] = []
        self._calls: list[_CallBuilder] = []

    def read(self, value: Json, now: float | None) -> None:
        """Reads one JSON value. ``now``: its arrival by the monotonic clock; None where the reply is not streamed."""
        if (error := server_error(value)) is not None:
            self.fail(error)
            return
        if not self.reply.response_id:
            self.reply.response_id = _response_id(value)
        self._read(value, now)

    def done(self) -> None:
        """Reads the end mark ``[DONE]``."""

    def fail(self, message: str) -> None:
        if self.reply.error is None:
            self.reply.error = message

    def finish(self) -> Reply:
        """Returns the reply, also an incomplete one. Counts and times that cannot be true are removed."""
        reply = self.reply
        reply.text = "".join(self._texts)
        reply.rows = tuple(self._rows) or None
        reply.tool_calls = tuple(call.finish() for call in self._calls)
        _remove_impossible_values(reply)
        if reply.decode_seconds is None or reply.decode_tokens is None:
            reply.decode_seconds, reply.decode_tokens = reply.arrivals.decode_time(reply.completion_tokens)
        return reply

    @property
    def has_output(self) -> bool:
        """Whether the model has generated anything that was seen so far."""
        return bool(self._texts or self._rows or self._calls or self.reply.arrivals.count)

    def _read(self, value: Json, now: float | None) -> None:
        raise NotImplementedError

    def _say(self, content: str) -> None:
        """Keeps text of the reply up to a limit; it is searched for tool calls that were written as text."""
        self._characters += len(content)
        if content and self._characters <= MAX_TEXT_CHARACTERS:
            self._texts.append(content)

    def _add_rows(self, value: object) -> bool:
        """Returns whether there were rows."""
        rows = as_list(value)
        if rows and len(self._rows) + len(rows) <= MAX_ROWS:
            self._rows += parse_logprob_rows(rows)
        return bool(rows)

    def _add_call(self, call: _CallBuilder) -> _CallBuilder:
        if len(self._calls) < MAX_CALLS:
            self._calls.append(call)
        return call

    def _arrive(self, now: float | None, *, is_end: bool = False) -> None:
        """A first event that is also the last is a reply that came at once, and no first token."""
        if now is not None and not (is_end and self.reply.arrivals.first is None):
            self.reply.arrivals.add(now)


def _response_id(value: Json) -> str:
    """Returns the id of the reply that a value names: its own, or that of the response or message in it."""
    nested = as_dict(value.get("response")) or as_dict(value.get("message"))
    return (as_text(value.get("id")) or as_text(nested.get("id")))[:MAX_ID_CHARACTERS]


class OpenAIReader(ReplyReader):
    """``/v1/chat/completions`` and ``/v1/completions``: usage, llama.cpp's ``timings``, tool calls in parts or at once."""

    def __init__(self, on_first_token: Callable[[], None] | None = None) -> None:
        super().__init__(on_first_token)
        self.is_text_generated = False
        """Whether the text of plain completions is known to be the model's alone, without the prompt."""
        self._other_tokens = 0
        """Of choices beside the first, at least."""
        self._own_tokens = 0
        """Of the first choice where it came complete beside others, at least."""
        self._by_index: dict[int, _CallBuilder] = {}
        self._by_id: dict[str, _CallBuilder] = {}

    def done(self) -> None:
        self.reply.complete = True

    def _read(self, value: Json, now: float | None) -> None:
        self._read_usage(as_dict(value.get("usage")))
        _read_llama_cpp_timings(self.reply, as_dict(value.get("timings")))
        choice = _first_choice(value)
        if not choice or self.reply.choices > 1 or len(as_list(value.get("choices"))) > 1:
            self._count_choices(as_list(value.get("choices")), is_streamed=now is not None)
        message = as_dict(choice.get("delta")) or as_dict(choice.get("message"))
        content = as_text(message.get("content")) or as_text(choice.get("text"))
        thinking = as_text(message.get("reasoning_content")) or as_text(message.get("reasoning"))
        has_rows = self._add_rows(as_dict(choice.get("logprobs")).get("content"))
        has_partial_call = False
        for position, call in enumerate(map(as_dict, as_list(message.get("tool_calls")))):
            has_partial_call |= self._read_call(position, call, is_whole="message" in choice)
        self._say(content)
        finish_reason = as_text(choice.get("finish_reason"))
        if content or thinking or has_rows or has_partial_call:
            self._arrive(now if "message" not in choice else None, is_end=bool(finish_reason))
        if finish_reason:
            self.reply.finish_reason = finish_reason
        if finish_reason or "message" in choice:
            self.reply.complete = True

    def _count_choices(self, choices: list[object], *, is_streamed: bool) -> None:
        """Counts the choices beside the first, and the tokens of theirs, at least."""
        for choice in map(as_dict, choices):
            index = as_count(choice.get("index")) or 0
            self.reply.choices = max(self.reply.choices, min(index + 1, MAX_CALLS))
            if not is_streamed:
                tokens = _least_tokens(choice, is_text_generated=self.is_text_generated)
                if index > 0:
                    self._other_tokens += tokens
                else:
                    self._own_tokens += tokens
                continue
            delta = as_dict(choice.get("delta"))
            rows = as_list(as_dict(choice.get("logprobs")).get("content"))
            if index > 0:
                is_token = any(delta.get(name) for name in ("content", "reasoning_content", "reasoning", "tool_calls"))
                self._other_tokens += len(rows) or int(is_token or (bool(choice.get("text")) and "delta" not in choice))

    def finish(self) -> Reply:
        reply = super().finish()
        if self._other_tokens and reply.completion_tokens is not None:
            own = max(reply.arrivals.count, len(reply.rows or ()), self._own_tokens)
            # The end mark of a choice may be a token without an event.
            if own + self._other_tokens > reply.completion_tokens + reply.choices:
                reply.note_problem(ONE_CHOICE, f"{reply.choices} choices, usage of {reply.completion_tokens} tokens")
        return reply

    def _read_usage(self, usage: Json) -> None:
        """Servers report usage once, in every chunk, or null; the last count that is not 0 holds."""
        if not usage:
            return
        reply = self.reply
        reply.prompt_tokens = _latest(reply.prompt_tokens, usage.get("prompt_tokens"))
        reply.completion_tokens = _latest(reply.completion_tokens, usage.get("completion_tokens"))
        cached = as_dict(usage.get("prompt_tokens_details")).get("cached_tokens")
        reply.cached_tokens = _latest(reply.cached_tokens, cached)

    def _read_call(self, position: int, part: Json, *, is_whole: bool) -> bool:
        """Returns whether the part can be a token: a call that comes complete cannot. ``is_whole``: of a reply that is not
        streamed, where each part is a call."""
        function = as_dict(part.get("function"))
        name, call_id, arguments = as_text(function.get("name")), as_text(part.get("id")), function.get("arguments")
        index = as_count(part.get("index"))
        call = self._call_of(part, call_id, position if index is None else index)
        if is_whole or call is None or _begins_new_call(call, name, call_id, arguments):
            call = self._add_call(_CallBuilder(name, call_id, arguments))
            is_partial = not call.has_complete_arguments
        else:
            call.name += "" if call_id and call_id == call.call_id and call.name == name else name
            call.call_id = call.call_id or call_id
            call.add_arguments(arguments)
            is_partial = True
        self._by_index[position if index is None else index] = call
        if call_id:
            self._by_id[call_id] = call
        return is_partial

    def _call_of(self, part: Json, call_id: str, index: int) -> _CallBuilder | None:
        """Returns the call that ``part`` may continue: by id, else by index, else the last call."""
        if call_id in self._by_id:
            return self._by_id[call_id]
        if as_count(part.get("index")) is None and len(self._calls) > 0 and not call_id:
            return self._calls[-1]
        return self._by_index.get(index)


def _begins_new_call(call: _CallBuilder, name: str, call_id: str, arguments: object) -> bool:
    """Returns whether a part that has the index of ``call`` begins another call: servers give several calls the same index.

    A new id does, and a name where the call before has a name and complete arguments, or none and this part brings its own. With
    the id of the call before, both have to have complete arguments.
    """
    if call_id and call.call_id and call_id != call.call_id:
        return True
    if not name or not call.name:
        return False
    brings_arguments = _CallBuilder("", "", arguments).has_complete_arguments
    if call_id and call_id == call.call_id:
        return call.has_complete_arguments and brings_arguments
    return call.has_complete_arguments if call.has_arguments else brings_arguments


class OllamaReader(ReplyReader):
    """``/api/chat`` and ``/api/generate``: one JSON object a line, the last with ``done`` and all durations.

    ``prompt_eval_count`` counts the complete prompt while ``prompt_eval_duration`` covers only what the prefix cache lacked, and
    Ollama does not report how much that was: there is a prefill time and no prefill speed.
    """

    def _read(self, value: Json, now: float | None) -> None:
        message = as_dict(value.get("message"))
        content = as_text(message.get("content")) or as_text(value.get("response"))
        thinking = as_text(message.get("thinking")) or as_text(value.get("thinking"))
        has_rows = self._add_rows(value.get("logprobs"))
        for call in map(as_dict, as_list(message.get("tool_calls"))):
            function = as_dict(call.get("function"))
            self._add_call(_CallBuilder(as_text(function.get("name")), as_text(call.get("id")), function.get("arguments")))
        self._say(content)
        is_end = value.get("done") is True
        if content or thinking or has_rows:
            self._arrive(now, is_end=is_end)
        self.reply.remote_host = as_text(value.get("remote_host")) or self.reply.remote_host
        if is_end:
            self._read_end(value)

    def _read_end(self, value: Json) -> None:
        reply = self.reply
        reply.complete = True
        reply.finish_reason = as_text(value.get("done_reason"))
        reply.prompt_tokens = _tokens(value.get("prompt_eval_count"))
        reply.completion_tokens = _tokens(value.get("eval_count"))
        reply.prefill_seconds = as_seconds(value.get("prompt_eval_duration"), 1e9)
        reply.decode_seconds = as_seconds(value.get("eval_duration"), 1e9)
        reply.decode_tokens = reply.completion_tokens
        reply.load_seconds = as_seconds(value.get("load_duration"), 1e9)
        total = as_seconds(value.get("total_duration"), 1e9)
        if total is not None and reply.decode_seconds is not None:
            busy = (reply.load_seconds or 0.0) + (reply.prefill_seconds or 0.0) + reply.decode_seconds
            reply.other_seconds = Seconds(max(0.0, total - busy))


class ResponsesReader(ReplyReader):
    """``/v1/responses``: named events, the last of which repeats the whole response with its usage.

    Deltas are read for their times and text; calls and counts come from the whole response. Ollama reports 0 cached tokens
    whatever its cache held, so a count of 0 is absent here.
    """

    _ENDS = ("response.completed", "response.incomplete", "response.failed")

    def __init__(self, on_first_token: Callable[[], None] | None = None) -> None:
        super().__init__(on_first_token)
        self._announced: dict[str, float | None] = {}
        """Arrival of a call's item by its id, until its first argument arrives."""

    def _read(self, value: Json, now: float | None) -> None:
        kind = as_text(value.get("type"))
        if kind == "error":
            self.fail(as_text(value.get("message")) or "error")
        elif kind in self._ENDS:
            self._read_response(as_dict(value.get("response")), with_text=False)
            _read_llama_cpp_timings(self.reply, as_dict(value.get("timings")))
        elif kind == "response.output_item.added":
            item = as_dict(value.get("item"))
            if item.get("type") == "function_call" and len(self._announced) < MAX_CALLS:
                self._announced[as_text(item.get("id"))] = now
        elif kind.endswith(".delta") and as_text(value.get("delta")):
            self._read_delta(kind, value, now)
        elif "output" in value:
            self._read_response(value, with_text=True)

    def _read_delta(self, kind: str, value: Json, now: float | None) -> None:
        delta = as_text(value.get("delta"))
        if kind == "response.function_call_arguments.delta":
            item_id = as_text(value.get("item_id"))
            if item_id in self._announced:
                announced = self._announced.pop(item_id)
                if is_json(delta):
                    return
                self._arrive(announced)
        elif kind == "response.output_text.delta":
            self._say(delta)
            self._add_rows(value.get("logprobs"))
        self._arrive(now)

    def _read_response(self, response: Json, *, with_text: bool) -> None:
        reply = self.reply
        error = server_error(response)
        if error is not None or response.get("status") == "failed":
            self.fail(error or "failed")
            return
        reply.complete = True
        incomplete = as_dict(response.get("incomplete_details"))
        reply.finish_reason = as_text(incomplete.get("reason")) or as_text(response.get("status"))
        usage = as_dict(response.get("usage"))
        reply.prompt_tokens = _latest(reply.prompt_tokens, usage.get("input_tokens"))
        reply.completion_tokens = _latest(reply.completion_tokens, usage.get("output_tokens"))
        reply.cached_tokens = _tokens(as_dict(usage.get("input_tokens_details")).get("cached_tokens")) or None
        for item in map(as_dict, as_list(response.get("output"))):
            if item.get("type") == "function_call":
                self._add_call(_CallBuilder(as_text(item.get("name")), as_text(item.get("call_id")), item.get("arguments")))
            for part in map(as_dict, as_list(item.get("content")) if with_text else ()):
                if part.get("type") == "output_text":
                    self._say(as_text(part.get("text")))
                    self._add_rows(part.get("logprobs"))


class MessagesReader(ReplyReader):
    """``/v1/messages``: blocks of content, each started, extended and ended by events of its own.

    Prompt tokens are those evaluated, read from the cache and written to it. Counts at the start of a stream may be estimates
    (Ollama); those at its end replace them.
    """

    _PROMPT = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")

    def __init__(self, on_first_token: Callable[[], None] | None = None) -> None:
        super().__init__(on_first_token)
        self._usage: dict[str, int] = {}
        self._blocks: dict[int, _CallBuilder] = {}
        self._announced: dict[int, float | None] = {}
        """Arrival of a block by its index, until its first argument arrives."""

    def _read(self, value: Json, now: float | None) -> None:
        index = as_count(value.get("index")) or 0
        match value.get("type"):
            case "message_start":
                self._read_usage(as_dict(value.get("message")))
            case "content_block_start" if len(self._announced) < MAX_CALLS:
                self._start_block(index, as_dict(value.get("content_block")))
                self._announced[index] = now
            case "content_block_delta":
                self._read_delta(index, as_dict(value.get("delta")), now)
            case "message_delta":
                self._read_usage(value)
                self.reply.finish_reason = as_text(as_dict(value.get("delta")).get("stop_reason"))
            case "message_stop":
                self.reply.complete = True
            case "error":
                self.fail("error")
            case "message":
                for position, block in enumerate(map(as_dict, as_list(value.get("content")))):
                    self._start_block(position, block)
                    self._say(as_text(block.get("text")))
                self._read_usage(value)
                self.reply.finish_reason = as_text(value.get("stop_reason"))
                self.reply.complete = True

    def _start_block(self, index: int, block: Json) -> None:
        if block.get("type") == "tool_use":
            # In a stream the input is empty here and follows in deltas.
            call = _CallBuilder(as_text(block.get("name")), as_text(block.get("id")), block.get("input") or None)
            self._blocks[index] = self._add_call(call)

    def _read_delta(self, index: int, delta: Json, now: float | None) -> None:
        content, arguments = as_text(delta.get("text")), as_text(delta.get("partial_json"))
        self._say(content)
        call = self._blocks.get(index)
        if call is not None and arguments:
            call.add_arguments(arguments)
            if index in self._announced:
                announced = self._announced.pop(index)
                if is_json(arguments):
                    return
                self._arrive(announced)
        elif not (content or as_text(delta.get("thinking"))):
            return
        self._arrive(now)

    def _read_usage(self, message: Json) -> None:
        usage = as_dict(message.get("usage"))
        for name in (*self._PROMPT, "output_tokens"):
            tokens = _tokens(usage.get(name))
            if tokens is not None:
                self._usage[name] = tokens
        if "input_tokens" in self._usage:
            self.reply.prompt_tokens = sum(self._usage.get(name, 0) for name in self._PROMPT)
        self.reply.cached_tokens = self._usage.get("cache_read_input_tokens")
        self.reply.completion_tokens = self._usage.get("output_tokens")


def reader_for(api: Api, on_first_token: Callable[[], None] | None = None, *, has_no_echo: bool = False) -> ReplyReader:
    """Returns a reader of replies of ``api``. Embeddings are read by ``read_embedding``.

    ``has_no_echo``: the request is known not to have asked for its prompt in the text of the completion.
    """
    match api:
        case Api.RESPONSES:
            return ResponsesReader(on_first_token)
        case Api.MESSAGES:
            return MessagesReader(on_first_token)
        case _:
            if not api.is_openai:
                return OllamaReader(on_first_token)
            reader = OpenAIReader(on_first_token)
            reader.is_text_generated = has_no_echo
            return reader


_EMBEDDING_PROMPT = re.compile(rb'"(?:prompt_tokens|prompt_eval_count)"\s*:\s*(\d{1,10})\b')
_EMBEDDING_LOAD = re.compile(rb'"load_duration"\s*:\s*(\d{1,18})\b')
_EMBEDDING_VECTORS = re.compile(rb'"embeddings?"\s*:\s*[\["]')


def read_embedding(data: bytes) -> Reply:
    """Returns the counts of an embedding reply, which are searched in the bytes since the vectors are long.

    ``/v1/embeddings`` has a usage, Ollama's ``/api/embed`` its own counts; the older ``/api/embeddings`` reports none.
    """
    reply = Reply(complete=_EMBEDDING_VECTORS.search(data) is not None)
    if prompt := _EMBEDDING_PROMPT.search(data):
        reply.prompt_tokens = _tokens(int(prompt[1]))
    if load := _EMBEDDING_LOAD.search(data):
        reply.load_seconds = Seconds(int(load[1]) / 1e9)
    _remove_impossible_values(reply)
    return reply


def parse_logprob_rows(rows: list[object]) -> list[TokenLogprob]:
    """Returns the rows of a reply or chunk. A row without a usable logprob is left out: its text is then missing, so that no span
    is covered by a guess.

    Source: ``choices[].logprobs.content`` of OpenAI-compatible servers, ``logprobs`` of Ollama.
    """
    parsed = []
    for row in map(as_dict, rows):
        logprob = as_float(row.get("logprob"))
        if logprob is None:
            continue
        alternatives = []
        for alternative in map(as_dict, as_list(row.get("top_logprobs"))):
            nats = as_float(alternative.get("logprob"))
            if nats is not None:
                alternatives.append((as_text(alternative.get("token")), nats))
        parsed.append(TokenLogprob(as_text(row.get("token")), logprob, tuple(alternatives)))
    return parsed


def parse_tool_call(name: str, written: str, call_id: str = "") -> ToolCall:
    """Returns a call whose arguments are JSON text; empty text and ``null`` are no arguments."""
    if not written.strip():
        return ToolCall(name, written, {}, "", call_id)
    try:
        arguments = json.loads(written)
    except (ValueError, RecursionError) as error:
        return ToolCall(name, written, None, f"the arguments are not JSON: {error}", call_id)
    return ToolCall(name, written, {} if arguments is None else arguments, "", call_id)


def server_error(value: Json) -> str | None:
    """Returns the message of an ``error`` member, in each of the shapes that servers use, or None."""
    error = value.get("error")
    if error is None or error == "":
        return None
    if isinstance(error, dict):
        return str(error.get("message") or error)[:1000]
    return str(error)[:1000]


def is_json(written: str) -> bool:
    try:
        json.loads(written)
    except (ValueError, RecursionError):
        return False
    return True


def _least_tokens(choice: Json, *, is_text_generated: bool) -> int:
    """Returns how many tokens a complete choice has at least: its logprob rows, else its words, since a token rarely spans two.

    Text without spaces and tool calls count as one token, and so do plain completions unless ``is_text_generated``, since their
    text may repeat the prompt (``echo``): too few only leaves a reply unflagged.
    """
    logprobs = as_dict(choice.get("logprobs"))
    rows = as_list(logprobs.get("content"))
    text = as_text(choice.get("text"))
    if text and is_text_generated:
        return len(as_list(logprobs.get("tokens"))) or max(1, len(text.split()))
    message = as_dict(choice.get("message"))
    thinking = as_text(message.get("reasoning_content")) or as_text(message.get("reasoning"))
    words = len(as_text(message.get("content")).split()) + len(thinking.split())
    return len(rows) or max(words, int(bool(message.get("tool_calls") or text)))


def _first_choice(value: Json) -> Json:
    """Returns the choice with index 0: with ``n`` above 1 each chunk is of one of them."""
    choices = list(map(as_dict, as_list(value.get("choices"))))
    return next((choice for choice in choices if choice.get("index") in (0, None)), {})


def _read_llama_cpp_timings(reply: Reply, timings: Json) -> None:
    """Milliseconds; ``prompt_n`` and ``prompt_ms`` cover what its prefix cache, ``cache_n``, lacked."""
    if not timings:
        return
    evaluated, cached = _tokens(timings.get("prompt_n")), _tokens(timings.get("cache_n"))
    reply.prefill_seconds = as_seconds(timings.get("prompt_ms"), 1e3)
    reply.prefill_tokens = evaluated
    reply.decode_seconds = as_seconds(timings.get("predicted_ms"), 1e3)
    reply.decode_tokens = _tokens(timings.get("predicted_n"))
    reply.cached_tokens = cached
    # A stream without usage has its counts here.
    if reply.prompt_tokens is None and evaluated is not None and cached is not None:
        reply.prompt_tokens = evaluated + cached
    if reply.completion_tokens is None:
        reply.completion_tokens = reply.decode_tokens


def _tokens(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    tokens = as_count(value)
    return tokens if tokens is not None and tokens <= MAX_TOKENS else None


def _latest(known: int | None, value: object) -> int | None:
    """Returns the new count; the known one where the new one is absent or 0."""
    tokens = _tokens(value)
    return known if tokens is None or (tokens == 0 and known is not None) else tokens


def _remove_impossible_values(reply: Reply) -> None:
    """Turns values that cannot be true into None: 0 tokens after output, a prompt of 0 tokens, tokens in no time, more cached
    tokens than the prompt has."""
    zeros = []
    if reply.completion_tokens == 0 and reply.has_output:
        reply.completion_tokens = None
        zeros.append("completion tokens")
    if reply.prompt_tokens == 0:
        reply.prompt_tokens = None
        zeros.append("prompt tokens")
    if zeros:
        reply.note_problem(IMPOSSIBLE_ZERO, f"the server reported 0 {' and 0 '.join(zeros)}")
    if reply.cached_tokens is not None and reply.cached_tokens > (reply.prompt_tokens or 0):
        reply.cached_tokens = None
    if not reply.decode_seconds or not reply.decode_tokens or reply.completion_tokens is None:
        reply.decode_seconds = reply.decode_tokens = None
    if reply.prefill_tokens and not reply.prefill_seconds:
        reply.prefill_seconds = reply.prefill_tokens = None


def _dump(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        return str(value)[:MAX_ARGUMENT_CHARACTERS]
