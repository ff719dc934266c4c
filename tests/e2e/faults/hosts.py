"""Machines with fake GPUs, each with its own exporter process, all scraped by one real Prometheus.

Faults are scripted in seconds after the moment ``work begins``, which lies so far after the start of the exporters that all of
them have found their cards' counters by then.
"""

from __future__ import annotations

import sys
import threading
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from joulebench import Run, metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import Clock, SystemClock, wait_until
from joulebench.stack.native import NativeStack
from joulebench.stack.process import Program, free_port
from joulebench.units import Seconds
from tests.e2e.faults.results import Results, Scrape, TaskResult, export, scrape
from tests.fakes import nvml
from tests.fakes.wall_clock import ForeignWallClock

LOW_WATTS, HIGH_WATTS = 150.0, 320.0
PERIOD = 2.0
PULSES = ((0.0, LOW_WATTS), (0.8, HIGH_WATTS), (1.5, LOW_WATTS))
"""Every period; tasks begin and end while power is low, so that what a fault costs is not hidden by how edges are split."""

LEAD = 8.0
EXPORTERS_JOBS = ("joulebench", "joulebench-energy")

Cards = Callable[[float], Sequence[nvml.FakeGpu]]
"""The GPUs of a machine, given the second since their script's origin at which work begins."""


class Fleet(NativeStack):
    """The repository's Prometheus configuration with several exporters where it has one."""

    def scraping(self, addresses: Sequence[str]) -> Fleet:
        self._addresses = list(addresses)
        return self

    def prometheus(self) -> Program:
        program = super().prometheus()
        path = self.directory / "prometheus.yml"
        config = yaml.safe_load(path.read_text())
        for job in config["scrape_configs"]:
            if job["job_name"] in EXPORTERS_JOBS:
                job["static_configs"] = [{"targets": self._addresses}]
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return program


class SetClock(SystemClock):
    """The system's clocks, the wall clock set ``ahead`` seconds."""

    ahead = 0.0

    def unix(self) -> Seconds:
        return Seconds(super().unix() + self.ahead)


@dataclass
class Host:
    """``work`` runs while all other hosts work too. ``without``: symbols that its driver lacks. ``has_nvml`` False: a machine
    without any NVIDIA driver. ``seen``: scrapes of its exporter by name of the moment. ``clock``: the wall clock of its
    exporter, after ``prepare``.
    """

    name: str
    cards: Cards
    work: Callable[[Host], None]
    driver: str = "580.95.05"
    without: Sequence[str] = ()
    has_nvml: bool = True
    own_clock: bool = False
    export_flags: Callable[[Host], Sequence[str]] = lambda _: ()
    port: int = field(default_factory=free_port)
    seen: dict[str, Scrape] = field(default_factory=dict)
    _results: Results | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def prepare(self, directory: Path, stack: NativeStack, lead: float) -> None:
        """A new script whose work begins ``lead`` seconds from now, and an exporter for it that is not started yet."""
        self.stack = stack
        self.runs = directory / "runs"
        self.script = nvml.FakeGpuScript(self.cards(lead), driver=self.driver)
        self.begin = self.script.origin_unix + lead
        if self.has_nvml:
            environment = nvml.environment(self.script.write(directory / f"{self.name}.gpus"), self.without)
        else:
            # A library that cannot be loaded hides a real one too.
            (directory / "no-nvml").mkdir(exist_ok=True)
            (directory / "no-nvml" / "libnvidia-ml.so.1").write_text("not a library")
            environment = {"LD_LIBRARY_PATH": str(directory / "no-nvml")}
        if self.own_clock:
            self.clock = ForeignWallClock(directory / f"{self.name}.clock")
            environment = {**environment, **self.clock.environment}
        argv = [sys.executable, "-m", "joulebench.cli", "exporter", f"--web.listen-address={self.address}", "--no-ollama"]
        self.exporter = Program("exporter", argv, directory / f"{self.name}.log", f"{self.url}/healthz", environment)

    @property
    def results(self) -> Results:
        assert self._results is not None
        return self._results

    def run(self, clock: Clock | None = None) -> Run:
        """A run named after the host, connected to everything."""
        return Run(
            model="m",
            run_id=self.name,
            worker="w",
            runs_dir=self.runs,
            gateway_url=self.stack.gateway_url,
            prometheus_url=self.stack.prometheus_url,
            exporter_url=self.url,
            clock=clock,
        )

    def wait_for(self, seconds: float) -> None:
        """Until that many seconds after work begins."""
        threading.Event().wait(max(0.0, self.begin + seconds - SystemClock().unix()))

    def task(self, run: Run, name: str, start: float, end: float, meanwhile: Callable[[], None] | None = None) -> None:
        """One task between two moments in seconds after work begins, with one call that lasts nearly all of it."""
        self.wait_for(start)
        with run.task(name) as task:
            with task.call() as call:
                if meanwhile is not None:
                    meanwhile()
                self.wait_for(end - 0.05)
                call.finish(prompt_tokens=100, completion_tokens=50)
            self.wait_for(end)
            task.succeed()

    def look(self, moment: str) -> Scrape:
        self.seen[moment] = scrape(self.url)
        return self.seen[moment]

    def look_until(self, moment: str, wanted: Callable[[Scrape], bool], seconds: float = 5.0) -> None:
        assert wait_until(lambda: wanted(self.look(moment)), seconds), f"{self.name}: never saw {moment}"

    def export(self) -> None:
        self._results = export(self.name, self.runs, self.stack.prometheus_url, "--wait=8", *self.export_flags(self))

    def joules(self, gpu: int, result: TaskResult) -> float:
        """The truth over the window that the result names."""
        return self.script.joules(gpu, *result.window)

    def all_joules(self, result: TaskResult) -> float:
        return sum(self.joules(gpu, result) for gpu in range(len(self.script.gpus)))


