"""Loading and unloading by the API's own words, and what a server may do instead of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from joulebench.errors import OllamaError
from joulebench.ollama.models import OllamaModels


class Server:
    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.status = 200
        self.release = threading.Event()
        self.release.set()


@pytest.fixture
def ollama() -> Iterator[tuple[str, Server]]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.bodies.append({"path": self.path, **json.loads(body)})
            state.release.wait(10.0)
            data = b'{"done": true}' if state.status == 200 else b'{"error": "model not found"}'
            try:
                self.send_response(state.status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", state
        state.release.set()
        server.shutdown()
        thread.join()


def test_a_model_is_loaded_to_stay_and_unloaded_at_once(ollama: tuple[str, Server]) -> None:
    url, state = ollama
    models = OllamaModels(f"{url}/")
    models.load("qwen3:8b", timeout=5.0)
    models.unload("qwen3:8b")
    models.close()
    assert [(body["path"], body["model"], body["keep_alive"], body["stream"]) for body in state.bodies] == [
        ("/api/generate", "qwen3:8b", -1, False),
        ("/api/generate", "qwen3:8b", 0, False),
    ]
    assert all("prompt" not in body for body in state.bodies)


def test_a_refusal_and_a_silence_are_told(ollama: tuple[str, Server]) -> None:
    url, state = ollama
    state.status = 404
    models = OllamaModels(url)
    with pytest.raises(OllamaError, match=r"HTTP 404 .*model not found"):
        models.load("none", timeout=5.0)
    state.release.clear()
    with pytest.raises(OllamaError, match="timed out"):
        models.load("none", timeout=0.2)
    models.close()
    with pytest.raises(OllamaError, match="refused"):
        OllamaModels("http://127.0.0.1:9").load("none", timeout=1.0)
