"""The proxy's two listeners and what they need, from ``start`` to ``stop``.

Clients are served by the event loop that calls ``start``. ``/metrics`` has a thread and an event loop of its own, so that a
scrape of many series delays no token and requests delay no scrape.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from joulebench.clients.session import ca_bundle, environment_proxy
from joulebench.clock import Clock
from joulebench.errors import UserError
from joulebench.http_server import HttpServer
from joulebench.metrics import PROXY_JOURNAL_QUEUE, PROXY_UNWRITTEN_EVENTS
from joulebench.proxy.accounting import UsageRecorder
from joulebench.proxy.connections import MAX_HEADER, BoundedServer, connection_limit, start_listening
from joulebench.proxy.energy import CUT_EVERY, DRAIN_SECONDS, EnergyAllocator, EnergyApi
from joulebench.proxy.forward import Forwarder
from joulebench.proxy.journal import RunJournals
from joulebench.proxy.metrics import ProxyMetrics, metrics_app
from joulebench.proxy.relay import NEVER_INVENTED
from joulebench.proxy.request import TaskFile, Upstream
from joulebench.proxy.rewrite import RequestAdditions
from joulebench.proxy.upstream_connections import HeadDeadlineConnector
from joulebench.settings import Url
from joulebench.supervise import run_in_asyncio

Step = Callable[[], Awaitable[float | None]]

CONNECT_TIMEOUT = 10.0
IDLE_UPSTREAM = 2.0
"""Seconds that a connection to the model server is kept: below the 5 s after which uvicorn and llama.cpp close it, since a
request that meets that moment is lost."""
FINISH_WITHIN = 2.0
"""Seconds that requests in flight have when the proxy is stopped."""
MAX_SCRAPE_CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class Options:
    """Addresses are (host, port), port 0 for a free one. ``reply_timeout``: seconds until the first byte of a reply.

    ``runs_dir`` is None where no journals are kept; ``run_id``: the run of requests that name none.
    """

    upstream: str
    listen: tuple[str, int]
    metrics_listen: tuple[str, int]
    add_usage: bool = True
    add_logprobs: int = 0
    max_tasks: int = 200
    task_file: Path | None = None
    reply_timeout: float = 3600.0
    runs_dir: Path | None = None
    run_id: str = ""


class ProxyServer:
    """``energy_api`` is None without an exporter; ``devices``: those that it answers for, where the user named them. Addresses
    are known after ``start``."""

    def __init__(
        self,
        options: Options,
        clock: Clock,
        energy_api: EnergyApi | None = None,
        devices: Mapping[str, object] | None = None,
    ) -> None:
        self.upstream = Upstream(options.upstream)
        self._options = options
        self._clock = clock
        self._energy_api = energy_api
        self._devices = devices
        self._stack = AsyncExitStack()
        self.metrics = ProxyMetrics(options.max_tasks)
        self.url = ""
        self.metrics_url = ""

    async def start(self) -> None:
        """Raises UserError where an address cannot be used; then nothing is left running."""
        options = self._options
        try:
            scrapes = HttpServer(options.metrics_listen, metrics_app(self.metrics), max_connections=MAX_SCRAPE_CONNECTIONS)
            self._stack.callback(scrapes.stop)
            scrapes.start()
            self.metrics_url = scrapes.url
            journals = None
            if options.runs_dir is not None:
                journals = RunJournals(options.runs_dir, self.metrics, self._clock, self._devices)
                self._stack.callback(journals.stop, FINISH_WITHIN)
                self.metrics.watch_queue(journals.queue.name, lambda: journals.queue.dropped)
                self.metrics.watch(PROXY_JOURNAL_QUEUE, journals.queue.__len__)
                self.metrics.watch(PROXY_UNWRITTEN_EVENTS, journals.unwritten_events)
            energy = None
            if self._energy_api is not None:
                on_request = None if journals is None else journals.record_energy
                energy = EnergyAllocator(self._energy_api, self.metrics, self._clock, on_request)
                energy.start()
                self._stack.callback(energy.stop, 0.0 if journals is None else DRAIN_SECONDS)
                self._run_in_background("proxy-energy-cut", _cut_regularly(energy))
            if journals is not None:
                journals.start(energy)
                self._stack.callback(journals.finish_tasks, FINISH_WITHIN)
            on_model = None if energy is None else energy.set_remote
            additions = RequestAdditions(options.add_usage, options.add_logprobs)
            record = None if journals is None else journals.record
            recorder = UsageRecorder(self.metrics, self._clock, on_model, record, additions.trial)
            recorder.start()
            self.metrics.watch_queue(recorder.queue.name, lambda: recorder.queue.dropped)
            self._stack.callback(recorder.stop)
            session = await self._stack.enter_async_context(
                _session(Url.parse(options.upstream, "--upstream"), options.reply_timeout)
            )
            forwarder = Forwarder(
                self.upstream,
                session,
                clock=self._clock,
                metrics=self.metrics,
                recorder=recorder,
                additions=additions,
                energy=energy,
                journals=journals,
                run_id=options.run_id,
                task_file=None if options.task_file is None else TaskFile(options.task_file),
            )
            server = BoundedServer(
                forwarder.handle,
                self._clock,
                max_connections=connection_limit(),
                handler_cancellation=True,
                auto_decompress=False,
            )
            self.url = await _listen(server, options.listen, "--listen", self._stack)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        await self._stack.aclose()

    def _run_in_background(self, name: str, step: Step) -> None:
        task = asyncio.create_task(run_in_asyncio(name, step))
        self._stack.callback(task.cancel)


async def _listen(server: BoundedServer, address: tuple[str, int], setting: str, stack: AsyncExitStack) -> str:
    """Serves at ``address`` in the running event loop until ``stack`` is closed. Returns the URL."""
    runner = web.ServerRunner(server, shutdown_timeout=FINISH_WITHIN)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    sweeper = asyncio.create_task(run_in_asyncio("proxy-connections", server.sweep))
    stack.callback(sweeper.cancel)
    host, port = address
    try:
        await start_listening(runner, host, port)
    except OSError as error:
        shown = f"{host}:{port}"
        raise UserError(f"{setting}: cannot listen on {shown}: {error.strerror or error}; choose another address") from error
    taken = runner.addresses[0]
    name = f"[{taken[0]}]" if ":" in taken[0] else taken[0]
    return f"http://{name}:{taken[1]}"


def _session(upstream: Url, reply_timeout: float) -> aiohttp.ClientSession:
    """No limit of its own on connections, or on the time of a reply after its head: both are the client's and the model server's.

    Proxies and CA bundles of the environment count; credentials of ``.netrc`` do not, as clients bring their own.
    """
    bundle = ca_bundle()
    context: ssl.SSLContext | bool = True
    if bundle is not None:
        is_directory = Path(bundle).is_dir()
        context = ssl.create_default_context(cafile=None if is_directory else bundle, capath=bundle if is_directory else None)
    return aiohttp.ClientSession(
        connector=HeadDeadlineConnector(reply_timeout, limit=0, keepalive_timeout=IDLE_UPSTREAM, ssl=context),
        proxy=environment_proxy(upstream),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=NEVER_INVENTED,
        max_line_size=MAX_HEADER,
        max_field_size=MAX_HEADER,
        auto_decompress=False,
    )


def _cut_regularly(energy: EnergyAllocator) -> Step:
    async def cut() -> float:
        energy.cut()
        return CUT_EVERY

    return cut
