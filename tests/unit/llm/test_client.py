"""The benchmark's clients on servers that refuse what measures best, in whatever way, or that report what cannot be true."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import pytest

from joulebench.clock import SystemClock
from joulebench.errors import ModelError
from joulebench.llm.chat import ChatModel, Message, ModelRefused, ReplyBroken, ToolSpec
from joulebench.llm.client import OllamaChat, OpenAIChat
from joulebench.llm.http import ModelServerHttp
from joulebench.llm.refusals import TRY_AGAIN_AFTER
from joulebench.units import Seconds
from tests.fakes.raw_upstream import Part, RawRequest, RawUpstream, chunked, whole

TOOLS = [ToolSpec("f", "a tool", {"type": "object"})]
SSE = [
    b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n',
]
LINES = b'{"message":{"content":"Hi"},"done":false}\n{"message":{},"done":true,"prompt_eval_count":3,"eval_count":2}\n'


class MovableClock(SystemClock):
    """The monotonic clock, moved on by hand."""

    moved = 0.0

    def monotonic(self) -> Seconds:
        return Seconds(super().monotonic() + self.moved)


def client(api: str, upstream: RawUpstream, clock: SystemClock) -> ChatModel:
    if api == "ollama":
        return OllamaChat(ModelServerHttp(upstream.url, clock), "m", clock)
    return OpenAIChat(ModelServerHttp(f"{upstream.url}/v1", clock), "m", clock)


def ask(model: ChatModel, clock: SystemClock) -> str:
    return model.reply([Message("user", "hello")], TOOLS, lambda: None, Seconds(clock.monotonic() + 10.0)).text


REFUSALS: dict[str, Callable[[], Iterable[Part]]] = {
    **{
        f"status {status}": lambda status=status: whole(b'{"error":"no"}', f"{status} No")  # type: ignore[misc]
        for status in (400, 403, 405, 422, 500, 501)
    },
    "closed": list,
    "error in a 200": lambda: whole(b'{"error":{"message":"unknown field"}}'),
    "error as the first event": lambda: chunked([b'data: {"error":{"message":"unknown field"}}\n\n']),
}


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("api", ["openai", "ollama"])
def test_a_server_that_refuses_logprobs_answers_without_them(api: str, refusal: str) -> None:
    def answer(request: RawRequest) -> Iterable[Part]:
        if b"logprobs" in request.body:
            return REFUSALS[refusal]()
        return chunked([LINES], "application/x-ndjson") if api == "ollama" else chunked(SSE)

    clock = MovableClock()
    with RawUpstream(answer, cut=True) as upstream:
        model = client(api, upstream, clock)
        assert [ask(model, clock) for _ in range(3)] == ["Hi"] * 3
        asked = [b"logprobs" in request.body for request in upstream.requests]
        assert asked == [True, False, False, False]
        clock.moved = TRY_AGAIN_AFTER + 1
        assert ask(model, clock) == "Hi"
        assert [b"logprobs" in request.body for request in upstream.requests[4:]] == [True, False]
    (note,) = model.notes
    assert "no confidence" in note


@pytest.mark.parametrize(
    ("slow_with", "slow_without", "requested", "pairs"),
    [
        ([], [], True, 2),
        ([1], [], True, 2),
        ([1, 2, 3], [], True, 4),
        ([1, 2, 3, 4], [], False, 4),
        ([1, 2, 3, 4], [2, 3], False, 4),
        ([1, 2], [2], True, 3),
    ],
)
def test_logprobs_are_left_out_only_where_no_call_with_them_is_as_fast_as_one_without(
    slow_with: list[int], slow_without: list[int], requested: bool, pairs: int
) -> None:
    """Each call takes 1 s, those of the given numbers 2 s."""
    clock = MovableClock()
    counted = {True: 0, False: 0}

    def answer(request: RawRequest) -> Iterable[Part]:
        logprobs = b"logprobs" in request.body
        counted[logprobs] += 1
        clock.moved += 2.0 if counted[logprobs] in (slow_with if logprobs else slow_without) else 1.0
        return chunked([LINES], "application/x-ndjson")

    with RawUpstream(answer, cut=True) as upstream:
        model = OllamaChat(ModelServerHttp(upstream.url, clock), "m", clock)
        cost = model.measure_logprobs([Message("user", "hello")], TOOLS, Seconds(clock.monotonic() + 100.0))
        assert cost is not None
        assert (cost.is_cheap, counted) == (requested, {True: pairs, False: pairs})
        ask(model, clock)
        assert (b"logprobs" in upstream.requests[-1].body) is requested


def test_a_server_that_refuses_stream_options_answers_without_them() -> None:
    def answer(request: RawRequest) -> Iterable[Part]:
        if b"stream_options" in request.body:
            return whole(b'{"error":"Unrecognized request argument supplied: stream_options"}', "400 No")
        return chunked(SSE)

    clock = SystemClock()
    with RawUpstream(answer, cut=True) as upstream:
        model = client("openai", upstream, clock)
        assert ask(model, clock) == "Hi"
        last = json.loads(upstream.requests[-1].body)
        assert (last["logprobs"], "stream_options" in last) == (True, False)
    assert "no token counts" in model.notes[0]


def test_a_server_that_always_fails_fails() -> None:
    clock = SystemClock()
    with RawUpstream(lambda _: whole(b'{"error":"crashed"}', "500 Oops"), cut=True) as upstream:
        model = client("openai", upstream, clock)
        with pytest.raises(ModelRefused, match="crashed"):
            ask(model, clock)
        # With everything, without logprobs, without usage.
        assert len(upstream.requests) == 3
    assert model.notes == []


@pytest.mark.parametrize("status", [401, 429, 503])
def test_a_refusal_that_no_body_can_change_is_asked_once(status: int) -> None:
    clock = SystemClock()
    with RawUpstream(lambda _: whole(b'{"error":"no"}', f"{status} No"), cut=True) as upstream:
        with pytest.raises(ModelRefused):
            ask(client("openai", upstream, clock), clock)
        assert len(upstream.requests) == 1


def test_a_reply_that_breaks_after_its_first_token_is_not_asked_for_again() -> None:
    clock = SystemClock()
    with RawUpstream(lambda _: [*chunked(SSE[:1])][:-1], cut=True) as upstream:
        with pytest.raises(ReplyBroken, match="broke off"):
            ask(client("openai", upstream, clock), clock)
        assert len(upstream.requests) == 1


def test_a_usage_of_zeros_after_text_is_noted_and_no_full_context() -> None:
    """Seen as: every task failed with "the context was full after 0 tokens"."""
    usage = b'"usage":{"prompt_tokens":0,"completion_tokens":0}'
    zeros = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}],%s}\n\n' % usage
    clock = SystemClock()
    with RawUpstream(lambda _: chunked([SSE[0], zeros]), cut=True) as upstream:
        model = client("openai", upstream, clock)
        reply = model.reply([Message("user", "hello")], TOOLS, lambda: None, Seconds(clock.monotonic() + 10.0))
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens, reply.context_full) == ("Hi", None, None, False)
    assert "0 completion tokens" in model.notes[0]


def test_a_stream_under_another_media_type_is_read() -> None:
    clock = SystemClock()
    with RawUpstream(lambda _: chunked(SSE, "text/plain"), cut=True) as upstream:
        assert ask(client("openai", upstream, clock), clock) == "Hi"


def test_a_model_of_another_host_is_named() -> None:
    clock = SystemClock()
    remote = LINES.replace(b'{"message"', b'{"remote_model":"big","remote_host":"https://ollama.com:443","message"')
    with RawUpstream(lambda _: chunked([remote], "application/x-ndjson"), cut=True) as upstream:
        model = client("ollama", upstream, clock)
        reply = model.reply([Message("user", "hello")], TOOLS, lambda: None, Seconds(clock.monotonic() + 10.0))
    assert reply.remote_host == "https://ollama.com:443"


def test_no_server_is_no_reply() -> None:
    clock = SystemClock()
    with RawUpstream(lambda _: []) as upstream:
        model = client("openai", upstream, clock)
    with pytest.raises(ModelError):
        ask(model, clock)
