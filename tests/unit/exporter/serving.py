"""A real server on a free port of the loopback, around hand-made readings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from joulebench.exporter.app import build_app
from joulebench.exporter.energy_api import EnergyApi, WindowSource
from joulebench.exporter.exporter_collector import ExporterCollector
from joulebench.exporter.exposition import Collector, Exposition
from joulebench.exporter.gpu_collector import gpu_collectors
from joulebench.exporter.web_config import WebConfig
from joulebench.http_server import HEAD_SECONDS, MAX_CONNECTIONS, HttpServer
from joulebench.supervise import LoopErrors
from tests.unit.exporter.snapshots import FULL, LOST, SPARSE, Gpus, ManualClock, Windows


def example_app(web_config: WebConfig, windows: WindowSource | None = None) -> web.Application:
    clock = ManualClock()
    gpus = Gpus((FULL, SPARSE, LOST))
    errors = LoopErrors()
    collectors: list[Collector] = [*gpu_collectors(gpus), ExporterCollector(lambda: "simulated", clock, gpus, errors)]
    energy = EnergyApi(windows or Windows(), lambda: "simulated", clock, 3600.0)
    return build_app(Exposition(collectors, clock), energy, lambda: "simulated", web_config, errors)


@contextmanager
def serving(
    web_config: WebConfig | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    max_connections: int = MAX_CONNECTIONS,
    head_seconds: float = HEAD_SECONDS,
    windows: WindowSource | None = None,
) -> Iterator[HttpServer]:
    web_config = web_config or WebConfig()
    server = HttpServer(
        (host, port),
        example_app(web_config, windows),
        tls=lambda: web_config.tls,
        max_connections=max_connections,
        head_seconds=head_seconds,
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()
        web_config.close()
