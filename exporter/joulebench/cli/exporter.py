"""``joulebench exporter``: builds sensors, collectors and the HTTP server, and runs until it is told to stop.

Every room is imported on use: an exporter without Ollama never loads an HTTP client, and one without NVML never loads pynvml.
"""

from __future__ import annotations

import argparse
import logging
import re
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from joulebench import settings
from joulebench.cli import logs, simulated
from joulebench.clock import Clock, SystemClock
from joulebench.errors import GpuUnavailable, UserError

if TYPE_CHECKING:
    from joulebench.exporter.collector import Collector
    from joulebench.gpu.monitor import GpuMonitor
    from joulebench.gpu.process_watch import ProcessWatch
    from joulebench.gpu.reading import GpuSource
    from joulebench.ollama.kv_cache import CacheSettings

log = logging.getLogger(__name__)

MIN_POLL_PERIOD = 0.005


def configure(parser: argparse.ArgumentParser) -> None:
    web = parser.add_argument_group("web")
    web.add_argument(
        "--web.listen-address",
        dest="listen_address",
        metavar="HOST:PORT",
        default=settings.DEFAULT_LISTEN_ADDRESS,
        help="where to serve; port 0 takes a free one, which is told on stderr (default: %(default)s)",
    )
    web.add_argument(
        "--web.config.file",
        dest="web_config",
        metavar="FILE",
        type=Path,
        help="TLS and basic auth, as in Prometheus' exporter-toolkit",
    )
    gpu = parser.add_argument_group("GPU")
    gpu.add_argument(
        "--gpu-source",
        choices=("auto", "nvml", "simulated"),
        default="auto",
        help="auto: NVML, or no GPU metrics where there is none; nvml: fail without it; simulated: invented GPUs, marked as such"
        " (default: %(default)s)",
    )
    simulated.configure(gpu)
    gpu.add_argument(
        "--energy.poll-period",
        dest="poll_period",
        metavar="SECONDS",
        type=float,
        default=0.02,
        help="time between two reads of the energy counter (default: %(default)s)",
    )
    gpu.add_argument(
        "--energy.ring-seconds",
        dest="ring_seconds",
        metavar="SECONDS",
        type=float,
        default=3600.0,
        help="how far back /api/v1/energy can look (default: %(default)s)",
    )
    processes = parser.add_argument_group("processes on the GPUs")
    processes.add_argument(
        "--processes.period",
        dest="processes_period",
        metavar="SECONDS",
        type=float,
        default=5.0,
        help="time between two looks at who else uses the GPUs, 5 to 10; 0 never looks (default: %(default)s)",
    )
    processes.add_argument(
        "--processes.known",
        dest="processes_known",
        metavar="REGEX",
        help="programs that are no strangers, found anywhere in their name or in that of what started them"
        " (default: the usual model servers)",
    )
    ollama = parser.add_argument_group("Ollama")
    ollama.add_argument(
        "--ollama.url", dest="ollama_url", metavar="URL", help=f"default: $OLLAMA_HOST, else {settings.DEFAULT_OLLAMA_URL}"
    )
    ollama.add_argument(
        "--ollama.kv-cache-type",
        dest="ollama_cache",
        metavar="TYPE",
        help=f"what ${settings.ENV_OLLAMA_CACHE} is for the server, to estimate its KV caches"
        " (default: the exporter's own, else f16)",
    )
    ollama.add_argument(
        "--ollama.num-parallel",
        dest="ollama_parallel",
        metavar="N",
        help=f"likewise ${settings.ENV_OLLAMA_PARALLEL} (default: the exporter's own, else 1)",
    )
    ollama.add_argument("--no-ollama", dest="no_ollama", action="store_true", help="leave Ollama alone; no ollama metrics")
    parser.add_argument(
        "--prices.file",
        dest="prices_file",
        metavar="FILE",
        type=Path,
        help="price list (YAML) for the cost dashboard, such as the repository's prometheus/prices.yml; without it, no prices",
    )
    logs.configure(parser)


def run(args: argparse.Namespace) -> int:
    logs.begin(args)
    _check(args)
    address = settings.listen_address(args.listen_address)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with ExitStack() as stack:
        _serve(args, address, stack, SystemClock())
        stopped.wait()
        log.info("stopping")
    return 0


