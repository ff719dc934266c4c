"""A running proxy per test, in a thread of the test's own process, in front of whatever upstream the test serves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from joulebench.clock import SystemClock
from joulebench.proxy.energy import EnergyApi
from joulebench.proxy.server import Options, ProxyServer
from tests.unit.proxy.seen import Seen

StartProxy = Callable[..., Seen]


@contextmanager
def served(
    upstream: str, *, add_usage: bool = True, add_logprobs: int = 0, max_tasks: int = 200, energy_api: EnergyApi | None = None
) -> Iterator[Seen]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    loopback = ("127.0.0.1", 0)
    options = Options(upstream, loopback, loopback, add_usage=add_usage, add_logprobs=add_logprobs, max_tasks=max_tasks)
    server = ProxyServer(options, SystemClock(), energy_api)
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        yield Seen(server)
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


@pytest.fixture
def start_proxy() -> Iterator[StartProxy]:
    with ExitStack() as stack:
        yield lambda upstream, **options: stack.enter_context(served(upstream, **options))
