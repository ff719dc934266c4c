"""A chat completion put together: from one JSON answer or from the chunks of a stream, with the checks that both need.

A stream is whole only with a finish reason or ``[DONE]``; one that ends without either broke off, whatever came before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from joulebench import parsing
from joulebench.confidence.measures import TokenLogprob
from joulebench.errors import ModelError
from joulebench.llm import parts
from joulebench.llm.chat import Json, Reply, Timings, ToolMode, ToolSpec
from joulebench.llm.wire import json_line, server_error


class Assembly:
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
        if line.startswith((b":", b"event:")):
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
        for choice in map(parsing.members, parsing.items(chunk.get("choices"))[:1]):
            self._delta(choice, parsing.members(choice.get("delta")))

    def whole(self, answer: Json) -> None:
        failure = server_error(answer)
        if failure is not None:
            raise ModelError(f"the server failed: {failure}")
        choices = parsing.items(answer.get("choices"))
        if not choices:
            raise ModelError("the answer has no choices")
        self._common(answer)
        choice = parsing.members(choices[0])
        message = parsing.members(choice.get("message"))
        self._text.append(parsing.text(message.get("content")))
        self._rows = parts.logprob_rows(parsing.members(choice.get("logprobs")).get("content"))
        for number, call in enumerate(parsing.items(message.get("tool_calls"))):
            self._call_piece(number, parsing.members(call))
        self._finish = parsing.text(choice.get("finish_reason"))
        self._complete = True

    def _common(self, answer: Json) -> None:
        self._usage = parsing.members(answer.get("usage")) or self._usage
        self._timings = parsing.members(answer.get("timings")) or self._timings

    def _delta(self, choice: Json, delta: Json) -> None:
        rows = parts.logprob_rows(parsing.members(choice.get("logprobs")).get("content"))
        content = parsing.text(delta.get("content"))
        thinking = parsing.text(delta.get("reasoning_content")) or parsing.text(delta.get("reasoning"))
        calls = [parsing.members(call) for call in parsing.items(delta.get("tool_calls"))]
        self._text.append(content)
        self._rows += rows
        for call in calls:
            self._call_piece(parsing.count(call.get("index")) or 0, call)
        if rows or content or thinking or any(map(_in_progress, calls)):
            self._times.piece()
        finish = parsing.text(choice.get("finish_reason"))
        if finish:
            self._finish = finish
            self._complete = True

    def _call_piece(self, index: int, call: Json) -> None:
        function = parsing.members(call.get("function"))
        known = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        known["id"] = known["id"] or parsing.text(call.get("id"))
        known["name"] += parsing.text(function.get("name"))
        arguments = function.get("arguments")
        known["arguments"] += json.dumps(arguments) if isinstance(arguments, dict) else parsing.text(arguments)

    def reply(self, mode: ToolMode, tools: Sequence[ToolSpec]) -> Reply:
        if not self._complete:
            raise ModelError("the stream broke off before the reply was complete")
        content = "".join(self._text)
        rows = tuple(self._rows) or None
        calls = tuple(parts.tool_request(call["name"], call["arguments"], call["id"]) for _, call in sorted(self._calls.items()))
        completion_tokens = parsing.count(self._usage.get("completion_tokens"))
        return Reply(
            text=content,
            tool_calls=parts.tool_calls_of(mode, content, calls, rows, tools),
            rows=rows,
            prompt_tokens=parsing.count(self._usage.get("prompt_tokens")),
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
            prefill_seconds=parsing.seconds(self._timings.get("prompt_ms"), 1e3),
            decode_seconds=parsing.seconds(self._timings.get("predicted_ms"), 1e3),
            decode_tokens=parsing.count(self._timings.get("predicted_n")),
            cached_tokens=parsing.count(self._timings.get("cache_n")),
        )

    def _own_timings(self, completion_tokens: int | None) -> Timings:
        decode_seconds, decode_tokens = self._times.decode(completion_tokens)
        details = parsing.members(self._usage.get("prompt_tokens_details"))
        return Timings(
            decode_seconds=decode_seconds, decode_tokens=decode_tokens, cached_tokens=parsing.count(details.get("cached_tokens"))
        )


def _in_progress(call: Json) -> bool:
    """Whether a piece of a tool call is less than the whole of it."""
    arguments = parsing.members(call.get("function")).get("arguments")
    return not isinstance(arguments, dict) and parts.tool_request("", parsing.text(arguments) or "{").problem != ""
