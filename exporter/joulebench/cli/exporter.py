"""``joulebench exporter``: builds GPU sampling, collectors and the HTTP server, and serves until it is stopped.

Every room is imported on use: an exporter without Ollama never loads an HTTP client, and one that simulates never loads pynvml.
"""

from __future__ import annotations

import ctypes
import gc
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
from joulebench.errors import UserError
from joulebench.gpu import sources
from joulebench.gpu.simulated import SCENARIOS

if TYPE_CHECKING:
    from joulebench.exporter.exposition import Collector
    from joulebench.gpu.processes import ProcessPoller
    from joulebench.gpu.reading import GpuSource
    from joulebench.gpu.simulated import ThrottleSchedule
    from joulebench.ollama.kv_cache import CacheSettings

log = logging.getLogger(__name__)

RECOVERING = "recovering"
SWITCH_INTERVAL = 0.0005
"""Seconds after which a waiting thread gets the interpreter."""


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
    powercap: Path
    no_host_energy: bool
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
    type=click.Choice(sources.CHOICES),
    default=sources.AUTO,
    help="auto: NVML, else AMD SMI, or no GPU metrics where both are missing; nvml, amd: fail without it; simulated: simulated"
    " GPUs, marked as such.",
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
    "--host.powercap",
    "powercap",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/sys/class/powercap"),
    help="Directory of the kernel's RAPL zones, from which the energy of CPUs and memory is read.",
)
@click.option("--no-host-energy", is_flag=True, help="Do not read RAPL; no host metrics.")
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
    """Starts everything, and puts what ends it on the stack; what was started first ends last."""
    from joulebench.exporter.app import build_app
    from joulebench.exporter.energy_api import EnergyApi
    from joulebench.exporter.exporter_collector import ExporterCollector
    from joulebench.exporter.exposition import Exposition
    from joulebench.exporter.gpu_collector import gpu_collectors
    from joulebench.exporter.host_collector import HostCollector
    from joulebench.exporter.web_config import WebConfig
    from joulebench.gpu.monitor import GpuMonitor
    from joulebench.host.monitor import HostMonitor
    from joulebench.http_server import HttpServer

    web = WebConfig(flags.web_config)
    stack.callback(web.close)
    signal.signal(signal.SIGHUP, lambda *_: web.reload())
    prices = None if flags.prices_file is None else _prices(flags.prices_file)
    source = _gpu_source(flags, clock)
    stack.callback(source.close)
    processes = _process_poller(flags, source, clock)
    monitor = GpuMonitor(source, clock, poll_period=flags.poll_period, ring_seconds=flags.ring_seconds, processes=processes)
    collectors: list[Collector] = [*gpu_collectors(monitor)]

    def source_name() -> str:
        return monitor.source_name

    if not flags.no_ollama:
        collectors.append(_ollama(flags, stack, clock))
    if prices is not None:
        collectors.append(prices)
    collectors.append(ExporterCollector(source_name, clock, monitor))
    host = None if flags.no_host_energy else HostMonitor(clock, flags.powercap, ring_seconds=flags.ring_seconds)
    if host is not None:
        collectors.append(HostCollector(host))
    energy = EnergyApi(monitor, source_name, clock, flags.ring_seconds, host=host)
    app = build_app(Exposition(collectors, clock), energy, source_name, web)
    # The port is taken before the threads start: a second exporter fails without ever touching a GPU.
    server = HttpServer(flags.listen_address, app, tls=lambda: web.tls)
    monitor.start()
    stack.callback(monitor.stop)
    if host is not None:
        host.start()
        stack.callback(host.stop)
    if processes is not None:
        processes.start()
        stack.callback(processes.stop)
    server.start()
    stack.callback(server.stop)
    # A poll of several GPUs releases the interpreter at each NVML call. At the default interval of 5 ms, a busy HTTP thread
    # would leave 12 of 50 polls a second; make bench, part cost, prints the polls under load.
    sys.setswitchinterval(SWITCH_INTERVAL)
    _settle_memory()
    print(f"listening on {server.url}", file=sys.stderr, flush=True)


def _settle_memory() -> None:
    """Gives back what only the start needed, and leaves what stays out of all further garbage collections.

    Importing modules that have no byte code yet takes 15 MiB, which glibc keeps otherwise; other C libraries have no malloc_trim.
    """
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _check(flags: ExporterFlags) -> None:
    """Raises UserError for flags that contradict each other."""
    if 0 < flags.processes_period < 5:
        raise UserError(f"--processes.period: {flags.processes_period:g} is neither 0 nor between 5 and 10 seconds")
    timetable = (flags.throttle_seconds, flags.timetable_begin)
    if timetable != (None, None) and flags.simulated_scenario != RECOVERING:
        raise UserError(f"--simulated.throttle-seconds and --simulated.begin: need --simulated.scenario={RECOVERING} beside them")


def _gpu_source(flags: ExporterFlags, clock: Clock) -> GpuSource:
    """Raises GpuUnavailable where a source was named that has no GPU; ``auto`` waits for a driver or GPU that comes later."""
    if flags.gpu_source == sources.SIMULATED:
        return _simulated_source(flags, clock)
    return sources.open_or_await_source(flags.gpu_source)


def _simulated_source(flags: ExporterFlags, clock: Clock) -> GpuSource:
    from joulebench.gpu.simulated import SimulatedSource, own_host

    log.warning("GPU source is simulated: no number of it is a measurement")
    schedule = _throttle_schedule(flags, clock) if flags.simulated_scenario == RECOVERING else None
    return SimulatedSource(flags.simulated_gpus, flags.simulated_scenario, clock, schedule=schedule, host=own_host())


def _throttle_schedule(flags: ExporterFlags, clock: Clock) -> ThrottleSchedule:
    from joulebench.gpu.simulated import ONSET, PERIOD_SECONDS, ThrottleSchedule

    begin = clock.unix() if flags.timetable_begin is None else flags.timetable_begin
    schedule = (
        ThrottleSchedule(begin=begin) if flags.throttle_seconds is None else ThrottleSchedule(flags.throttle_seconds, begin)
    )
    log.info(
        "heat throttles GPU %d from unix time %.3f on for %g s, and again every %g s",
        flags.simulated_gpus - 1,
        begin + ONSET,
        schedule.length,
        PERIOD_SECONDS,
    )
    return schedule


def _process_poller(flags: ExporterFlags, source: GpuSource, clock: Clock) -> ProcessPoller | None:
    """Returns None where it is disabled."""
    from joulebench.gpu.processes import EXPECTED_PROGRAMS, ProcessNames, ProcessPoller

    try:
        expected = re.compile(flags.processes_known or EXPECTED_PROGRAMS, re.IGNORECASE)
    except re.error as error:
        raise UserError(f"--processes.known: {flags.processes_known!r} is no regular expression: {error}") from error
    if not flags.processes_period:
        return None
    names = ProcessNames(expected, source.process_name)
    return ProcessPoller(source.devices(), names, clock, period=flags.processes_period, keep_seconds=flags.ring_seconds)


def _prices(path: Path) -> Collector:
    from joulebench import prices
    from joulebench.exporter.exporter_collector import PricesCollector

    return PricesCollector(prices.load(path))


def _ollama(flags: ExporterFlags, stack: ExitStack, clock: Clock) -> Collector:
    from joulebench.exporter.ollama_collector import OllamaCollector
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
