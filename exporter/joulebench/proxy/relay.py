"""Passes bytes and headers between client and model server, chunk by chunk, as they come."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable
from enum import Enum
from typing import NamedTuple

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from joulebench.llm.decoder import ReplyDecoder
from joulebench.proxy.request import RUN_HEADER, TASK_HEADER, BadRequest, Upstream
from joulebench.proxy.rewrite import ResponseFilter

READ_AT_ONCE = 8 * 1024
"""Bytes of a reply that are read before other requests get their turn: of nothing but line ends they take some milliseconds."""
BODY_SECONDS = 120.0
"""Time for the body of a metered request, which is read before it is passed on."""

_HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
"""RFC 9110, 7.6.1."""
_LENGTH = frozenset(("content-length",))
_ANSWERED_HERE = frozenset(("expect", RUN_HEADER.lower(), TASK_HEADER.lower()))
NEVER_INVENTED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""Headers that an HTTP client adds where its caller sends none."""

_NOT_UPSTREAM = _HOP_BY_HOP | _ANSWERED_HERE
_NOT_UPSTREAM_RESIZED = _NOT_UPSTREAM | _LENGTH
_RESIZED = _HOP_BY_HOP | _LENGTH


class Ending(Enum):
    COMPLETE = "complete"
    UPSTREAM_BROKE = "upstream broke"
    CLIENT_GONE = "client gone"


class Relayed(NamedTuple):
    """``response`` was sent as far as it came."""

    response: web.StreamResponse
    ending: Ending


def headers_for_upstream(
    request: web.BaseRequest, upstream: Upstream, *, keep_length: bool, uncompressed: bool = False
) -> CIMultiDict[str]:
    """Returns the client's end-to-end headers. ``uncompressed``: the reply is to be rewritten.

    ``Host`` is the client's, so that a server which checks it (Ollama, against pages that rebind a name to loopback) can; only a
    Host that is the proxy's own address becomes the upstream's.
    """
    headers = _without(request.headers, _NOT_UPSTREAM if keep_length else _NOT_UPSTREAM_RESIZED)
    host = headers.get("Host")
    if host is None or _is_own_address(host, request):
        headers["Host"] = upstream.host_header
    if upstream.authorization is not None and "Authorization" not in headers:
        headers["Authorization"] = upstream.authorization
    if uncompressed:
        headers["Accept-Encoding"] = "identity"
    return headers


def headers_for_client(headers: CIMultiDictProxy[str], *, keep_length: bool) -> CIMultiDict[str]:
    return _without(headers, _HOP_BY_HOP if keep_length else _RESIZED)


class _RelayedResponse(web.StreamResponse):
    """Keeps its head until the first ``write`` or ``send_headers``: one packet less before the first token, which
    ``python -m tests.benchmarks --only proxy`` shows. Where aiohttp has no such setting, the head goes out by itself."""

    _send_headers_immediately = False


async def relay(
    request: web.BaseRequest,
    upstream: aiohttp.ClientResponse,
    now: Callable[[], float],
    decoder: ReplyDecoder | None = None,
    *,
    response_filter: ResponseFilter | None = None,
    first_bytes: bytes = b"",
) -> Relayed:
    """Sends a reply on as it comes. While the client's buffer is full, the model server waits too; a client that closes its
    connection cancels this.

    All bytes go through ``response_filter``, if there is one; without it ``decoder`` reads each chunk. What is not changed is
    sent before it is parsed. ``first_bytes``: filtered bytes that have been read already.
    """
    headers = headers_for_client(upstream.headers, keep_length=response_filter is None)
    if response_filter is not None:
        headers.popall("Content-Encoding", None)
    response = _RelayedResponse(status=upstream.status, reason=upstream.reason, headers=headers)
    try:
        await response.prepare(request)
        if first_bytes:
            await response.write(first_bytes)
        while True:
            try:
                chunk = upstream.content.read_nowait()
                if not chunk:
                    request.writer.send_headers()
                    chunk = await upstream.content.readany()
            except aiohttp.ClientError:
                # Only a read of upstream: a failing write is the client's.
                return _break_off(request, response)
            if not chunk:
                break
            for start in range(0, len(chunk), READ_AT_ONCE):
                await _pass_on(response, chunk[start : start + READ_AT_ONCE], now, decoder, response_filter)
                if response_filter is not None and response_filter.has_failed:
                    return _break_off(request, response)
                if start + READ_AT_ONCE < len(chunk):
                    await asyncio.sleep(0)
        if response_filter is not None and not await _pass_on_rest(response, now, response_filter):
            return _break_off(request, response)
        await response.write_eof()
    except ConnectionError:
        return Relayed(response, Ending.CLIENT_GONE)
    return Relayed(response, Ending.COMPLETE)


