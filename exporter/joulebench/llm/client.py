"""Clients of model servers: OpenAI-compatible chat completions and Ollama's own ``/api/chat``.

Each call asks for what measures best: a stream with logprobs. Where the server refuses that in any way (llama.cpp takes tools
with logprobs only without a stream, Ollama refuses logprobs of models whose template llama.cpp renders, others know neither),
the call is made again with less: first without the stream where the refusal names it (then there is no time to first token),
then without logprobs (then no confidence), then without the usage of a stream. What succeeded is remembered for the model and
noted, and more is asked for again after a while.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from joulebench.clock import Clock
from joulebench.confidence.measures import AttemptedCall, TokenLogprob, find_attempted_calls, find_unreported_calls
from joulebench.llm import hermes
from joulebench.llm.chat import Json, Message, ModelRefused, Reply, ReplyBroken, ToolCall, ToolMode, ToolSpec
from joulebench.llm.decoder import ReplyDecoder
from joulebench.llm.http import ModelServerHttp
from joulebench.llm.logprob_cost import LogprobCost, logprob_cost
from joulebench.llm.readers import Api
from joulebench.llm.refusals import TRY_AGAIN_AFTER, may_be_about_additions
from joulebench.llm.reply import ENCODING, NOT_JSON, TOO_LARGE
from joulebench.units import Seconds

TOP_LOGPROBS = 5
MAX_NOTES = 20
MIN_PAIRS = 2
MAX_PAIRS = 4
NOT_PARSED = "this is not the form of a tool call"


class RequestSettings(TypedDict):
    """Settings that every client takes."""

    tool_mode: ToolMode
    stream: bool
    temperature: float
    max_tokens: int
    logprobs: bool


@dataclass(frozen=True, slots=True)
class RequestForm:
    """What a request asks for beyond the conversation."""

    stream: bool
    logprobs: bool
    usage: bool = True

    def next_lesser(self, error: ModelRefused | ReplyBroken) -> RequestForm | None:
        """Returns the form to try after ``error``; None where less cannot help."""
        message = error.message if isinstance(error, ModelRefused) else str(error)
        if self.logprobs and self.stream and "stream" in message and "stream_options" not in message:
            return replace(self, stream=False)
        if self.logprobs and "stream_options" not in message:
            return replace(self, logprobs=False)
        if self.usage and self.stream:
            return replace(self, usage=False)
        return replace(self, logprobs=False) if self.logprobs else None

    def missing_from(self, wanted: RequestForm) -> str:
        """Returns what measurements lack with this form compared with ``wanted``."""
        if wanted.logprobs and not self.logprobs:
            return "confidence"
        return "time to first token" if wanted.stream and not self.stream else "token counts"


class ChatClient:
    """One model on one server. ``extra``: further members of the request (OpenAI-compatible) or model options (Ollama)."""

    _api: Api
    _path: str
    _takes_usage: bool

    def __init__(
        self,
        http: ModelServerHttp,
        name: str,
        clock: Clock,
        *,
        tool_mode: ToolMode = "native",
        stream: bool = True,
        temperature: float = 0.0,
        max_tokens: int = 512,
        logprobs: bool = True,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        self.name = name
        self.notes: list[str] = []
        self.configuration: Json = {
            "tool_mode": tool_mode,
            "stream": stream,
            "temperature": temperature,
            "max_tokens": max_tokens,
            **(extra or {}),
        }
        self._http = http
        self._clock = clock
        self._tool_mode = tool_mode
        self._temperature = temperature
        self._max_tokens = max_tokens
        self._extra = dict(extra or {})
        self._wanted = RequestForm(stream, logprobs=logprobs, usage=stream and self._takes_usage)
        self._accepted = self._wanted
        self._try_again_at = 0.0
        """Monotonic time from which the wanted form is asked for again, where less was accepted."""

    def reply(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], first_token: Callable[[], None], deadline: Seconds
    ) -> Reply:
        is_due = self._accepted != self._wanted and self._clock.monotonic() >= self._try_again_at
        form = self._wanted if is_due else self._accepted
        refusal: ModelRefused | ReplyBroken | None = None
        while True:
            try:
                reply = self._ask(form, messages, tools, first_token, deadline)
            except (ModelRefused, ReplyBroken) as error:
                if isinstance(error, ModelRefused) and not may_be_about_additions(error.status):
                    raise
                if isinstance(error, ReplyBroken) and error.has_begun:
                    raise
                lesser = form.next_lesser(error)
                if lesser is None:
                    raise
                form, refusal = lesser, refusal or error
                continue
            self._remember(form, refusal)
            return reply

    def measure_logprobs(self, messages: Sequence[Message], tools: Sequence[ToolSpec], deadline: Seconds) -> LogprobCost | None:
        """Makes the same call with logprobs and without, in turns; where they are not cheap, later calls go without them.

        The fastest call of each kind counts, and they are expensive only if that is so after ``MAX_PAIRS`` pairs: other load
        makes a call slower, never faster. Returns None where the server takes no logprobs or does not count tokens. Raises
        ModelError.
        """
        form = self._accepted
        if not form.logprobs:
            return None
        fastest: dict[bool, tuple[float, int]] = {}
        cost: LogprobCost | None = None
        for pair in range(1, MAX_PAIRS + 1):
            for logprobs in (True, False):
                began = self._clock.monotonic()
                reply = self._ask(replace(form, logprobs=logprobs), messages, tools, lambda: None, deadline)
                if not reply.completion_tokens:
                    return None
                timed = (self._clock.monotonic() - began, reply.completion_tokens)
                fastest[logprobs] = min(fastest.get(logprobs, timed), timed, key=_seconds_per_token)
            cost = logprob_cost([fastest[True]], [fastest[False]])
            if pair >= MIN_PAIRS and cost is not None and cost.is_cheap:
                break
        if cost is not None and not cost.is_cheap:
            self._wanted = replace(self._wanted, logprobs=False)
            self._accepted = replace(form, logprobs=False)
            self._note(str(cost))
        return cost

    def _remember(self, form: RequestForm, error: ModelRefused | ReplyBroken | None) -> None:
        """Only a reply proves that what was left out had been the cause of the refusal."""
        if form != self._wanted and error is not None:
            self._try_again_at = self._clock.monotonic() + TRY_AGAIN_AFTER
            message = error.message if isinstance(error, ModelRefused) else str(error)
            self._note(f"no {form.missing_from(self._wanted)}, since the server refused what it takes: {message}")
        self._accepted = form

    def _note(self, note: str) -> None:
        note = f"{self.name}: {note}"
        if note not in self.notes and len(self.notes) < MAX_NOTES:
            self.notes.append(note)

    def _ask(
        self,
        form: RequestForm,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        first_token: Callable[[], None],
        deadline: Seconds,
    ) -> Reply:
        body = self._body(form, messages, tools)
        began = self._clock.monotonic()
        with self._http.post(self._path, body, deadline) as response:
            decoder = ReplyDecoder(
                self._api, response.content_type, response.coding, stream=form.stream, on_first_token=first_token
            )
            self._feed(decoder, response.chunks)
        reply = decoder.finish()
        has_begun = reply.arrivals.count > 0
        if reply.error is not None:
            raise ReplyBroken(f"the server failed: {reply.error}", has_begun=has_begun)
        if reply.problem in (NOT_JSON, TOO_LARGE, ENCODING):
            raise ReplyBroken(f"the reply cannot be read ({reply.problem}): {reply.problem_detail}", has_begun=has_begun)
        if not reply.complete:
            raise ReplyBroken("the stream broke off before the reply was complete", has_begun=has_begun)
        if reply.problem is not None:
            self._note(reply.problem_detail)
        if reply.arrivals.first is not None:
            reply.first_token_seconds = Seconds(reply.arrivals.first - began)
        reply.tool_calls = self._all_tool_calls(reply, tools)
        is_short = reply.completion_tokens is not None and reply.completion_tokens < self._max_tokens
        reply.context_full = reply.finish_reason == "length" and is_short
        return reply

    def _feed(self, decoder: ReplyDecoder, chunks: Iterator[bytes]) -> None:
        try:
            for chunk in chunks:
                decoder.feed(chunk, self._clock.monotonic())
        except ReplyBroken as error:
            raise ReplyBroken(str(error), has_begun=decoder.finish().has_output) from error

    def _body(self, form: RequestForm, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Json:
        raise NotImplementedError

    def _conversation(self, messages: Sequence[Message], tools: Sequence[ToolSpec], render: Callable[[Message], Json]) -> Json:
        """Returns messages and tools of a request; ``render`` writes one message in the form of the API."""
        if self._tool_mode == "prompt":
            return {"messages": hermes.render_messages(messages, tools)}
        return {"messages": [render(message) for message in replayable(messages)], "tools": tool_declarations(tools)}

    def _all_tool_calls(self, reply: Reply, tools: Sequence[ToolSpec]) -> tuple[ToolCall, ...]:
        """Returns the calls that the server reported and, in their places, the attempts that it did not."""
        declared = [tool.name for tool in tools]
        raw_text = "".join(row.token for row in reply.rows or ()) or reply.text
        reported = hermes.parse_calls(reply.text) if self._tool_mode == "prompt" else reply.tool_calls
        if not reported:
            attempts = find_attempted_calls(reply.rows or reply.text, declared)
            return tuple(_unreported_call(attempt, raw_text) for attempt in attempts)
        if self._tool_mode == "prompt":
            return reported
        return _with_unreported_calls(reported, reply.rows or (), declared, raw_text)


class OpenAIChat(ChatClient):
    """Chat completions of llama.cpp, vLLM, SGLang, Ollama's /v1 and others."""

    _api = Api.OPENAI_CHAT
    _path = "/chat/completions"
    _takes_usage = True

    def _body(self, form: RequestForm, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Json:
        body: Json = {"model": self.name, "temperature": self._temperature, "max_tokens": self._max_tokens, **self._extra}
        body |= {"stream": form.stream, **self._conversation(messages, tools, _openai_message)}
        if form.stream and form.usage:
            body["stream_options"] = {"include_usage": True}
        if form.logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return body


class OllamaChat(ChatClient):
    """Ollama's /api/chat, whose replies have durations that its /v1 lacks. ``extra``: Ollama's model options."""

    _api = Api.OLLAMA_CHAT
    _path = "/api/chat"
    _takes_usage = False

    def _body(self, form: RequestForm, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Json:
        options = {"temperature": self._temperature, "num_predict": self._max_tokens, **self._extra}
        body: Json = {"model": self.name, "stream": form.stream, "options": options}
        body |= self._conversation(messages, tools, _ollama_message)
        # Without these Ollama silently drops what does not fit the context, the tools too.
        body |= {"truncate": False, "shift": False}
        if form.logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return body


def tool_declarations(tools: Sequence[ToolSpec]) -> list[Json]:
    """Returns the ``tools`` member of a request, which both APIs share."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
        }
        for tool in tools
    ]


def replayable(messages: Sequence[Message]) -> list[Message]:
    """Returns the conversation with unreported calls as the text that the model wrote, and their results as user messages.

    As calls they would have to be made up: a server takes none without arguments, and a model copies what it is shown.
    """
    shown: list[Message] = []
    is_text = False
    for message in messages:
        if message.role == "assistant":
            raw_text = next((call.raw_arguments for call in message.tool_calls if call.left_out), None)
            is_text = raw_text is not None
            shown.append(message if raw_text is None else Message("assistant", raw_text))
        elif message.role == "tool" and is_text:
            shown.append(Message("user", f"Result of {message.tool_name}:\n{message.text}"))
        else:
            shown.append(message)
    return shown


def _with_unreported_calls(
    reported: tuple[ToolCall, ...], rows: Sequence[TokenLogprob], declared: Sequence[str], raw_text: str
) -> tuple[ToolCall, ...]:
    calls = list(reported)
    for place, attempt in reversed(find_unreported_calls(rows, [call.name for call in reported], declared)):
        calls.insert(place, _unreported_call(attempt, raw_text))
    return tuple(calls)


def _seconds_per_token(timed: tuple[float, int]) -> float:
    seconds, tokens = timed
    return seconds / tokens


def _unreported_call(attempt: AttemptedCall, raw_text: str) -> ToolCall:
    problem = "" if attempt.outcome == "undeclared" else NOT_PARSED
    return ToolCall(attempt.name or "", raw_text, None, problem, left_out=True)


def _openai_message(message: Message) -> Json:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.call_id, "name": message.tool_name, "content": message.text}
    if message.tool_calls:
        calls = [_openai_tool_call(call) for call in message.tool_calls]
        return {"role": "assistant", "content": message.text or None, "tool_calls": calls}
    return {"role": message.role, "content": message.text}


def _openai_tool_call(call: ToolCall) -> Json:
    # Servers parse the arguments of past calls; what was not JSON goes back as a JSON string, which the model can still read.
    arguments = json.dumps(call.raw_arguments) if call.problem else call.raw_arguments or "{}"
    return {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _ollama_message(message: Message) -> Json:
    if message.role == "tool":
        return {"role": "tool", "tool_name": message.tool_name, "content": message.text}
    if message.tool_calls:
        calls = [{"function": {"name": call.name, "arguments": _object_arguments(call)}} for call in message.tool_calls]
        return {"role": "assistant", "content": message.text, "tool_calls": calls}
    return {"role": message.role, "content": message.text}


def _object_arguments(call: ToolCall) -> Json:
    """Returns the arguments as an object, which is all that Ollama takes; other text goes back to the model under a key."""
    return call.arguments if isinstance(call.arguments, dict) else {"text": call.raw_arguments}
