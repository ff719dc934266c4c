"""``joulebench exporter``: builds GPU sampling, collectors and the HTTP server, and serves until it is stopped.

Every room is imported on use: an exporter without Ollama never loads an HTTP client, and one without NVML never loads pynvml.
"""

from __future__ import annotations

import logging
import re
import signal
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from joulebench import settings
from joulebench.cli import options
from joulebench.cli.options import Number
from joulebench.clock import Clock, SystemClock
from joulebench.errors import GpuUnavailable, UserError
from joulebench.gpu.simulated import SCENARIOS

if TYPE_CHECKING:
    from joulebench.exporter.collector import Collector
    from joulebench.gpu.monitor import GpuMonitor
    from joulebench.gpu.process_watch import ProcessWatch
    from joulebench.gpu.reading import GpuSource
    from joulebench.gpu.spells import Spells
    from joulebench.ollama.kv_cache import CacheSettings

log = logging.getLogger(__name__)

RECOVERING = "recovering"


@dataclass(frozen=True, slots=True)
class ExporterFlags:
    """The values of the command line, by the names of ``exporter_command``'s options."""

    listen_address: tuple[str, int]
    web_config: Path | None
    gpu_source: str
    simulated_gpus: int
    simulated_scenario: str
    throttle_seconds: float | None
    timetable_begin: float | None
    poll_period: float
    ring_seconds: float
    processes_period: float
    processes_known: str | None
    ollama_url: str | None
    ollama_cache: str
    ollama_parallel: int
    no_ollama: bool
    prices_file: Path | None


@click.command("exporter")
@click.option(
    "--web.listen-address",
    "listen_address",
    type=options.ADDRESS,
    default=settings.DEFAULT_LISTEN_ADDRESS,
    help="Address to serve on; port 0 takes a free port, which is printed to stderr.",
)
@click.option(
    "--web.config.file",
    "web_config",
    type=options.FILE,
    help="TLS and basic auth, in the format of Prometheus' exporter-toolkit.",
)
@click.option(
    "--gpu-source",
    type=click.Choice(["auto", "nvml", "simulated"]),
    default="auto",
    help="auto: NVML, or no GPU metrics where NVML is missing; nvml: fail without it; simulated: simulated GPUs, marked as such.",
)
@click.option("--simulated.gpus", "simulated_gpus", type=Number(int, 1, 64), default=1, help="Number of simulated GPUs.")
@click.option(
    "--simulated.scenario",
    "simulated_scenario",
    type=click.Choice(SCENARIOS),
    default="steady",
    help="steady: the first GPU is as busy as this machine's CPUs; overheating: the last GPU throttles now and then; recovering:"
    " it throttles by a timetable, every five minutes, and cools in between.",
)
@click.option(
    "--simulated.throttle-seconds",
    "throttle_seconds",
    type=Number(float, 1, 120, unit="seconds"),
    help="Length of each thermal throttling in scenario recovering.  [default: 45]",
)
@click.option(
    "--simulated.begin",
    "timetable_begin",
    type=Number(float, 0, name="UNIXTIME"),
    help="Start of the timetable of scenario recovering; the first throttling comes 30 s later.  [default: now]",
)
@click.option(
    "--energy.poll-period",
    "poll_period",
    type=Number(float, 0.005, 1, unit="seconds"),
    default=0.02,
    help="Time between two reads of the energy counter.",
)
@click.option(
    "--energy.ring-seconds",
    "ring_seconds",
    type=Number(float, 10, 86400, unit="seconds"),
    default=3600.0,
    help="Length of the history from which /api/v1/energy answers.",
)
@click.option(
    "--processes.period",
    "processes_period",
    type=Number(float, 0, 10, unit="seconds"),
    default=5.0,
    help="Time between two polls of the processes on the GPUs, 5 to 10; 0 disables them.",
)
@click.option(
    "--processes.known",
    "processes_known",
    metavar="REGEX",
    help="Regex of expected processes; it may match anywhere in the name of the program or of its parents."
    "  [default: the usual model servers]",
)
@click.option("--ollama.url", "ollama_url", type=options.URL, help=f"[default: $OLLAMA_HOST, else {settings.DEFAULT_OLLAMA_URL}]")
@click.option(
    "--ollama.kv-cache-type",
    "ollama_cache",
    envvar=settings.ENV_OLLAMA_CACHE,
    show_envvar=True,
    default="f16",
    metavar="TYPE",
    help="The server's KV-cache type, from which the size of its KV caches is estimated.",
)
@click.option(
    "--ollama.num-parallel",
    "ollama_parallel",
    envvar=settings.ENV_OLLAMA_PARALLEL,
    show_envvar=True,
    type=Number(int, 0, 1024),
    default=1,
    help="The server's number of parallel requests, for the same estimate.",
)
@click.option("--no-ollama", is_flag=True, help="Do not poll Ollama; no Ollama metrics.")
@click.option(
    "--prices.file",
    "prices_file",
    type=options.FILE,
    help="Price list (YAML) for the cost dashboard, such as the repository's prometheus/prices.yml; without it, no prices.",
)
@options.log_level_option()
def exporter_command(log_level: str, **flags: Any) -> int:
    """Serve GPU, energy and Ollama metrics to Prometheus until SIGTERM or Ctrl-C."""
    options.begin_logging(log_level)
    given = ExporterFlags(**flags)
    _check(given)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with ExitStack() as stack:
        _serve(given, stack, SystemClock())
        stopped.wait()
        log.info("stopping")
    return 0