def _break_off(request: web.BaseRequest, response: web.StreamResponse) -> Relayed:
    """Closes the connection in the middle, so that the client sees the reply break off and never as complete."""
    request.writer.send_headers()
    if request.transport is not None:
        request.transport.close()
    return Relayed(response, Ending.UPSTREAM_BROKE)


async def _pass_on(
    response: web.StreamResponse,
    chunk: bytes,
    now: Callable[[], float],
    decoder: ReplyDecoder | None,
    response_filter: ResponseFilter | None,
) -> None:
    arrived = now()
    if response_filter is not None and not response_filter.passes_unchanged(chunk):
        if shown := response_filter.feed(chunk, arrived):
            await response.write(shown)
        return
    try:
        await response.write(chunk)
    finally:
        # Sent before it is parsed, and read also where the client has just left.
        if response_filter is not None:
            response_filter.feed(chunk, arrived)
        elif decoder is not None:
            decoder.feed(chunk, arrived)


async def _pass_on_rest(response: web.StreamResponse, now: Callable[[], float], response_filter: ResponseFilter) -> bool:
    """Sends what the filter keeps at the end of a reply. Returns False for a reply that is cut off within its content coding."""
    if not response_filter.is_complete:
        return False
    if rest := response_filter.finish(now()):
        await response.write(rest)
    return True


async def send_whole(request: web.BaseRequest, upstream: aiohttp.ClientResponse, body: bytes) -> Relayed:
    """Sends a reply that was read to its end, decompressed and rewritten."""
    headers = headers_for_client(upstream.headers, keep_length=False)
    headers.popall("Content-Encoding", None)
    response = web.Response(status=upstream.status, reason=upstream.reason, headers=headers, body=body)
    try:
        await response.prepare(request)
        await response.write_eof()
    except ConnectionError:
        return Relayed(response, Ending.CLIENT_GONE)
    return Relayed(response, Ending.COMPLETE)


async def accept_body(request: web.BaseRequest) -> None:
    """Answers a client that waits for ``100 Continue`` before it sends its body."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def read_body(content: aiohttp.StreamReader, limit: int) -> bytes:
    """Returns the body, or somewhat more than ``limit`` bytes of it; then ``content`` is not at its end.

    Raises BadRequest where it does not arrive within BODY_SECONDS.
    """
    if content.is_eof():
        # A short body has arrived with its head.
        return content.read_nowait()
    chunks: list[bytes] = []

    async def read() -> None:
        size = 0
        while size <= limit and (chunk := await content.readany()):
            chunks.append(chunk)
            size += len(chunk)

    try:
        await asyncio.wait_for(read(), BODY_SECONDS)
    except asyncio.TimeoutError as error:
        raise BadRequest(f"the body did not arrive within {BODY_SECONDS:g} s", 408) from error
    return b"".join(chunks)


async def joined(start: bytes, rest: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    yield start
    while chunk := await rest.readany():
        yield chunk


def _without(headers: CIMultiDictProxy[str], names: frozenset[str]) -> CIMultiDict[str]:
    connection = headers.get("Connection")
    if connection is not None and connection.lower() not in ("keep-alive", "close"):
        named = [name.strip().lower() for value in headers.getall("Connection") for name in value.split(",")]
        # Host has to stay, and a length that is named here is no reason to lose it.
        names = names.union(named) - {"host", "content-length"} | (names & _LENGTH)
    return CIMultiDict([(name, value) for name, value in headers.items() if name.lower() not in names])


def _is_own_address(host: str, request: web.BaseRequest) -> bool:
    """Returns whether a Host header names the address at which this connection came in."""
    socket_name = None if request.transport is None else request.transport.get_extra_info("sockname")
    if not isinstance(socket_name, tuple):
        return False
    address, port = str(socket_name[0]).lower(), int(socket_name[1])
    name, _, port_text = host.rpartition(":") if ":" in host.rpartition("]")[2] else (host, "", "80")
    name = name.strip("[]").lower()
    if port_text != str(port):
        return False
    if name == address:
        return True
    try:
        is_loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
    return is_loopback and name in ("localhost", "127.0.0.1", "::1")
