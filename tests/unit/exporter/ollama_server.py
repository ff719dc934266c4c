"""A local HTTP server that answers like Ollama, or fails in the ways that a test asks for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LLAMA = {
    "name": "llama3.1:8b",
    "model": "llama3.1:8b",
    "size": 6_000_000_000,
    "digest": "46e0c10c039e",
    "details": {"format": "gguf", "family": "llama", "parameter_size": "8.0B", "quantization_level": "Q4_K_M"},
    "expires_at": "2026-11-24T07:12:00.123456789+01:00",
    "size_vram": 4_500_000_000,
    "context_length": 8192,
}


class FakeOllama:
    """``bodies``: what each path answers, as bytes or as something to turn into JSON; a missing path is a 404."""

    def __init__(self) -> None:
        self.bodies: dict[str, Any] = {
            "/api/version": {"version": "0.17.4"},
            "/api/ps": {"models": [LLAMA]},
            "/api/tags": {"models": [{"name": "llama3.1:8b"}, {"name": "qwen3:4b"}]},
        }
        self.status = 200
        self.claimed_length: int | None = None
        self.asked: list[tuple[str, str]] = []
        self.open = threading.Event()
        self.open.set()
        self.url = ""


@contextmanager
def ollama_server(fake: FakeOllama) -> Iterator[FakeOllama]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.asked.append((self.command, self.path))
            fake.open.wait()
            body = fake.bodies.get(self.path)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(404 if body is None else fake.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(fake.claimed_length or len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_HEAD = do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    class QuietServer(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that gave up waiting is what some tests are about

    server = QuietServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        fake.open.set()
        server.shutdown()
        server.server_close()
        thread.join()
