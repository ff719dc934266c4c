"""The proxy's own /metrics and /healthz, on an address of their own: on the other one every path is the model server's."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator
from urllib.parse import parse_qs

from aiohttp import web
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from joulebench.metrics.families import Family, Sheet, family
from joulebench.proxy.tally import Tally


class _Collector:
    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def describe(self) -> list[Family]:
        return [family(metric) for metric in self._tally.metrics]

    def collect(self) -> Iterator[Family]:
        sheet = Sheet()
        self._tally.collect(sheet)
        yield from sheet.families()


class MetricsPage:
    def __init__(self, tally: Tally) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        self._registry.register(_Collector(tally))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="only GET and HEAD\n", headers={"Allow": "GET, HEAD"})
        match request.path:
            case "/metrics":
                return await self._metrics(request)
            case "/healthz":
                return web.Response(text="ok\n")
            case _:
                return web.Response(status=404, text="not found; there are /metrics and /healthz\n")

    async def _metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        # In a thread: some thousand series take long enough to be seen in the gaps between tokens.
        body, content_type = await asyncio.to_thread(self._page, request.headers.get("Accept", ""), request.query_string)
        sent = {"Content-Type": content_type, "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            body = await asyncio.to_thread(gzip.compress, body, 3)
            sent["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=sent)

    def _page(self, accept: str, query: str) -> tuple[bytes, str]:
        encode, content_type = choose_encoder(accept)
        wanted = parse_qs(query).get("name[]")
        return encode(self._registry if wanted is None else self._registry.restricted_registry(wanted)), content_type
