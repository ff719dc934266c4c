"""A stream is read the same in every framing, under every media type and however its bytes are cut."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from collections.abc import Callable

import pytest

from joulebench.llm.decoder import MAX_INFLATED_AT_ONCE, ReplyDecoder
from joulebench.llm.events import EventSplitter
from joulebench.llm.readers import Api
from joulebench.llm.reply import ENCODING, IMPOSSIBLE_ZERO, NOT_JSON, TOO_LARGE, Reply
from joulebench.parsing import Json
from tests.unit.llm import fuzz

USAGE: Json = {"prompt_tokens": 10, "completion_tokens": 40, "total_tokens": 50}


def chunk(content: str | None = None, finish: str | None = None, **more: object) -> Json:
    delta: Json = {} if content is None else {"content": content}
    return {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


CHUNKS: list[Json] = [chunk("Grü"), chunk("ße 🦉"), chunk(None, "stop"), {"choices": [], "usage": USAGE}]


def data_lines(values: list[Json], between: str = "\n\n", field: str = "data: ") -> bytes:
    return "".join(f"{field}{json.dumps(value, ensure_ascii=False)}{between}" for value in values).encode() + (
        f"{field}[DONE]{between}".encode()
    )


def pretty(values: list[Json]) -> bytes:
    events = ["".join(f"data: {line}\n" for line in json.dumps(value, indent=1).splitlines()) + "\n" for value in values]
    return "".join(events).encode() + b"data: [DONE]\n\n"


FRAMINGS: dict[str, bytes] = {
    "plain": data_lines(CHUNKS),
    "no space": data_lines(CHUNKS, field="data:"),
    "CRLF": data_lines(CHUNKS, "\r\n\r\n"),
    "CR": data_lines(CHUNKS, "\r\r"),
    "one newline": data_lines(CHUNKS, "\n"),
    "byte-order mark": b"\xef\xbb\xbf" + data_lines(CHUNKS),
    "retry": b"retry: 3000\n\n" + data_lines(CHUNKS),
    "comments": b": ping\n\n" + data_lines(CHUNKS, "\n\n: ping\n\n"),
    "ids and events": data_lines(CHUNKS, field="id:1\nevent:result\n:HTTP_STATUS/200\ndata:"),
    "event after data": data_lines(CHUNKS, "\nevent: message\n\n"),
    "several data lines": pretty(CHUNKS),
    "no end": data_lines(CHUNKS).rstrip(),
    "no DONE": data_lines(CHUNKS).replace(b"data: [DONE]\n\n", b""),
    "lines of JSON": "".join(json.dumps(value) + "\n" for value in CHUNKS).encode(),
    "usage in every chunk": data_lines(
        [
            chunk("Grü", usage={"prompt_tokens": 10, "completion_tokens": 1}),
            chunk("ße 🦉", usage=USAGE),
            chunk(None, "stop", usage=None),
        ]
    ),
    "usage twice, then null": data_lines([*CHUNKS, {"choices": [], "usage": USAGE}, {"choices": [], "usage": None}]),
    "usage before the end": data_lines([chunk("Grü", usage=USAGE), *CHUNKS[1:3]]),
    "usage of zeros last": data_lines([*CHUNKS, {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}]),
}
MEDIA_TYPES = ("text/event-stream", "text/plain", "application/json", "application/x-ndjson", "")


def read(body: bytes, media_type: str = "text/event-stream", *, cuts: tuple[int, ...] = (), api: Api = Api.OPENAI_CHAT) -> Reply:
    decoder = ReplyDecoder(api, media_type, stream=True)
    for number, (begin, end) in enumerate(zip((0, *cuts), (*cuts, len(body)), strict=True)):
        decoder.feed(body[begin:end], float(number))
    return decoder.finish()


@pytest.mark.parametrize("name", FRAMINGS)
def test_a_reply_is_the_same_in_every_framing_and_cut(name: str) -> None:
    body = FRAMINGS[name]
    chance = random.Random(7)
    for media_type, count in itertools.product(MEDIA_TYPES, (0, 1, 2, 9, len(body) - 1)):
        for _ in range(1 if count in (0, len(body) - 1) else 15):
            reply = read(body, media_type, cuts=tuple(sorted(chance.sample(range(1, len(body)), count))))
            assert (reply.text, reply.finish_reason, reply.complete) == ("Grüße 🦉", "stop", True)
            assert (reply.prompt_tokens, reply.completion_tokens) == (10, 40)
            assert (reply.error, reply.problem) == (None, None)


@pytest.mark.parametrize("name", FRAMINGS)
def test_every_byte_belongs_to_one_event(name: str) -> None:
    body = FRAMINGS[name]
    for first, second in itertools.combinations(range(0, len(body) + 1, 3), 2):
        splitter = EventSplitter()
        parts = (body[:first], body[first:second], body[second:])
        events = [event.raw for part in parts for event in splitter.feed(part)]
        assert b"".join([*events, *(event.raw for event in splitter.finish())]) == body


@pytest.mark.parametrize("name", ["plain", "CRLF", "one newline", "several data lines", "lines of JSON"])
def test_an_event_is_read_when_its_last_line_has_come(name: str) -> None:
    """The first token is the first token in every framing, and not the second one."""
    separator = b"\n" if name in ("one newline", "lines of JSON") else b"\r\n\r\n" if name == "CRLF" else b"\n\n"
    decoder = ReplyDecoder(Api.OPENAI_CHAT, "text/event-stream", stream=True)
    for number, part in enumerate(FRAMINGS[name].split(separator)):
        decoder.feed(part + separator, float(number))
    assert (decoder.finish().arrivals.first, list(decoder.finish().arrivals.gaps)) == (0.0, [1.0])


@pytest.mark.parametrize("media_type", MEDIA_TYPES)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_whole_reply_to_a_request_for_a_stream_is_read_as_that(media_type: str, indent: int | None) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice], "usage": USAGE}, indent=indent).encode()
    reply = read(body, media_type, cuts=(1, 20))
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens, reply.complete) == ("Hello", 10, 40, True)
    assert (reply.problem, reply.arrivals.first) == (None, None)


def test_what_is_no_json_is_a_problem_and_the_rest_is_read() -> None:
    reply = read(b"data: {broken\n\n" + data_lines(CHUNKS))
    assert (reply.problem, reply.text, reply.completion_tokens) == (NOT_JSON, "Grüße 🦉", 40)


@pytest.mark.parametrize(
    "body",
    [
        b'data: {"error": {"message": "no"}}\n\n',
        b"event: error\ndata: no\n\n",
        b'error: {"message": "no"}\n\n',
        b'{"error":"no"}',
    ],
)
def test_an_error_in_a_stream_is_an_error(body: bytes) -> None:
    reply = read(body)
    assert "no" in (reply.error or "")


def test_a_line_beyond_the_limit_ends_the_reading_and_loses_no_byte() -> None:
    splitter = EventSplitter(limit=100)
    parts = [b"data: {}\n\n", *[b"x" * 30] * 6, b"\n\ndata: {}\n\n"]
    events = [event for part in parts for event in splitter.feed(part)]
    assert splitter.overflowed
    assert b"".join(event.raw for event in events) == b"".join(parts)
    assert [event.data for event in events if event.data] == [b"{}"]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_stream_is_read_and_a_bomb_is_not(coding: str) -> None:
    packed = gzip.compress(FRAMINGS["plain"])
    decoder = ReplyDecoder(Api.OPENAI_CHAT, "text/event-stream", "gzip", stream=True)
    for number, byte in enumerate(packed):
        decoder.feed(bytes([byte]), float(number))
    assert decoder.finish().completion_tokens == 40
    bomb = ReplyDecoder(Api.OPENAI_CHAT, "application/json", coding)
    bomb.feed(gzip.compress(b" " * (2 * MAX_INFLATED_AT_ONCE)), 0.0)
    assert bomb.finish().problem == TOO_LARGE
    broken = ReplyDecoder(Api.OPENAI_CHAT, "application/json", coding)
    broken.feed(b"\x00nothing of the kind", 0.0)
    assert broken.finish().problem == ENCODING


ZEROS: dict[str, tuple[Api, list[Json], Callable[[Reply], object], object]] = {
    "usage of zeros after text": (
        Api.OPENAI_CHAT,
        [chunk("Hello"), chunk(None, "length"), {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}],
        lambda reply: (reply.prompt_tokens, reply.completion_tokens, reply.decode_tokens, reply.problem),
        (None, None, None, IMPOSSIBLE_ZERO),
    ),
    "llama.cpp timings of zeros": (
        Api.OPENAI_CHAT,
        [
            chunk("a"),
            chunk(None, "stop", usage=USAGE, timings={"predicted_n": 0, "predicted_ms": 0, "prompt_n": 9, "prompt_ms": 0}),
        ],
        lambda reply: (reply.decode_seconds, reply.decode_tokens, reply.prefill_seconds, reply.completion_tokens),
        (None, None, None, 40),
    ),
    "Ollama without a count": (
        Api.OLLAMA_CHAT,
        [
            {"message": {"content": "Hi"}, "done": False},
            {"message": {"content": ""}, "done": True, "eval_count": 0, "eval_duration": 5, "prompt_eval_count": 0},
        ],
        lambda reply: (reply.prompt_tokens, reply.completion_tokens, reply.decode_seconds, reply.complete),
        (None, None, None, True),
    ),
    "nothing was generated": (
        Api.OPENAI_CHAT,
        [chunk(None, "length", usage={"prompt_tokens": 10, "completion_tokens": 0})],
        lambda reply: (reply.prompt_tokens, reply.completion_tokens, reply.problem),
        (10, 0, None),
    ),
    "negative, huge and fractional": (
        Api.OPENAI_CHAT,
        [chunk("a"), chunk(None, "stop", usage={"prompt_tokens": -3, "completion_tokens": 10**400, "total_tokens": 1.5})],
        lambda reply: (reply.prompt_tokens, reply.completion_tokens),
        (None, None),
    ),
    "more cached than there are": (
        Api.OPENAI_CHAT,
        [chunk("a"), chunk(None, "stop", usage={**USAGE, "prompt_tokens_details": {"cached_tokens": 99}})],
        lambda reply: (reply.prompt_tokens, reply.cached_tokens),
        (10, None),
    ),
}


@pytest.mark.parametrize(("api", "values", "see", "expected"), ZEROS.values(), ids=ZEROS)
def test_a_number_that_cannot_be_true_is_absent(
    api: Api, values: list[Json], see: Callable[[Reply], object], expected: object
) -> None:
    body = data_lines(values) if api.is_openai else "".join(json.dumps(value) + "\n" for value in values).encode()
    assert see(read(body, api=api)) == expected


def test_mutated_streams_raise_nothing_lose_no_byte_and_lower_no_counter() -> None:
    result = fuzz.play(3000, seed=13)
    assert (result.streams, result.lost_bytes, result.falling_counters) == (3000, 0, 0)
    assert result.wrongly_passed == 0
    assert result.passed > 1000
    # The mutations are of all kinds: whole replies, broken ones, and such as can no longer be read.
    assert min(result.outcomes[kind] for kind in ("ok", "incomplete", "error", "not_json", "impossible_zero", "encoding")) > 0
