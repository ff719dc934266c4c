"""A scripted LLM server, OpenAI-compatible (``/v1``) and Ollama-native (``/api``) at once, with known token counts and times.

A test says what the model answers, as ``Turn`` objects; the server splits each answer into tokens, gives every token its
logprob and counts them, so that what a client must measure is known by construction. It can also misbehave in the ways real
servers do. With ``by_instruction`` it is stateless: the same conversation always gets the same turn, in any number of threads.

    from tests.fakes.model_turns import call

    with ModelServer([call("write_file", path="out.txt", text="hello"), call("finish", answer="done")]) as server:
        ...  # server.openai_url, server.ollama_url
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from tests.fakes.model_shapes import OllamaShape, OpenAIShape
from tests.fakes.model_turns import MODEL, Json, Logprobs, Script, Turn

LOADED: Json = {
    "name": MODEL,
    "size": 2_000_000_000,
    "size_vram": 1_500_000_000,
    "context_length": 4096,
    "expires_at": "2099-01-01T00:00:00Z",
    "details": {"family": "scripted", "parameter_size": "1B", "quantization_level": "Q4_0"},
}
"""The one model in memory, a quarter of it on the CPU."""


@dataclass
class Exchange:
    """One request as it was served. ``first_token_at`` is the monotonic time just before the first token was written."""

    path: str
    body: Json
    authorization: str | None
    first_token_at: float | None = None
    refused: bool = False


class ModelServer:
    """Serves until the end of ``with``. A list of turns is played once, in order; after its end comes HTTP 500."""

    def __init__(self, script: Sequence[Turn] | Script, logprobs: Logprobs = "given", timings: bool = True) -> None:
        self.logprobs = logprobs
        self.timings = timings
        self.exchanges: list[Exchange] = []
        self.closing = threading.Event()
        self._script = script
        self._served = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> ModelServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def ollama_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def openai_url(self) -> str:
        return f"{self.ollama_url}/v1"

    @property
    def served(self) -> list[Exchange]:
        """Exchanges that were not refused."""
        return [exchange for exchange in self.exchanges if not exchange.refused]

    def begin(self, exchange: Exchange) -> None:
        with self._lock:
            self.exchanges.append(exchange)

    def next_turn(self, body: Json) -> Turn:
        if callable(self._script):
            return self._script(body)
        with self._lock:
            self._served += 1
            if self._served > len(self._script):
                return Turn(raw="", fault="http_500")
            return self._script[self._served - 1]


def _handler(server: ModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

        def do_GET(self) -> None:
            model = {"name": MODEL, "model": MODEL}
            answers: dict[str, Json] = {
                "/v1/models": {"object": "list", "data": [{"id": MODEL, "object": "model"}]},
                "/api/version": {"version": "0.17.4"},
                "/api/tags": {"models": [model]},
                "/api/ps": {"models": [LOADED]},
            }
            found = answers.get(self.path)
            self._json(200 if found else 404, found or {"error": "not found"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/api/show":
                # Asked by who watches the server, not by a client: no part of the script.
                self._json(200, {"details": {}, "model_info": {}})
                return
            exchange = Exchange(self.path, body, self.headers.get("Authorization"))
            server.begin(exchange)
            refusal = _refusal(server.logprobs, body)
            if refusal is not None:
                exchange.refused = True
                self._json(400, {"error": {"code": 400, "message": refusal, "type": "invalid_request_error"}})
                return
            turn = server.next_turn(body)
            rows = server.logprobs != "ignored" and body.get("logprobs") is True
            if turn.fault == "http_500":
                self._json(500, {"error": "the script is over" if not turn.raw else "the model crashed"})
            elif turn.fault == "no_room":
                told = "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it"
                self._json(400, {"error": {"code": 400, "message": told, "type": "exceed_context_size_error"}})
            elif turn.fault == "hang_up":
                self.close_connection = True
            elif self.path == "/api/chat":
                self._serve(exchange, turn, OllamaShape(turn, rows, "tools" in body))
            else:
                self._serve(exchange, turn, OpenAIShape(turn, rows, "tools" in body, server.timings))

        def _serve(self, exchange: Exchange, turn: Turn, shape: OpenAIShape | OllamaShape) -> None:
            if exchange.body.get("stream") is not True:
                server.closing.wait(turn.first_token_after + turn.token_gap * len(turn.tokens))
                self._json(200, shape.whole())
                return
            self.send_response(200)
            self.send_header("Content-Type", shape.content_type)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for chunk in shape.head():
                self._chunk(chunk)
            server.closing.wait(turn.first_token_after)
            tokens = turn.tokens
            half = len(tokens) // 2
            for number, token in enumerate(tokens):
                if number == half and turn.fault is not None:
                    self._misbehave(turn, shape)
                    return
                if number > 0 and turn.token_gap:
                    server.closing.wait(turn.token_gap)
                if exchange.first_token_at is None:
                    exchange.first_token_at = time.monotonic()
                self._chunk(shape.token(token))
            for chunk in shape.tail():
                self._chunk(chunk)
            self.wfile.write(b"0\r\n\r\n")

        def _misbehave(self, turn: Turn, shape: OpenAIShape | OllamaShape) -> None:
            self.close_connection = True
            if turn.fault == "error_mid_stream":
                self._chunk(shape.error("out of memory"))
                self.wfile.write(b"0\r\n\r\n")
            elif turn.fault == "not_json":
                self._chunk(shape.line("{not json"))
                self.wfile.write(b"0\r\n\r\n")
            elif turn.fault == "stall":
                server.closing.wait(30.0)

        def _chunk(self, text: str) -> None:
            data = text.encode()
            try:
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()
            except OSError:
                self.close_connection = True

        def _json(self, status: int, answer: Json) -> None:
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


def _refusal(logprobs: Logprobs, body: Json) -> str | None:
    if body.get("logprobs") is not True:
        return None
    if logprobs == "refused":
        return "logprobs is not supported by this model"
    if logprobs == "refused_with_tools_and_stream" and "tools" in body and body.get("stream") is True:
        return "logprobs is not supported with tools + stream"
    return None
