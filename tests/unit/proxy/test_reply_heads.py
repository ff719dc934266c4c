"""A model server that does not complete the head of its reply gives its client an answer, and its connection is closed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
import requests

from joulebench import metrics as m
from joulebench.proxy import upstream_connections
from tests.fakes.raw_upstream import Part, RawRequest, RawUpstream
from tests.unit.proxy.conftest import StartProxy

BODY = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}'


def dripped_head() -> Iterator[Part]:
    yield b"HTTP/1.1 200 OK\r\nX: "
    while True:
        yield 0.05
        yield b"x"


def endless_interim_replies() -> Iterator[Part]:
    while True:
        yield b"HTTP/1.1 103 Early Hints\r\n\r\n"
        yield 0.05
        yield b"HTTP/1.1 103 Early Hi"
        yield 60.0


def silence() -> Iterator[Part]:
    yield 60.0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (dripped_head, "did not complete its head within 0.3 s"),
        (endless_interim_replies, "did not complete its head within 0.3 s"),
        (silence, "sent no reply within 0.6 s (--reply-timeout)"),
    ],
)
@pytest.mark.parametrize("stream", [True, False], ids=["with additions", "as it is"])
def test_a_head_that_does_not_come_is_an_error_for_the_client(
    start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch, answer: object, words: str, stream: bool
) -> None:
    monkeypatch.setattr(upstream_connections, "HEAD_BEGUN_SECONDS", 0.3)
    assert callable(answer)
    with RawUpstream(lambda _: answer()) as upstream:
        proxy = start_proxy(upstream.url, reply_timeout=0.6)
        got = requests.post(f"{proxy.url}/v1/chat/completions", json={"model": "m", "stream": stream}, timeout=10)
        proxy.wait_until_over(1)
        assert got.status_code == 502
        assert words in got.json()["error"]["message"]
        assert upstream.requests[0].peer_left.wait(5)
        assert len(upstream.requests) == 1, "no second wait"
    assert proxy.value(m.PROXY_REQUESTS, result="broken") == 1


def test_a_reply_that_comes_late_and_a_body_that_takes_long_are_no_errors(
    start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_connections, "HEAD_BEGUN_SECONDS", 0.2)

    def answer(_: RawRequest) -> Iterable[Part]:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
        return [0.4, b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.4, head, 0.4, BODY[:10], 0.4, BODY[10:]]

    with RawUpstream(answer) as upstream:
        proxy = start_proxy(upstream.url, reply_timeout=5.0)
        for _ in range(2):
            got = requests.post(f"{proxy.url}/v1/chat/completions", json={"model": "m"}, timeout=10)
            assert (got.status_code, got.content) == (200, BODY)