def _serve(flags: ExporterFlags, stack: ExitStack, clock: Clock) -> None:
    """Everything started, each thing with its end on the stack; what was started first ends last."""
    from joulebench.exporter.energy import EnergyCollector
    from joulebench.exporter.energy_api import EnergyApi
    from joulebench.exporter.exporter import ExporterCollector
    from joulebench.exporter.exposition import Exposition
    from joulebench.exporter.gpu import GpuCollector
    from joulebench.exporter.routes import Routes
    from joulebench.exporter.server import Server
    from joulebench.exporter.web_config import WebConfig, load

    web = WebConfig() if flags.web_config is None else load(flags.web_config)
    prices = None if flags.prices_file is None else _prices(flags.prices_file)
    source = _gpu_source(flags, clock)
    source_name = "none" if source is None else source.name
    monitor: GpuMonitor | None = None
    watch: ProcessWatch | None = None
    collectors: list[Collector] = []
    if source is not None:
        from joulebench.gpu.monitor import ForeignUses, GpuMonitor

        stack.callback(source.close)
        watch = _process_watch(flags, source, clock)
        foreign_use: ForeignUses = watch.used_between if watch is not None else lambda *_: False
        monitor = GpuMonitor(
            source, clock, poll_period=flags.poll_period, ring_seconds=flags.ring_seconds, foreign_use=foreign_use
        )
        collectors += [GpuCollector(monitor, source_name, watch), EnergyCollector(monitor)]
    if not flags.no_ollama:
        collectors.append(_ollama(flags, stack, clock))
    if prices is not None:
        collectors.append(prices)
    collectors.append(ExporterCollector(source_name, clock, monitor))
    routes = Routes(Exposition(collectors, clock), EnergyApi(monitor, source_name, clock, flags.ring_seconds), source_name)
    # The port is taken before the threads start: a second exporter fails without ever touching a GPU.
    server = Server(flags.listen_address, routes, web)
    if monitor is not None:
        monitor.start()
        stack.callback(monitor.stop)
    if watch is not None:
        watch.start()
        stack.callback(watch.stop)
    server.start()
    stack.callback(server.stop)
    print(f"listening on {server.url}", file=sys.stderr, flush=True)


