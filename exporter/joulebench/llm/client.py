"""What the clients of both protocols share: what is asked with every call, and when a reply was cut off by a full context."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

from joulebench.clock import Clock
from joulebench.llm import hermes, parts
from joulebench.llm.chat import Json, Message, Reply, ToolMode, ToolSpec
from joulebench.llm.wire import Wire

TOP_LOGPROBS = 5


class Asked(TypedDict):
    """What every client can be told."""

    tool_mode: ToolMode
    stream: bool
    temperature: float
    max_tokens: int


class Client:
    """One model on one server. ``extra``: more of what the server takes beside the words: members of the request with an
    OpenAI-compatible server, model options (num_ctx, seed, ...) with Ollama."""

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
        self._stream = stream
        self._logprobs = True
        self._temperature = temperature
        self._max_tokens = max_tokens
        self._extra = dict(extra or {})
        self.configuration: Json = {
            "tool_mode": tool_mode,
            "stream": stream,
            "temperature": temperature,
            "max_tokens": max_tokens,
            **self._extra,
        }
        """What results depend on beside the model. What a server refuses of it is in ``notes``."""

    def _words(self, messages: Sequence[Message], tools: Sequence[ToolSpec], message: Callable[[Message], Json]) -> Json:
        """Messages and tools of a request; ``message`` writes one as the protocol wants it."""
        if self._tool_mode == "prompt":
            return {"messages": hermes.as_text(messages, tools)}
        return {"messages": [message(one) for one in parts.replayed(messages)], "tools": parts.declarations(tools)}

    def _told(self, reply: Reply) -> Reply:
        """A reply that ended before its longest for want of room has filled the context."""
        told = reply.completion_tokens
        is_full = reply.finish_reason == "length" and told is not None and told < self._max_tokens
        return replace(reply, context_full=True) if is_full else reply
