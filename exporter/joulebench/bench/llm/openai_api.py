"""Chat completions of OpenAI-compatible servers: llama.cpp, vLLM, SGLang, Ollama's /v1 and others.

Asked for is what measures best: a stream with logprobs. Where the server refuses that with 400, as llama.cpp does for tools
with both, first the stream is given up (then no time to first token is claimed), then the logprobs (then no confidence is);
what was given up is remembered for the model and noted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from joulebench.bench.llm import hermes, parts
from joulebench.bench.llm.chat import Json, Message, ModelRefused, Reply, Timings, ToolMode, ToolRequest, ToolSpec
from joulebench.bench.llm.wire import Wire, json_line, server_error
from joulebench.clock import Clock
from joulebench.errors import ModelError
from joulebench.push.confidence import TokenLogprob
from joulebench.units import Seconds

TOP_LOGPROBS = 5


@dataclass(frozen=True, slots=True)
class _Form:
    """What is asked of the server beside the words."""

    stream: bool
    logprobs: bool


class OpenAIChat:
    """``base_url`` ends where ``/chat/completions`` begins. ``extra`` goes into every request body as it is."""

    def __init__(
        self,
        wire: Wire,
        name: str,
        clock: Clock,
        *,
        tool_mode: ToolMode = "native",
        stream: bool = True,
        temperature: float = 0.0,
        max_tokens: int = 512,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        self.name = name
        self.notes: list[str] = []
        self._wire = wire
        self._clock = clock
        self._tool_mode = tool_mode
        self._form = _Form(stream, logprobs=True)
        self._settings: Json = {"temperature": temperature, "max_tokens": max_tokens, **(extra or {})}

    def reply(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], first_token: Callable[[], None], deadline: Seconds
    ) -> Reply:
        form = self._form
        while True:
            try:
                reply = self._ask(form, messages, tools, first_token, deadline)
            except ModelRefused as error:
                lesser = self._lesser_form(form, error)
                if lesser is None:
                    raise
                form, refusal = lesser, error
            else:
                if form != self._form:
                    self._remember(form, refusal)
                return reply

    def _lesser_form(self, form: _Form, error: ModelRefused) -> _Form | None:
        if error.status not in (400, 422) or not form.logprobs:
            return None
        if form.stream and "stream" in error.message:
            return replace(form, stream=False)
        return replace(form, logprobs=False)

    def _remember(self, form: _Form, refusal: ModelRefused) -> None:
        lost = "confidence" if not form.logprobs else "time to first token"
        self.notes.append(f"{self.name}: no {lost}, since the server refused it: {refusal.message}")
        self._form = form

    def _ask(
        self,
        form: _Form,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        first_token: Callable[[], None],
        deadline: Seconds,
    ) -> Reply:
        body: Json = {"model": self.name, **self._settings, "stream": form.stream}
        if form.stream:
            body["stream_options"] = {"include_usage": True}
        if form.logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        if self._tool_mode == "prompt":
            body["messages"] = hermes.as_text(messages, tools)
        else:
            body["messages"] = [_message(message) for message in messages]
            body["tools"] = [
                {
                    "type": "function",
                    "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
                }
                for tool in tools
            ]
        times = parts.TokenTimes(self._clock, first_token)
        assembly = _Assembly(times)
        if form.stream:
            for line in self._wire.lines("/chat/completions", body, deadline):
                assembly.line(line)
        else:
            assembly.whole(self._wire.post("/chat/completions", body, deadline))
        return assembly.reply(self._tool_mode, tools)


class _Assembly:
    """One reply, put together from a whole answer or from the chunks of a stream."""

    def __init__(self, times: parts.TokenTimes) -> None:
        self._times = times
        self._text: list[str] = []
        self._rows: list[TokenLogprob] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._usage: Json = {}
        self._timings: Json = {}
        self._finish = ""
        self._complete = False

    def line(self, line: bytes) -> None:
        """One line of server-sent events."""
        if line.startswith(b":") or line.startswith(b"event:"):
            return
        field, _, data = line.partition(b":")
        if field == b"error":
            raise ModelError(f"the server failed mid-stream: {data.strip()[:300].decode('utf-8', 'replace')}")
        if field != b"data":
            raise ModelError(f"the stream holds what is not an event: {line[:120]!r}")
        if data.strip() == b"[DONE]":
            self._complete = True
            return
        chunk = json_line(data)
        failure = server_error(chunk)
        if failure is not None:
            raise ModelError(f"the server failed mid-stream: {failure}")
        self._common(chunk)
        for choice in map(parts.members, parts.items(chunk.get("choices"))[:1]):
            self._delta(choice, parts.members(choice.get("delta")))

    def whole(self, answer: Json) -> None:
        failure = server_error(answer)
        if failure is not None:
            raise ModelError(f"the server failed: {failure}")
        choices = parts.items(answer.get("choices"))
        if not choices:
            raise ModelError("the answer has no choices")
        self._common(answer)
        choice = parts.members(choices[0])
        message = parts.members(choice.get("message"))
        self._text.append(parts.text(message.get("content")))
        self._rows = parts.logprob_rows(parts.members(choice.get("logprobs")).get("content"))
        for number, call in enumerate(parts.items(message.get("tool_calls"))):
            self._call_piece(number, parts.members(call))
        self._finish = parts.text(choice.get("finish_reason"))
        self._complete = True

    def _common(self, answer: Json) -> None:
        self._usage = parts.members(answer.get("usage")) or self._usage
        self._timings = parts.members(answer.get("timings")) or self._timings

    def _delta(self, choice: Json, delta: Json) -> None:
        rows = parts.logprob_rows(parts.members(choice.get("logprobs")).get("content"))
        content = parts.text(delta.get("content"))
        thinking = parts.text(delta.get("reasoning_content")) or parts.text(delta.get("reasoning"))
        calls = [parts.members(call) for call in parts.items(delta.get("tool_calls"))]
        self._text.append(content)
        self._rows += rows
        for call in calls:
            self._call_piece(parts.count(call.get("index")) or 0, call)
        if rows or content or thinking or any(map(_in_progress, calls)):
            self._times.piece()
        finish = parts.text(choice.get("finish_reason"))
        if finish:
            self._finish = finish
            self._complete = True

    def _call_piece(self, index: int, call: Json) -> None:
        function = parts.members(call.get("function"))
        known = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        known["id"] = known["id"] or parts.text(call.get("id"))
        known["name"] += parts.text(function.get("name"))
        arguments = function.get("arguments")
        known["arguments"] += json.dumps(arguments) if isinstance(arguments, dict) else parts.text(arguments)

    def reply(self, mode: ToolMode, tools: Sequence[ToolSpec]) -> Reply:
        if not self._complete:
            raise ModelError("the stream broke off before the reply was complete")
        content = "".join(self._text)
        rows = tuple(self._rows) or None
        calls = tuple(parts.tool_request(call["name"], call["arguments"], call["id"]) for _, call in sorted(self._calls.items()))
        completion_tokens = parts.count(self._usage.get("completion_tokens"))
        return Reply(
            text=content,
            tool_calls=parts.tool_calls_of(mode, content, calls, rows, tools),
            rows=rows,
            prompt_tokens=parts.count(self._usage.get("prompt_tokens")),
            completion_tokens=completion_tokens,
            finish_reason=self._finish,
            first_token_seconds=self._times.first_token_seconds,
            timings=self._server_timings() or self._own_timings(completion_tokens),
        )

    def _server_timings(self) -> Timings | None:
        """llama.cpp's ``timings``: milliseconds; ``prompt_ms`` covers only what its prefix cache did not hold."""
        if not self._timings:
            return None
        return Timings(
            prefill_seconds=parts.seconds(self._timings.get("prompt_ms"), 1e3),
            decode_seconds=parts.seconds(self._timings.get("predicted_ms"), 1e3),
            decode_tokens=parts.count(self._timings.get("predicted_n")),
            cached_tokens=parts.count(self._timings.get("cache_n")),
        )

    def _own_timings(self, completion_tokens: int | None) -> Timings:
        decode_seconds, decode_tokens = self._times.decode(completion_tokens)
        details = parts.members(self._usage.get("prompt_tokens_details"))
        return Timings(
            decode_seconds=decode_seconds, decode_tokens=decode_tokens, cached_tokens=parts.count(details.get("cached_tokens"))
        )


def _in_progress(call: Json) -> bool:
    """Whether a piece of a tool call is less than the whole of it."""
    arguments = parts.members(call.get("function")).get("arguments")
    return not isinstance(arguments, dict) and parts.tool_request("", parts.text(arguments) or "{").problem != ""


def _message(message: Message) -> Json:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.call_id, "name": message.tool_name, "content": message.text}
    if message.tool_calls:
        return {
            "role": "assistant",
            "content": message.text or None,
            "tool_calls": [_tool_call(call) for call in message.tool_calls],
        }
    return {"role": message.role, "content": message.text}


def _tool_call(call: ToolRequest) -> Json:
    # Servers parse the arguments of past calls; what was not JSON is sent back as a JSON string, still readable to the model.
    arguments = json.dumps(call.raw_arguments) if call.problem else call.raw_arguments or "{}"
    return {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
