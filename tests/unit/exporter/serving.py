"""A real server on a free port of the loopback, around hand-made readings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from joulebench.exporter.collector import Collector
from joulebench.exporter.energy import EnergyCollector
from joulebench.exporter.energy_api import EnergyApi
from joulebench.exporter.exporter import ExporterCollector
from joulebench.exporter.exposition import Exposition
from joulebench.exporter.gpu import GpuCollector
from joulebench.exporter.routes import Routes
from joulebench.exporter.server import MAX_CONNECTIONS, Server
from joulebench.exporter.web_config import WebConfig
from tests.unit.exporter.snapshots import FULL, LOST, SPARSE, Gpus, ManualClock, Windows


def serving_routes() -> Routes:
    clock = ManualClock()
    gpus = Gpus((FULL, SPARSE, LOST))
    collectors: list[Collector] = [
        GpuCollector(gpus, "simulated"),
        EnergyCollector(gpus),
        ExporterCollector("simulated", clock, gpus),
    ]
    return Routes(Exposition(collectors, clock), EnergyApi(Windows(), "simulated", clock, 3600.0), "simulated")


@contextmanager
def serving(
    web: WebConfig | None = None, host: str = "127.0.0.1", port: int = 0, max_connections: int = MAX_CONNECTIONS
) -> Iterator[Server]:
    server = Server((host, port), serving_routes(), web or WebConfig(), max_connections)
    server.start()
    try:
        yield server
    finally:
        server.stop()
