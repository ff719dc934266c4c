"""What the proxy added is gone from the reply again, and what is left is what the server would have sent without it.

Each style writes the same reply as its server does with and without the additions; the pair is the expectation.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from joulebench.llm.decoder import ReplyDecoder
from joulebench.llm.readers import Api
from joulebench.proxy.request import parse_request
from joulebench.proxy.rewrite import ExtendedRequest, RequestAdditions, ResponseFilter, with_members, without_members

ROW = {"token": ' "logprobs":', "logprob": -0.25, "bytes": [32], "top_logprobs": [{"token": '"usage"', "logprob": -0.25}]}
TOKENS = ['{"', "logprobs", '": null, "usage": {}}', "ü", "\n\n", "data: [DONE]"]
"""Text that looks like what is taken out."""
USAGE = {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}
TIMINGS = {"cache_n": 4, "prompt_n": 5, "prompt_ms": 1.5, "predicted_n": 6, "predicted_ms": 20.25, "per_second": 1e-7}

Style = Callable[[bool, bool], list[bytes]]
"""(with usage, with logprobs) -> the pieces of a reply."""


def event(value: object, compact: bool = False) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":") if compact else None)
    return f"data: {text}\n\n".encode()


def chunk(delta: dict[str, object], finish: str | None = None, **more: object) -> dict[str, object]:
    return {"id": "c1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "model": "m", **more}


def llama_cpp(usage: bool, logprobs: bool) -> list[bytes]:
    """Compact; timings are in the last event, whichever that is."""
    pieces = [event(chunk({"role": "assistant", "content": None}), compact=True)]
    for token in TOKENS:
        value = chunk({"content": token})
        if logprobs:
            value["choices"][0]["logprobs"] = {"content": [ROW]}  # type: ignore[index]
        pieces.append(event(value, compact=True))
    last = [chunk({}, "stop")]
    if usage:
        last.append({"choices": [], "id": "c1", "model": "m", "usage": USAGE})
    last[-1]["timings"] = TIMINGS
    return [*pieces, *(event(value, compact=True) for value in last), b"data: [DONE]\n\n"]


def vllm(usage: bool, logprobs: bool) -> list[bytes]:
    """Spaced; a chunk of every token, and the usage event has no timings."""
    pieces = [event(chunk({"role": "assistant", "content": ""}))]
    for token in TOKENS:
        value = chunk({"content": token})
        if logprobs:
            choice = {"index": 0, "delta": {"content": token}, "logprobs": {"content": [ROW]}, "finish_reason": None}
            value["choices"] = [choice]
        pieces.append(event(value))
    pieces.append(event(chunk({}, "stop")))
    if usage:
        pieces.append(event({"id": "c1", "choices": [], "usage": USAGE}))
    return [*pieces, b"data: [DONE]\n\n"]


def openai(usage: bool, logprobs: bool) -> list[bytes]:
    """Every event has a usage, null but in the last, where it was asked for."""
    more: dict[str, Any] = {"usage": None} if usage else {}
    pieces = [event(chunk({"content": token}, **more), compact=True) for token in TOKENS]
    pieces.append(event(chunk({}, "length", **more), compact=True))
    if usage:
        pieces.append(event({"choices": [], "usage": USAGE}, compact=True))
    return [*pieces, b"data: [DONE]\n\n"]


def ollama_v1_tools(usage: bool, logprobs: bool) -> list[bytes]:
    """A tool call is held back until it is parsed; with logprobs each of its tokens has an event of its own, without text."""
    pieces = []
    if logprobs:
        for _ in TOKENS:
            value = chunk({"role": "assistant", "content": ""})
            value["choices"][0]["logprobs"] = {"content": [ROW]}  # type: ignore[index]
            pieces.append(event(value, compact=True))
    call = {"id": "call_1", "function": {"name": "f", "arguments": '{"logprobs":1}'}}
    pieces.append(event(chunk({"role": "assistant", "content": "", "tool_calls": [call]}), compact=True))
    pieces.append(event(chunk({"role": "assistant", "content": ""}, "tool_calls"), compact=True))
    if usage:
        pieces.append(event({"choices": [], "usage": USAGE}, compact=True))
    return [*pieces, b"data: [DONE]\n\n"]


def ollama_native(usage: bool, logprobs: bool) -> list[bytes]:
    pieces: list[dict[str, object]] = []
    for token in TOKENS:
        value: dict[str, object] = {"model": "m", "message": {"role": "assistant", "content": token}, "done": False}
        pieces.append({**value, "logprobs": [ROW]} if logprobs else value)
    if logprobs:
        silent = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": False, "logprobs": [ROW]}
        pieces += [silent, silent]
    call = {"function": {"name": "f", "arguments": {"logprobs": [1]}}}
    pieces.append({"model": "m", "message": {"role": "assistant", "content": "", "tool_calls": [call]}, "done": False})
    pieces.append({"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "eval_count": 8})
    return [json.dumps(piece, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for piece in pieces]


CHAT, NATIVE = Api.OPENAI_CHAT, Api.OLLAMA_CHAT
CASES: Sequence[tuple[Style, Api, bool, bool]] = [
    (llama_cpp, CHAT, True, False),
    (llama_cpp, CHAT, True, True),
    (llama_cpp, CHAT, False, True),
    (vllm, CHAT, True, False),
    (vllm, CHAT, True, True),
    (openai, CHAT, True, False),
    (ollama_v1_tools, CHAT, True, True),
    (ollama_v1_tools, CHAT, True, False),
    (ollama_native, NATIVE, False, True),
]


@pytest.mark.parametrize(("style", "api", "usage", "logprobs"), CASES, ids=lambda case: getattr(case, "__name__", str(case)))
def test_the_client_gets_the_stream_of_its_own_request(style: Style, api: Api, usage: bool, logprobs: bool) -> None:
    """In any cut of the bytes, and in the fewest: seeded."""
    sent, wanted = b"".join(style(usage, logprobs)), b"".join(style(False, False))
    kind = "text/event-stream" if api.is_openai else "application/x-ndjson"
    chance = random.Random(3)
    for cuts in (0, 1, 7, 60, len(sent) - 1):
        places = sorted(chance.sample(range(1, len(sent)), cuts))
        decoder = ReplyDecoder(api, kind)
        response_filter = ResponseFilter(api, ExtendedRequest(b"", usage, logprobs), decoder)
        out = [response_filter.feed(sent[a:b], 0.0) for a, b in zip([0, *places], [*places, len(sent)], strict=True)]
        assert b"".join([*out, response_filter.finish(0.0)]) == wanted
        assert decoder.ended_well
        assert decoder.finish().completion_tokens == (8 if api is NATIVE else 6 if usage or style is llama_cpp else None)


def test_tokens_go_on_as_soon_as_their_event_is_whole() -> None:
    """Only the end of a stream is held back, until it is known whether a usage event follows."""
    decoder = ReplyDecoder(CHAT, "text/event-stream")
    response_filter = ResponseFilter(CHAT, ExtendedRequest(b"", usage=True), decoder)
    pieces = llama_cpp(True, False)
    for piece in pieces[:-3]:
        assert response_filter.passes_unchanged(piece)
        assert response_filter.feed(piece, 0.0) == piece
    assert not response_filter.passes_unchanged(pieces[-3])
    assert response_filter.feed(pieces[-3], 0.0) == b""
    assert response_filter.feed(pieces[-2], 0.0).endswith(
        b',"timings":' + json.dumps(TIMINGS, separators=(",", ":")).encode() + b"}\n\n"
    )
    assert response_filter.feed(pieces[-1], 0.0) == pieces[-1]


def test_a_stream_that_stops_anywhere_loses_nothing_of_what_came() -> None:
    pieces = vllm(False, False)
    sent = b"".join(pieces)
    for length in range(len(sent)):
        response_filter = ResponseFilter(CHAT, ExtendedRequest(b"", usage=True), ReplyDecoder(CHAT, "text/event-stream"))
        assert response_filter.feed(sent[:length], 0.0) + response_filter.finish(0.0) == sent[:length]


def test_every_choice_loses_its_logprobs() -> None:
    choices = [{"index": index, "message": {"content": "a"}, "logprobs": {"content": [ROW]}} for index in range(3)]
    bare = [{name: value for name, value in choice.items() if name != "logprobs"} for choice in choices]
    response_filter = ResponseFilter(CHAT, ExtendedRequest(b"", logprobs=True), ReplyDecoder(CHAT, "application/json"))
    assert response_filter.filter_whole(json.dumps({"choices": choices, "usage": USAGE}).encode()).decode() == json.dumps(
        {"choices": bare, "usage": USAGE}
    )


def test_what_is_no_json_passes_as_it_is() -> None:
    sent = b"data: {broken\n\n: comment\n\ndata: [1]\n\nevent: error\ndata: {}\n\n"
    response_filter = ResponseFilter(CHAT, ExtendedRequest(b"", True, True), ReplyDecoder(CHAT, "text/event-stream"))
    assert response_filter.feed(sent, 0.0) + response_filter.finish(0.0) == sent


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('{"a":1,"logprobs":[{"logprobs":2}]}', '{"a":1}'),
        ('{"logprobs" : null , "a": 1}', '{"a": 1}'),
        ('{"logprobs":null}', "{}"),
        ('{ "s": "\\"logprobs\\": 1", "logprobs": {"x": "}"} }', '{ "s": "\\"logprobs\\": 1" }'),
        ('{"in":{"logprobs":1},"logprobs":1}', '{"in":{"logprobs":1}}'),
        ('{"a":[1,2]}', '{"a":[1,2]}'),
        ('{"a":1,"logprobs":1,"logprobs":2}', '{"a":1}'),
    ],
)
def test_a_member_is_cut_out_and_nothing_else_changes(text: str, left: str) -> None:
    assert without_members(text, json.loads(text), [("logprobs",)]) == left


def test_members_are_put_in_at_the_end() -> None:
    assert with_members(b'{"a": [ {} ] \n}\n', ['"b":1']) == b'{"a": [ {} ],"b":1}\n'


BODIES = {
    "plain": b'{"model":"m","stream":true,"temperature":0.10}',
    "options": b'{"model":"m","stream":true,"stream_options":{"x":1}}',
    "null options": b'{"model":"m","stream":true,"stream_options":null}',
    "own usage": b'{"model":"m","stream":true,"stream_options":{"include_usage":false}}',
    "not streamed": b'{"model":"m"}',
    "tools": b'{"model":"m","stream":true,"tools":[{"function":{"name":"f"}}]}\n',
    "own logprobs": b'{"model":"m","tools":[{"function":{"name":"f"}}],"logprobs":false}',
    "utf-16": '{"model":"m","stream":true}'.encode("utf-16-le"),
}
ADDED = {
    "plain": b'{"model":"m","stream":true,"temperature":0.10,"stream_options":{"include_usage":true}}',
    "options": b'{"model": "m", "stream": true, "stream_options": {"x": 1, "include_usage": true}}',
    "null options": b'{"model": "m", "stream": true, "stream_options": {"include_usage": true}}',
    "tools": b'{"model":"m","stream":true,"tools":[{"function":{"name":"f"}}],"logprobs":true,"top_logprobs":4'
    b',"stream_options":{"include_usage":true}}\n',
}


@pytest.mark.parametrize("name", BODIES)
def test_only_what_the_client_left_open_is_filled_in(name: str) -> None:
    request = parse_request(CHAT, BODIES[name])
    assert request is not None
    added = RequestAdditions(usage=True, top_logprobs=4).extend(request, BODIES[name], 0.0)
    assert added.body == ADDED.get(name, BODIES[name])
    assert added.is_extended == (name in ADDED)


def test_ollama_is_asked_for_logprobs_only_and_text_completions_never() -> None:
    body = b'{"model":"m","tools":[{"function":{"name":"f"}}]}'
    for api, more in ((NATIVE, b',"logprobs":true,"top_logprobs":1}'), (Api.OLLAMA_TEXT, b"}")):
        request = parse_request(api, body)
        assert request is not None
        assert RequestAdditions(usage=True, top_logprobs=1).extend(request, body, 0.0).body == body[:-1] + more
