"""Forwards one request to the model server and its reply to the client.

Bytes come first: a chunk is sent on as it arrives, a client that reads slowly slows the model server down, a client that leaves
closes the connection to it, and a reply that breaks upstream breaks off for the client at the same place.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import aiohttp
from aiohttp import web

from joulebench.clock import Clock
from joulebench.llm.decoder import Inflater, ReplyDecoder
from joulebench.llm.readers import Api
from joulebench.llm.refusals import may_be_about_additions
from joulebench.proxy import relay as relaying
from joulebench.proxy.accounting import FinishedRequest, UsageRecorder
from joulebench.proxy.energy import EnergyAllocator
from joulebench.proxy.journal import RunJournals
from joulebench.proxy.metrics import ProxyMetrics, TaskKey
from joulebench.proxy.relay import Ending, Relayed
from joulebench.proxy.request import (
    BadRequest,
    MeteredRequest,
    RequestTarget,
    RequestTicket,
    TaskFile,
    Upstream,
    metered_api,
    parse_request,
    parse_target,
)
from joulebench.proxy.rewrite import ExtendedRequest, RequestAdditions, ResponseFilter
from joulebench.proxy.upstream_connections import HeadTimeout, KeptConnectionClosed
from joulebench.units import Seconds

log = logging.getLogger(__name__)

MAX_READ_BODY = 32 * 1024 * 1024
"""Bytes of a request that are kept to be read and, if need be, sent again; a longer one passes unread."""
MAX_KEPT_BODIES = 256 * 1024 * 1024
"""Bytes of all requests that are kept at the same time."""
MAX_INFLATED_BODY = 4 * 1024 * 1024
SENT_AT_ONCE = 128 * 1024
"""Bytes of a request body that are written before other requests get their turn."""
MAX_REFUSAL = 1024 * 1024
MAX_REWRITTEN_REPLY = 64 * 1024 * 1024
"""Bytes of a reply that is read to its end before it is sent on."""
HOLD_HEAD_SECONDS = 5.0
"""Longest wait for the first event of a reply before its head is sent, where it is not known that additions are accepted."""

Body: TypeAlias = bytes | aiohttp.StreamReader | AsyncIterator[bytes] | None


class Forwarder:
    """``energy`` is None without an exporter."""

    def __init__(
        self,
        upstream: Upstream,
        session: aiohttp.ClientSession,
        *,
        clock: Clock,
        metrics: ProxyMetrics,
        recorder: UsageRecorder,
        additions: RequestAdditions,
        energy: EnergyAllocator | None = None,
        journals: RunJournals | None = None,
        task_file: TaskFile | None = None,
        run_id: str = "",
    ) -> None:
        self._upstream = upstream
        self._session = session
        self._clock = clock
        self._metrics = metrics
        self._recorder = recorder
        self._additions = additions
        self._energy = energy
        self._journals = journals
        self._task_file = task_file
        self._run_id = run_id
        self._kept_bytes = 0
        self._was_reachable = True

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._handle(request)
        except BadRequest as error:
            response = web.Response(status=error.status, text=f"{error}\n")
            response.force_close()
            return response

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        began = self._clock.monotonic()
        target = parse_target(request.method, request.raw_path, request.headers)
        if self._task_file is not None:
            target = self._task_file.name(target)
        if self._run_id and not target.run:
            target = RequestTarget(self._run_id, target.task, target.target)
        self._upstream.url_for(target.target)
        await relaying.accept_body(request)
        api = metered_api(request.method, target.path)
        if api is None:
            self._metrics.count_unread("other_path")
            return await self._forward_unmetered(request, target, request.content if request.can_read_body else None, None)
        limit = max(0, min(MAX_READ_BODY, MAX_KEPT_BODIES - self._kept_bytes))
        body = await relaying.read_body(request.content, limit)
        self._kept_bytes += len(body)
        try:
            return await self._forward_read(request, target, api, body, began)
        finally:
            self._kept_bytes -= len(body)

    async def _forward_read(
        self, request: web.BaseRequest, target: RequestTarget, api: Api, body: bytes, began: float
    ) -> web.StreamResponse:
        """``body``: as far as it is kept."""
        if not request.content.at_eof():
            self._metrics.count_unread("too_large")
            return await self._forward_unmetered(request, target, relaying.joined(body, request.content), api)
        plain = _inflate(body, request.headers.get("Content-Encoding", ""))
        parsed = None if plain is None else parse_request(api, plain)
        if parsed is None:
            self._metrics.count_unread("not_json" if plain is not None else "encoding")
            return await self._forward_unmetered(request, target, body, api)
        key = self._metrics.key(target.run, target.task, parsed.model)
        now = Seconds(self._clock.unix() - (self._clock.monotonic() - began))
        ticket = None if self._journals is None else self._journals.begin(target.run, target.task, now)
        exchange = _Exchange(key, parsed, target, began, ticket)
        self._metrics.begin(key, now)
        energy = None if self._energy is None else self._energy.begin(key, may_be_remote=api.is_ollama, ticket=ticket)
        try:
            return await self._forward_metered(request, body, exchange, is_plain=plain is body)
        finally:
            if self._energy is not None and energy is not None:
                self._energy.end(energy)
            if self._journals is not None and ticket is not None:
                self._journals.end(ticket)
            self._recorder.put(exchange.finish(self._clock.monotonic()))

    async def _forward_unmetered(
        self, request: web.BaseRequest, target: RequestTarget, body: Body, api: Api | None
    ) -> web.StreamResponse:
        try:
            async with self._request(request, target, body, keep_length=True) as upstream:
                return (await relaying.relay(request, upstream, self._clock.monotonic)).response
        except aiohttp.ClientError as error:
            return self._unreachable(error, api)

    async def _forward_metered(
        self, request: web.BaseRequest, body: bytes, exchange: _Exchange, *, is_plain: bool
    ) -> web.StreamResponse:
        """``is_plain``: the body is not compressed, so that it can be extended."""
        extended = ExtendedRequest(body)
        if is_plain:
            extended = self._additions.extend(exchange.request, body, self._clock.monotonic())
        try:
            try:
                return await self._forward_once(request, body, exchange, extended)
            except KeptConnectionClosed:
                # Nothing of a reply had come: as clients do, the request is sent once more.
                return await self._forward_once(request, body, exchange, extended)
        except aiohttp.ClientError as error:
            exchange.result = "unreachable" if isinstance(error, aiohttp.ClientConnectorError) else "broken"
            return self._unreachable(error, exchange.request.api)

    async def _forward_once(
        self, request: web.BaseRequest, body: bytes, exchange: _Exchange, extended: ExtendedRequest
    ) -> web.StreamResponse:
        if extended.is_extended:
            response = await self._try_extended(request, extended, exchange)
            if response is not None:
                return response
            try:
                return await self._forward_plain(request, body, exchange, extended)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if isinstance(error, aiohttp.ClientConnectorError):
                    raise
                # Servers close a connection after an error, also without saying so: this was the kept one.
        return await self._forward_plain(request, body, exchange, extended)

    async def _forward_plain(
        self, request: web.BaseRequest, body: bytes, exchange: _Exchange, extended: ExtendedRequest
    ) -> web.StreamResponse:
        """Sends the request as the client wrote it; where ``extended`` failed and this does not, the additions were refused."""
        async with self._request(request, exchange.target, body) as upstream:
            self._was_reachable = True
            if extended.is_extended and upstream.status < 400:
                now = self._clock.monotonic()
                self._additions.remember_refusal(exchange.request, extended, exchange.refusal, now)
                self._metrics.count_refused_additions(exchange.key)
            decoder = exchange.start_reply(upstream)
            return exchange.end(upstream, await relaying.relay(request, upstream, self._clock.monotonic, decoder))

    async def _try_extended(
        self, request: web.BaseRequest, extended: ExtendedRequest, exchange: _Exchange
    ) -> web.StreamResponse | None:
        """Returns None where the model server refused the request in whatever way; then nothing was sent to the client."""
        try:
            async with self._request(request, exchange.target, extended.body, uncompressed=True) as upstream:
                self._was_reachable = True
                if may_be_about_additions(upstream.status):
                    exchange.refusal = await relaying.read_body(upstream.content, MAX_REFUSAL)
                    return None
                return await self._answer_extended(request, upstream, extended, exchange)
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError, KeptConnectionClosed):
            raise
        except aiohttp.ClientError:
            # The connection closed before a reply.
            return None

    async def _answer_extended(
        self, request: web.BaseRequest, upstream: aiohttp.ClientResponse, extended: ExtendedRequest, exchange: _Exchange
    ) -> web.StreamResponse | None:
        decoder = exchange.start_reply(upstream)
        if upstream.status >= 400:
            return exchange.end(upstream, await relaying.relay(request, upstream, self._clock.monotonic, decoder))
        if decoder.inflate_problem is not None:
            # The additions cannot be removed from a reply in this coding, so the request goes out again as the client wrote it.
            exchange.refusal = decoder.inflate_problem.encode()
            return None
        response_filter = ResponseFilter(exchange.request.api, extended, decoder)
        if not decoder.streamed:
            return await self._answer_whole(request, upstream, response_filter, exchange)
        first_bytes = b""
        if not self._additions.are_accepted(exchange.request, extended):
            first_event = await self._first_event(upstream, response_filter, decoder)
            if first_event is None:
                exchange.refusal = (decoder.finish().error or "").encode()
                return None
            first_bytes = first_event
            if response_filter.has_payload:
                self._additions.remember_acceptance(exchange.request, extended)
        relayed = await relaying.relay(
            request, upstream, self._clock.monotonic, decoder, response_filter=response_filter, first_bytes=first_bytes
        )
        return exchange.end(upstream, relayed)

    async def _first_event(
        self, upstream: aiohttp.ClientResponse, response_filter: ResponseFilter, decoder: ReplyDecoder
    ) -> bytes | None:
        """Returns the filtered bytes up to the first event that carries a payload; None where that is an error, or where the
        reply ends before it."""
        shown: list[bytes] = []
        end = self._clock.monotonic() + HOLD_HEAD_SECONDS
        while not response_filter.has_payload:
            left = end - self._clock.monotonic()
            if left <= 0:
                return b"".join(shown)
            try:
                chunk = await asyncio.wait_for(upstream.content.readany(), left)
            except asyncio.TimeoutError:
                return b"".join(shown)
            if not chunk:
                if not response_filter.is_complete:
                    return None
                shown.append(response_filter.finish(self._clock.monotonic()))
                return None if decoder.finish().error is not None or not decoder.finish().complete else b"".join(shown)
            shown.append(response_filter.feed(chunk, self._clock.monotonic()))
            if decoder.inflate_problem is not None:
                return None
        return None if decoder.has_failed else b"".join(shown)

    async def _answer_whole(
        self,
        request: web.BaseRequest,
        upstream: aiohttp.ClientResponse,
        response_filter: ResponseFilter,
        exchange: _Exchange,
    ) -> web.StreamResponse | None:
        """A reply that is not streamed is read before any of it goes on; one that breaks upstream is then a refusal."""
        body = await relaying.read_body(upstream.content, MAX_REWRITTEN_REPLY)
        if not upstream.content.at_eof():
            exchange.decoder = None
            relayed = await relaying.relay(request, upstream, self._clock.monotonic, first_bytes=body)
            return exchange.end(upstream, relayed)
        if exchange.decoder is not None and exchange.decoder.is_compressed:
            inflated = await _inflate_in_parts(body, exchange.decoder)
            if inflated is None:
                exchange.refusal = (exchange.decoder.inflate_problem or "").encode()
                return None
            shown = response_filter.filter_whole(inflated)
        else:
            shown = response_filter.filter_whole(body)
        if exchange.decoder is not None and exchange.decoder.has_failed:
            exchange.refusal = body[:MAX_REFUSAL]
            return None
        return exchange.end(upstream, await relaying.send_whole(request, upstream, shown))

    def _request(
        self,
        request: web.BaseRequest,
        target: RequestTarget,
        body: Body,
        *,
        keep_length: bool = False,
        uncompressed: bool = False,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        headers = relaying.headers_for_upstream(request, self._upstream, keep_length=keep_length, uncompressed=uncompressed)
        url = self._upstream.url_for(target.target)
        if isinstance(body, bytes) and len(body) > SENT_AT_ONCE:
            headers["Content-Length"] = str(len(body))
            body = _in_parts(body)
        return self._session.request(request.method, url, headers=headers, data=body, allow_redirects=False)

    def _unreachable(self, error: aiohttp.ClientError, api: Api | None) -> web.Response:
        message = f"the model server {self._upstream.shown} does not answer: {type(error).__name__}"
        if isinstance(error, HeadTimeout):
            message = f"the model server {self._upstream.shown} {error}"
        elif isinstance(error, aiohttp.ClientConnectorError) and error.os_error is not None:
            message = f"{message}, {error.os_error.strerror or 'no connection'}"
        log.log(logging.WARNING if self._was_reachable else logging.DEBUG, "%s", message)
        self._was_reachable = False
        shown: object = message
        if api is not None and not api.is_ollama:
            shown = {"message": message, "type": "upstream_error", "code": 502}
        body = {**({"type": "error"} if api is Api.MESSAGES else {}), "error": shown}
        return web.Response(status=502, body=json.dumps(body).encode(), content_type="application/json")


async def _in_parts(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), SENT_AT_ONCE):
        yield body[start : start + SENT_AT_ONCE]
        await asyncio.sleep(0)


async def _inflate_in_parts(body: bytes, decoder: ReplyDecoder) -> bytes | None:
    """Returns a complete reply without its content coding; None where it cannot be read within the limits."""
    parts = []
    for start in range(0, len(body), relaying.READ_AT_ONCE):
        parts.append(decoder.inflate(body[start : start + relaying.READ_AT_ONCE]))
        if decoder.inflate_problem is not None:
            return None
        await asyncio.sleep(0)
    return b"".join(parts) if decoder.is_inflated else None


def _inflate(body: bytes, coding: str) -> bytes | None:
    """Returns a request body without its content coding; None where it cannot be read within the limits."""
    if not coding:
        return body
    inflater = Inflater(coding, MAX_INFLATED_BODY)
    if inflater.is_identity and inflater.problem is None:
        return body
    plain = inflater.feed(body)
    return plain if inflater.problem is None else None


class _Exchange:
    """What becomes of one metered request. Whatever ends it early without a result was the client."""

    def __init__(
        self, key: TaskKey, request: MeteredRequest, target: RequestTarget, began: float, ticket: RequestTicket | None
    ) -> None:
        self.key = key
        self.request = request
        self.target = target
        self.result = "client_gone"
        self.refusal = b""
        self.decoder: ReplyDecoder | None = None
        self._began = began
        self._ticket = ticket
        self._status: int | None = None

    def start_reply(self, upstream: aiohttp.ClientResponse) -> ReplyDecoder:
        """Begins to read a reply, in place of one that was a refusal."""
        self._status = upstream.status
        content_type, coding = upstream.headers.get("Content-Type", ""), upstream.headers.get("Content-Encoding", "")
        self.decoder = ReplyDecoder(
            self.request.api, content_type, coding, stream=self.request.stream, has_no_echo=not self.request.echo
        )
        return self.decoder

    def end(self, upstream: aiohttp.ClientResponse, relayed: Relayed) -> web.StreamResponse:
        if relayed.ending is not Ending.CLIENT_GONE:
            self.result = "refused" if upstream.status >= 400 else "broken"
            if relayed.ending is Ending.COMPLETE and upstream.status < 400:
                self.result = "delivered"
        return relayed.response

    def finish(self, ended: float) -> FinishedRequest:
        return FinishedRequest(self.key, self.request, self.result, self._began, ended, self.decoder, self._status, self._ticket)
