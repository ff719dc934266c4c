"""One request on its way to the model server and one reply on its way back.

The bytes come first: a chunk is sent on before it is read here, a client that reads slowly slows the model server down, one that
leaves closes the connection to it, and one that is gone wrong upstream ends for the client as it ended for the proxy.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import TypeAlias

import aiohttp
from aiohttp import web
from yarl import URL

from joulebench.clock import Clock
from joulebench.proxy import headers
from joulebench.proxy.additions import Added, Additions
from joulebench.proxy.address import Address, address_of
from joulebench.proxy.asked import Asked, Protocol, asked_of, protocol_of
from joulebench.proxy.books import Books, Entry
from joulebench.proxy.energy import EnergySharer
from joulebench.proxy.meter import Meter
from joulebench.proxy.relay import Ending, Relayed, accept_body, joined, read_up_to, relay
from joulebench.proxy.tally import Key, Tally
from joulebench.proxy.undo import Undo

log = logging.getLogger(__name__)

MAX_READ_BODY = 64 * 1024 * 1024
"""Bytes of a request that are kept to be read and, if need be, sent again; a longer one goes through unread."""
MAX_REFUSAL = 1024 * 1024

Body: TypeAlias = bytes | aiohttp.StreamReader | AsyncIterator[bytes] | None


class Forwarder:
    """``upstream``: URL of the model server, without a slash at the end. ``energy`` is None without an exporter."""

    def __init__(
        self,
        upstream: str,
        session: aiohttp.ClientSession,
        *,
        clock: Clock,
        tally: Tally,
        books: Books,
        additions: Additions,
        energy: EnergySharer | None = None,
    ) -> None:
        self._upstream = upstream
        self._session = session
        self._clock = clock
        self._tally = tally
        self._books = books
        self._additions = additions
        self._energy = energy

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        began = self._clock.monotonic()
        await accept_body(request)
        address = address_of(request.raw_path, request.headers)
        protocol = protocol_of(request.method, address.path)
        if protocol is None:
            self._tally.unread("other_path")
            return await self._unmetered(request, address, request.content if request.can_read_body else None, None)
        start = await read_up_to(request.content, MAX_READ_BODY)
        if not request.content.at_eof():
            self._tally.unread("too_large")
            return await self._unmetered(request, address, joined(start, request.content), protocol)
        asked = asked_of(protocol, start)
        if asked is None:
            self._tally.unread("not_json")
            return await self._unmetered(request, address, start, protocol)
        key = self._tally.key(address.run, address.task, asked.model)
        exchange = _Exchange(key, asked, began)
        self._tally.begin(key)
        if self._energy is not None:
            self._energy.begin(key)
        try:
            return await self._metered(request, address, start, exchange)
        finally:
            if self._energy is not None:
                self._energy.end(key)
            self._books.put(exchange.entry(self._clock.monotonic()))

    async def _unmetered(
        self, request: web.BaseRequest, address: Address, data: Body, protocol: Protocol | None
    ) -> web.StreamResponse:
        try:
            async with self._request(request, address, data, keep_length=True) as upstream:
                return (await relay(request, upstream, self._clock.monotonic)).response
        except aiohttp.ClientError as error:
            return self._unreachable(error, protocol)

    async def _metered(self, request: web.BaseRequest, address: Address, data: bytes, exchange: _Exchange) -> web.StreamResponse:
        added = self._additions.to(exchange.asked, data)
        try:
            if added.anything:
                response = await self._with_additions(request, address, added, exchange)
                if response is not None:
                    return response
            async with self._request(request, address, data) as upstream:
                if added.anything and upstream.status < 400:
                    self._additions.refused(exchange.asked, added, exchange.refusal)
                    self._tally.refused(exchange.key)
                return await self._answer(request, upstream, exchange, None)
        except aiohttp.ClientError as error:
            exchange.result = "unreachable" if isinstance(error, aiohttp.ClientConnectorError) else "broken"
            return self._unreachable(error, exchange.asked.protocol)

    async def _with_additions(
        self, request: web.BaseRequest, address: Address, added: Added, exchange: _Exchange
    ) -> web.StreamResponse | None:
        """None where the model server refused; then nothing has been sent to the client."""
        async with self._request(request, address, added.body, uncompressed=True) as upstream:
            if upstream.status in (400, 422):
                exchange.refusal = await read_up_to(upstream.content, MAX_REFUSAL)
                return None
            return await self._answer(request, upstream, exchange, added if upstream.status < 400 else None)

    def _request(
        self, request: web.BaseRequest, address: Address, data: Body, *, keep_length: bool = False, uncompressed: bool = False
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        sent = headers.for_upstream(request.headers, keep_length=keep_length, uncompressed=uncompressed)
        return self._session.request(
            request.method,
            _url(self._upstream + address.target),
            headers=sent,
            data=data,
            allow_redirects=False,
        )

    async def _answer(
        self, request: web.BaseRequest, upstream: aiohttp.ClientResponse, exchange: _Exchange, added: Added | None
    ) -> web.StreamResponse:
        kind, coding = upstream.headers.get("Content-Type", ""), upstream.headers.get("Content-Encoding", "")
        meter = exchange.meter = Meter(exchange.asked.protocol, kind, coding)
        undo = None if added is None else Undo(exchange.asked.protocol, added, meter)
        if undo is not None and not meter.streamed:
            response, ending = await self._edited_whole(request, upstream, undo)
        else:
            response, ending = await relay(request, upstream, self._clock.monotonic, meter, undo)
        if ending is not Ending.CLIENT_GONE:
            exchange.result = "refused" if upstream.status >= 400 else "broken"
            if ending is Ending.WHOLE and upstream.status < 400 and meter.ended_well:
                exchange.result = "ok"
        return response

    async def _edited_whole(self, request: web.BaseRequest, upstream: aiohttp.ClientResponse, undo: Undo) -> Relayed:
        """A reply that comes at once is read before any of it goes on, and an upstream that breaks is then told as that."""
        body = undo.whole(await upstream.read(), self._clock.monotonic())
        kept = headers.for_client(upstream.headers, keep_length=False)
        response = web.Response(status=upstream.status, reason=upstream.reason, headers=kept, body=body)
        try:
            await response.prepare(request)
            await response.write_eof()
        except ConnectionError:
            return Relayed(response, Ending.CLIENT_GONE)
        return Relayed(response, Ending.WHOLE)

    def _unreachable(self, error: aiohttp.ClientError, protocol: Protocol | None) -> web.Response:
        message = f"the model server {self._upstream} does not answer: {error or type(error).__name__}"
        log.warning("%s", message)
        shown: object = message
        if protocol is not None and not protocol.is_ollama:
            shown = {"message": message, "type": "upstream_error", "code": 502}
        body = {**({"type": "error"} if protocol is Protocol.MESSAGES else {}), "error": shown}
        return web.Response(status=502, body=json.dumps(body).encode(), content_type="application/json")


@lru_cache(256)
def _url(address: str) -> URL:
    """What yarl works out of a URL it keeps with it, and a benchmark asks the same few."""
    return URL(address, encoded=True)


class _Exchange:
    """What becomes of one metered request. Whatever ends it early without a result was the client."""

    def __init__(self, key: Key, asked: Asked, began: float) -> None:
        self.key = key
        self.asked = asked
        self.began = began
        self.result = "client_gone"
        self.refusal = b""
        self.meter: Meter | None = None

    def entry(self, ended: float) -> Entry:
        meter = self.meter
        reply, cause = (None, None) if meter is None else (meter.reply, meter.cause)
        return Entry(self.key, self.asked, self.result, self.began, ended, reply, cause)
