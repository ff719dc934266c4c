"""What goes through the proxy is what the model server and the client wrote: bytes, status, headers, framing and failure."""

from __future__ import annotations

import gzip
import http.client
import json
import random
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests

from joulebench import metrics as m
from tests.fakes.raw_upstream import Part, RawRequest, RawUpstream, chunked, whole
from tests.unit.proxy.conftest import StartProxy
from tests.unit.proxy.seen import wait_for

EVENTS = [
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":null}}]}\n\n',
    'data: {"choices":[{"index":0,"delta":{"content":"gr\u00fc\u00df"}}]}\n\n'.encode(),
    b': a comment\r\n\r\ndata: {"choices": [ {"delta":{"content":"x"} , "finish_reason":"stop"}]}\r\n\r\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n',
    b"data: [DONE]\n\n",
]
CHAT = {"model": "m", "messages": []}


def test_bytes_are_the_same_in_every_split_of_stream_and_reply(start_proxy: StartProxy) -> None:
    """Seeded: 200 replies, streamed and not, for metered and other paths, cut anywhere, also within characters and line ends."""
    chance = random.Random(5)
    stream = b"".join(EVENTS)
    expected: dict[int, bytes] = {}

    def answer(request: RawRequest) -> list[Part]:
        number = int(request.headers["X-Number"])
        if number % 2:
            body = json.dumps({"choices": [], "x": chance.random(), "text": "ü" * chance.randrange(2000)}).encode()
            expected[number] = body
            return whole(body)
        cuts = sorted(chance.sample(range(1, len(stream)), chance.randrange(1, 40)))
        expected[number] = stream
        return [*chunked(stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True))]

    with RawUpstream(answer) as upstream, requests.Session() as client:
        proxy = start_proxy(upstream.url)
        different = 0
        for number in range(200):
            path = ("/v1/chat/completions", "/v1/completions", "/some/other")[number % 3]
            got = client.post(proxy.url + path, json={**CHAT, "stream": False}, headers={"X-Number": str(number)}, timeout=5)
            different += got.content != expected[number]
        assert different == 0
        assert len(expected) == 200


def test_request_line_body_and_headers_arrive_as_they_were_sent(start_proxy: StartProxy) -> None:
    with RawUpstream(lambda _: whole(b"{}")) as upstream:
        proxy = start_proxy(upstream.url)
        body = b'{ "model":"m",  "messages": [], "n": 1.0 }'
        link = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=5)
        link.putrequest("POST", "/run/r/task/t/v1/chat/completions?a=%2F%20b&c", skip_accept_encoding=True)
        for name, value in (
            ("X-Joulebench-Task", "hidden"),
            ("Authorization", "Bearer secret"),
            ("Content-Type", "application/json"),
            ("Connection", "X-Hop"),
            ("X-Hop", "1"),
            ("X-Two", "a"),
            ("Content-Length", str(len(body))),
        ):
            link.putheader(name, value)
        link.endheaders(body)
        link.getresponse().read()
        link.close()
    (seen,) = upstream.requests
    assert seen.line == "POST /v1/chat/completions?a=%2F%20b&c HTTP/1.1"
    assert seen.body == body
    assert seen.headers == {
        "Host": urlsplit(upstream.url).netloc,
        "Authorization": "Bearer secret",
        "Content-Type": "application/json",
        "X-Two": "a",
        "Content-Length": str(len(body)),
    }


@pytest.mark.parametrize(
    ("status", "kind"), [("404 Not Found", "text/plain"), ("500 Oops", "application/json"), ("429 Slow", "x/y")]
)
def test_an_error_of_the_model_server_is_passed_on_unchanged(start_proxy: StartProxy, status: str, kind: str) -> None:
    body = b'{"error":"model \\"m\\" not found, try pulling it first"}'
    with RawUpstream(lambda _: whole(body, status, kind, "Retry-After: 7\r\nX-Two: a\r\nX-Two: b\r\n")) as upstream:
        proxy = start_proxy(upstream.url)
        got = requests.post(f"{proxy.url}/api/chat", json=CHAT, timeout=5)
        proxy.wait_until_over(1)
    assert (got.status_code, got.reason, got.content) == (int(status[:3]), status[4:], body)
    assert (got.headers["Content-Type"], got.headers["Retry-After"], got.headers["X-Two"]) == (kind, "7", "a, b")
    assert proxy.value(m.PROXY_REQUESTS, result="refused", model="m") == 1
    assert proxy.value(m.PROXY_UPSTREAM_UP) == 1


