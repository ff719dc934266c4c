"""One HTTP connection over a pair of sockets: what is taken for a request, what ends the connection, and one write per answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from joulebench.exporter.connection import LONGEST_HEAD, BadRequest, Connection, parsed, written
from joulebench.exporter.routes import TEXT, Request, Response


def echo(request: Request) -> Response:
    return Response(200, TEXT, f"{request.method} {request.target}\n".encode())


@contextmanager
def connected() -> Iterator[tuple[socket.socket, threading.Thread]]:
    """A peer, and the thread that serves it."""
    peer, served = socket.socketpair()
    peer.settimeout(10)

    def serve() -> None:
        with served:
            Connection(served, echo, None, local=True).serve()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield peer, thread
    finally:
        peer.close()
        thread.join(10)
        assert not thread.is_alive()


def answers(peer: socket.socket, count: int) -> bytes:
    """Until that many bodies of ``echo`` have come, or the end."""
    received = b""
    while received.count(b"\n") - received.count(b"\r\n") < count and (piece := peer.recv(65536)):
        received += piece
    return received


def test_requests_that_come_in_pieces_or_together_are_answered_in_order() -> None:
    with connected() as (peer, _):
        peer.sendall(b"GET /one HT")
        peer.sendall(b"TP/1.1\r\nHost: x\r")
        peer.sendall(b"\n\r\nGET /two HTTP/1.1\r\n\r\nHEAD /three HTTP/1.1\n\nGET /four HTTP/1.1\r\n\r\n")
        received = answers(peer, 3)
    assert received.count(b"HTTP/1.1 200 OK") == 4
    assert -1 < received.find(b"GET /one") < received.find(b"GET /two") < received.find(b"GET /four")
    assert b"HEAD /three" not in received


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET  HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\n\r\n", b"505"),
        (b"GET /\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nbad name: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * LONGEST_HEAD, b"431"),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"200"),
        (b"GET / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"200"),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"200"),
        (b"GET / HTTP/1.0\r\n\r\n", b"200"),
    ],
)
def test_what_is_no_request_or_the_last_one_ends_the_connection(request_: bytes, status: bytes) -> None:
    with connected() as (peer, thread):
        peer.sendall(request_)
        received = b""
        while piece := peer.recv(65536):
            received += piece
        thread.join(10)
        assert not thread.is_alive()
    assert received.startswith(b"HTTP/1.1 " + status + b" ")
    assert b"Connection: close\r\n" in received


def test_an_old_client_may_keep_its_connection_if_it_asks() -> None:
    assert parsed(b"GET / HTTP/1.0\r\nConnection: Keep-Alive", local=False)[1]
    assert not parsed(b"GET / HTTP/1.0", local=False)[1]


def test_headers_go_by_lower_case_name_and_lose_their_padding() -> None:
    request, stays = parsed(b"GET /metrics?x=1 HTTP/1.1\r\nACCEPT:  text/plain \r\nX-Empty:", local=True)
    assert request == Request("GET", "/metrics?x=1", {"accept": "text/plain", "x-empty": ""}, local=True)
    assert stays


def test_a_head_that_folds_its_lines_is_refused() -> None:
    with pytest.raises(BadRequest):
        parsed(b"GET / HTTP/1.1\r\nX: a\r\n b", local=True)


def test_head_and_body_are_one_piece() -> None:
    answer = Response(200, TEXT, b"body", {"Vary": "Accept-Encoding"})
    head, _, body = written(answer, with_body=True, goes_on=True).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    assert {b"Content-Length: 4", b"Vary: Accept-Encoding"} <= set(lines)
    assert sum(line.startswith(b"Date: ") for line in lines) == 1
    assert body == b"body"
    assert written(answer, with_body=False, goes_on=True).endswith(b"\r\n\r\n")
