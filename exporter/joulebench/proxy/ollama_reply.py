"""Replies of Ollama's ``/api/chat`` and ``/api/generate``: one JSON object a line, the last with ``done`` and all durations.

``prompt_eval_count`` counts the whole prompt, ``prompt_eval_duration`` times only what the prefix cache did not hold, and how
much that was is not told: there is a prefill time and no prefill speed.
"""

from __future__ import annotations

from joulebench.parsing import Json, count, items, members, seconds, text
from joulebench.proxy.reply import Call, Reply, error_in


class OllamaReader:
    def __init__(self) -> None:
        self.reply = Reply()

    def done(self) -> None:
        """No such mark in this protocol."""

    def piece(self, value: Json, now: float) -> None:
        if error_in(value):
            self.reply.failed = True
            return
        message = members(value.get("message"))
        said = text(message.get("content")) or text(value.get("response"))
        thought = text(message.get("thinking")) or text(value.get("thinking"))
        rows = self.reply.add_rows(value.get("logprobs"))
        for call in map(members, items(message.get("tool_calls"))):
            function = members(call.get("function"))
            self.reply.calls[len(self.reply.calls)] = Call(text(function.get("name")), "", function.get("arguments"))
        self.reply.say(said)
        if said or thought or rows:
            self.reply.arrivals.token(now)
        if value.get("done") is True:
            self._end(value)

    def whole(self, value: Json) -> None:
        self.piece(value, 0.0)
        # One object has one arrival, which is no time of a token.
        self.reply.arrivals = type(self.reply.arrivals)()

    def _end(self, value: Json) -> None:
        reply = self.reply
        reply.complete = True
        reply.prompt_tokens = count(value.get("prompt_eval_count"))
        reply.completion_tokens = count(value.get("eval_count"))
        reply.prefill_seconds = seconds(value.get("prompt_eval_duration"), 1e9)
        reply.decode_seconds = seconds(value.get("eval_duration"), 1e9)
        reply.decode_tokens = reply.completion_tokens
        reply.load_seconds = seconds(value.get("load_duration"), 1e9)
        total = seconds(value.get("total_duration"), 1e9)
        if total is not None and reply.decode_seconds is not None:
            spent = (reply.load_seconds or 0.0) + (reply.prefill_seconds or 0.0) + reply.decode_seconds
            reply.queue_seconds = max(0.0, total - spent)
