"""The least HTTP client that can time a reply: one connection that stays open, one request after the other."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import NamedTuple

from joulebench.clock import Clock

CHAT, NATIVE = "/v1/chat/completions", "/api/chat"
TOOLS = [{"type": "function", "function": {"name": "tool", "parameters": {"type": "object"}}}]


@dataclass(frozen=True, slots=True)
class Ask:
    number: int
    chunks: int
    stream: bool = True
    path: str = CHAT
    tools: bool = False
    gap: float = 0.0
    prefix: str = ""

    def bytes(self) -> bytes:
        body: dict[str, object] = {"model": "m", "stream": self.stream, "messages": [{"role": "user", "content": "hi"}]}
        if self.tools:
            body["tools"] = TOOLS
        data = json.dumps(body).encode()
        head = (
            f"POST {self.prefix}{self.path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"X-Number: {self.number}\r\nX-Chunks: {self.chunks}\r\nX-Gap: {self.gap}\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data


class Answer(NamedTuple):
    """``first``: seconds from the request to the first byte of the body. ``body`` without its framing."""

    first: float
    body: bytes


class Link:
    def __init__(self, port: int, clock: Clock) -> None:
        self._clock = clock
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, ask: Ask) -> Answer:
        request = ask.bytes()
        began = self._clock.monotonic()
        self._socket.sendall(request)
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0 or len(data) == end + 4:
            data += self._receive()
        first = self._clock.monotonic() - began
        head, body = data[:end].lower(), data[end + 4 :]
        if b"transfer-encoding: chunked" not in head:
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            parts = [body]
            while sum(map(len, parts)) < length:
                parts.append(self._receive())
            return Answer(first, b"".join(parts))
        parts = [body]
        while not b"".join(parts[-2:]).endswith(b"0\r\n\r\n"):
            parts.append(self._receive())
        return Answer(first, unchunked(b"".join(parts)))

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> bytes:
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionResetError("the reply broke off")
        return data


def unchunked(data: bytes) -> bytes:
    out: list[bytes] = []
    at = 0
    while True:
        line = data.index(b"\r\n", at)
        size = int(data[at:line], 16)
        if size == 0:
            return b"".join(out)
        out.append(data[line + 2 : line + 2 + size])
        at = line + 2 + size + 2
