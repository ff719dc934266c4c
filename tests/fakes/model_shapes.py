"""The two wire shapes of a scripted answer, as real servers send them: whole, or token by token."""

from __future__ import annotations

import json
import math

from tests.fakes.model_turns import MODEL, Json, Turn


def _row(turn: Turn, token: str) -> Json:
    logprob = math.log(turn.chances.get(token.strip(), turn.chance))
    rest = math.log(max(1.0 - math.exp(logprob), 1e-9))
    top: list[Json] = [{"token": token, "logprob": logprob}, {"token": "other", "logprob": rest}]
    return {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": top}


class OpenAIShape:
    """Shape of ``/v1/chat/completions``. With ``tools`` a call comes as parsed, else as the text that it is."""

    content_type = "text/event-stream"

    def __init__(self, turn: Turn, rows: bool, tools: bool, timings: bool) -> None:
        self._turn = turn
        self._rows = rows
        self._parsed = tools
        self._timings = timings

    def line(self, data: str) -> str:
        return f"data: {data}\n\n"

    def error(self, message: str) -> str:
        return self.line(json.dumps({"error": {"code": 500, "message": message}}))

    def head(self) -> list[str]:
        return [": ping\n\n", self._delta({"role": "assistant", "content": None})]

    def token(self, token: str) -> str:
        shown = token if not self._parsed or self._turn.content else ""
        rows = [_row(self._turn, token)] if self._rows else None
        if not shown and rows is None:
            return ": buffering\n\n"
        return self._delta({"content": shown}, rows)

    def tail(self) -> list[str]:
        calls = [self._delta({"tool_calls": [{"index": index, **call}]}) for index, call in enumerate(self._calls())]
        finish = self._delta({}, finish="tool_calls" if calls else self._turn.finish_reason)
        return [*calls, finish, self.line(json.dumps({"choices": [], **self._numbers()})), self.line("[DONE]")]

    def whole(self) -> Json:
        calls = self._calls()
        message: Json = {"role": "assistant", "content": self._turn.content if self._parsed else self._turn.raw}
        if calls:
            message["tool_calls"] = calls
        choice: Json = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else self._turn.finish_reason}
        if self._rows:
            choice["logprobs"] = {"content": [_row(self._turn, token) for token in self._turn.tokens]}
        return {"object": "chat.completion", "model": MODEL, "choices": [choice], **self._numbers()}

    def _calls(self) -> list[Json]:
        if not self._parsed:
            return []
        return [
            {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for index, (name, arguments) in enumerate(self._turn.calls)
        ]

    def _delta(self, delta: Json, rows: list[Json] | None = None, finish: str | None = None) -> str:
        choice: Json = {"index": 0, "delta": delta, "finish_reason": finish}
        if rows is not None:
            choice["logprobs"] = {"content": rows}
        return self.line(json.dumps({"object": "chat.completion.chunk", "choices": [choice]}))

    def _numbers(self) -> Json:
        turn = self._turn
        usage = {"prompt_tokens": turn.prompt_tokens, "completion_tokens": turn.completion_tokens}
        numbers: Json = {"usage": {**usage, "total_tokens": turn.prompt_tokens + turn.completion_tokens}}
        if self._timings:
            numbers["timings"] = {
                "cache_n": turn.cached_tokens,
                "prompt_n": turn.prompt_tokens - turn.cached_tokens,
                "prompt_ms": turn.prefill_ms,
                "predicted_n": turn.completion_tokens,
                "predicted_ms": turn.decode_ms,
            }
        return numbers


class OllamaShape:
    """Shape of ``/api/chat``: a line per token with its row, tool calls in one line when they are complete."""

    content_type = "application/x-ndjson"

    def __init__(self, turn: Turn, rows: bool, tools: bool) -> None:
        self._turn = turn
        self._rows = rows
        self._parsed = tools

    def line(self, data: str) -> str:
        return f"{data}\n"

    def error(self, message: str) -> str:
        return self.line(json.dumps({"error": message}))

    def head(self) -> list[str]:
        return []

    def token(self, token: str) -> str:
        shown = token if not self._parsed or self._turn.content else ""
        if not shown and not self._rows:
            return "\n"
        answer: Json = {"model": MODEL, "message": {"role": "assistant", "content": shown}, "done": False}
        if self._rows:
            answer["logprobs"] = [_row(self._turn, token)]
        return self.line(json.dumps(answer))

    def tail(self) -> list[str]:
        lines = []
        if self._parsed and self._turn.calls:
            message: Json = {"role": "assistant", "content": "", "tool_calls": self._calls()}
            lines.append(self.line(json.dumps({"model": MODEL, "message": message, "done": False})))
        return [*lines, self.line(json.dumps({**self._numbers(), "message": {"role": "assistant", "content": ""}}))]

    def whole(self) -> Json:
        message: Json = {"role": "assistant", "content": self._turn.content if self._parsed else self._turn.raw}
        if self._parsed and self._turn.calls:
            message["tool_calls"] = self._calls()
        answer: Json = {**self._numbers(), "message": message}
        if self._rows:
            answer["logprobs"] = [_row(self._turn, token) for token in self._turn.tokens]
        return answer

    def _calls(self) -> list[Json]:
        return [
            {"function": {"index": index, "name": name, "arguments": json.loads(arguments)}}
            for index, (name, arguments) in enumerate(self._turn.calls)
        ]

    def _numbers(self) -> Json:
        turn = self._turn
        return {
            "model": MODEL,
            "done": True,
            "done_reason": turn.finish_reason,
            "prompt_eval_count": turn.prompt_tokens,
            "eval_count": turn.completion_tokens,
            "load_duration": round(turn.load_ms * 1e6),
            "prompt_eval_duration": round(turn.prefill_ms * 1e6),
            "eval_duration": round(turn.decode_ms * 1e6),
        }
