"""A model server at the level of bytes: a test says what is written to the connection, and when.

Where ``ModelServer`` has known tokens, this one has known bytes: it can answer in any framing, stop in the middle, wait, or see
that its peer has left.
"""

from __future__ import annotations

import contextlib
import select
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType

Part = bytes | float
"""Bytes to write, or seconds to wait."""


@dataclass
class RawRequest:
    """``peer_left``: set once the client side has closed, whenever the server looks."""

    line: str
    headers: dict[str, str]
    body: bytes
    peer_left: threading.Event = field(default_factory=threading.Event)
    written: int = 0


Answer = Callable[[RawRequest], Iterable[Part]]


def whole(body: bytes, status: str = "200 OK", kind: str = "application/json", more: str = "") -> list[Part]:
    """A reply with a length."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return [head.encode() + body]


def chunked(parts: Iterable[Part], kind: str = "text/event-stream", more: str = "") -> Iterator[Part]:
    """A stream: each bytes part is one chunk."""
    yield f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n{more}\r\n".encode()
    for part in parts:
        yield part if isinstance(part, float) else b"%x\r\n%s\r\n" % (len(part), part)
    yield b"0\r\n\r\n"


class RawUpstream:
    """Serves until the end of ``with``, each connection in a thread, its requests one after the other.

    ``cut``: the connection is closed after each answer.
    """

    def __init__(self, answer: Answer, *, cut: bool = False) -> None:
        self.requests: list[RawRequest] = []
        self.arrived = threading.Condition()
        self.closing = threading.Event()
        self.cut = cut
        self._answer = answer
        self._server = _Server(("127.0.0.1", 0), _handler(self), bind_and_activate=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> RawUpstream:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, request: RawRequest) -> Iterable[Part]:
        with self.arrived:
            self.requests.append(request)
            self.arrived.notify_all()
        return self._answer(request)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    # With the 5 of the standard library a sixth connection that comes at once waits a second for the kernel to try again.
    request_queue_size = 128


def _handler(upstream: RawUpstream) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        disable_nagle_algorithm = True

        def handle(self) -> None:
            with contextlib.suppress(OSError):
                while (request := self._read()) is not None:
                    for part in upstream.answer(request):
                        self._play(request, part)
                    if upstream.cut:
                        return

        def _read(self) -> RawRequest | None:
            line = self.rfile.readline().decode("latin-1").rstrip()
            if not line:
                return None
            headers = {}
            while header := self.rfile.readline().decode("latin-1").rstrip():
                name, _, value = header.partition(":")
                headers[name] = value.strip()
            by_name = {name.lower(): value for name, value in headers.items()}
            if by_name.get("transfer-encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(by_name.get("content-length", 0)))
            return RawRequest(line, headers, body)

        def _play(self, request: RawRequest, part: Part) -> None:
            if isinstance(part, float):
                self._wait(request, part)
                return
            try:
                self.request.sendall(part)
            except OSError:
                request.peer_left.set()
                raise
            request.written += len(part)

        def _wait(self, request: RawRequest, seconds: float) -> None:
            """Ends early when the peer leaves, or the server."""
            waited = 0.0
            while waited < seconds and not upstream.closing.is_set():
                readable, _, _ = select.select([self.request], [], [], min(0.01, seconds))
                if readable and self._has_left():
                    request.peer_left.set()
                    raise ConnectionResetError
                waited += 0.01

        def _has_left(self) -> bool:
            try:
                return bool(self.request.recv(1, socket.MSG_PEEK) == b"")
            except ConnectionError:
                return True

    return Handler
