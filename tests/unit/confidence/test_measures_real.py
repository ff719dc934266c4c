"""Rows of a real model (tests/captures/smollm2_tool_calls.json): each call is found, guesses are told from sure calls."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from joulebench.confidence.measures import AttemptedCall, TokenLogprob, find_attempted_calls, tool_call_confidences

CAPTURE = Path(__file__).parents[2] / "captures" / "smollm2_tool_calls.json"
DECLARED = ["get_weather", "get_time", "add"]


def replies() -> dict[str, list[TokenLogprob]]:
    return {
        reply["question"]: [TokenLogprob(token, logprob, tuple(map(tuple, top))) for token, logprob, top in reply["rows"]]
        for reply in json.loads(CAPTURE.read_text(encoding="utf-8"))["replies"]
    }


def attempt_at(question: str) -> AttemptedCall:
    (attempt,) = find_attempted_calls(replies()[question], DECLARED)
    return attempt


@pytest.mark.parametrize(
    ("question", "name", "outcome", "score"),
    [
        ("What time is it in Lisbon?", "get_time", "ok", 0.7936),
        ("Add 17 and 25.", "add", "ok", 0.6591),
        ("Tell me the weather in the capital of France.", "get_weather", "ok", 0.2086),
        ("What is the temperature in Oslo and in Bergen?", "get_temperature", "undeclared", 0.2878),
        ("Divide 9 by 3.", "divide_by_3", "undeclared", 0.6501),
        ("Translate 'hello' to German.", None, "malformed", None),
        ("Write a haiku.", None, "malformed", None),
    ],
)
def test_real_replies_are_read_right(question: str, name: str | None, outcome: str, score: float | None) -> None:
    attempt = attempt_at(question)
    assert (attempt.name, attempt.outcome) == (name, outcome)
    if score is None:
        assert attempt.confidence.score is None
    else:
        assert attempt.confidence.score == pytest.approx(score, abs=1e-4)


def test_name_tokens_are_those_of_the_name() -> None:
    """Independent of the locating code: the product over the rows that spell the name."""
    rows = replies()["What time is it in Lisbon?"]
    first = [row.token for row in rows].index("get")
    assert [row.token for row in rows[first : first + 3]] == ["get", "_", "time"]
    joint = math.prod(math.exp(row.logprob) for row in rows[first : first + 3])
    assert attempt_at("What time is it in Lisbon?").confidence.measures["name_joint"] == pytest.approx(joint)


def test_the_older_mean_hides_what_the_score_shows() -> None:
    guess = attempt_at("What is the temperature in Oslo and in Bergen?").confidence
    assert guess.score is not None
    assert guess.score < 0.3
    assert guess.measures["naive_mean"] > 0.8


def test_however_the_text_is_cut_into_tokens_the_call_is_found() -> None:
    rng = random.Random(7)
    text = '<think>x</think><tool_call>{"name": "get_time", "arguments": {"city": "Łódź \\"x\\"", "n": [1, -2.5e3]}}</tool_call>'
    for _ in range(300):
        cuts = sorted(rng.sample(range(1, len(text)), rng.randint(0, len(text) - 1)))
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        rows = [TokenLogprob(part, -rng.random(), ((part, -0.5), ("?", -2.0))) for part in parts]
        (found,) = tool_call_confidences(rows, ["get_time"], DECLARED)
        assert found.span_status == "ok"
        assert found.score is not None
        assert 0.0 <= found.score <= 1.0
        assert all(math.isfinite(value) for value in found.measures.values())
        worst = min(row.logprob for row in rows)
        assert found.measures["args_min"] >= math.exp(worst)
        assert found.measures["name_branch"] >= found.measures["name_joint"] * math.exp(worst) - 1e-12
