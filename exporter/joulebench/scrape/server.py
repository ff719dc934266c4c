"""The HTTP server: threads, keep-alive, TLS and passwords around ``routes``; it knows nothing of metrics.

One connection, one thread, at most ``MAX_CONNECTIONS`` of them; a peer that stalls costs its own thread until the timeout and
nothing else, the TLS handshake included.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any, cast

from joulebench import __version__
from joulebench.errors import UserError
from joulebench.scrape.routes import TEXT, Request, Response, Routes
from joulebench.scrape.web_config import WebConfig

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 128
IDLE_SECONDS = 75.0
"""Longer than the usual scrape interval of a minute, so that Prometheus keeps its connection."""

STOP_WITHIN = 0.1
"""Seconds between two looks at whether to stop."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    # Head and body leave in one packet; otherwise the second waits for the first to be acknowledged.
    wbufsize = 64 * 1024
    disable_nagle_algorithm = True

    def do_any(self) -> None:
        server = cast(_Listener, self.server)
        headers = {key.lower(): value for key, value in self.headers.items()}
        # A body is never read; what is left of it would be taken for the next request.
        if self.command not in ("GET", "HEAD") or "content-length" in headers or "transfer-encoding" in headers:
            self.close_connection = True
        users = server.web.users
        if users is not None and not users.allow(headers.get("authorization", "")):
            self._send(Response(401, TEXT, b"unauthorized\n", {"WWW-Authenticate": 'Basic realm="joulebench"'}))
            return
        self._send(server.routes.answer(Request(self.command, self.path, headers)))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_any  # noqa: N815

    def version_string(self) -> str:
        return f"joulebench/{__version__}"

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        for key, value in response.headers.items():
            self.send_header(key, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        log.debug("%s " + format, self.client_address[0], *args)


class _Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, routes: Routes, web: WebConfig, max_connections: int) -> None:
        self.routes = routes
        self.web = web
        self._connections = threading.BoundedSemaphore(max_connections)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._connections.acquire(blocking=False):
            log.warning("too many connections; one from %s is closed", client_address[0])
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._connections.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.web.tls is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(IDLE_SECONDS)
        with self.web.tls.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.debug("connection from %s broke off", client_address[0], exc_info=True)


class Server:
    """Bound and listening once constructed; answers after ``start``. Raises UserError where the address cannot be used."""

    def __init__(self, address: tuple[str, int], routes: Routes, web: WebConfig, max_connections: int = MAX_CONNECTIONS) -> None:
        host, port = address
        try:
            self._listener = _Listener(host, port, routes, web, max_connections)
        except OSError as error:
            shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            raise UserError(
                f"--web.listen-address: cannot listen on {shown}: {error.strerror or error};"
                " choose another address, or port 0 for a free one"
            ) from error
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(STOP_WITHIN,), name="http", daemon=True)

    @property
    def url(self) -> str:
        """``http://HOST:PORT`` with the port that was really taken."""
        host, port = self._listener.server_address[:2]
        name = host.decode() if isinstance(host, (bytes, bytearray)) else str(host)
        scheme = "http" if self._listener.web.tls is None else "https"
        return f"{scheme}://[{name}]:{port}" if ":" in name else f"{scheme}://{name}:{port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()
