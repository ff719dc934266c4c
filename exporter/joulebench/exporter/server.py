"""The HTTP server: a listening socket, threads, limits and TLS around ``connection``; it knows nothing of metrics.

One connection, one thread, at most ``MAX_CONNECTIONS`` of them; a peer that stalls costs its own thread until the timeout and
nothing else, the TLS handshake included. A thread without a request sleeps in the kernel and never looks around.
"""

from __future__ import annotations

import logging
import socket
import threading

from joulebench.errors import UserError
from joulebench.exporter.connection import Connection
from joulebench.exporter.routes import Routes
from joulebench.exporter.web_config import WebConfig

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 128
IDLE_SECONDS = 75.0
"""Longer than the usual scrape interval of a minute, so that Prometheus keeps its connection."""
BACKLOG = 128
BREATHER = 0.1
"""Seconds to wait where the system has no room for one more connection."""


class Server:
    """Bound and listening once constructed; answers after ``start``. Raises UserError where the address cannot be used."""

    def __init__(self, address: tuple[str, int], routes: Routes, web: WebConfig, max_connections: int = MAX_CONNECTIONS) -> None:
        self._routes = routes
        self._web = web
        self._places = threading.BoundedSemaphore(max_connections)
        self._stopped = threading.Event()
        try:
            self._listener = _listening(address)
        except OSError as error:
            host, port = address
            shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            raise UserError(
                f"--web.listen-address: cannot listen on {shown}: {error.strerror or error};"
                " choose another address, or port 0 for a free one"
            ) from error
        self._thread = threading.Thread(target=self._accept, name="http", daemon=True)

    @property
    def url(self) -> str:
        """``http://HOST:PORT`` with the port that was really taken."""
        host, port = self._listener.getsockname()[:2]
        scheme = "http" if self._web.tls is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No new connection from now on; those that are open are daemons and end with the process."""
        self._stopped.set()
        # Wakes the thread that waits for a connection.
        self._listener.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                peer, address = self._listener.accept()
            except OSError as error:
                if not self._stopped.is_set():
                    log.debug("a connection was not taken: %s", error)
                    self._stopped.wait(BREATHER)
                continue
            if not self._places.acquire(blocking=False):
                log.warning("too many connections; one from %s is closed", address[0])
                peer.close()
                continue
            local = address[0] == peer.getsockname()[0]
            try:
                threading.Thread(target=self._serve, args=(peer, local), name="http-peer", daemon=True).start()
            except RuntimeError as error:
                log.warning("no thread for a connection from %s: %s", address[0], error)
                peer.close()
                self._places.release()

    def _serve(self, peer: socket.socket, local: bool) -> None:
        try:
            peer.settimeout(IDLE_SECONDS)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._web.tls is not None:
                peer = self._web.tls.wrap_socket(peer, server_side=True)
            Connection(peer, self._routes.answer, self._web.users, local=local).serve()
            peer.shutdown(socket.SHUT_WR)
        except OSError as error:
            log.debug("a connection broke off: %s", error)
        except Exception:
            log.exception("a connection failed")
        finally:
            peer.close()
            self._places.release()


def _listening(address: tuple[str, int]) -> socket.socket:
    host, port = address
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