def _serve(args: argparse.Namespace, address: tuple[str, int], stack: ExitStack, clock: Clock) -> None:
    """Everything started, each thing with its end on the stack; what was started first ends last."""
    from joulebench.exporter.energy import EnergyCollector
    from joulebench.exporter.energy_api import EnergyApi
    from joulebench.exporter.exporter import ExporterCollector
    from joulebench.exporter.exposition import Exposition
    from joulebench.exporter.gpu import GpuCollector
    from joulebench.exporter.routes import Routes
    from joulebench.exporter.server import Server
    from joulebench.exporter.web_config import WebConfig, load

    web = WebConfig() if args.web_config is None else load(args.web_config)
    prices = None if args.prices_file is None else _prices(args.prices_file)
    source = _gpu_source(args, clock)
    source_name = "none" if source is None else source.name
    monitor: GpuMonitor | None = None
    watch: ProcessWatch | None = None
    collectors: list[Collector] = []
    if source is not None:
        from joulebench.gpu.monitor import ForeignUses, GpuMonitor

        stack.callback(source.close)
        watch = _process_watch(args, source, clock)
        foreign_use: ForeignUses = watch.used_between if watch is not None else lambda *_: False
        monitor = GpuMonitor(source, clock, poll_period=args.poll_period, ring_seconds=args.ring_seconds, foreign_use=foreign_use)
        collectors += [GpuCollector(monitor, source_name, watch), EnergyCollector(monitor)]
    if not args.no_ollama:
        collectors.append(_ollama(args, stack, clock))
    if prices is not None:
        collectors.append(prices)
    collectors.append(ExporterCollector(source_name, clock, monitor))
    routes = Routes(Exposition(collectors, clock), EnergyApi(monitor, source_name, clock, args.ring_seconds), source_name)
    # The port is taken before the threads start: a second exporter fails without ever touching a GPU.
    server = Server(address, routes, web)
    if monitor is not None:
        monitor.start()
        stack.callback(monitor.stop)
    if watch is not None:
        watch.start()
        stack.callback(watch.stop)
    server.start()
    stack.callback(server.stop)
    print(f"listening on {server.url}", file=sys.stderr, flush=True)  # noqa: T201


def _check(args: argparse.Namespace) -> None:
    simulated.check(args)
    if not MIN_POLL_PERIOD <= args.poll_period <= 1:
        raise UserError(f"--energy.poll-period: {args.poll_period:g} is not between {MIN_POLL_PERIOD:g} and 1 second")
    if not 10 <= args.ring_seconds <= 86400:
        raise UserError(f"--energy.ring-seconds: {args.ring_seconds:g} is not between 10 and 86400 (a day)")
    if args.processes_period and not 5 <= args.processes_period <= 10:
        raise UserError(f"--processes.period: {args.processes_period:g} is neither 0 nor between 5 and 10 seconds")


def _gpu_source(args: argparse.Namespace, clock: Clock) -> GpuSource | None:
    """None where ``auto`` finds no usable NVML. Raises GpuUnavailable where ``nvml`` was asked for."""
    if args.gpu_source == "simulated":
        return simulated.source(args, clock)
    from joulebench.gpu.nvml import NvmlSource

    try:
        return NvmlSource()
    except GpuUnavailable as error:
        if args.gpu_source == "nvml":
            raise
        log.warning("no GPU metrics: %s", error)
        return None


def _process_watch(args: argparse.Namespace, source: GpuSource, clock: Clock) -> ProcessWatch | None:
    """None where it is not wanted, or where there are no processes to be seen, as on invented GPUs."""
    from joulebench.gpu.process_watch import ProcessWatch
    from joulebench.gpu.processes import KNOWN_SERVERS, ProcessNames

    try:
        known = re.compile(args.processes_known or KNOWN_SERVERS, re.IGNORECASE)
    except re.error as error:
        raise UserError(f"--processes.known: {args.processes_known!r} is no regular expression: {error}") from error
    if not args.processes_period or source.name != "nvml":
        return None
    from joulebench.gpu.nvml import NvmlSource

    assert isinstance(source, NvmlSource)
    indices = [gpu.index for gpu in source.gpus()]
    names = ProcessNames(known, source.process_name)
    return ProcessWatch(source, indices, names, clock, period=args.processes_period, keep_seconds=args.ring_seconds)


def _prices(path: Path) -> Collector:
    from joulebench import prices
    from joulebench.exporter.prices import PricesCollector

    return PricesCollector(prices.load(path))


def _ollama(args: argparse.Namespace, stack: ExitStack, clock: Clock) -> Collector:
    from joulebench.exporter.ollama import OllamaCollector
    from joulebench.ollama.inventory import OllamaApi
    from joulebench.ollama.poller import OllamaPoller

    url = settings.ollama_url() if args.ollama_url is None else settings.http_url(args.ollama_url, "--ollama.url")
    poller = OllamaPoller(OllamaApi(url, cache=_cache_settings(args)), clock)
    poller.start()
    stack.callback(poller.stop)
    return OllamaCollector(poller)


def _cache_settings(args: argparse.Namespace) -> CacheSettings:
    from joulebench.ollama.kv_cache import ELEMENT_BYTES, CacheSettings

    kind = args.ollama_cache or settings.from_env(settings.ENV_OLLAMA_CACHE, "f16")
    if kind not in ELEMENT_BYTES:
        raise UserError(f"--ollama.kv-cache-type: {kind!r} is none of {', '.join(ELEMENT_BYTES)}")
    parallel = args.ollama_parallel or settings.from_env(settings.ENV_OLLAMA_PARALLEL, "1")
    # Old servers take 0 for "choose yourself"; it is not known what they chose.
    if not parallel.isdecimal() or not 0 <= int(parallel) <= 1024:
        raise UserError(f"--ollama.num-parallel: {parallel!r} is not between 1 and 1024")
    return CacheSettings(kind, max(1, int(parallel)))
