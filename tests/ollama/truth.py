"""What Ollama said in a reply, read from its bytes by nothing of ours: the truth that measurements are held against."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.ollama.questions import DECLARED, TOOLS
from tests.ollama.tap import Exchange

Json = dict[str, Any]
OPENER, CLOSER = "<tool_call>", "</tool_call>"
TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "number": (int, float)}


@dataclass(frozen=True)
class Told:
    """``calls``: (name, arguments) as Ollama gave them. ``raw``: the text of all rows, empty without logprobs."""

    content: str
    calls: tuple[tuple[str, Json], ...]
    rows: tuple[Json, ...]
    prompt_tokens: int
    completion_tokens: int
    durations: dict[str, float]

    @property
    def raw(self) -> str:
        return "".join(row["token"] for row in self.rows)

    @property
    def attempted(self) -> bool:
        return OPENER in self.raw

    @property
    def swallowed(self) -> bool:
        """A call was begun, and the reply shows neither call nor text."""
        return self.attempted and not self.calls and not self.content

    @property
    def outcomes(self) -> Counter[str]:
        """What became of the calls that the model wrote; without the rows only of those that Ollama gives."""
        given = [_outcome(name, arguments) for name, arguments in self.calls]
        blocks = [block.partition(CLOSER)[0] for block in self.raw.split(OPENER)[1:]]
        return Counter([*given, *(outcome for outcome in map(_unparsed, blocks) if outcome)])


def told(exchange: Exchange) -> Told:
    assert exchange.status == 200, exchange.reply
    return _openai(exchange) if exchange.path.startswith("/v1/") else _native(exchange)


def _native(exchange: Exchange) -> Told:
    objects = exchange.objects
    (last,) = [one for one in objects if one.get("done")]
    messages = [one.get("message", {}) for one in objects]
    functions = [call["function"] for message in messages for call in message.get("tool_calls") or []]
    durations = {key: value / 1e9 for key, value in last.items() if key.endswith("_duration")}
    return Told(
        content="".join(message.get("content", "") for message in messages) + "".join(one.get("response", "") for one in objects),
        calls=tuple((function["name"], function["arguments"]) for function in functions),
        rows=tuple(row for one in objects for row in one.get("logprobs") or []),
        prompt_tokens=last["prompt_eval_count"],
        completion_tokens=last["eval_count"],
        durations=durations,
    )


def _openai(exchange: Exchange) -> Told:
    objects = exchange.objects
    (usage,) = [one["usage"] for one in objects if one.get("usage")]
    choices = [one["choices"][0] for one in objects if one["choices"]]
    said = [choice.get("message") or choice.get("delta") or {} for choice in choices]
    functions = [call["function"] for one in said for call in one.get("tool_calls") or []]
    return Told(
        content="".join(one.get("content") or "" for one in said),
        calls=tuple((function["name"], json.loads(function["arguments"])) for function in functions),
        rows=tuple(row for choice in choices for row in (choice.get("logprobs") or {}).get("content") or []),
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        durations={},
    )


def _outcome(name: str, arguments: Json) -> str:
    if name not in DECLARED:
        return "undeclared"
    (schema,) = [tool["function"]["parameters"] for tool in TOOLS if tool["function"]["name"] == name]
    wanted = {key: TYPES[kind["type"]] for key, kind in schema["properties"].items()}
    fits = all(isinstance(arguments.get(key), kind) for key, kind in wanted.items())
    return "ok" if fits else "schema_invalid"


def _unparsed(block: str) -> str | None:
    """Why Ollama does not give a call; None for one that it gives."""
    try:
        call = json.loads(block)
    except ValueError:
        return "malformed"
    assert set(call) == {"name", "arguments"}, block
    return None if call["name"] in DECLARED else "undeclared"
