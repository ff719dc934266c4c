"""Connections that only hold, drip or break the proxy's listener keep no bystander and no scrape out."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from tests.hostile.attacked_proxy import AttackedProxy, attack, proxy_of_hostile_upstream

BROKEN = (b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n")
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"


def open_many(proxy: AttackedProxy, count: int, data: bytes, stack: contextlib.ExitStack) -> list[socket.socket]:
    links = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            link = stack.enter_context(socket.create_connection(proxy.address, 5))
            link.sendall(data)
            links.append(link)
    return links


def test_more_half_open_heads_than_there_are_descriptors(tmp_path: Path) -> None:
    with proxy_of_hostile_upstream(tmp_path / "log", descriptors=1024) as proxy, contextlib.ExitStack() as stack:
        links: list[socket.socket] = []

        def hold() -> None:
            links.extend(open_many(proxy, 100, HEAD, stack))

        attack(proxy, "half-open heads", hold, seconds=4.0)
        assert len(links) >= 1100
        assert proxy.stop() < 5.0
    assert (tmp_path / "log").stat().st_size < 100_000


def test_connections_that_drip(tmp_path: Path) -> None:
    with proxy_of_hostile_upstream(tmp_path / "log", descriptors=1024) as proxy, contextlib.ExitStack() as stack:
        links = open_many(proxy, 200, HEAD, stack)
        bodies = open_many(proxy, 100, HEAD + b"Content-Length: 1000000\r\n\r\n", stack)

        def drip() -> None:
            for link in (*links, *bodies):
                with contextlib.suppress(OSError):
                    link.sendall(b"X")

        attack(proxy, "dripping heads and bodies", drip, seconds=4.0)
        assert proxy.stop() < 5.0


def test_a_head_that_does_not_come_is_closed_after_its_deadline(tmp_path: Path) -> None:
    with proxy_of_hostile_upstream(tmp_path / "log") as proxy, socket.create_connection(proxy.address, 30) as link:
        link.sendall(HEAD)
        with contextlib.suppress(ConnectionResetError):
            assert link.recv(100) == b""
        assert proxy.stop() < 5.0


def test_a_flood_of_broken_requests_does_not_fill_the_log(tmp_path: Path) -> None:
    with proxy_of_hostile_upstream(tmp_path / "log") as proxy:

        def break_heads() -> None:
            for data in (
                b"\x16\x03\x01\x02\x00",
                b"GET / HTTP/9.9\r\n\r\n",
                b"GET /\r\n\r\n",
                HEAD + b"Content-Length: x\r\n\r\n",
            ):
                for _ in range(25):
                    with contextlib.suppress(OSError), socket.create_connection(proxy.address, 5) as link:
                        link.sendall(data)

        attack(proxy, "broken requests", break_heads)
        assert proxy.stop() < 5.0
    assert (tmp_path / "log").stat().st_size < 200_000
