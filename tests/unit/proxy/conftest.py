"""A running proxy per test, in a thread of the test's own process, in front of whatever upstream the test serves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from joulebench.clock import SystemClock
from joulebench.proxy.energy import EnergyApi
from joulebench.proxy.server import Options, ProxyServer
from tests.unit.proxy.seen import Seen

StartProxy = Callable[..., Seen]


@contextmanager
def served(upstream: str, *, energy_api: EnergyApi | None = None, **options_given: Any) -> Iterator[Seen]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    loopback = ("127.0.0.1", 0)
    options = Options(upstream, loopback, loopback, **options_given)
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