def test_a_compressed_reply_stays_compressed_and_is_read(start_proxy: StartProxy) -> None:
    body = gzip.compress(b'{"done":true,"prompt_eval_count":5,"eval_count":7}')
    with RawUpstream(lambda _: whole(body, more="Content-Encoding: gzip\r\n")) as upstream:
        proxy = start_proxy(upstream.url)
        with requests.post(f"{proxy.url}/api/chat", json={**CHAT, "stream": False}, stream=True, timeout=5) as got:
            raw = got.raw.read(decode_content=False)
        proxy.wait_until_over(1)
    assert raw == body
    assert proxy.value(m.PROXY_COMPLETION_TOKENS) == 7


def test_a_coding_that_cannot_be_opened_passes_and_is_counted_as_unread(start_proxy: StartProxy) -> None:
    with RawUpstream(lambda _: whole(b"\x0b\x01\x80?\x03", more="Content-Encoding: br\r\n")) as upstream:
        proxy = start_proxy(upstream.url)
        with requests.post(f"{proxy.url}/api/chat", json=CHAT, stream=True, timeout=5) as got:
            assert got.raw.read(decode_content=False) == b"\x0b\x01\x80?\x03"
        proxy.wait_until_over(1)
    assert proxy.value(m.PROXY_UNREAD_REQUESTS, cause="encoding") == 1
    assert proxy.value(m.PROXY_REQUESTS, result="ok") == 1


