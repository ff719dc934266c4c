"""Replies of ``/v1/messages``: blocks of content, each begun, added to and ended by events of its own.

The prompt is what was evaluated, read from the cache and written to it. What is told at the start of a stream may be an estimate
(Ollama); what is told at its end counts.
"""

from __future__ import annotations

from joulebench.parsing import Json, count, items, members, text
from joulebench.proxy.openai_reply import is_json
from joulebench.proxy.reply import Call, Reply, error_in

_PROMPT = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


class MessagesReader:
    def __init__(self) -> None:
        self.reply = Reply()
        self._usage: dict[str, int] = {}
        self._begun: dict[int, float] = {}
        """When a call was announced of which no argument has come yet, by the number of its block."""

    def done(self) -> None:
        """No such mark in this protocol."""

    def piece(self, value: Json, now: float) -> None:
        if error_in(value):
            self.reply.failed = True
            return
        match value.get("type"):
            case "message_start":
                self._count(members(value.get("message")))
            case "content_block_start":
                index = count(value.get("index")) or 0
                self._begin(index, members(value.get("content_block")))
                self._begun[index] = now
            case "content_block_delta":
                self._add(count(value.get("index")) or 0, members(value.get("delta")), now)
            case "message_delta":
                self._count(value)
            case "message_stop":
                self.reply.complete = True

    def whole(self, value: Json) -> None:
        if error_in(value):
            self.reply.failed = True
            return
        for number, block in enumerate(map(members, items(value.get("content")))):
            self._begin(number, block)
            self.reply.say(text(block.get("text")))
        self._count(value)
        self.reply.complete = value.get("type") == "message"

    def _begin(self, index: int, block: Json) -> None:
        if block.get("type") == "tool_use":
            # In a stream the input is empty here, and follows in pieces.
            self.reply.calls[index] = Call(text(block.get("name")), "", block.get("input") or None)

    def _add(self, index: int, delta: Json, now: float) -> None:
        said, written = text(delta.get("text")), text(delta.get("partial_json"))
        self.reply.say(said)
        call = self.reply.calls.get(index)
        if call is not None and written:
            call.arguments += written
            begun = self._begun.pop(index, None)
            if begun is not None:
                if is_json(written):
                    # A finished call that comes at once says when it was complete, no more.
                    return
                self.reply.arrivals.token(begun)
        elif not (said or text(delta.get("thinking"))):
            return
        self.reply.arrivals.token(now)

    def _count(self, told: Json) -> None:
        usage = members(told.get("usage"))
        self._usage |= {name: tokens for name in (*_PROMPT, "output_tokens") if (tokens := count(usage.get(name))) is not None}
        if "input_tokens" in self._usage:
            self.reply.prompt_tokens = sum(self._usage.get(name, 0) for name in _PROMPT)
        self.reply.cached_tokens = self._usage.get("cache_read_input_tokens")
        self.reply.completion_tokens = self._usage.get("output_tokens")
