"""What watching 8 GPUs costs the machine, beside nvitop-exporter on the same fake GPUs, in one run.

Twice: with nobody on the GPUs, and with 40 processes whose servers, units and containers the exporter looks for every 5 s.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlencode

from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import Clock
from joulebench.errors import ProcessError
from joulebench.gpu.owners import ProcessReader
from joulebench.metrics import METER_POLLS
from joulebench.results.queries import ENERGY_METRICS
from joulebench.stack import programs
from joulebench.stack.native import NativeStack, Ports
from joulebench.stack.process import Program, free_port
from tests.benchmarks import environments
from tests.benchmarks.gpu_processes import running_processes
from tests.benchmarks.process import Latency, cpu_share, resident_bytes, scrape_latency, thread_cpu_seconds
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
THREADS = ("main", "polls of the counters, 50 Hz", "state, 1 Hz", "scan", "RAPL", "processes, each 5 s", "HTTP")
"""Of the exporter, by the order of their start."""
WALKS = 7
WITH_BYTE_CODE = {"PYTHONDONTWRITEBYTECODE": ""}
"""As an installation by pip has it; without, the start compiles all modules and takes 3 to 15 MiB more."""


@dataclass(frozen=True, slots=True)
class Cost:
    """``alone`` and ``scraped``: share of one core; scraped means each second in full and four times a second for energy.

    ``polls``: counter polls a second of the GPU with the fewest, while scraped; ``polls_under_load``: while ``ASKING_THREADS``
    threads ask for windows. ``rss_asked``: RSS after they asked. None for a peer. ``threads``: share of one core of each thread,
    by the order of their start, while scraped.
    """

    alone: float
    scraped: float
    rss: int
    full: Latency
    energy: Latency | None = None
    polls: float | None = None
    polls_under_load: float | None = None
    rss_asked: int | None = None
    threads: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class PrometheusView:
    """``cpu``: share of one core while Prometheus scrapes; ``durations``: (p50, p99) of its own scrape times by job, seconds;
    ``polls``: counter polls a second of the GPU with the fewest."""

    cpu: float
    durations: Mapping[str, Sequence[float]]
    polls: float


@dataclass(frozen=True, slots=True)
class SceneCosts:
    """Of one scene. ``peer`` is None where the peer could not be measured; ``why`` then says so."""

    title: str
    own: Cost
    prometheus: PrometheusView | None
    peer: Cost | None
    why: str


def run(report: Report, clock: Clock) -> None:
    peer = environments.install(environments.NVITOP_EXPORTER, "nvitop_exporter")
    report.heading(f"Cost of the exporter, {GPUS} GPUs")
    report.say(
        "Joulebench reads each GPU 50 times a second, nvitop-exporter once a second (its default). CPU in % of one core over"
        f" {SECONDS:.0f} s;\nscraped: a full scrape each second, for Joulebench also the energy families every 250 ms."
        f" Latency over {SCRAPES} scrapes."
    )
    with tempfile.TemporaryDirectory(prefix="joulebench-bench-") as name:
        directory = Path(name)
        without = _measure_scene("no process", directory / "without", (), peer, clock)
        with running_processes() as (pids, have_cgroups):
            count = sum(map(len, pids))
            busy = _measure_scene(f"{count} processes", directory / "with", pids, peer, clock)
            walk = _walk_seconds(pids, clock)
    scenes = [without, busy]
    _print_table(report, peer.title, scenes)
    _print_threads(report, scenes)
    cgroups = "in cgroups of their own" if have_cgroups else "all in the cgroup of this benchmark, which makes none here"
    report.say(
        f"{count} processes: servers with their workers, and programs that serve nothing, {cgroups}; {_count_processes()}"
        f" processes on the machine.\nTo find whose they are takes {1000 * walk:.1f} ms of CPU, every 5 s:"
        f" {100 * walk / 5:.2f} % of a core."
    )
    report.say(
        f"A Python loop that does nothing but wake {WAKES} times a second takes {100 * _empty_loop(clock):.2f} % of a core"
        " of this machine: what no\nPython program that looks so often could go below; virtual machines pay the most for it."
    )
    _print_prometheus_views(report, scenes)
    for scene in scenes:
        report.targets += _targets(scene, peer.title)


def _measure_scene(
    title: str, directory: Path, pids: Sequence[Sequence[int]], nvitop: environments.Peer, clock: Clock
) -> SceneCosts:
    scene = Scene(directory, seed=1, pids=pids)
    length = 2 * (SETTLE + 2 * SECONDS) + PROMETHEUS_SECONDS + 180.0
    scene.play([busy_curve(length)] * GPUS, clock.monotonic())
    environment = {**scene.environment, **WITH_BYTE_CODE}
    with _exporter(directory, environment):
        pass  # the first start writes the byte code
    with _exporter(directory, environment) as program:
        own = _measure(program, clock, energy=True)
    view = _measure_under_prometheus(directory, environment, clock)
    if nvitop.bin is None:
        return SceneCosts(title, own, view, None, nvitop.why)
    try:
        with _nvitop(directory, environment, nvitop.bin) as program:
            return SceneCosts(title, own, view, _measure(program, clock, energy=False), "")
    except (ProcessError, OSError, RuntimeError) as error:
        return SceneCosts(title, own, view, None, f"does not run on the fake GPUs: {error}")


def _count_processes() -> int:
    return sum(name.isdecimal() for name in os.listdir("/proc"))


def _walk_seconds(pids: Sequence[Sequence[int]], clock: Clock) -> float:
    """CPU seconds of this process for one look at whose the processes are; the median of some."""
    reader = ProcessReader(clock=clock)
    spent = []
    for _ in range(WALKS):
        began = time.process_time()
        reader.table().served_by([pid for on_gpu in pids for pid in on_gpu])
        spent.append(time.process_time() - began)
    return median(spent)


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
        polls = _PollRate(port, clock) if energy else None
        spent = thread_cpu_seconds(program.pid)
        scraped = cpu_share(program.pid, SECONDS, clock)
        threads = [(after - before) / SECONDS for before, after in zip(spent, thread_cpu_seconds(program.pid), strict=False)]
        polls_a_second = None if polls is None else polls.a_second()
        for job in jobs:
            job.result()
    full = scrape_latency(port, FULL, SCRAPES, clock, PAUSE)
    rss = resident_bytes(program.pid)
    if not energy:
        return Cost(alone, scraped, rss, full)
    filtered = scrape_latency(port, ENERGY_ONLY, SCRAPES, clock, PAUSE)
    under_load = _polls_under_load(port, clock)
    return Cost(alone, scraped, rss, full, filtered, polls_a_second, under_load, resident_bytes(program.pid), threads)


class _PollRate:
    """Counts the counter polls of the GPU with the fewest from its making on."""

    def __init__(self, port: int, clock: Clock) -> None:
        self._port, self._clock = port, clock
        self._polls, self._at = _polls(port), clock.monotonic()

    def a_second(self) -> float:
        after, now = _polls(self._port), self._clock.monotonic()
        return min(after[gpu] - self._polls[gpu] for gpu in self._polls) / (now - self._at)


def _polls_under_load(port: int, clock: Clock) -> float | None:
    stop = threading.Event()
    threads = [threading.Thread(target=_ask_windows, args=(port, clock, stop)) for _ in range(ASKING_THREADS)]
    for thread in threads:
        thread.start()
    try:
        stop.wait(1.0)
        rate = _PollRate(port, clock)
        stop.wait(SECONDS)
        return rate.a_second()
    except OSError:
        # On a machine that is busy with other things, not even a scrape is answered in time.
        return None
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _ask_windows(port: int, clock: Clock, stop: threading.Event) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    while not stop.is_set():
        end = clock.unix()
        try:
            connection.request("GET", f"/api/v1/energy?start={end - 5.0!r}&end={end!r}&wait=0.5")
            connection.getresponse().read()
        except OSError:
            connection.close()
    connection.close()


def _polls(port: int) -> dict[str, float]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", f"/metrics?{urlencode([('name[]', METER_POLLS.name)])}")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {series: float(value) for series, _, value in samples}


def _measure_under_prometheus(directory: Path, environment: Mapping[str, str], clock: Clock) -> PrometheusView | None:
    """None where there is no Prometheus to be started."""
    if programs.find("prometheus") is None or programs.find("pushgateway") is None:
        return None
    flags = ("--gpu-source=nvml", "--no-ollama")
    stack = NativeStack(directory / "seen", Ports.free(), flags, exporter_environment=environment, with_alertmanager=False)
    with stack:
        # As in the other measurements, what the start and the first scrapes take is over.
        threading.Event().wait(SETTLE)
        rate = _PollRate(stack.ports.exporter, clock)
        cpu = cpu_share(stack.named("exporter").pid, PROMETHEUS_SECONDS, clock)
        polls = rate.a_second()
        api = PrometheusApi(stack.prometheus_url)
        try:
            durations = {
                job: [_quantile(api, job, quantile) for quantile in (0.5, 0.99)] for job in ("joulebench", "joulebench-energy")
            }
        finally:
            api.close()
    return PrometheusView(cpu, durations, polls)


def _quantile(api: PrometheusApi, job: str, quantile: float) -> float:
    span = f"{PROMETHEUS_SECONDS:.0f}s"
    (series,) = api.query(f'quantile_over_time({quantile}, scrape_duration_seconds{{job="{job}"}}[{span}])')
    return series.points[-1][1]


def _print_prometheus_views(report: Report, scenes: Sequence[SceneCosts]) -> None:
    rows = []
    for scene in scenes:
        view = scene.prometheus
        if view is None:
            report.say("As Prometheus sees it: skipped: it is not installed")
            return
        for job, (p50, p99) in view.durations.items():
            cpu = f"{100 * view.cpu:.2f} %"
            rows.append((scene.title, job, f"{1000 * p50:.2f} ms", f"{1000 * p99:.2f} ms", cpu, f"{view.polls:.1f}"))
    report.say(
        f"As a real Prometheus with the repository's configuration sees it over {PROMETHEUS_SECONDS:.0f} s, by its own"
        " scrape_duration_seconds."
    )
    report.table(("on the GPUs", "job", "p50", "p99", "CPU meanwhile", "polls of a GPU/s"), rows)


def _print_table(report: Report, peer: str, scenes: Sequence[SceneCosts]) -> None:
    rows: list[tuple[str, ...]] = []
    for scene in scenes:
        own = scene.own
        rows.append(_row(f"Joulebench, full, {scene.title}", own, own.full))
        if own.energy is not None:
            rows.append(_row("Joulebench, energy families only", own, own.energy))
        if scene.peer is not None:
            rows.append(_row(f"{peer}, {scene.title}", scene.peer, scene.peer.full))
            rows.append(_ratio_row("  Joulebench, full, by the peer", own, scene.peer))
    report.table(("", "CPU alone", "CPU scraped", "RSS", "scrape p50", "scrape p99", "bytes sent", "polls/s"), rows)
    for scene in scenes:
        if scene.peer is None:
            report.say(f"{peer}, {scene.title}: skipped: {scene.why}")
    if any(scene.peer for scene in scenes):
        report.say(
            f"{peer}: its cost here is a lower bound: the fake library has no PCIe or NVLink counters, its slowest reads on a"
            " real GPU."
        )
    asked = ", ".join(f"{(scene.own.rss_asked or 0) / 2**20:.1f} MiB with {scene.title}" for scene in scenes)
    report.say(f"RSS once windows were asked for, which loads numpy: {asked}.")


def _print_threads(report: Report, scenes: Sequence[SceneCosts]) -> None:
    report.say("Where the CPU of the exporter goes while both jobs scrape it, in % of one core:")
    rows = [
        (name, *(f"{100 * share:.2f} %" for share in shares))
        for name, *shares in zip(THREADS, *(scene.own.threads for scene in scenes), strict=False)
    ]
    report.table(("thread", *(scene.title for scene in scenes)), rows)


def _targets(scene: SceneCosts, peer: str) -> list[Target]:
    own = scene.own
    where = f"exporter, {scene.title}"
    by_peer = None if scene.peer is None else own.full.p50 / scene.peer.full.p50
    targets = [
        Target(f"{where}, scraped by both jobs, CPU of one core", CPU_LIMIT, 100 * own.scraped, "%"),
        Target(f"{where}, RSS", RSS_LIMIT, own.rss / 2**20, "MiB"),
        Target(f"{where}, full scrape, p99", LATENCY_LIMIT, 1000 * own.full.p99, "ms"),
        Target(f"{where}, full scrape, median by that of {peer}", 1.0, by_peer, ""),
        Target(
            f"{where}, polls of a GPU while {ASKING_THREADS} threads ask for windows",
            POLLS_LIMIT,
            own.polls_under_load,
            "a second",
            at_least=True,
        ),
    ]
    if (view := scene.prometheus) is not None:
        targets += [
            Target(f"{where}, scraped by Prometheus, CPU of one core", CPU_LIMIT, 100 * view.cpu, "%"),
            Target(
                f"{where}, full scrape as Prometheus sees it, p99", LATENCY_LIMIT, 1000 * view.durations["joulebench"][1], "ms"
            ),
        ]
    return targets


def _row(name: str, cost: Cost, latency: Latency) -> tuple[str, ...]:
    return (
        name,
        f"{100 * cost.alone:.2f} %",
        f"{100 * cost.scraped:.2f} %",
        f"{cost.rss / 2**20:.1f} MiB",
        f"{1000 * latency.p50:.2f} ms",
        f"{1000 * latency.p99:.2f} ms",
        str(latency.size),
        "" if cost.polls is None else f"{cost.polls:.1f}",
    )


def _ratio_row(name: str, own: Cost, peer: Cost) -> tuple[str, ...]:
    pairs = (
        (own.alone, peer.alone),
        (own.scraped, peer.scraped),
        (own.rss, peer.rss),
        (own.full.p50, peer.full.p50),
        (own.full.p99, peer.full.p99),
        (own.full.size, peer.full.size),
    )
    return (name, *(f"{mine / theirs:.2f} x" if theirs else "-" for mine, theirs in pairs), "")
