"""What watching 8 GPUs costs the machine, beside nvitop-exporter on the same fake GPUs, in one run."""

from __future__ import annotations

import http.client
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import Clock
from joulebench.errors import ProcessError
from joulebench.metrics import METER_POLLS
from joulebench.results.queries import ENERGY_METRICS
from joulebench.stack import programs
from joulebench.stack.native import NativeStack, Ports
from joulebench.stack.process import Program, free_port
from tests.benchmarks import environments
from tests.benchmarks.process import Latency, cpu_share, resident_bytes, scrape_latency
from tests.benchmarks.report import Report, Target
from tests.benchmarks.scene import GPUS, Scene, busy_curve

SECONDS = 10.0
SETTLE = 3.0
SCRAPES = 300
PROMETHEUS_SECONDS = 60.0
PAUSE = 0.01
FULL = "/metrics"
ENERGY_ONLY = f"/metrics?{urlencode([('name[]', metric.name) for metric in ENERGY_METRICS])}"

WAKES = 52
"""A second, of the exporter's thread that polls."""
WAKE = f"""
import threading, time
held = threading.Lock()
held.acquire()
due = time.monotonic()
while True:
    due += 1 / {WAKES}
    held.acquire(True, max(0.0, due - time.monotonic()))
"""

RSS_LIMIT, CPU_LIMIT, LATENCY_LIMIT = 60.0, 2.0, 15.0
ASKING_THREADS = 100
POLLS_LIMIT = 40.0
"""A second and GPU, while that many threads ask for the energy of windows."""


@dataclass(frozen=True, slots=True)
class Cost:
    """``alone`` and ``scraped``: share of one core; scraped means each second in full and four times a second for energy.

    ``polls_under_load``: counter polls a second of the GPU with the fewest, while ``ASKING_THREADS`` threads ask for windows.
    """

    alone: float
    scraped: float
    rss: int
    full: Latency
    energy: Latency | None
    polls_under_load: float | None


@dataclass(frozen=True, slots=True)
class Seen:
    """``cpu``: share of one core while Prometheus scrapes; ``durations``: (p50, p99) of its own scrape times by job, seconds."""

    cpu: float
    durations: Mapping[str, Sequence[float]]


def run(report: Report, clock: Clock) -> None:
    nvitop = environments.install(environments.NVITOP_EXPORTER, "nvitop_exporter")
    with tempfile.TemporaryDirectory(prefix="joulebench-bench-") as name:
        directory = Path(name)
        scene = Scene(directory, seed=1)
        length = 2 * (SETTLE + 2 * SECONDS) + PROMETHEUS_SECONDS + 180.0
        scene.play([busy_curve(length)] * GPUS, clock.monotonic())
        with _exporter(directory, scene.environment) as program:
            ours = _measure(program, clock, energy=True)
        seen = _seen_by_prometheus(directory, scene.environment, clock)
        theirs: Cost | None = None
        why = nvitop.why
        if nvitop.bin is not None:
            try:
                with _nvitop(directory, scene.environment, nvitop.bin) as program:
                    theirs = _measure(program, clock, energy=False)
            except (ProcessError, OSError, RuntimeError) as error:
                why = f"does not run on the fake GPUs: {error}"
    _tell(report, nvitop.title, ours, theirs, why)
    report.say(
        f"A Python loop that does nothing but wake {WAKES} times a second takes {100 * _empty_loop(clock):.2f} % of a core"
        " of this machine: what no\nPython program that looks so often could go below; virtual machines pay the most for it."
    )
    _tell_seen(report, seen)


def _empty_loop(clock: Clock) -> float:
    with subprocess.Popen([sys.executable, "-c", WAKE]) as loop:
        try:
            cpu_share(loop.pid, SETTLE / 3, clock)
            return cpu_share(loop.pid, SECONDS, clock)
        finally:
            loop.kill()


@contextmanager
def _exporter(directory: Path, environment: Mapping[str, str]) -> Iterator[Program]:
    flags = ("--gpu-source=nvml", "--no-ollama")
    stack = NativeStack(directory / "stack", Ports.free(), flags, exporter_environment=environment)
    with _running(stack.exporter()) as program:
        yield program


@contextmanager
def _nvitop(directory: Path, environment: Mapping[str, str], bin_directory: Path) -> Iterator[Program]:
    port = free_port()
    argv = [str(bin_directory / "nvitop-exporter"), "--bind-address=127.0.0.1", f"--port={port}"]
    url = f"http://127.0.0.1:{port}/metrics"
    with _running(Program("nvitop-exporter", argv, directory / "nvitop.log", url, environment)) as program:
        yield program


@contextmanager
def _running(program: Program) -> Iterator[Program]:
    program.start()
    try:
        yield program
    finally:
        program.stop()


def _measure(program: Program, clock: Clock, *, energy: bool) -> Cost:
    port = int(program.ready_url.rpartition(":")[2].partition("/")[0])
    scrape_latency(port, FULL, 3, clock, SETTLE / 3)
    alone = cpu_share(program.pid, SECONDS, clock)
    with ThreadPoolExecutor(2) as scrapers:
        jobs = [scrapers.submit(scrape_latency, port, FULL, int(SECONDS), clock, 1.0)]
        if energy:
            jobs.append(scrapers.submit(scrape_latency, port, ENERGY_ONLY, int(SECONDS * 4), clock, 0.25))
        scraped = cpu_share(program.pid, SECONDS, clock)
        for job in jobs:
            job.result()
    full = scrape_latency(port, FULL, SCRAPES, clock, PAUSE)
    filtered = scrape_latency(port, ENERGY_ONLY, SCRAPES, clock, PAUSE) if energy else None
    rss = resident_bytes(program.pid)
    polls = _polls_under_load(port, clock) if energy else None
    return Cost(alone, scraped, rss, full, filtered, polls)


