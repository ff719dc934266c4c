"""Ollama's own /api/chat: NDJSON stream, token logprobs, and durations that its OpenAI-compatible door leaves out.

With logprobs the first generated token makes a line of its own even inside a tool call, so time to first token is true.
Where Ollama refuses logprobs (400: models whose template llama.cpp renders), they are given up, remembered and noted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from joulebench import parsing
from joulebench.confidence.measures import TokenLogprob
from joulebench.errors import ModelError
from joulebench.llm import parts
from joulebench.llm.chat import Json, Message, ModelRefused, Reply, Timings, ToolMode, ToolRequest, ToolSpec
from joulebench.llm.client import TOP_LOGPROBS, Client
from joulebench.llm.wire import json_line, server_error
from joulebench.units import Seconds


class OllamaChat(Client):
    """``extra``: Ollama's model options."""

    def reply(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], first_token: Callable[[], None], deadline: Seconds
    ) -> Reply:
        if not self._logprobs:
            return self._ask(False, messages, tools, first_token, deadline)
        try:
            return self._ask(True, messages, tools, first_token, deadline)
        except ModelRefused as error:
            if error.status != 400:
                raise
            refusal = error.message
        reply = self._ask(False, messages, tools, first_token, deadline)
        self._logprobs = False
        self.notes.append(f"{self.name}: no confidence, since the server refused logprobs: {refusal}")
        return reply

    def _ask(
        self,
        logprobs: bool,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        first_token: Callable[[], None],
        deadline: Seconds,
    ) -> Reply:
        options = {"temperature": self._temperature, "num_predict": self._max_tokens, **self._extra}
        body: Json = {"model": self.name, "stream": self._stream, "options": options, **self._words(messages, tools, _message)}
        # Else it leaves out what does not fit, the tools too, and says nothing of it.
        body |= {"truncate": False, "shift": False}
        if logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        assembly = _Assembly(parts.TokenTimes(self._clock, first_token), self._stream)
        if self._stream:
            for line in self._wire.lines("/api/chat", body, deadline):
                assembly.add(json_line(line))
        else:
            assembly.add(self._wire.post("/api/chat", body, deadline))
        return self._told(assembly.reply(self._tool_mode, tools))


class _Assembly:
    def __init__(self, times: parts.TokenTimes, streamed: bool) -> None:
        self._times = times
        self._streamed = streamed
        self._text: list[str] = []
        self._rows: list[TokenLogprob] = []
        self._calls: list[ToolRequest] = []
        self._last: Json | None = None

    def add(self, answer: Json) -> None:
        failure = server_error(answer)
        if failure is not None:
            raise ModelError(f"the server failed: {failure}")
        message = parsing.members(answer.get("message"))
        rows = parts.logprob_rows(answer.get("logprobs"))
        content = parsing.text(message.get("content"))
        self._text.append(content)
        self._rows += rows
        for call in map(parsing.members, parsing.items(message.get("tool_calls"))):
            function = parsing.members(call.get("function"))
            self._calls.append(parts.tool_request(function.get("name"), function.get("arguments"), parsing.text(call.get("id"))))
        if self._streamed and (rows or content or parsing.text(message.get("thinking"))):
            self._times.piece()
        if answer.get("done") is True:
            self._last = answer

    def reply(self, mode: ToolMode, tools: Sequence[ToolSpec]) -> Reply:
        if self._last is None:
            raise ModelError("the stream broke off before the reply was complete")
        content = "".join(self._text)
        rows = tuple(self._rows) or None
        completion_tokens = parsing.count(self._last.get("eval_count"))
        return Reply(
            text=content,
            tool_calls=parts.tool_calls_of(mode, content, tuple(self._calls), rows, tools),
            rows=rows,
            prompt_tokens=parsing.count(self._last.get("prompt_eval_count")),
            completion_tokens=completion_tokens,
            finish_reason=parsing.text(self._last.get("done_reason")),
            first_token_seconds=self._times.first_token_seconds,
            timings=Timings(
                prefill_seconds=parsing.seconds(self._last.get("prompt_eval_duration"), 1e9),
                decode_seconds=parsing.seconds(self._last.get("eval_duration"), 1e9),
                decode_tokens=completion_tokens,
                load_seconds=parsing.seconds(self._last.get("load_duration"), 1e9),
            ),
        )


def _message(message: Message) -> Json:
    if message.role == "tool":
        return {"role": "tool", "tool_name": message.tool_name, "content": message.text}
    if message.tool_calls:
        calls = [{"function": {"name": call.name, "arguments": _arguments(call)}} for call in message.tool_calls]
        return {"role": "assistant", "content": message.text, "tool_calls": calls}
    return {"role": message.role, "content": message.text}


def _arguments(call: ToolRequest) -> Json:
    """Ollama takes only objects; anything else that the model wrote is shown back to it under a key."""
    return call.arguments if isinstance(call.arguments, dict) else {"text": call.raw_arguments}
