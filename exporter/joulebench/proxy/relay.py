"""Bytes from the model server to the client, chunk by chunk, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import NamedTuple

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from joulebench.proxy import headers
from joulebench.proxy.meter import Meter
from joulebench.proxy.undo import Undo

HEAD_WAITS = 0.001
"""Seconds that the head of a reply waits to go out with the first bytes of its body, as one packet and one system call."""


class Ending(Enum):
    WHOLE = "whole"
    UPSTREAM_BROKE = "upstream broke"
    CLIENT_GONE = "client gone"


class Relayed(NamedTuple):
    """``response`` was sent as far as it came."""

    response: web.StreamResponse
    ending: Ending


class _UpstreamBrokeError(Exception):
    """The model server's connection failed in the middle of a reply."""


class _Response(web.StreamResponse):
    _send_headers_immediately = False


async def relay(
    request: web.BaseRequest,
    upstream: aiohttp.ClientResponse,
    now: Callable[[], float],
    meter: Meter | None = None,
    undo: Undo | None = None,
) -> Relayed:
    """Waits while the client's buffer is full, and so does the model server. A client that closes its connection cancels this.

    Through ``undo``, if there is one, go all bytes; without it ``meter`` reads each chunk, after it was sent on.
    """
    kept = headers.for_client(upstream.headers, keep_length=undo is None)
    response = _Response(status=upstream.status, reason=upstream.reason, headers=kept)
    try:
        writer = await response.prepare(request)
        with _head_soon(writer):
            try:
                await _body(response, upstream.content, now, meter, undo)
            except _UpstreamBrokeError:
                _send_head(writer)
                if request.transport is not None:
                    # Closed in the middle: the client sees the reply end as it ended here, and never a whole one.
                    request.transport.close()
                return Relayed(response, Ending.UPSTREAM_BROKE)
            await response.write_eof()
    except ConnectionError:
        return Relayed(response, Ending.CLIENT_GONE)
    return Relayed(response, Ending.WHOLE)


async def _body(
    response: web.StreamResponse,
    content: aiohttp.StreamReader,
    now: Callable[[], float],
    meter: Meter | None,
    undo: Undo | None,
) -> None:
    while True:
        try:
            chunk = await content.readany()
        except aiohttp.ClientError as error:
            # Only a read's: a write that fails is the client's.
            raise _UpstreamBrokeError from error
        if not chunk:
            break
        arrived = now()
        if undo is not None:
            if shown := undo.feed(chunk, arrived):
                await response.write(shown)
            undo.settle()
            continue
        await response.write(chunk)
        if meter is not None:
            meter.feed(chunk, arrived)
    if undo is not None and (last := undo.end(now())):
        await response.write(last)
    if undo is None and meter is not None:
        meter.end(now())


@contextmanager
def _head_soon(writer: AbstractStreamWriter | None) -> Iterator[None]:
    """The head goes out alone where the body does not come within ``HEAD_WAITS``."""
    timer = asyncio.get_running_loop().call_later(HEAD_WAITS, _send_head, writer)
    try:
        yield
    finally:
        timer.cancel()


def _send_head(writer: AbstractStreamWriter | None) -> None:
    """Does nothing where it was sent."""
    if writer is not None:
        with suppress(ConnectionError):
            writer.send_headers()


async def accept_body(request: web.BaseRequest) -> None:
    """Answers a client that waits to be told to send its body."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # Not part of the reply that follows.
        request.writer.output_size = 0


async def read_up_to(content: aiohttp.StreamReader, limit: int) -> bytes:
    """All of it, or somewhat more than ``limit`` bytes; then it is not at its end."""
    chunks = []
    size = 0
    while size <= limit and (chunk := await content.readany()):
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)


async def joined(start: bytes, rest: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    yield start
    while chunk := await rest.readany():
        yield chunk
