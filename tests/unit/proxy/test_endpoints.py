"""The endpoints beside chat: what is counted is what the reply tells, whoever wrote it.

Recorded: every exchange of ``captures/endpoints``, from a real llama.cpp and a real Ollama. From documentation: replies in forms
that Ollama, OpenAI and Anthropic describe and that no server at hand gives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from joulebench import metrics as m
from joulebench.llm.decoder import ReplyDecoder
from joulebench.llm.readers import Api, read_embedding
from joulebench.llm.reply import Reply
from joulebench.proxy.request import parse_request
from tests.fakes.raw_upstream import RawUpstream, chunked, whole
from tests.unit.proxy.conftest import StartProxy
from tests.unit.proxy.seen import Seen, wait_for

RECORDED: list[dict[str, Any]] = [
    {**exchange, "server": file.stem}
    for file in sorted((Path(__file__).parents[2] / "captures" / "endpoints").glob("*.json"))
    for exchange in json.loads(file.read_text(encoding="utf-8"))["exchanges"]
]
SSE, JSON = "text/event-stream", "application/json"


def recorded(exchange: dict[str, Any]) -> str:
    return f"{exchange['server']}: {exchange['name']}{', stream' if exchange['request']['stream'] else ''}"


def through(start_proxy: StartProxy, path: str, request: object, kind: str, body: bytes) -> tuple[bytes, Seen]:
    """What a client gets of this reply, the bytes of a stream in pieces of 100, and a proxy that has counted it."""
    pieces = [body[at : at + 100] for at in range(0, len(body), 100)]
    with RawUpstream(lambda _: chunked(pieces, kind) if kind == SSE else whole(body, kind=kind)) as upstream:
        proxy = start_proxy(upstream.url, add_logprobs=2)
        got = requests.post(f"{proxy.url}/run/r/task/t{path}", json=request, timeout=30)
        proxy.wait_until_over(1)
        assert json.loads(upstream.requests[0].body) == request, "nothing is asked for beyond the client"
    return got.content, proxy


@pytest.mark.parametrize("exchange", [one for one in RECORDED if one["path"] != "/v1/completions"], ids=recorded)
def test_a_recorded_exchange_is_counted_exactly_and_passes_unchanged(start_proxy: StartProxy, exchange: dict[str, Any]) -> None:
    sent = exchange["body"].encode()
    got, proxy = through(start_proxy, exchange["path"], exchange["request"], exchange["content_type"], sent)
    assert got == sent
    truth = {name: [int(number) for number in re.findall(rf'"{name}":(\d+)', exchange["body"])] for name in COUNTS}
    prompt = truth["input_tokens"][-1] + sum(truth["cache_read_input_tokens"])
    assert proxy.value(m.PROXY_PROMPT_TOKENS) == prompt
    assert proxy.value(m.PROXY_COMPLETION_TOKENS) == truth["output_tokens"][-1]
    assert proxy.value(m.PROXY_CACHED_TOKENS) == (sum(truth["cache_read_input_tokens"]) or (0 if truth["cache_n"] else None))
    assert proxy.value(m.PROXY_TOOL_CALLS, outcome="ok") == (1 if exchange["name"].endswith("call") else None)
    assert proxy.value(m.PROXY_REQUESTS, result="ok") == 1
    assert proxy.value(m.PROXY_UNREAD_REQUESTS) is None
    # Each piece is a token, and so is the name of a call, which comes when its item or block begins. Ollama gives calls whole.
    pieces = len(re.findall(r"^event: (?!message)\S+delta$", exchange["body"], re.MULTILINE))
    is_call = exchange["name"].endswith("call")
    seen = exchange["request"]["stream"] and not (is_call and exchange["server"] == "ollama")
    assert proxy.value(m.PROXY_TASK_TTFT, "_count") == (1 if seen else None)
    assert proxy.value(m.PROXY_TOKEN_GAP, "_count") == (pieces + is_call - 1 if seen else None)


COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_n")


@pytest.mark.parametrize("stream", [True, False])
def test_plain_completions_lose_the_usage_that_only_the_proxy_asked_for(start_proxy: StartProxy, stream: bool) -> None:
    found = (one for one in RECORDED if (one["server"], one["path"]) == ("llamacpp", "/v1/completions"))
    exchange = next(one for one in found if one["request"]["stream"] is stream)
    sent = exchange["body"].encode()
    with RawUpstream(lambda _: chunked([sent]) if stream else whole(sent)) as upstream:
        proxy = start_proxy(upstream.url, add_logprobs=2)
        got = requests.post(f"{proxy.url}/v1/completions", json=exchange["request"], timeout=30)
        proxy.wait_until_over(1)
    assert got.content == sent, "llama.cpp puts its usage into the last piece, where a client sees it unasked"
    assert proxy.value(m.PROXY_PROMPT_TOKENS) == 4
    assert proxy.value(m.PROXY_COMPLETION_TOKENS) == 8
    assert proxy.value(m.PROXY_TASK_TTFT, "_count") == (1 if stream else None)


def events(values: Iterable[Mapping[str, object]]) -> bytes:
    return b"".join(f"event: {value['type']}\ndata: {json.dumps(value)}\n\n".encode() for value in values)


def response(status: str = "completed", output: object = (), **more: object) -> dict[str, object]:
    usage = {"input_tokens": 31, "output_tokens": 7, "total_tokens": 38, "input_tokens_details": {"cached_tokens": 0}}
    return {"object": "response", "status": status, "error": None, "output": output, "usage": usage, **more}


def of_response(kind: str, **more: object) -> dict[str, object]:
    return {"type": f"response.{kind}", **more}


def call_item(status: str, arguments: str = "") -> dict[str, object]:
    return {"id": "fc_1", "type": "function_call", "status": status, "call_id": "c1", "name": "weather", "arguments": arguments}


PARIS = '{"city":"Paris"}'
OLLAMA_RESPONSES = [
    of_response("created", response=response("in_progress", usage=None)),
    of_response("output_item.added", output_index=0, item={"id": "rs_1", "type": "reasoning", "summary": []}),
    of_response("reasoning_summary_text.delta", item_id="rs_1", output_index=0, delta="Hm"),
    of_response("reasoning_summary_text.delta", item_id="rs_1", output_index=0, delta="m."),
    of_response("output_item.added", output_index=1, item=call_item("in_progress")),
    of_response("function_call_arguments.delta", item_id="fc_1", output_index=1, delta=PARIS),
    of_response("function_call_arguments.done", item_id="fc_1", output_index=1, arguments=PARIS),
    of_response("output_item.done", output_index=1, item=call_item("completed", PARIS)),
    of_response("completed", response=response(output=[{"type": "reasoning"}, call_item("completed", PARIS)])),
]
OPENAI_RESPONSES = [
    of_response("created", response=response("in_progress", usage=None)),
    of_response("output_text.delta", item_id="m", delta="It", logprobs=[{"token": "It", "logprob": -0.5, "top_logprobs": []}]),
    of_response("output_text.delta", item_id="m", delta="", logprobs=[]),
    of_response("refusal.delta", item_id="m", delta="No"),
    of_response("incomplete", response=response("incomplete", incomplete_details={"reason": "max_output_tokens"})),
]
OLLAMA_MESSAGES: list[dict[str, object]] = [
    {"type": "message_start", "message": {"type": "message", "content": [], "usage": {"input_tokens": 999, "output_tokens": 0}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "abc"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "ping"},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "c", "name": "weather", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": PARIS}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"input_tokens": 31, "output_tokens": 7}},
    {"type": "message_stop"},
]
ANTHROPIC_MESSAGES: list[dict[str, object]] = [
    {
        "type": "message_start",
        "message": {
            "type": "message",
            "content": [],
            "usage": {"input_tokens": 1, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 10, "output_tokens": 1},
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Well"}},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "c", "name": "weather", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"city":'}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '"Paris"}'}},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 7}},
    {"type": "message_stop"},
]


class Described(NamedTuple):
    """A stream in its documented form, and what it comes to: pieces that are tokens, calls, cached tokens."""

    api: Api
    stream: list[dict[str, object]]
    tokens: int
    calls: int
    cached: int | None


DESCRIBED = {
    "Ollama, responses": Described(Api.RESPONSES, OLLAMA_RESPONSES, 2, 1, None),
    "OpenAI, responses": Described(Api.RESPONSES, OPENAI_RESPONSES, 2, 0, None),
    "Ollama, messages": Described(Api.MESSAGES, OLLAMA_MESSAGES, 1, 1, None),
    "Anthropic, messages": Described(Api.MESSAGES, ANTHROPIC_MESSAGES, 4, 1, 20),
}


def read(api: Api, body: bytes, kind: str = SSE) -> tuple[Reply, bool]:
    decoder = ReplyDecoder(api, kind)
    for number, line in enumerate(body.splitlines(keepends=True)):
        decoder.feed(line, float(number))
    return decoder.finish(), decoder.ended_well


@pytest.mark.parametrize("described", DESCRIBED.values(), ids=DESCRIBED)
def test_a_stream_in_its_documented_form(described: Described) -> None:
    reply, ended_well = read(described.api, events(described.stream))
    assert ended_well
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens) == (31, 7, described.cached)
    assert len(reply.arrivals.gaps) + 1 == described.tokens
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("weather", {"city": "Paris"})] * described.calls


@pytest.mark.parametrize("described", DESCRIBED.values(), ids=DESCRIBED)
def test_a_stream_without_its_end_is_broken(described: Described) -> None:
    assert not read(described.api, events(described.stream[:-1]))[1]


FAILED = {
    "response failed": (Api.RESPONSES, [of_response("failed", response=response("failed", error={"code": "server_error"}))]),
    "response error": (Api.RESPONSES, [{"type": "error", "code": "x", "message": "no"}]),
    "message error": (Api.MESSAGES, [{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}]),
}


@pytest.mark.parametrize(("api", "stream"), FAILED.values(), ids=FAILED)
def test_a_failure_that_is_told_in_the_stream(api: Api, stream: list[dict[str, object]]) -> None:
    reply, ended_well = read(api, events(stream))
    assert not ended_well
    assert reply.error
    end = of_response("completed", response=response()) if api is Api.RESPONSES else {"type": "message_stop"}
    assert not read(api, json.dumps({"error": {"message": "no"}}).encode(), JSON)[1]
    assert read(api, events([end]))[1]


def test_the_tools_of_each_api_are_read() -> None:
    schema = {"type": "object"}
    declared = {
        Api.OPENAI_CHAT: {"type": "function", "function": {"name": "f", "parameters": schema}},
        Api.RESPONSES: {"type": "function", "name": "f", "parameters": schema},
        Api.MESSAGES: {"name": "f", "input_schema": schema},
    }
    for api, tool in declared.items():
        request = parse_request(api, json.dumps({"model": "m", "tools": [tool, {"type": "web_search"}, 3]}).encode())
        assert request is not None
        assert (request.tools, request.stream) == ({"f": schema}, False)


EMBEDDINGS = {
    "OpenAI": ("/v1/embeddings", {"object": "list", "data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 5}}, 5),
    "base64": ("/v1/embeddings", {"data": [{"embedding": "AAAA"}], "usage": {"prompt_tokens": 5, "total_tokens": 5}}, 5),
    "Ollama": ("/api/embed", {"embeddings": [[0.1, 2]], "load_duration": 2_000_000_000, "prompt_eval_count": 6}, 6),
    "Ollama, older": ("/api/embeddings", {"embedding": [0.1, 2]}, None),
}


@pytest.mark.parametrize(("path", "reply", "prompt"), EMBEDDINGS.values(), ids=EMBEDDINGS)
def test_embeddings_have_a_prompt_and_no_completion(
    start_proxy: StartProxy, path: str, reply: object, prompt: int | None
) -> None:
    _, proxy = through(start_proxy, path, {"model": "e", "input": "prompt_tokens: 99"}, JSON, json.dumps(reply).encode())
    assert proxy.value(m.PROXY_PROMPT_TOKENS) == prompt
    assert proxy.value(m.PROXY_COMPLETION_TOKENS) is None
    assert proxy.value(m.PROXY_LOAD, "_sum") == (2.0 if path == "/api/embed" else None)
    assert proxy.value(m.PROXY_TASK_DURATION, "_count") == 1
    assert proxy.value(m.PROXY_UNREAD_REQUESTS, cause="no_usage") == (1 if prompt is None else None)


@pytest.mark.parametrize(("member", "unread"), [({}, 1), ({"echo": True}, None)])
def test_a_list_of_prompts_at_once_whose_usage_covers_one_of_them_is_flagged(
    start_proxy: StartProxy, member: dict[str, object], unread: int | None
) -> None:
    choices = [{"index": number, "text": "one two three four five six", "finish_reason": "stop"} for number in range(3)]
    reply = {"object": "text_completion", "choices": choices, "usage": {"prompt_tokens": 4, "completion_tokens": 6}}
    body = {"model": "m", "prompt": ["a", "b", "c"], **member}
    answer, proxy = through(start_proxy, "/v1/completions", body, JSON, json.dumps(reply).encode())
    assert json.loads(answer) == reply
    assert proxy.value(m.PROXY_UNREAD_REQUESTS, cause="one_choice") == unread


@pytest.mark.parametrize("stream", [True, False])
def test_generate_of_ollama(stream: bool) -> None:
    """From documentation."""
    counts = {"done": True, "done_reason": "stop", "prompt_eval_count": 26, "prompt_eval_duration": 130_000_000}
    counts |= {"eval_count": 3, "eval_duration": 60_000_000, "load_duration": 5_000_000, "total_duration": 200_000_000}
    said = [{"thinking": "Hm"}, {"response": "The"}, {"response": " sky"}] if stream else []
    lines = [
        *({"model": "m", **one, "done": False} for one in said),
        {"model": "m", "response": "" if stream else "The sky", **counts},
    ]
    body = "".join(json.dumps(line) + "\n" for line in lines).encode()
    reply, ended_well = read(Api.OLLAMA_TEXT, body, "application/x-ndjson" if stream else JSON)
    assert ended_well
    assert (reply.prompt_tokens, reply.completion_tokens, reply.text) == (26, 3, "The sky")
    assert (reply.prefill_seconds, reply.decode_seconds, reply.load_seconds) == (0.13, 0.06, 0.005)
    assert reply.other_seconds == pytest.approx(0.005)
    assert (reply.arrivals.first, len(reply.arrivals.gaps)) == ((0.0, 2) if stream else (None, 0))


def test_what_is_no_embedding_is_no_answer() -> None:
    assert not read_embedding(b'{"error":"this model does not support embeddings"}').complete


def test_a_model_server_that_is_not_there_is_told_in_the_form_of_the_api(start_proxy: StartProxy) -> None:
    proxy = start_proxy("http://127.0.0.1:9")
    told = {
        path: requests.post(proxy.url + path, json={"model": "m"}, timeout=30).json()
        for path in ("/v1/messages", "/v1/responses")
    }
    assert told["/v1/messages"]["type"] == "error"
    assert all("does not answer" in one["error"]["message"] for one in told.values())
    wait_for(lambda: proxy.value(m.PROXY_REQUESTS, result="unreachable") == 2)