def start(hosts: Sequence[Host], directory: Path, stack: NativeStack) -> None:
    """All exporters started and scraped before work begins; on a slow machine it begins later."""
    lead = LEAD
    for host in hosts:
        host.prepare(directory, stack, lead)
    with ThreadPoolExecutor(len(hosts)) as pool:
        while True:
            list(pool.map(lambda host: host.exporter.start(), hosts))
            _await_scrapes(hosts, stack)
            for host in hosts:
                # The first question loads numpy; so many exporters at once would load it in the middle of the work.
                urllib.request.urlopen(f"{host.url}/api/v1/energy?{_last_second()}", timeout=20).close()
            if all(host.begin - SystemClock().unix() > 2.0 for host in hosts):
                return
            lead += 2 * PERIOD
            assert lead < 5 * LEAD, "this machine is too slow for scripted faults"
            for host in hosts:
                host.exporter.stop()
                host.prepare(directory, stack, lead)


def _last_second() -> str:
    now = SystemClock().unix()
    return f"start={now - 1.0!r}&end={now - 0.5!r}"


def _await_scrapes(hosts: Sequence[Host], stack: NativeStack) -> None:
    api = PrometheusApi(stack.prometheus_url)
    expected = len(hosts) * len(EXPORTERS_JOBS)
    scraped = f'count(up{{job=~"{"|".join(EXPORTERS_JOBS)}"}} == 1) == {expected}'
    try:
        assert wait_until(lambda: bool(api.query(scraped)), 20.0), f"not all exporters are scraped: {api.query('up')}"
    finally:
        api.close()


def work(hosts: Sequence[Host]) -> None:
    """All hosts at once. An error of any of them is raised when all have ended."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        ended = [pool.submit(host.work, host) for host in hosts]
    for one in ended:
        one.result()


def uuid(host: str, gpu: int) -> str:
    return f"GPU-{host}-{gpu}"


def is_up(gpu: int) -> Callable[[Scrape], bool]:
    return lambda seen: seen.value(metrics.GPU_UP, gpu=gpu) == 1
