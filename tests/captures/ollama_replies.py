"""Replies of a real Ollama, byte by byte as they came, and what is written in them: for tests that always run.

``python -m tests.ollama.record`` makes the files anew.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CAPTURES = Path(__file__).parent
DOORS = ("chat", "v1")

WEATHER = "What is the weather in Paris?"
DIVIDE = "Divide 9 by 3."
HAIKU = "Write a haiku."
BOTH = "What is the weather in Paris, and its population?"


@dataclass(frozen=True)
class Written:
    """What the model wrote, read off the token texts by eye. ``given``: calls that Ollama put into its reply.

    ``outcomes``: of all calls in their order. ``tokens``: as Ollama counted them, the end token included.
    """

    given: tuple[str, ...]
    outcomes: tuple[tuple[str | None, str], ...]
    tokens: int


WRITTEN = {
    WEATHER: Written(("get_weather",), (("get_weather", "ok"),), 30),
    DIVIDE: Written((), (("divide_by_3", "undeclared"),), 38),
    HAIKU: Written((), ((None, "malformed"),), 40),
    BOTH: Written(("get_weather",), (("get_weather", "ok"), ("population", "undeclared")), 56),
}


@dataclass(frozen=True)
class Recorded:
    path: str
    question: str
    stream: bool
    logprobs: bool
    body: str


def capture(door: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CAPTURES / "tool_calls" / f"ollama_smollm2_{door}.json").read_text(encoding="utf-8"))
    return found


def recorded(door: str, question: str, *, stream: bool, logprobs: bool) -> Recorded:
    told = capture(door)
    (reply,) = [
        one for one in told["replies"] if (one["question"], one["stream"], one["logprobs"]) == (question, stream, logprobs)
    ]
    return Recorded(told["path"], question, stream, logprobs, reply["body"])
