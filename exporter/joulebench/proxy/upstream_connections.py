"""Connections to the model server on which the head of a reply has a deadline.

A model server may compute for minutes before the first byte of a reply, so the wait for it is long and can be set. The rest of a
head follows within milliseconds, also over a bad network. A server that drips it would otherwise keep its client for ever, since
a timeout between two reads never expires.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

HEAD_BEGUN_SECONDS = 30.0
"""Time for the rest of a reply's head after its first byte."""


class KeptConnectionClosed(aiohttp.ServerDisconnectedError):
    """The model server closed a connection that was kept from an earlier request before any byte of a reply."""


class HeadTimeout(aiohttp.ServerTimeoutError):
    """The model server did not complete the head of a reply in time."""


class HeadDeadlineConnector(aiohttp.TCPConnector):
    """``reply_seconds``: longest wait for the first byte of a reply."""

    def __init__(self, reply_seconds: float, **settings: Any) -> None:
        super().__init__(**settings)
        # aiohttp has no public setting for the protocol of a connection, and none of its timeouts ends a dripping head.
        factory: Any = functools.partial(_HeadDeadlineHandler, self._loop, reply_seconds, HEAD_BEGUN_SECONDS)
        self._factory = factory


class _HeadDeadlineHandler(ResponseHandler):
    def __init__(self, loop: asyncio.AbstractEventLoop, reply_seconds: float, head_seconds: float) -> None:
        super().__init__(loop=loop)
        self._reply_seconds = reply_seconds
        self._head_seconds = head_seconds
        self._head_deadline: asyncio.TimerHandle | None = None
        self._head_has_begun = False
        self._requests = 0
        self._has_bytes = False
        """Whether a byte of a reply to the latest request has come."""

    def set_response_params(self, **params: Any) -> None:
        """aiohttp calls this before each request."""
        self._requests += 1
        self._has_bytes = False
        self._restart(self._reply_seconds, "sent no reply within {:g} s (--reply-timeout)")
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        self._has_bytes = self._has_bytes or bool(data)
        deadline = self._head_deadline
        super().data_received(data)
        if data and deadline is not None and deadline is self._head_deadline and not self._head_has_begun:
            # No head was complete in these bytes; most are.
            self._restart(self._head_seconds, "began a reply and did not complete its head within {:g} s")
            self._head_has_begun = True

    def feed_data(self, data: Any, size: int = 0) -> None:
        """aiohttp calls this with each complete head; one of an interim status (1xx) is followed by another."""
        self._cancel_head_deadline()
        if 100 < data[0].code < 200:
            self._restart(self._reply_seconds, "sent an interim reply and no final one within {:g} s (--reply-timeout)")
        super().feed_data(data, size)

    def set_exception(self, exc: Any, *causes: Any) -> None:
        is_closed = isinstance(exc, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
        if is_closed and self._requests > 1 and not self._has_bytes:
            exc = KeptConnectionClosed()
        super().set_exception(exc, *causes)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._cancel_head_deadline()
        super().connection_lost(exc)

    def _restart(self, seconds: float, message: str) -> None:
        self._cancel_head_deadline()
        self._head_deadline = self._loop.call_later(seconds, self._expire, seconds, message)

    def _cancel_head_deadline(self) -> None:
        self._head_has_begun = False
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _expire(self, seconds: float, message: str) -> None:
        self._head_deadline = None
        self.set_exception(HeadTimeout(message.format(seconds)))
        if self.transport is not None:
            self.transport.abort()
