"""Replies of ``/v1/responses``: named events, the last of which holds the whole response once more, with its usage.

What arrives in pieces is read for its time; calls and counts are taken from the whole response. Ollama tells of no cached tokens
whatever its cache held, so a count of 0 is no news here.
"""

from __future__ import annotations

from joulebench.parsing import Json, count, items, members, text
from joulebench.proxy.openai_reply import is_json, llama_cpp_timings
from joulebench.proxy.reply import Call, Reply, error_in

_ENDS = ("response.completed", "response.incomplete", "response.failed")
_CALL_PIECE = "response.function_call_arguments.delta"
_TEXT_PIECE = "response.output_text.delta"


class ResponsesReader:
    def __init__(self) -> None:
        self.reply = Reply()
        self._begun: dict[str, float] = {}
        """When a call was announced of which no argument has come yet, by the id of its item."""

    def done(self) -> None:
        """Some servers end with ``[DONE]``; the end is told before it."""

    def piece(self, value: Json, now: float) -> None:
        kind = text(value.get("type"))
        if kind == "error" or error_in(value):
            self.reply.failed = True
        elif kind in _ENDS:
            self._end(members(value.get("response")))
            llama_cpp_timings(self.reply, members(value.get("timings")))
        elif kind == "response.output_item.added":
            item = members(value.get("item"))
            if item.get("type") == "function_call":
                self._begun[text(item.get("id"))] = now
        elif kind.endswith(".delta") and text(value.get("delta")):
            self._delta(kind, value, now)

    def whole(self, value: Json) -> None:
        self._end(value)
        for item in map(members, items(value.get("output"))):
            for part in map(members, items(item.get("content"))):
                if part.get("type") == "output_text":
                    self.reply.say(text(part.get("text")))
                    self.reply.add_rows(part.get("logprobs"))

    def _delta(self, kind: str, value: Json, now: float) -> None:
        delta = text(value.get("delta"))
        if kind == _CALL_PIECE:
            begun = self._begun.pop(text(value.get("item_id")), None)
            if begun is not None:
                if is_json(delta):
                    # A finished call that comes at once says when it was complete, no more.
                    return
                self.reply.arrivals.token(begun)
        elif kind == _TEXT_PIECE:
            self.reply.say(delta)
            self.reply.add_rows(value.get("logprobs"))
        self.reply.arrivals.token(now)

    def _end(self, response: Json) -> None:
        reply = self.reply
        reply.failed = response.get("status") == "failed" or error_in(response)
        reply.complete = not reply.failed
        usage = members(response.get("usage"))
        reply.prompt_tokens = count(usage.get("input_tokens"))
        reply.completion_tokens = count(usage.get("output_tokens"))
        reply.cached_tokens = count(members(usage.get("input_tokens_details")).get("cached_tokens")) or None
        for item in map(members, items(response.get("output"))):
            if item.get("type") == "function_call":
                reply.calls[len(reply.calls)] = Call(text(item.get("name")), text(item.get("arguments")))