def _polls_under_load(port: int, clock: Clock) -> float:
    stop = threading.Event()
    threads = [threading.Thread(target=_ask_windows, args=(port, clock, stop)) for _ in range(ASKING_THREADS)]
    for thread in threads:
        thread.start()
    stop.wait(1.0)
    before, began = _polls(port), clock.monotonic()
    stop.wait(SECONDS)
    after, ended = _polls(port), clock.monotonic()
    stop.set()
    for thread in threads:
        thread.join()
    return min(after[gpu] - before[gpu] for gpu in before) / (ended - began)


def _ask_windows(port: int, clock: Clock, stop: threading.Event) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    while not stop.is_set():
        end = clock.unix()
        connection.request("GET", f"/api/v1/energy?start={end - 5.0!r}&end={end!r}&wait=0.5")
        connection.getresponse().read()
    connection.close()


def _polls(port: int) -> dict[str, float]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", f"/metrics?{urlencode([('name[]', METER_POLLS.name)])}")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {series: float(value) for series, _, value in samples}


def _seen_by_prometheus(directory: Path, environment: Mapping[str, str], clock: Clock) -> Seen | None:
    """None where there is no Prometheus to be started."""
    if programs.find("prometheus") is None or programs.find("pushgateway") is None:
        return None
    flags = ("--gpu-source=nvml", "--no-ollama")
    stack = NativeStack(directory / "seen", Ports.free(), flags, exporter_environment=environment, with_alertmanager=False)
    with stack:
        cpu = cpu_share(stack.named("exporter").pid, PROMETHEUS_SECONDS, clock)
        api = PrometheusApi(stack.prometheus_url)
        try:
            found = {
                job: [_quantile(api, job, quantile) for quantile in (0.5, 0.99)] for job in ("joulebench", "joulebench-energy")
            }
        finally:
            api.close()
    return Seen(cpu, found)


def _quantile(api: PrometheusApi, job: str, quantile: float) -> float:
    span = f"{PROMETHEUS_SECONDS:.0f}s"
    (series,) = api.query(f'quantile_over_time({quantile}, scrape_duration_seconds{{job="{job}"}}[{span}])')
    return series.points[-1][1]


def _tell_seen(report: Report, seen: Seen | None) -> None:
    if seen is None:
        report.say("As Prometheus sees it: skipped: it is not installed")
        return
    report.say(
        f"As a real Prometheus sees it over {PROMETHEUS_SECONDS:.0f} s, by its own scrape_duration_seconds; the exporter uses"
        f" {100 * seen.cpu:.2f} % of one core meanwhile."
    )
    rows = [(job, *(f"{1000 * one:.2f} ms" for one in quantiles)) for job, quantiles in seen.durations.items()]
    report.table(("job", "p50", "p99"), rows)
    report.targets += [
        Target(f"exporter, {GPUS} GPUs, scraped by Prometheus, CPU of one core", CPU_LIMIT, 100 * seen.cpu, "%"),
        Target("exporter, full scrape as Prometheus sees it, p99", LATENCY_LIMIT, 1000 * seen.durations["joulebench"][1], "ms"),
    ]


def _tell(report: Report, peer: str, ours: Cost, theirs: Cost | None, why: str) -> None:
    report.heading(f"Cost of the exporter, {GPUS} GPUs")
    report.say(
        "Joulebench reads each GPU 50 times a second, nvitop-exporter once a second (its default). CPU in % of one core over"
        f" {SECONDS:.0f} s;\nscraped: a full scrape each second, for Joulebench also the energy families every 250 ms."
        f" Latency over {SCRAPES} scrapes."
    )
    rows = [_row("Joulebench, full", ours, ours.full)]
    if ours.energy is not None:
        rows.append(_row("Joulebench, energy families only", ours, ours.energy))
    if theirs is not None:
        rows.append(_row(peer, theirs, theirs.full))
    report.table(("", "CPU alone", "CPU scraped", "RSS", "scrape p50", "scrape p99", "bytes sent"), rows)
    if theirs is None:
        report.say(f"{peer}: skipped: {why}")
    else:
        report.say(
            f"{peer}: its cost here is a lower bound: nothing runs on the fake GPUs, and their library has no PCIe or NVLink"
            " counters, which are its slowest reads on a real GPU."
        )
    report.targets += [
        Target(f"exporter, {GPUS} GPUs at 50 Hz, scraped by both jobs, CPU of one core", CPU_LIMIT, 100 * ours.scraped, "%"),
        Target(f"exporter, {GPUS} GPUs, RSS", RSS_LIMIT, ours.rss / 2**20, "MiB"),
        Target("exporter, full scrape, p99", LATENCY_LIMIT, 1000 * ours.full.p99, "ms"),
        Target(
            f"exporter, full scrape, median by that of {peer}",
            1.0,
            None if theirs is None else ours.full.p50 / theirs.full.p50,
            "",
        ),
        Target(
            f"exporter, polls of a GPU while {ASKING_THREADS} threads ask for windows",
            POLLS_LIMIT,
            ours.polls_under_load,
            "a second",
            at_least=True,
        ),
    ]


def _row(name: str, cost: Cost, latency: Latency) -> tuple[str, ...]:
    return (
        name,
        f"{100 * cost.alone:.2f} %",
        f"{100 * cost.scraped:.2f} %",
        f"{cost.rss / 2**20:.1f} MiB",
        f"{1000 * latency.p50:.2f} ms",
        f"{1000 * latency.p99:.2f} ms",
        str(latency.size),
    )
