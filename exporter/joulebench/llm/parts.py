"""Pieces that both protocols share: logprob rows read with suspicion, and the assembly of a streamed reply."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from joulebench.clock import Clock
from joulebench.confidence.measures import AttemptedCall, TokenLogprob, find_attempted_calls, find_unreported_calls
from joulebench.llm import hermes
from joulebench.llm.chat import Json, Message, ToolMode, ToolRequest, ToolSpec
from joulebench.parsing import items, members, number, text
from joulebench.units import Seconds

UNPARSED = "this is not the form of a tool call"


def declarations(tools: Sequence[ToolSpec]) -> list[Json]:
    """The ``tools`` field, the same for both protocols."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
        }
        for tool in tools
    ]


def logprob_rows(value: object) -> list[TokenLogprob]:
    """The rows of one answer or chunk.

    A row without a usable logprob is left out: its text is then missing from the rows, so that no span is covered by a guess.
    Source: ``choices[].logprobs.content`` of OpenAI-compatible servers, ``logprobs`` of Ollama.
    """
    rows = []
    for item in items(value):
        row = members(item)
        logprob = number(row.get("logprob"))
        if logprob is None:
            continue
        top = [(text(other.get("token")), number(other.get("logprob"))) for other in map(members, items(row.get("top_logprobs")))]
        rows.append(
            TokenLogprob(text(row.get("token")), logprob, tuple((token, value) for token, value in top if value is not None))
        )
    return rows


def tool_request(name: object, arguments: object, call_id: str = "") -> ToolRequest:
    """A call that the server parsed. ``arguments`` is JSON text (OpenAI) or an object (Ollama)."""
    if not isinstance(arguments, str):
        return ToolRequest(text(name), json.dumps(arguments, ensure_ascii=False), arguments, "", call_id)
    try:
        return ToolRequest(text(name), arguments, json.loads(arguments) if arguments.strip() else {}, "", call_id)
    except (ValueError, RecursionError) as error:
        return ToolRequest(text(name), arguments, None, f"the arguments are not JSON: {error}", call_id)


def replayed(messages: Sequence[Message]) -> list[Message]:
    """The conversation as a server can take it that was silent about a call: that turn as the text that it was, its results too.

    As a call it could only be made up: a server takes none without arguments, and a model copies what it is shown.
    """
    shown: list[Message] = []
    as_text = False
    for message in messages:
        if message.role == "assistant":
            raw = next((call.raw_arguments for call in message.tool_calls if call.left_out), None)
            as_text = raw is not None
            shown.append(message if raw is None else Message("assistant", raw))
        elif message.role == "tool" and as_text:
            shown.append(Message("user", f"Result of {message.tool_name}:\n{message.text}"))
        else:
            shown.append(message)
    return shown


def unparsed_calls(content: str, rows: Sequence[TokenLogprob] | None, tools: Sequence[ToolSpec]) -> tuple[ToolRequest, ...]:
    """Attempts that the parser left out: only the token text, else the content, still shows that the model meant a call."""
    raw = "".join(row.token for row in rows or ()) or content
    return tuple(_unparsed(attempt, raw) for attempt in find_attempted_calls(rows or content, [tool.name for tool in tools]))


def _unparsed(attempt: AttemptedCall, raw: str) -> ToolRequest:
    return ToolRequest(attempt.name or "", raw, None, "" if attempt.outcome == "undeclared" else UNPARSED, left_out=True)


def with_left_out(
    calls: tuple[ToolRequest, ...], rows: Sequence[TokenLogprob], tools: Sequence[ToolSpec]
) -> tuple[ToolRequest, ...]:
    """The server's calls and, in their places, those beside them that it was silent about."""
    raw = "".join(row.token for row in rows)
    every = list(calls)
    for place, attempt in reversed(find_unreported_calls(rows, [call.name for call in calls], [tool.name for tool in tools])):
        every.insert(place, _unparsed(attempt, raw))
    return tuple(every)


def tool_calls_of(
    mode: ToolMode,
    content: str,
    calls: tuple[ToolRequest, ...],
    rows: Sequence[TokenLogprob] | None,
    tools: Sequence[ToolSpec],
) -> tuple[ToolRequest, ...]:
    """The calls of a reply: what the parser took, and the attempts that it did not take."""
    if mode == "prompt":
        return hermes.parse(content) or unparsed_calls(content, rows, tools)
    return with_left_out(calls, rows or (), tools) if calls else unparsed_calls(content, rows, tools)


class TokenTimes:
    """When the tokens of one streamed reply arrived.

    A piece counts as a token only where it can be one: text, thinking or a logprob row. A finished tool call that comes in one
    piece says when the call was complete, not when its first token was.
    """

    def __init__(self, clock: Clock, first_token: Callable[[], None]) -> None:
        self._clock = clock
        self._first_token = first_token
        self._begin = clock.monotonic()
        self._first: Seconds | None = None
        self._last: Seconds | None = None
        self._pieces = 0

    def piece(self) -> None:
        now = self._clock.monotonic()
        if self._first is None:
            self._first = now
            self._first_token()
        self._last = now
        self._pieces += 1

    @property
    def first_token_seconds(self) -> Seconds | None:
        return None if self._first is None else Seconds(self._first - self._begin)

    def decode(self, completion_tokens: int | None) -> tuple[Seconds | None, int | None]:
        """First to last token and the tokens in it, where most tokens came as pieces of their own."""
        if self._first is None or self._last is None or completion_tokens is None:
            return None, None
        if self._pieces < 2 or self._pieces < completion_tokens / 2 or self._last <= self._first:
            return None, None
        return Seconds(self._last - self._first), completion_tokens - 1
