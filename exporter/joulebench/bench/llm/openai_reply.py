"""A chat completion put together: from one JSON answer or from the chunks of a stream, with the checks that both need.

A stream is whole only with a finish reason or ``[DONE]``; one that ends without either broke off, whatever came before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from joulebench import values
from joulebench.bench.llm import parts
from joulebench.bench.llm.chat import Json, Reply, Timings, ToolMode, ToolSpec
from joulebench.bench.llm.wire import json_line, server_error
from joulebench.confidence.measures import TokenLogprob
from joulebench.errors import ModelError


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
        for choice in map(values.members, values.items(chunk.get("choices"))[:1]):
            self._delta(choice, values.members(choice.get("delta")))

    def whole(self, answer: Json) -> None:
        failure = server_error(answer)
        if failure is not None:
            raise ModelError(f"the server failed: {failure}")
        choices = values.items(answer.get("choices"))
        if not choices:
            raise ModelError("the answer has no choices")
        self._common(answer)
        choice = values.members(choices[0])
        message = values.members(choice.get("message"))
        self._text.append(values.text(message.get("content")))
        self._rows = parts.logprob_rows(values.members(choice.get("logprobs")).get("content"))
        for number, call in enumerate(values.items(message.get("tool_calls"))):
            self._call_piece(number, values.members(call))
        self._finish = values.text(choice.get("finish_reason"))
        self._complete = True

    def _common(self, answer: Json) -> None:
        self._usage = values.members(answer.get("usage")) or self._usage
        self._timings = values.members(answer.get("timings")) or self._timings

    def _delta(self, choice: Json, delta: Json) -> None:
        rows = parts.logprob_rows(values.members(choice.get("logprobs")).get("content"))
        content = values.text(delta.get("content"))
        thinking = values.text(delta.get("reasoning_content")) or values.text(delta.get("reasoning"))
        calls = [values.members(call) for call in values.items(delta.get("tool_calls"))]
        self._text.append(content)
        self._rows += rows
        for call in calls:
            self._call_piece(values.count(call.get("index")) or 0, call)
        if rows or content or thinking or any(map(_in_progress, calls)):
            self._times.piece()
        finish = values.text(choice.get("finish_reason"))
        if finish:
            self._finish = finish
            self._complete = True

    def _call_piece(self, index: int, call: Json) -> None:
        function = values.members(call.get("function"))
        known = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        known["id"] = known["id"] or values.text(call.get("id"))
        known["name"] += values.text(function.get("name"))
        arguments = function.get("arguments")
        known["arguments"] += json.dumps(arguments) if isinstance(arguments, dict) else values.text(arguments)

    def reply(self, mode: ToolMode, tools: Sequence[ToolSpec]) -> Reply:
        if not self._complete:
            raise ModelError("the stream broke off before the reply was complete")
        content = "".join(self._text)
        rows = tuple(self._rows) or None
        calls = tuple(parts.tool_request(call["name"], call["arguments"], call["id"]) for _, call in sorted(self._calls.items()))
        completion_tokens = values.count(self._usage.get("completion_tokens"))
        return Reply(
            text=content,
            tool_calls=parts.tool_calls_of(mode, content, calls, rows, tools),
            rows=rows,
            prompt_tokens=values.count(self._usage.get("prompt_tokens")),
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
            prefill_seconds=values.seconds(self._timings.get("prompt_ms"), 1e3),
            decode_seconds=values.seconds(self._timings.get("predicted_ms"), 1e3),
            decode_tokens=values.count(self._timings.get("predicted_n")),
            cached_tokens=values.count(self._timings.get("cache_n")),
        )

    def _own_timings(self, completion_tokens: int | None) -> Timings:
        decode_seconds, decode_tokens = self._times.decode(completion_tokens)
        details = values.members(self._usage.get("prompt_tokens_details"))
        return Timings(
            decode_seconds=decode_seconds, decode_tokens=decode_tokens, cached_tokens=values.count(details.get("cached_tokens"))
        )


def _in_progress(call: Json) -> bool:
    """Whether a piece of a tool call is less than the whole of it."""
    arguments = values.members(call.get("function")).get("arguments")
    return not isinstance(arguments, dict) and parts.tool_request("", values.text(arguments) or "{").problem != ""
