"""Chat completions of OpenAI-compatible servers: llama.cpp, vLLM, SGLang, Ollama's /v1 and others.

Asked for is what measures best: a stream with logprobs. Where the server refuses that with 400, as llama.cpp does for tools
with both, first the stream is given up (then no time to first token is claimed), then the logprobs (then no confidence is);
what was given up is remembered for the model and noted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from joulebench.llm import parts
from joulebench.llm.chat import Json, Message, ModelRefused, Reply, ToolRequest, ToolSpec
from joulebench.llm.client import TOP_LOGPROBS, Client
from joulebench.llm.openai_reply import Assembly
from joulebench.units import Seconds


@dataclass(frozen=True, slots=True)
class _Form:
    """What is asked of the server beside the words."""

    stream: bool
    logprobs: bool


class OpenAIChat(Client):
    """``extra`` goes into every request body as it is."""

    def reply(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], first_token: Callable[[], None], deadline: Seconds
    ) -> Reply:
        return self._ask_for_most(_Form(self._stream, self._logprobs), messages, tools, first_token, deadline)

    def _ask_for_most(
        self,
        form: _Form,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        first_token: Callable[[], None],
        deadline: Seconds,
    ) -> Reply:
        try:
            return self._ask(form, messages, tools, first_token, deadline)
        except ModelRefused as error:
            lesser = _lesser(form, error)
            if lesser is None:
                raise
            refusal = error.message
        reply = self._ask_for_most(lesser, messages, tools, first_token, deadline)
        # Only an answer proves that this was what the server would not do.
        lost = "time to first token" if lesser.logprobs else "confidence"
        self._give_up(lesser, f"{self.name}: no {lost}, since the server refused what it takes: {refusal}")
        return reply

    def _give_up(self, lesser: _Form, note: str) -> None:
        self._stream &= lesser.stream
        self._logprobs &= lesser.logprobs
        if note not in self.notes:
            self.notes.append(note)

    def _ask(
        self,
        form: _Form,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        first_token: Callable[[], None],
        deadline: Seconds,
    ) -> Reply:
        body: Json = {"model": self.name, "temperature": self._temperature, "max_tokens": self._max_tokens, **self._extra}
        body |= {"stream": form.stream, **self._words(messages, tools, _message)}
        if form.stream:
            body["stream_options"] = {"include_usage": True}
        if form.logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        times = parts.TokenTimes(self._clock, first_token)
        assembly = Assembly(times)
        if form.stream:
            for line in self._wire.lines("/chat/completions", body, deadline):
                assembly.line(line)
        else:
            assembly.whole(self._wire.post("/chat/completions", body, deadline))
        return self._told(assembly.reply(self._tool_mode, tools))


def _lesser(form: _Form, refusal: ModelRefused) -> _Form | None:
    """What to ask for instead, if less can help."""
    if refusal.status not in (400, 422) or not form.logprobs:
        return None
    if form.stream and "stream" in refusal.message:
        return replace(form, stream=False)
    return replace(form, logprobs=False)


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