def test_head_get_and_empty_replies_pass(start_proxy: StartProxy) -> None:
    def answer(request: RawRequest) -> list[Part]:
        if request.line.startswith("HEAD"):
            return [b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n"]
        if request.line.startswith("DELETE"):
            return [b"HTTP/1.1 204 No Content\r\n\r\n"]
        return whole(b"Ollama is running", kind="text/plain")

    with RawUpstream(answer) as upstream, requests.Session() as client:
        proxy = start_proxy(upstream.url)
        assert client.head(proxy.url, timeout=5).headers["Content-Length"] == "17"
        assert client.get(proxy.url, timeout=5).text == "Ollama is running"
        assert client.delete(f"{proxy.url}/api/delete", timeout=5).status_code == 204
        assert client.get(proxy.url, timeout=5).text == "Ollama is running"
    assert proxy.value(m.PROXY_UNREAD_REQUESTS, cause="other_path") == 4
    assert proxy.value(m.PROXY_REQUESTS) is None


def test_an_old_client_and_a_long_header_pass(start_proxy: StartProxy) -> None:
    with RawUpstream(lambda _: chunked(EVENTS, more=f"X-Long: {'b' * 30_000}\r\n")) as upstream:
        proxy = start_proxy(upstream.url)
        address = urlsplit(proxy.url)
        body = json.dumps({**CHAT, "stream": True}).encode()
        with socket.create_connection((address.hostname, address.port), 5) as link:
            head = f"POST /v1/chat/completions HTTP/1.0\r\nX-Long: {'a' * 30_000}\r\nContent-Length: {len(body)}\r\n\r\n"
            link.sendall(head.encode() + body)
            got = b"".join(iter(lambda: link.recv(65536), b""))
    shown, _, rest = got.partition(b"\r\n\r\n")
    assert b"b" * 30_000 in shown
    assert b"chunked" not in shown.lower()
    # The usage event is the one that the proxy had asked for.
    assert rest == b"".join(event for event in EVENTS if b'"usage"' not in event)
    assert len(upstream.requests[0].headers["X-Long"]) == 30_000


def test_an_upload_that_is_not_metered_is_streamed(start_proxy: StartProxy) -> None:
    with RawUpstream(lambda _: whole(b"")) as upstream:
        proxy = start_proxy(upstream.url)
        block = bytes(range(256)) * 4096
        requests.post(f"{proxy.url}/api/blobs/sha256:1", data=(block for _ in range(8)), timeout=5)
        requests.post(f"{proxy.url}/api/blobs/sha256:2", data=block, headers={"Expect": "100-continue"}, timeout=5)
    assert [request.body for request in upstream.requests] == [block * 8, block]
    assert upstream.requests[1].headers["Content-Length"] == str(len(block))
    assert "Expect" not in upstream.requests[1].headers


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(start_proxy: StartProxy) -> None:
    with RawUpstream(lambda _: whole(b"{}")) as upstream:
        proxy = start_proxy(upstream.url)
        with socket.create_connection((urlsplit(proxy.url).hostname, urlsplit(proxy.url).port), 5) as link:
            link.sendall(b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
            assert link.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            link.sendall(b"{}")
            assert link.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")


def test_what_is_no_json_object_passes_as_it_is(start_proxy: StartProxy) -> None:
    with RawUpstream(lambda _: whole(b"bad request", "400 Bad Request")) as upstream:
        proxy = start_proxy(upstream.url)
        for body in (b"{not json", b"[1]", b"", b"[" * 100_000):
            assert requests.post(f"{proxy.url}/api/chat", data=body, timeout=5).content == b"bad request"
    assert [request.body for request in upstream.requests] == [b"{not json", b"[1]", b"", b"[" * 100_000]
    assert proxy.value(m.PROXY_UNREAD_REQUESTS, cause="not_json") == 4


def test_a_model_server_that_is_not_there_is_told_in_the_clients_protocol(start_proxy: StartProxy) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        proxy = start_proxy(url)
        ollama = requests.post(f"{proxy.url}/api/chat", json=CHAT, timeout=5)
        openai = requests.post(f"{proxy.url}/v1/chat/completions", json=CHAT, timeout=5)
        proxy.wait_until_over(2)
    assert (ollama.status_code, openai.status_code) == (502, 502)
    assert url in ollama.json()["error"]
    assert url in openai.json()["error"]["message"]
    assert proxy.value(m.PROXY_REQUESTS, result="unreachable") == 2
    assert proxy.value(m.PROXY_UPSTREAM_UP) == 0


def test_a_stream_that_breaks_off_breaks_off_for_the_client_too(start_proxy: StartProxy) -> None:
    def answer(_: RawRequest) -> list[Part]:
        return [*chunked(EVENTS[:2])][:-1]

    with RawUpstream(answer, cut=True) as upstream:
        proxy = start_proxy(upstream.url)
        with requests.post(f"{proxy.url}/v1/chat/completions", json={**CHAT, "stream": True}, stream=True, timeout=5) as got:
            came: list[bytes] = []
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                came.extend(got.iter_content(None))
        proxy.wait_until_over(1)
    assert b"".join(came) == b"".join(EVENTS[:2])
    assert proxy.value(m.PROXY_REQUESTS, result="broken") == 1
    assert proxy.value(m.PROXY_COMPLETION_TOKENS) is None


def test_a_stream_that_ends_in_order_but_without_its_end_mark_counts_as_broken(start_proxy: StartProxy) -> None:
    with RawUpstream(lambda _: chunked(EVENTS[:2])) as upstream:
        proxy = start_proxy(upstream.url)
        got = requests.post(f"{proxy.url}/v1/chat/completions", json={**CHAT, "stream": True}, timeout=5)
        proxy.wait_until_over(1)
    assert got.content == b"".join(EVENTS[:2])
    assert proxy.value(m.PROXY_REQUESTS, result="broken") == 1


@pytest.mark.parametrize("answered", [False, True], ids=["before the first byte", "in the stream"])
def test_a_client_that_leaves_closes_the_connection_to_the_model_server(start_proxy: StartProxy, answered: bool) -> None:
    with RawUpstream(lambda _: chunked([EVENTS[1], 30.0] if answered else [30.0, EVENTS[1]])) as upstream:
        proxy = start_proxy(upstream.url)
        address = urlsplit(proxy.url)
        link = socket.create_connection((address.hostname, address.port), 5)
        body = json.dumps({**CHAT, "stream": True}).encode()
        link.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        if answered:
            link.recv(4096)
        with upstream.arrived:
            assert upstream.arrived.wait_for(lambda: bool(upstream.requests), 5)
        link.close()
        assert upstream.requests[0].peer_left.wait(5)
        proxy.wait_until_over(1)
    assert proxy.value(m.PROXY_REQUESTS, result="client_gone") == 1
    assert proxy.value(m.PROXY_IN_FLIGHT) == 0


def test_a_client_that_hangs_up_at_the_end_mark_has_its_whole_reply(start_proxy: StartProxy) -> None:
    with RawUpstream(lambda _: chunked([*EVENTS, 30.0])) as upstream:
        proxy = start_proxy(upstream.url)
        address = urlsplit(proxy.url)
        with socket.create_connection((address.hostname, address.port), 5) as link:
            body = json.dumps({**CHAT, "stream": True}).encode()
            link.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            received = b""
            while b"[DONE]" not in received:
                received += link.recv(4096)
        proxy.wait_until_over(1)
    assert proxy.value(m.PROXY_REQUESTS, result="ok") == 1
    assert proxy.value(m.PROXY_COMPLETION_TOKENS) == 2


def test_a_slow_client_holds_the_model_server_back(start_proxy: StartProxy) -> None:
    """Nothing is read in advance: buffers fill, and then the model server waits."""
    block = b"x" * 65536
    total = 2000
    with RawUpstream(lambda _: chunked([block] * total, kind="text/plain")) as upstream:
        proxy = start_proxy(upstream.url)
        with requests.post(f"{proxy.url}/v1/chat/completions", json=CHAT, stream=True, timeout=20) as got:
            wait_for(lambda: upstream.requests[0].written > len(block))
            before = -1
            still = threading.Event()
            while before != upstream.requests[0].written:
                before = upstream.requests[0].written
                still.wait(0.3)
            # Socket buffers of the kernel, twice, may hold some megabytes.
            assert before < total * len(block) / 4
            assert sum(map(len, got.iter_content(1 << 20))) == total * len(block)


def test_many_streams_at_once_stay_apart(start_proxy: StartProxy) -> None:
    def answer(request: RawRequest) -> list[Part]:
        name = request.headers["X-Name"].encode()
        return [*chunked(part for number in range(20) for part in (b"data: %s %d\n\n" % (name, number), 0.005))]

    got: dict[str, bytes] = {}

    def ask(name: str, url: str) -> None:
        reply = requests.post(f"{url}/v1/chat/completions", json={**CHAT, "stream": True}, headers={"X-Name": name}, timeout=10)
        got[name] = reply.content

    with RawUpstream(answer) as upstream:
        proxy = start_proxy(upstream.url)
        threads = [threading.Thread(target=ask, args=(f"client{number}", proxy.url)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == {name: b"".join(b"data: %s %d\n\n" % (name.encode(), number) for number in range(20)) for name in got}
    assert len(got) == 24


def test_a_head_without_a_body_yet_goes_on_alone(start_proxy: StartProxy) -> None:
    """A model server that answers before it has a token, and one that breaks then."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\nX-Early: 1\r\n\r\n"
    more = threading.Event()

    def answer(request: RawRequest) -> Iterator[Part]:
        yield head
        if "breaks" in request.line:
            return
        assert more.wait(30)
        yield b"data: 1\n\n"

    with RawUpstream(answer, cut=True) as upstream:
        proxy = start_proxy(upstream.url)
        with requests.post(f"{proxy.url}/v1/chat/completions", json=CHAT, stream=True, timeout=30) as got:
            assert got.headers["X-Early"] == "1"
            more.set()
            assert got.content == b"data: 1\n\n"
        with requests.post(f"{proxy.url}/breaks/v1/chat/completions", json=CHAT, stream=True, timeout=30) as got:
            assert got.headers["X-Early"] == "1"
            with pytest.raises(requests.exceptions.RequestException):
                got.content  # noqa: B018


def test_a_kept_connection_that_the_server_closed_is_retried_once(start_proxy: StartProxy) -> None:
    """The server closes on the second request of a connection, without a byte of a reply."""
    listener = socket.create_server(("127.0.0.1", 0))
    closed = 0

    def serve(link: socket.socket) -> None:
        nonlocal closed
        number = 0
        with link:
            while link.recv(65536):
                number += 1
                if number == 2 and closed < 2:
                    closed += 1
                    return
                link.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")

    def accept() -> None:
        while True:
            try:
                link = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=serve, args=(link,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    proxy = start_proxy(f"http://127.0.0.1:{listener.getsockname()[1]}")
    statuses = [requests.post(f"{proxy.url}/v1/chat/completions", json=CHAT, timeout=5).status_code for _ in range(3)]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    assert statuses == [200, 200, 200]
    assert closed == 2
