"""Replies of real servers in six forms (tests/captures/tool_calls): a real tokenizer cuts the calls, and each is found.

What is expected is what the model wrote, read off the recorded text; the numbers come from the recorded rows by other means.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from joulebench.confidence.measures import TokenLogprob, find_attempted_calls, tool_call_confidences
from joulebench.llm.decoder import ReplyDecoder
from joulebench.llm.readers import Api, parse_logprob_rows
from tests.captures import ollama_replies
from tests.captures.ollama_replies import DOORS

CAPTURES = Path(__file__).parents[2] / "captures" / "tool_calls"
FORMS = ("hermes", "function gemma", "gemma 4", "python", "cohere", "deepseek")


def capture(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CAPTURES / f"{name}.json").read_text(encoding="utf-8"))
    return found


def gemma(form: str) -> Iterator[tuple[str, list[TokenLogprob]]]:
    for reply in capture("llamacpp_gemma3_270m")["replies"]:
        if reply["form"] == form:
            yield reply["question"], parse_logprob_rows(reply["answer"]["choices"][0]["logprobs"]["content"])


def test_every_capture_names_its_server_and_its_version() -> None:
    servers = [json.loads(file.read_text(encoding="utf-8"))["server"] for file in CAPTURES.glob("*.json")]
    assert set(servers) == {"llama.cpp by xllamacpp 2026.10.11549", "Ollama 0.17.4"}


# Each question's call as the text has it. The stop string swallowed the closing brace of one row text: that call is not whole.
WRITTEN = {
    "hermes": [("get_time", "ok"), ("add", "ok"), ("get_time", "ok"), ("divide", "undeclared")],
    "function gemma": [("get_time", "ok"), ("add", "ok"), ("get_time", "ok"), ("divide", "undeclared")],
    "gemma 4": [("get_time", "ok"), ("get_time", "ok"), ("get_time", "ok"), ("divide", "undeclared")],
    "python": [("get_time", "ok"), ("get_time", "ok"), ("get_time", "ok"), ("divide", "undeclared")],
    "cohere": [("get_time", "ok"), ("get_time", "ok"), ("get_time", "ok"), ("divide", "undeclared")],
    "deepseek": [("get_time", "malformed"), ("add", "ok"), ("get_time", "ok"), ("divide", "undeclared")],
}


@pytest.mark.parametrize("form", FORMS)
def test_calls_of_a_real_tokenizer_are_found(form: str) -> None:
    declared = capture("llamacpp_gemma3_270m")["declared"]
    found = []
    for question, rows in gemma(form):
        (attempt,) = find_attempted_calls(rows, declared)
        found.append((attempt.name, attempt.outcome))
        wanted = "partial" if attempt.outcome == "malformed" else "ok"
        assert attempt.confidence.span_status == wanted, question
        assert (attempt.confidence.score is not None) == (wanted == "ok")
    assert found == WRITTEN[form]


@pytest.mark.parametrize("form", FORMS)
def test_measures_are_those_of_the_rows_that_spell_name_and_value(form: str) -> None:
    """The rows are found by walking the token texts, not by the code under test."""
    question, rows = list(gemma(form))[2]
    assert question == "What time is it in Lisbon?"
    text = "".join(row.token for row in rows)
    value = "Lisboa" if "Lisboa" in text else "Lisbon"
    (attempt,) = find_attempted_calls(rows, ["get_weather", "get_time", "add"])
    measures = attempt.confidence.measures
    assert measures["name_joint"] == pytest.approx(math.prod(row.probability for row in overlapping(rows, "get_time")))
    assert measures["args_min"] == pytest.approx(min(row.probability for row in overlapping(rows, value)))


def overlapping(rows: list[TokenLogprob], word: str) -> list[TokenLogprob]:
    text = "".join(row.token for row in rows)
    begin = text.index(word)
    found, at = [], 0
    for row in rows:
        if at < begin + len(word) and at + len(row.token) > begin:
            found.append(row)
        at += len(row.token)
    return found


def test_a_server_that_parses_calls_gives_rows_that_cover_them() -> None:
    told = capture("llamacpp_smollm2_native")
    for reply in told["replies"]:
        decoder = ReplyDecoder(Api.OPENAI_CHAT, "application/json")
        decoder.feed(json.dumps(reply["answer"]).encode(), 0.0)
        answer = decoder.finish()
        assert answer.rows is not None
        assert len(answer.rows) == answer.completion_tokens
        (call,) = answer.tool_calls
        (confidence,) = tool_call_confidences(answer.rows, [call.name], told["declared"])
        assert confidence.span_status == "ok"
        value = next(iter(json.loads(call.raw_arguments).values()))
        assert confidence.measures["args_min"] == pytest.approx(
            min(row.probability for row in overlapping(list(answer.rows), str(value)))
        )


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("question", ollama_replies.WRITTEN)
def test_calls_that_a_real_ollama_gave_and_kept_silent_about_are_found_in_its_rows(door: str, question: str) -> None:
    body = json.loads(ollama_replies.recorded(door, question, stream=False, logprobs=True).body)
    rows = parse_logprob_rows(body["logprobs"] if door == "chat" else body["choices"][0]["logprobs"]["content"])
    written = ollama_replies.WRITTEN[question]
    attempts = find_attempted_calls(rows, ollama_replies.capture(door)["declared"])
    assert tuple((attempt.name, attempt.outcome) for attempt in attempts) == written.outcomes
    for attempt in attempts:
        assert attempt.confidence.span_status == ("not_found" if attempt.outcome == "malformed" else "ok")
        if attempt.name is None:
            continue
        measures = attempt.confidence.measures
        assert measures["name_joint"] == pytest.approx(math.prod(row.probability for row in overlapping(rows, attempt.name)))


def test_a_stream_of_text_gives_the_same_kind_of_rows() -> None:
    told = capture("llamacpp_smollm2_prompt_stream")
    for reply in told["replies"]:
        decoder = ReplyDecoder(Api.OPENAI_CHAT, "text/event-stream", stream=True)
        for number, line in enumerate(reply["lines"]):
            decoder.feed(line.encode() + b"\n\n", float(number))
        answer = decoder.finish()
        assert answer.rows is not None
        assert "".join(row.token for row in answer.rows) == answer.text
        (attempt,) = find_attempted_calls(answer.rows, told["declared"])
        assert attempt.confidence.span_status == "ok"
        assert attempt.outcome in ("ok", "undeclared")