def _check(flags: ExporterFlags) -> None:
    """Raises UserError for flags that contradict each other."""
    if 0 < flags.processes_period < 5:
        raise UserError(f"--processes.period: {flags.processes_period:g} is neither 0 nor between 5 and 10 seconds")
    timetable = (flags.throttle_seconds, flags.timetable_begin)
    if timetable != (None, None) and flags.simulated_scenario != RECOVERING:
        raise UserError(f"--simulated.throttle-seconds and --simulated.begin: need --simulated.scenario={RECOVERING} beside them")


def _gpu_source(flags: ExporterFlags, clock: Clock) -> GpuSource | None:
    """None where ``auto`` finds no usable NVML. Raises GpuUnavailable where ``nvml`` was asked for."""
    if flags.gpu_source == "simulated":
        return _simulated_source(flags, clock)
    from joulebench.gpu.nvml import NvmlSource

    try:
        return NvmlSource()
    except GpuUnavailable as error:
        if flags.gpu_source == "nvml":
            raise
        log.warning("no GPU metrics: %s", error)
        return None


def _simulated_source(flags: ExporterFlags, clock: Clock) -> GpuSource:
    from joulebench.gpu.simulated import SimulatedSource

    log.warning("GPU source is simulated: no number of it is a measurement")
    spells = _spells(flags, clock) if flags.simulated_scenario == RECOVERING else None
    return SimulatedSource(flags.simulated_gpus, flags.simulated_scenario, clock, spells=spells)


def _spells(flags: ExporterFlags, clock: Clock) -> Spells:
    from joulebench.gpu.spells import ONSET, PERIOD_SECONDS, Spells

    begin = clock.unix() if flags.timetable_begin is None else flags.timetable_begin
    spells = Spells(begin=begin) if flags.throttle_seconds is None else Spells(flags.throttle_seconds, begin)
    log.info(
        "heat slows GPU %d down from unix time %.3f on for %g s, and again every %g s",
        flags.simulated_gpus - 1,
        begin + ONSET,
        spells.length,
        PERIOD_SECONDS,
    )
    return spells


def _process_watch(flags: ExporterFlags, source: GpuSource, clock: Clock) -> ProcessWatch | None:
    """None where it is not wanted, or where there are no processes to be seen, as on invented GPUs."""
    from joulebench.gpu.process_watch import ProcessWatch
    from joulebench.gpu.processes import KNOWN_SERVERS, ProcessNames

    try:
        known = re.compile(flags.processes_known or KNOWN_SERVERS, re.IGNORECASE)
    except re.error as error:
        raise UserError(f"--processes.known: {flags.processes_known!r} is no regular expression: {error}") from error
    if not flags.processes_period or source.name != "nvml":
        return None
    from joulebench.gpu.nvml import NvmlSource

    assert isinstance(source, NvmlSource)
    indices = [gpu.index for gpu in source.gpus()]
    names = ProcessNames(known, source.process_name)
    return ProcessWatch(source, indices, names, clock, period=flags.processes_period, keep_seconds=flags.ring_seconds)


def _prices(path: Path) -> Collector:
    from joulebench import prices
    from joulebench.exporter.prices import PricesCollector

    return PricesCollector(prices.load(path))


def _ollama(flags: ExporterFlags, stack: ExitStack, clock: Clock) -> Collector:
    from joulebench.exporter.ollama import OllamaCollector
    from joulebench.ollama.inventory import OllamaApi
    from joulebench.ollama.poller import OllamaPoller

    url = flags.ollama_url or settings.ollama_url()
    poller = OllamaPoller(OllamaApi(url, cache=_cache_settings(flags)), clock)
    poller.start()
    stack.callback(poller.stop)
    return OllamaCollector(poller)


def _cache_settings(flags: ExporterFlags) -> CacheSettings:
    from joulebench.ollama.kv_cache import ELEMENT_BYTES, CacheSettings

    if flags.ollama_cache not in ELEMENT_BYTES:
        raise UserError(f"--ollama.kv-cache-type: {flags.ollama_cache!r} is none of {', '.join(ELEMENT_BYTES)}")
    # Old servers take 0 for "choose yourself"; what they chose is unknown.
    return CacheSettings(flags.ollama_cache, max(1, flags.ollama_parallel))
