"""Replies of ``/v1/chat/completions`` and ``/v1/completions``: usage, llama.cpp's ``timings``, calls in pieces or whole."""

from __future__ import annotations

import json

from joulebench.parsing import Json, count, items, members, seconds, text
from joulebench.proxy.reply import Call, Reply, cached_in, error_in


class OpenAIReader:
    def __init__(self) -> None:
        self.reply = Reply()

    def done(self) -> None:
        """``[DONE]``."""
        self.reply.complete = True

    def piece(self, value: Json, now: float) -> None:
        """One chunk of a stream."""
        if self._common(value):
            return
        choice = members(next(iter(items(value.get("choices"))), None))
        delta = members(choice.get("delta"))
        said = text(delta.get("content")) or text(choice.get("text"))
        thought = text(delta.get("reasoning_content")) or text(delta.get("reasoning"))
        rows = self.reply.add_rows(members(choice.get("logprobs")).get("content"))
        in_progress = False
        for number, call in enumerate(map(members, items(delta.get("tool_calls")))):
            index = count(call.get("index"))
            in_progress |= self._call(number if index is None else index, call)
        self.reply.say(said)
        if said or thought or rows or in_progress:
            self.reply.arrivals.token(now)
        if choice.get("finish_reason"):
            self.reply.complete = True

    def whole(self, value: Json) -> None:
        if self._common(value):
            return
        choice = members(next(iter(items(value.get("choices"))), None))
        message = members(choice.get("message"))
        self.reply.say(text(message.get("content")) or text(choice.get("text")))
        self.reply.add_rows(members(choice.get("logprobs")).get("content"))
        for number, call in enumerate(map(members, items(message.get("tool_calls")))):
            self._call(number, call)
        self.reply.complete = bool(choice)

    def _common(self, value: Json) -> bool:
        """True where it is an error."""
        if error_in(value):
            self.reply.failed = True
            return True
        usage = members(value.get("usage"))
        if usage:
            self.reply.prompt_tokens = count(usage.get("prompt_tokens"))
            self.reply.completion_tokens = count(usage.get("completion_tokens"))
            self.reply.cached_tokens = cached_in(usage)
        llama_cpp_timings(self.reply, members(value.get("timings")))
        return False

    def _call(self, index: int, piece: Json) -> bool:
        """True where the piece can be a token: a finished call that comes at once says when it was complete, no more."""
        function = members(piece.get("function"))
        known = self.reply.calls.get(index)
        arguments = function.get("arguments")
        written = json.dumps(arguments) if isinstance(arguments, dict) else text(arguments)
        if known is None:
            known = self.reply.calls[index] = Call()
            partial = not is_json(written)
        else:
            partial = True
        known.name += text(function.get("name"))
        known.arguments += written
        return partial


def llama_cpp_timings(reply: Reply, timings: Json) -> None:
    """Milliseconds; ``prompt_n`` and ``prompt_ms`` cover what its prefix cache, ``cache_n``, did not hold. Empty: not told."""
    if not timings:
        return
    evaluated, cached = count(timings.get("prompt_n")), count(timings.get("cache_n"))
    reply.prefill_seconds = seconds(timings.get("prompt_ms"), 1e3)
    reply.prefill_tokens = evaluated
    reply.decode_seconds = seconds(timings.get("predicted_ms"), 1e3)
    reply.decode_tokens = count(timings.get("predicted_n"))
    reply.cached_tokens = cached
    # A stream without usage is still told whole here.
    if reply.prompt_tokens is None and evaluated is not None and cached is not None:
        reply.prompt_tokens = evaluated + cached
    if reply.completion_tokens is None:
        reply.completion_tokens = reply.decode_tokens


def is_json(written: str) -> bool:
    try:
        json.loads(written)
    except (ValueError, RecursionError):
        return False
    return True
