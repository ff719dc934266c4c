"""A wire tap in front of Ollama: passes bytes on both ways and keeps them, so that what Ollama itself said is known."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

KEPT_REQUEST = ("content-type", "accept")
KEPT_REPLY = ("content-type",)


@dataclass(frozen=True)
class Exchange:
    """``body`` and ``reply`` as they went over the wire."""

    path: str
    body: bytes
    status: int
    reply: bytes

    @property
    def asked(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Every JSON object of the reply: of a whole one, of each line, or of each event."""
        lines = [line.removeprefix("data: ") for line in self.reply.decode().splitlines()]
        return [json.loads(line) for line in lines if line.startswith("{")]


class Tap:
    """From ``with`` to its end, on a free port. ``exchanges``: those that are over, in the order of their ends."""

    def __init__(self, upstream: str) -> None:
        self.exchanges: list[Exchange] = []
        self._upstream = urlsplit(upstream)
        tap = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                tap._pass(self)

            do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Tap:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def of(self, *paths: str) -> list[Exchange]:
        return [exchange for exchange in self.exchanges if exchange.path in paths]

    def _pass(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        sent = {name: value for name, value in handler.headers.items() if name.lower() in KEPT_REQUEST}
        connection = HTTPConnection(self._upstream.hostname or "", self._upstream.port, timeout=280)
        try:
            connection.request(handler.command, handler.path, body or None, sent)
            with connection.getresponse() as answer:
                said = list(self._answer(handler, answer))
                self.exchanges.append(Exchange(handler.path, body, answer.status, b"".join(said)))
        except OSError:
            # The client left, or Ollama did; either way there is no whole reply to keep.
            handler.close_connection = True
        finally:
            connection.close()

    def _answer(self, handler: BaseHTTPRequestHandler, answer: HTTPResponse) -> Iterator[bytes]:
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() in KEPT_REPLY:
                handler.send_header(name, value)
        # Its end is the end of the connection, so that every piece goes on as it came.
        handler.send_header("Connection", "close")
        handler.end_headers()
        while piece := answer.read1(65536):
            handler.wfile.write(piece)
            handler.wfile.flush()
            yield piece
        handler.close_connection = True
