"""Whatever a model server does to a request with additions, the client gets what it would have got without them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable

import pytest
import requests

from joulebench import metrics as m
from joulebench.llm.refusals import RefusalMemory
from tests.fakes.raw_upstream import Part, RawRequest, RawUpstream, chunked, whole
from tests.unit.proxy.conftest import StartProxy

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
STREAM = [
    b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
]
WHOLE = (
    b'{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2}}'
)
NATIVE = b'{"message":{"role":"assistant","content":"Hi"},"done":true,"prompt_eval_count":3,"eval_count":2}\n'


def failing_stream(body: bytes) -> Iterable[Part]:
    return chunked([body])


REFUSALS: dict[str, Callable[[], Iterable[Part]]] = {
    **{
        f"status {status}": lambda status=status: whole(b'{"error":"no"}', f"{status} No")  # type: ignore[misc]
        for status in (400, 403, 404, 405, 422, 500, 501, 502)
    },
    "closed": list,
    "closed in the head": lambda: [b"HTTP/1.1 200 OK\r\nContent-Type: text/"],
    "closed before the body": lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"],
    "error in a 200": lambda: whole(b'{"error":{"message":"unknown field"}}'),
    "error as the first event": lambda: failing_stream(b'data: {"error":{"message":"unknown field"}}\n\n'),
    "error after a comment": lambda: failing_stream(b': ping\n\nevent: error\ndata: {"message":"unknown field"}\n\n'),
    "an empty stream": lambda: failing_stream(b": bye\n\n"),
}


def is_extended(request: RawRequest) -> bool:
    return b"logprobs" in request.body or b"include_usage" in request.body


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("wire", ["stream", "whole", "ollama"])
def test_the_client_gets_the_reply_to_its_own_request(start_proxy: StartProxy, refusal: str, wire: str) -> None:
    def answer(request: RawRequest) -> Iterable[Part]:
        if is_extended(request):
            return REFUSALS[refusal]()
        last = "Connection: close\r\n"
        if wire == "stream":
            return chunked(STREAM, more=last)
        return whole(WHOLE, more=last) if wire == "whole" else chunked([NATIVE], "application/x-ndjson", last)

    with RawUpstream(answer, cut=True) as upstream:
        proxy = start_proxy(upstream.url, add_logprobs=3)
        path = "/api/chat" if wire == "ollama" else "/v1/chat/completions"
        body = {"model": "m", "stream": wire != "whole", "messages": [], "tools": TOOLS}
        for _ in range(4):
            got = requests.post(proxy.url + path, json=body, timeout=10)
            assert got.status_code == 200
            assert got.content == {"stream": b"".join(STREAM), "whole": WHOLE, "ollama": NATIVE}[wire]
        proxy.wait_until_over(4)
        # Tried once, remembered from then on.
        assert [is_extended(request) for request in upstream.requests] == [True, False, False, False, False]
        assert json.loads(upstream.requests[1].body) == body
    assert proxy.value(m.PROXY_REQUESTS, result="ok") == 4
    assert proxy.value(m.PROXY_REFUSED_ADDITIONS, model="m") == 1


@pytest.mark.parametrize("status", ["401 No", "429 Slow", "503 Busy"])
def test_a_refusal_that_no_body_can_change_is_passed_on_at_once(start_proxy: StartProxy, status: str) -> None:
    with RawUpstream(lambda _: whole(b'{"error":"no"}', status)) as upstream:
        proxy = start_proxy(upstream.url)
        got = requests.post(f"{proxy.url}/v1/chat/completions", json={"model": "m", "stream": True}, timeout=10)
        proxy.wait_until_over(1)
        assert (got.status_code, got.content, len(upstream.requests)) == (int(status[:3]), b'{"error":"no"}', 1)


def test_an_error_of_the_servers_own_is_its_answer_and_no_refusal(start_proxy: StartProxy) -> None:
    """Both requests fail, so the additions were not the cause and are tried again."""
    with RawUpstream(lambda _: whole(b'{"error":"out of memory"}', "500 Oops")) as upstream:
        proxy = start_proxy(upstream.url)
        for _ in range(2):
            got = requests.post(f"{proxy.url}/v1/chat/completions", json={"model": "m", "stream": True}, timeout=10)
            assert (got.status_code, got.content) == (500, b'{"error":"out of memory"}')
        proxy.wait_until_over(2)
        assert [is_extended(request) for request in upstream.requests] == [True, False, True, False]
    assert proxy.value(m.PROXY_REQUESTS, result="refused") == 2
    assert proxy.value(m.PROXY_REFUSED_ADDITIONS) is None


def test_an_error_after_the_first_token_is_passed_on(start_proxy: StartProxy) -> None:
    late = [STREAM[0], b'data: {"error":{"message":"out of memory"}}\n\n']
    with RawUpstream(lambda _: chunked(late)) as upstream:
        proxy = start_proxy(upstream.url)
        got = requests.post(f"{proxy.url}/v1/chat/completions", json={"model": "m", "stream": True}, timeout=10)
        proxy.wait_until_over(1)
        assert (got.content, len(upstream.requests)) == (b"".join(late), 1)
    assert proxy.value(m.PROXY_REQUESTS, result="broken") == 1


def test_a_refusal_is_forgotten_after_a_while_and_memory_is_bounded() -> None:
    memory = RefusalMemory(seconds=600.0)
    memory.remember("a", 100.0)
    assert memory.is_refused("a", 699.0)
    assert not memory.is_refused("a", 700.0)
    assert not memory.is_refused("a", 500.0)
    for number in range(5000):
        memory.remember(number, 0.0)
    assert [memory.is_refused(number, 1.0) for number in (0, 3999, 4000, 4999)] == [False, False, True, True]


LOGPROBS = b'"logprobs":{"content":[{"token":"Hi","logprob":-0.1,"bytes":[72,105],"top_logprobs":[]}]},'


def with_logprobs(body: bytes) -> bytes:
    return body.replace(b'"finish_reason":', LOGPROBS + b'"finish_reason":', 1)


def answer_compressed(request: RawRequest, pack: Callable[[bytes], bytes], coding: str) -> Iterable[Part]:
    """A reply in ``coding`` although the proxy asked for none; as it is where the client's own request came."""
    more = f"Content-Encoding: {coding}\r\n"
    is_stream = b'"stream": true' in request.body
    if is_extended(request):
        assert request.headers["Accept-Encoding"] == "identity"
        if is_stream:
            return chunked([pack(with_logprobs(b"".join(STREAM)))], more=more)
        return whole(pack(with_logprobs(WHOLE)), more=more)
    return chunked(STREAM) if is_stream else whole(WHOLE)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("coding", "pack", "sent"),
    [
        ("gzip", gzip.compress, 1),
        ("deflate", zlib.compress, 1),
        ("br", bytes, 2),
        ("gzip", lambda body: b"not packed" + body, 2),
        ("gzip", lambda body: gzip.compress(body) + gzip.compress(body), 2),
        ("gzip", lambda body: gzip.compress(body + b" " * 16 * 1024 * 1024), 2),
    ],
    ids=["gzip", "deflate", "a coding that is not read", "no gzip", "two members", "gzip bomb"],
)
def test_a_reply_that_is_compressed_unasked_holds_no_additions(
    start_proxy: StartProxy, stream: bool, coding: str, pack: Callable[[bytes], bytes], sent: int
) -> None:
    """It is decompressed within the limits, else the client's own request goes out."""
    with RawUpstream(lambda request: answer_compressed(request, pack, coding)) as upstream:
        proxy = start_proxy(upstream.url, add_logprobs=3)
        body = {"model": "m", "stream": stream, "messages": [], "tools": TOOLS}
        got = requests.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=10)
        proxy.wait_until_over(1)
        assert (got.status_code, "Content-Encoding" in got.headers) == (200, False)
        assert got.content == (b"".join(STREAM) if stream else WHOLE)
        assert len(upstream.requests) == sent
    assert proxy.value(m.PROXY_REQUESTS, result="ok") == 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_compressed_reply_that_breaks_off_is_not_passed_on_as_complete(start_proxy: StartProxy, stream: bool) -> None:
    def pack(body: bytes) -> bytes:
        return gzip.compress(body)[:-12]

    with RawUpstream(lambda request: answer_compressed(request, pack, "gzip")) as upstream:
        proxy = start_proxy(upstream.url, add_logprobs=3)
        url = f"{proxy.url}/v1/chat/completions"
        body = {"model": "m", "stream": stream, "messages": [], "tools": TOOLS}
        if stream:
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                requests.post(url, json=body, timeout=10)
        else:
            assert requests.post(url, json=body, timeout=10).content == WHOLE
        proxy.wait_until_over(1)
