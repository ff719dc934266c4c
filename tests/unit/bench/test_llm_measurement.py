"""Times and logprobs at the edges: what is claimed is true, and what cannot be known is not claimed.

A time to first token is bounded below by the moment the server held it back and above by the moment the server sent it plus a
slack; upper bounds are loose, since a test machine may be busy.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from joulebench.bench.prompts import opening
from joulebench.bench.tools import SPECS
from joulebench.llm.chat import ChatModel, ModelRefused, Reply
from joulebench.llm.client import OpenAIChat
from joulebench.llm.http import ModelServerHttp
from joulebench.units import Seconds
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import call, say
from tests.unit.bench.conftest import CLOCK, NOWHERE, Work, of_type, ollama, openai, write_hello

SLACK = 2.0
HELD_BACK = 0.15

Client = Callable[[ModelServer], ChatModel]
RIGHT = call("write_file", path="out.txt", text="hello")


def prompted(server: ModelServer) -> ChatModel:
    return openai(server, "prompt")


def ask(model: ChatModel, seen: list[float] | None = None) -> Reply:
    def first_token() -> None:
        if seen is not None:
            seen.append(time.monotonic())

    return model.reply(opening("Write 'hello' to out.txt."), SPECS, first_token, Seconds(CLOCK.monotonic() + 20.0))


@pytest.mark.parametrize("client", [openai, prompted, ollama])
@pytest.mark.parametrize("turn", [RIGHT, say("It is done, I think.")])
def test_time_to_first_token_is_the_time_of_the_first_token(client: Client, turn: object, work: Work) -> None:
    assert isinstance(turn, type(RIGHT))
    seen: list[float] = []
    with ModelServer([turn.with_(first_token_after=HELD_BACK, token_gap=0.02)]) as server:
        reply = ask(client(server), seen)
        (exchange,) = server.exchanges
    assert exchange.first_token_at is not None
    assert len(seen) == 1
    assert exchange.first_token_at <= seen[0] < exchange.first_token_at + SLACK
    assert reply.first_token_seconds is not None
    assert reply.first_token_seconds >= HELD_BACK


def test_first_token_comes_before_the_end_in_the_journal(work: Work) -> None:
    with ModelServer([RIGHT.with_(first_token_after=HELD_BACK, token_gap=0.02), call("finish", answer="done")]) as server:
        _, events = work(openai(server), write_hello())
    end = of_type(events, "LLM_QUERY_END")[0]
    assert HELD_BACK <= end["ttft_seconds"] <= end["duration_seconds"] - 0.02 * (len(RIGHT.tokens) - 2)


@pytest.mark.parametrize("timings", [True, False])
def test_decode_time_is_the_servers_else_first_to_last_token(timings: bool) -> None:
    turn = RIGHT.with_(first_token_after=HELD_BACK, token_gap=0.01, decode_ms=777.0, cached_tokens=60)
    with ModelServer([turn], timings=timings) as server:
        reply = ask(openai(server))
    if timings:
        assert reply.decode_seconds == pytest.approx(0.777)
        assert (reply.decode_tokens, reply.cached_tokens) == (turn.completion_tokens, 60)
        return
    assert reply.prefill_seconds is None
    assert reply.decode_tokens == turn.completion_tokens - 1
    assert reply.decode_seconds is not None
    assert 0.01 * (len(turn.tokens) - 1) * 0.9 <= reply.decode_seconds < SLACK


@pytest.mark.parametrize("client", [openai, ollama])
def test_a_call_that_comes_in_one_piece_has_no_first_token(client: Client) -> None:
    seen: list[float] = []
    with ModelServer([RIGHT], logprobs="ignored", timings=False) as server:
        reply = ask(client(server), seen)
    assert [call.name for call in reply.tool_calls] == ["write_file"]
    assert (seen, reply.first_token_seconds, reply.rows) == ([], None, None)


def test_a_whole_reply_has_no_first_token() -> None:
    seen: list[float] = []
    with ModelServer([RIGHT.with_(first_token_after=HELD_BACK)]) as server:
        reply = ask(openai(server, stream=False), seen)
    assert (seen, reply.first_token_seconds) == ([], None)
    assert reply.rows is not None
    assert "".join(row.token for row in reply.rows) == RIGHT.raw


@pytest.mark.parametrize("client", [openai, ollama])
def test_refused_logprobs_are_given_up_once_and_noted(client: Client, work: Work) -> None:
    with ModelServer([RIGHT, call("finish", answer="done")], logprobs="refused") as server:
        model = client(server)
        outcome, events = work(model, write_hello())
        assert [exchange.refused for exchange in server.exchanges] == [True, False, False]
    assert outcome.status == "success"
    starts = of_type(events, "TOOL_CALL_START")
    assert [(start["span_status"], start["confidence"]) for start in starts] == [("no_logprobs", None)] * 2
    (note,) = model.notes
    assert "no confidence" in note
    assert "logprobs is not supported by this model" in note


def test_tools_with_stream_and_logprobs_refused_gives_up_the_stream_first(work: Work) -> None:
    turns = [RIGHT, call("finish", answer="done")]
    with ModelServer(turns, logprobs="refused_with_tools_and_stream") as server:
        model = openai(server)
        outcome, events = work(model, write_hello())
        assert [exchange.body.get("stream") for exchange in server.served] == [False, False]
    assert outcome.confidences == pytest.approx([0.99, 0.99])
    assert [end["ttft_seconds"] for end in of_type(events, "LLM_QUERY_END")] == [None, None]
    assert "no time to first token" in model.notes[0]


def test_prompt_mode_keeps_both_where_native_mode_cannot(work: Work) -> None:
    turns = [RIGHT, call("finish", answer="done")]
    with ModelServer(turns, logprobs="refused_with_tools_and_stream") as server:
        model = openai(server, "prompt")
        outcome, events = work(model, write_hello())
        assert all("tools" not in exchange.body for exchange in server.exchanges)
    assert outcome.confidences == pytest.approx([0.99, 0.99])
    assert all(end["ttft_seconds"] is not None for end in of_type(events, "LLM_QUERY_END"))
    assert model.notes == []


def test_a_refusal_of_anything_else_stays_a_refusal() -> None:
    with ModelServer([], logprobs="refused") as server:
        model = openai(server)
        with pytest.raises(ModelRefused, match="the script is over"):
            ask(model)
    assert model.notes == []


def test_an_api_key_goes_out_as_a_bearer_token_and_no_proxy_stands_before_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", NOWHERE)
    monkeypatch.setenv("http_proxy", NOWHERE)
    with ModelServer([say("yes")]) as server:
        reply = ask(OpenAIChat(ModelServerHttp(server.openai_url, CLOCK, "sesame"), "m", CLOCK))
    assert reply.text == "yes"
    assert server.exchanges[0].authorization == "Bearer sesame"
