"""An HTTP server that bounds its connections: their number, the time until a request head has come, and what it logs of them."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from joulebench.clock import Clock

HEAD_SECONDS = 10.0
"""Time for the head of the first request of a connection."""
IDLE_SECONDS = 75.0
"""Time for the head of each further request, idle time included."""
SWEEP_EVERY = 1.0
MAX_HEADER = 64 * 1024
"""Bytes of one header or of the request line: some carry a long token."""
BACKLOG = 512
ACCEPTED_AT_ONCE = 4
MAX_LOG_RECORDS = 20
LOG_PERIOD = 60.0


@dataclass(slots=True)
class _Connection:
    transport: asyncio.Transport
    since: float
    """Monotonic time since which it waits for a request head, or has been in a request."""
    is_in_request: bool = False
    has_had_request: bool = False


class BoundedServer(web.Server):
    """At ``max_connections`` the connection that waited longest for a request head is closed for a new one; where all are in a
    request, the new one is."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        clock: Clock,
        *,
        max_connections: int,
        **settings: Any,
    ) -> None:
        super().__init__(
            self._handle,
            access_log=None,
            logger=_quiet_logger(clock),
            keepalive_timeout=IDLE_SECONDS,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            **settings,
        )
        self._handler = handler
        self._clock = clock
        self._max_connections = max_connections
        self._open: dict[object, _Connection] = {}
        """By protocol, in the order in which they began to wait."""

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self._open) >= self._max_connections:
            idle = next((protocol for protocol, connection in self._open.items() if not connection.is_in_request), None)
            if idle is None:
                transport.abort()
                return
            self._open.pop(idle).transport.abort()
        self._open[handler] = _Connection(transport, self._clock.monotonic())

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        self._open.pop(handler, None)
        super().connection_lost(handler, exc)

    async def sweep(self) -> float:
        """Closes connections whose request head does not come. Returns the seconds until the next sweep is due."""
        now = self._clock.monotonic()
        for protocol, connection in list(self._open.items()):
            limit = IDLE_SECONDS if connection.has_had_request else HEAD_SECONDS
            if not connection.is_in_request and now - connection.since > limit:
                del self._open[protocol]
                connection.transport.abort()
        return SWEEP_EVERY

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = self._open.get(request.protocol)
        if connection is None:
            return await self._handler(request)
        connection.is_in_request = connection.has_had_request = True
        try:
            return await self._handler(request)
        finally:
            connection.is_in_request = False
            connection.since = self._clock.monotonic()
            if self._open.pop(request.protocol, None) is not None:
                self._open[request.protocol] = connection


async def start_listening(runner: web.ServerRunner, host: str, port: int) -> None:
    """Listens at an address; raises OSError where it cannot be used.

    asyncio accepts as many connections in one go as may wait. Here a flood waits in the kernel, while each turn of the event loop
    takes ACCEPTED_AT_ONCE of them and then serves those that are open.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    try:
        await web.SockSite(runner, listener, backlog=ACCEPTED_AT_ONCE).start()
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise


def connection_limit() -> int:
    """Returns how many clients the descriptor limit of the process allows, each with a connection to the model server."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1024
    return max(8, min(1024, (soft - 100) // 3))


def _quiet_logger(clock: Clock) -> logging.Logger:
    """Returns a logger for what clients do wrong: at most MAX_LOG_RECORDS in LOG_PERIOD seconds, since clients can send much."""
    logger = logging.getLogger(f"{__name__}.http")
    for existing in list(logger.filters):
        logger.removeFilter(existing)
    logger.addFilter(_RateLimit(clock))
    return logger


class _RateLimit(logging.Filter):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._period_began = clock.monotonic()
        self._records = 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock.monotonic()
        if now - self._period_began > LOG_PERIOD:
            self._period_began, self._records = now, 0
        self._records += 1
        if self._records == MAX_LOG_RECORDS:
            record.msg, record.args, record.exc_info = "further records of faulty requests are left out for a minute", (), None
        return self._records <= MAX_LOG_RECORDS
