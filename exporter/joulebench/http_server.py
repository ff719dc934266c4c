"""Serves an aiohttp application from a thread of its own, with bounded connections.

What a client can hold is limited: a request head has to be complete within ``HEAD_SECONDS``, a TLS handshake too, and at most
``max_connections`` connections are open. A further connection closes the oldest idle one, so that peers that only hold
connections never keep a scrape out. Running out of file descriptors is logged once a minute and closes idle connections.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from aiohttp import web
from aiohttp.typedefs import Handler

from joulebench.errors import UserError
from joulebench.supervise import run_in_asyncio

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 128
SPARE_DESCRIPTORS = 64
"""File descriptors that connections never use."""
HEAD_SECONDS = 10.0
"""Deadline for a complete request head, from the connection's start or the head's first byte, and for a TLS handshake."""
IDLE_SECONDS = 75.0
"""Longer than the usual scrape interval of a minute, so that Prometheus keeps its connection."""
BACKLOG = 128
MAX_HEAD_LINE = 8190
ACCEPT_PAUSE = 0.1
"""Seconds to wait where the system has no descriptor for one more connection."""
LOG_PERIOD = 60.0
STOP_SECONDS = 2.0
"""Seconds that requests in progress have when the server stops."""


class HttpServer:
    """Bound and listening once constructed; answers after ``start``.

    ``option``: the command-line option that gave ``address``, for the error message. ``tls``: called for each new connection,
    so that a renewed certificate counts from then on; None for plain HTTP. Raises UserError where the address cannot be used.
    """

    def __init__(
        self,
        address: tuple[str, int],
        app: web.Application,
        *,
        option: str = "--web.listen-address",
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
        max_connections: int = MAX_CONNECTIONS,
        head_seconds: float = HEAD_SECONDS,
    ) -> None:
        try:
            self._listener = _listen(address)
        except OSError as error:
            host, port = address
            shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            raise UserError(
                f"{option}: cannot listen on {shown}: {error.strerror or error}; choose another address, or port 0 for a free one"
            ) from error
        self._tls = tls
        self._head_seconds = head_seconds
        soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._max_connections = max(1, min(max_connections, soft_limit - SPARE_DESCRIPTORS))
        app[SERVER] = self
        app.middlewares.insert(0, self._track_request)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=IDLE_SECONDS,
            max_line_size=MAX_HEAD_LINE,
            max_field_size=MAX_HEAD_LINE,
            shutdown_timeout=STOP_SECONDS,
        )
        # Used by the event loop's thread alone. In order of the time since when each is idle, the oldest first.
        self._connections: dict[_Connection, None] = {}
        self._by_transport: dict[asyncio.BaseTransport, _Connection] = {}
        # Tasks of connections that are not among _connections yet, the oldest first: each counts once.
        self._opening: dict[asyncio.Task[None], None] = {}
        self._logged_at = -LOG_PERIOD
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="joulebench-http", daemon=True)

    @property
    def url(self) -> str:
        """``http://HOST:PORT`` with the port that was really taken."""
        host, port = self._listener.getsockname()[:2]
        scheme = "http" if self._tls() is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the server; requests in progress have ``STOP_SECONDS``."""
        if self._thread.ident is None:
            self._listener.close()
            self._loop.close()
            return
        with suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(2 * STOP_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        await self._runner.setup()
        accepting = asyncio.create_task(run_in_asyncio("http-accept", self._accept))
        await self._stop.wait()
        accepting.cancel()
        with suppress(asyncio.CancelledError):
            await accepting
        self._listener.close()
        for task in list(self._opening):
            task.cancel()
        for connection in list(self._connections):
            if not connection.is_busy:
                connection.abort()
        await self._runner.cleanup()

    async def _accept(self) -> float:
        """Takes one connection. Returns the seconds to wait before the next."""
        try:
            peer, _ = await self._loop.sock_accept(self._listener)
        except OSError as error:
            self._log_rarely("a connection cannot be accepted: %s", error.strerror or error)
            self._close_oldest_idle()
            return ACCEPT_PAUSE
        peer.setblocking(False)
        if len(self._connections) + len(self._opening) >= self._max_connections and not self._close_oldest_idle():
            self._log_rarely("%d connections are busy; a further one is closed", self._max_connections)
            peer.close()
            return 0.0
        task = self._loop.create_task(self._open(peer))
        self._opening[task] = None
        task.add_done_callback(self._forget_opening)
        return 0.0

    async def _open(self, peer: socket.socket) -> None:
        tls = self._tls()
        server = self._runner.server
        assert server is not None
        try:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(
                lambda: _Connection(self, server(), asyncio.current_task()),
                peer,
                ssl=tls,
                ssl_handshake_timeout=self._head_seconds if tls is not None else None,
            )
        except (OSError, ssl.SSLError) as error:
            log.debug("a connection broke off: %s", error)
            peer.close()

    def _close_oldest_idle(self) -> bool:
        """Closes the connection that has been without a request for longest. Returns False where all are busy."""
        for connection in self._connections:
            if not connection.is_busy:
                connection.abort()
                return True
        for task in self._opening:
            task.cancel()
            # Forgotten now, not when it has ended: a connection that is accepted before that has to close another one.
            self._forget_opening(task)
            return True
        return False

    def _forget_opening(self, task: asyncio.Task[None]) -> None:
        self._opening.pop(task, None)

    def _log_rarely(self, message: str, *values: object) -> None:
        now = self._loop.time()
        if now - self._logged_at >= LOG_PERIOD:
            self._logged_at = now
            log.warning(message, *values)

    @web.middleware
    async def _track_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = self.connection_of(request)
        if connection is None:
            return await handler(request)
        connection.begin_request()
        try:
            return await handler(request)
        finally:
            connection.end_request()

    def connection_of(self, request: web.Request) -> _Connection | None:
        return None if request.transport is None else self._by_transport.get(request.transport)

    def add(self, connection: _Connection, transport: asyncio.BaseTransport) -> None:
        self._connections[connection] = None
        self._by_transport[transport] = connection
        if connection.opened_by is not None:
            self._forget_opening(connection.opened_by)

    def move_to_end(self, connection: _Connection) -> None:
        if connection in self._connections:
            del self._connections[connection]
            self._connections[connection] = None

    def remove(self, connection: _Connection, transport: asyncio.BaseTransport) -> None:
        self._connections.pop(connection, None)
        self._by_transport.pop(transport, None)

    @property
    def head_seconds(self) -> float:
        return self._head_seconds


SERVER = web.AppKey("SERVER", HttpServer)


@contextmanager
def replaceable(request: web.Request) -> Iterator[None]:
    """While entered, the request's connection counts as idle: others may take its place, as before its password is checked."""
    server = request.app.get(SERVER)
    connection = None if server is None else server.connection_of(request)
    if connection is None:
        yield
        return
    connection.end_request()
    try:
        yield
    finally:
        connection.begin_request()


class _Connection(asyncio.Protocol):
    """One connection: passes everything on to aiohttp's protocol and closes it when a request head takes too long."""

    def __init__(self, server: HttpServer, protocol: web.RequestHandler, opened_by: asyncio.Task[None] | None) -> None:
        self.opened_by = opened_by
        self._server = server
        self._protocol = protocol
        self._transport: asyncio.Transport | None = None
        self._requests = 0
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self._requests > 0

    def begin_request(self) -> None:
        self._requests += 1
        self._clear_deadline()

    def end_request(self) -> None:
        self._requests -= 1
        self._server.move_to_end(self)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._server.remove(self, self._transport)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.add(self, transport)
        self._set_deadline()
        self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        if self._transport is not None:
            self._server.remove(self, self._transport)
        self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and not self.is_busy:
            self._set_deadline()
        self._protocol.data_received(data)

    def eof_received(self) -> None:
        self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def _set_deadline(self) -> None:
        self._deadline = asyncio.get_running_loop().call_later(self._server.head_seconds, self.abort)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _listen(address: tuple[str, int]) -> socket.socket:
    host, port = address
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
