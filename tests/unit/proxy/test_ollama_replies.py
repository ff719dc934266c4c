"""What the proxy makes of a real Ollama's replies (tests/captures/tool_calls): read, judged and, with additions, given back."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from joulebench.llm.decoder import ReplyDecoder
from joulebench.llm.readers import Api
from joulebench.parsing import Json
from joulebench.proxy.accounting import judge_tool_calls
from joulebench.proxy.rewrite import ExtendedRequest, ResponseFilter
from joulebench.proxy.schema_check import evaluate
from tests.captures.ollama_replies import BOTH, DOORS, HAIKU, WRITTEN, Recorded, capture, recorded

APIS = {"chat": Api.OLLAMA_CHAT, "v1": Api.OPENAI_CHAT}
STREAM_TYPES = {"chat": "application/x-ndjson", "v1": "text/event-stream"}
STREAMS = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
DOOR = pytest.mark.parametrize("door", DOORS)
QUESTION = pytest.mark.parametrize("question", WRITTEN)


def decoder_for(door: str, stream: bool) -> ReplyDecoder:
    return ReplyDecoder(APIS[door], STREAM_TYPES[door] if stream else "application/json; charset=utf-8")


def read(door: str, reply: Recorded) -> ReplyDecoder:
    decoder = decoder_for(door, reply.stream)
    decoder.feed(reply.body.encode(), 1.0)
    return decoder


@DOOR
@QUESTION
@STREAMS
def test_a_reply_is_read_to_its_end_with_the_counts_that_it_tells(door: str, question: str, stream: bool) -> None:
    decoder = read(door, recorded(door, question, stream=stream, logprobs=True))
    assert decoder.ended_well
    reply = decoder.finish()
    # A /v1 stream tells its usage only to those who ask.
    assert reply.completion_tokens == (None if door == "v1" and stream else WRITTEN[question].tokens)
    assert len(reply.rows or ()) == WRITTEN[question].tokens - 1
    assert [call.name for call in reply.tool_calls] == list(WRITTEN[question].given)
    assert (reply.load_seconds is not None, reply.decode_seconds is not None) == (door == "chat", door == "chat")
    assert (reply.cached_tokens, reply.prefill_tokens) == (None, None)


@DOOR
@QUESTION
@STREAMS
def test_every_call_is_counted_once_as_what_it_is_also_one_that_ollama_is_silent_about(
    door: str, question: str, stream: bool
) -> None:
    tools: dict[str, Json] = {name: {} for name in capture(door)["declared"]}
    reply = read(door, recorded(door, question, stream=stream, logprobs=True)).finish()
    found = judge_tool_calls(reply, tools, evaluate)
    assert Counter(call.outcome for call in found) == Counter(outcome for _, outcome in WRITTEN[question].outcomes)
    for call in found:
        assert (call.confidence.score is not None) == (call.outcome != "malformed")


@DOOR
def test_without_rows_a_dropped_call_cannot_be_seen_and_none_is_made_up(door: str) -> None:
    tools: dict[str, Json] = {name: {} for name in capture(door)["declared"]}
    for question, seen in ((HAIKU, []), (BOTH, ["ok"])):
        reply = read(door, recorded(door, question, stream=False, logprobs=False)).finish()
        assert [call.outcome for call in judge_tool_calls(reply, tools, evaluate)] == seen


def steady(reply: bytes) -> bytes:
    """Without what differs from one answer to the same question to the next."""
    return re.sub(rb'"(id|created|created_at|[a-z_]+_duration)":("[^"]*"|\d+)', b"", reply)


@DOOR
@QUESTION
@STREAMS
def test_with_the_logprobs_taken_out_it_is_the_reply_that_came_without_them(door: str, question: str, stream: bool) -> None:
    """However the network cut it."""
    added, plain = (recorded(door, question, stream=stream, logprobs=one).body.encode() for one in (True, False))
    rng = random.Random(question)
    for _ in range(5):
        response_filter = ResponseFilter(APIS[door], ExtendedRequest(b"", logprobs=True), decoder_for(door, stream))
        if not stream:
            assert steady(response_filter.filter_whole(added)) == steady(plain)
            continue
        cuts = sorted(rng.sample(range(1, len(added)), 20))
        shown = b""
        for begin, end in zip([0, *cuts], [*cuts, len(added)], strict=True):
            shown += response_filter.feed(added[begin:end], 1.0)
        shown += response_filter.finish(2.0)
        assert steady(shown) == steady(plain)
