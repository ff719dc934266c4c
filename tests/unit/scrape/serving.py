"""A real server on a free port of the loopback, around hand-made readings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from joulebench.scrape.collector import registry
from joulebench.scrape.energy import EnergyCollector
from joulebench.scrape.energy_api import EnergyApi
from joulebench.scrape.exporter import ExporterCollector
from joulebench.scrape.gpu import GpuCollector
from joulebench.scrape.routes import Routes
from joulebench.scrape.server import MAX_CONNECTIONS, Server
from joulebench.scrape.web_config import WebConfig
from tests.unit.scrape.snapshots import FULL, LOST, SPARSE, Gpus, ManualClock, Windows


@contextmanager
def serving(
    web: WebConfig | None = None, host: str = "127.0.0.1", port: int = 0, max_connections: int = MAX_CONNECTIONS
) -> Iterator[Server]:
    clock = ManualClock()
    gpus = Gpus((FULL, SPARSE, LOST))
    made = registry([GpuCollector(gpus, "simulated"), EnergyCollector(gpus), ExporterCollector("simulated", clock, gpus)], clock)
    routes = Routes(made, EnergyApi(Windows(), "simulated", clock, 3600.0), "simulated")
    server = Server((host, port), routes, web or WebConfig(), max_connections)
    server.start()
    try:
        yield server
    finally:
        server.stop()
