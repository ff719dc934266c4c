"""The two listeners of the proxy and what they need, from ``start`` to ``stop`` in one event loop."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from joulebench.clock import Clock
from joulebench.errors import UserError
from joulebench.proxy import headers
from joulebench.proxy.additions import Additions
from joulebench.proxy.books import Books
from joulebench.proxy.energy import CUT_EVERY, EnergyApi, EnergySharer
from joulebench.proxy.forward import Forwarder
from joulebench.proxy.tally import Tally
from joulebench.proxy.web import MetricsPage

CONNECT_TIMEOUT = 10.0
IDLE_UPSTREAM = 2.0
"""Seconds that a connection to the model server is kept: below the 5 s after which uvicorn and llama.cpp close it, since a
request that meets that moment is lost."""
IDLE_CLIENT = 75.0
MAX_HEADER = 64 * 1024
"""Bytes of one header or of the request line: some carry a long token."""
FINISH_WITHIN = 3.0
"""Seconds that requests in flight have when the proxy is told to stop."""


@dataclass(frozen=True, slots=True)
class Options:
    """Addresses are (host, port), port 0 for a free one."""

    upstream: str
    listen: tuple[str, int]
    metrics_listen: tuple[str, int]
    add_usage: bool = True
    add_logprobs: int = 0
    max_tasks: int = 200


class ProxyServer:
    """``energy_api`` is None without an exporter. Addresses are known after ``start``."""

    def __init__(self, options: Options, clock: Clock, energy_api: EnergyApi | None = None) -> None:
        self._options = options
        self._clock = clock
        self._energy_api = energy_api
        self._stack = AsyncExitStack()
        self.tally = Tally(options.max_tasks)
        self.url = ""
        self.metrics_url = ""

    async def start(self) -> None:
        """Raises UserError where an address cannot be used; then nothing is left running."""
        options = self._options
        try:
            books = Books(self.tally)
            books.start()
            self._stack.callback(books.stop)
            energy = None
            if self._energy_api is not None:
                energy = EnergySharer(self._energy_api, self.tally, self._clock)
                energy.start()
                self._stack.callback(energy.stop)
                cutter = asyncio.create_task(_cut_regularly(energy))
                self._stack.callback(cutter.cancel)
            session = await self._stack.enter_async_context(_session())
            forwarder = Forwarder(
                options.upstream,
                session,
                clock=self._clock,
                tally=self.tally,
                books=books,
                additions=Additions(options.add_usage, options.add_logprobs),
                energy=energy,
            )
            page = MetricsPage(self.tally)
            self.metrics_url = await self._listen(
                web.Server(page.handle, access_log=None), options.metrics_listen, "--web.listen-address"
            )
            served = web.Server(
                forwarder.handle,
                handler_cancellation=True,
                access_log=None,
                keepalive_timeout=IDLE_CLIENT,
                auto_decompress=False,
                max_line_size=MAX_HEADER,
                max_field_size=MAX_HEADER,
            )
            self.url = await self._listen(served, options.listen, "--listen")
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        await self._stack.aclose()

    async def _listen(self, server: web.Server, address: tuple[str, int], setting: str) -> str:
        runner = web.ServerRunner(server, shutdown_timeout=FINISH_WITHIN)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        host, port = address
        try:
            await web.TCPSite(runner, host or None, port, backlog=512).start()
        except OSError as error:
            shown = f"{host}:{port}"
            raise UserError(f"{setting}: cannot listen on {shown}: {error.strerror or error}; choose another address") from error
        taken = runner.addresses[0]
        name = f"[{taken[0]}]" if ":" in taken[0] else taken[0]
        return f"http://{name}:{taken[1]}"


def _session() -> aiohttp.ClientSession:
    """No limit of its own on connections or time: both are the client's and the model server's."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_UPSTREAM),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=headers.NEVER_INVENTED,
        max_line_size=MAX_HEADER,
        max_field_size=MAX_HEADER,
        auto_decompress=False,
    )


async def _cut_regularly(energy: EnergySharer) -> None:
    while True:
        await asyncio.sleep(CUT_EVERY)
        energy.cut()
