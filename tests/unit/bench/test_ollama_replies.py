"""What the runner makes of a real Ollama's replies (tests/captures/tool_calls), at both of its doors."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from joulebench.bench.prompts import opening
from joulebench.clock import SystemClock
from joulebench.confidence.measures import tool_call_confidences
from joulebench.llm.chat import ChatModel, Reply, ToolSpec
from joulebench.llm.client import OllamaChat, OpenAIChat
from joulebench.llm.http import ModelServerHttp
from joulebench.units import Seconds
from tests.captures.ollama_replies import DOORS, WEATHER, WRITTEN, Recorded, capture, recorded
from tests.unit.exporter.ollama_server import FakeOllama, ollama_server

CLOCK = SystemClock()


@pytest.fixture
def fake() -> Iterator[FakeOllama]:
    with ollama_server(FakeOllama()) as running:
        yield running


def reply_to(fake: FakeOllama, door: str, told: Recorded) -> Reply:
    fake.bodies[told.path] = told.body.encode()
    model: ChatModel
    if door == "chat":
        model = OllamaChat(ModelServerHttp(fake.url, CLOCK), "smollm2-tools", CLOCK, stream=told.stream)
    else:
        model = OpenAIChat(ModelServerHttp(f"{fake.url}/v1", CLOCK), "smollm2-tools", CLOCK, stream=told.stream)
    tools = [ToolSpec(name, name, {"type": "object"}) for name in capture(door)["declared"]]
    return model.reply(opening(told.question), tools, lambda: None, Seconds(CLOCK.monotonic() + 30.0))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("question", WRITTEN)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_calls_are_requests_in_their_order_also_those_that_ollama_is_silent_about(
    fake: FakeOllama, door: str, question: str, stream: bool
) -> None:
    reply = reply_to(fake, door, recorded(door, question, stream=stream, logprobs=True))
    written = WRITTEN[question]
    assert [request.name or None for request in reply.tool_calls] == [name for name, _ in written.outcomes]
    assert [request.arguments is not None for request in reply.tool_calls] == [one == "ok" for _, one in written.outcomes]
    assert [bool(request.problem) for request in reply.tool_calls] == [one == "malformed" for _, one in written.outcomes]
    assert reply.text == ""
    assert reply.rows is not None
    confidences = tool_call_confidences(reply.rows, [request.name for request in reply.tool_calls], capture(door)["declared"])
    assert [one.score is not None for one in confidences] == [one != "malformed" for _, one in written.outcomes]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_counts_and_times_are_those_of_the_last_line(fake: FakeOllama, stream: bool) -> None:
    told = recorded("chat", WEATHER, stream=stream, logprobs=True)
    last = json.loads(told.body.splitlines()[-1])
    reply = reply_to(fake, "chat", told)
    assert (reply.prompt_tokens, reply.completion_tokens) == (last["prompt_eval_count"], last["eval_count"]) == (364, 30)
    assert reply.prefill_seconds == pytest.approx(last["prompt_eval_duration"] / 1e9)
    assert reply.decode_seconds == pytest.approx(last["eval_duration"] / 1e9)
    assert reply.load_seconds == pytest.approx(last["load_duration"] / 1e9)
    # 364 tokens in 0.07 s were not computed but cached, and Ollama does not say how many.
    assert reply.cached_tokens is None
    assert (reply.first_token_seconds is not None) == stream


def test_a_whole_call_without_rows_has_no_time_of_a_first_token(fake: FakeOllama) -> None:
    """Its one line comes when the call is complete."""
    for door in DOORS:
        reply = reply_to(fake, door, recorded(door, WEATHER, stream=True, logprobs=False))
        assert [request.name for request in reply.tool_calls] == ["get_weather"]
        assert reply.first_token_seconds is None
        assert reply.rows is None
