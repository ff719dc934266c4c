"""A model server on two of eight cards beside a neighbour's, started again on two others in the middle, and on two cards of a
second host: its tasks are charged for those cards, by the answers of the exporters and by the owner series in Prometheus alike.

Real exporters, processes, Prometheus and Pushgateway; the cards are fake and have known joules. The second host is a second
exporter that sees the same processes.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from joulebench import Run, metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import wait_until
from joulebench.settings import NO_URL
from joulebench.stack.native import Ports
from joulebench.stack.process import Program, free_port
from tests.e2e.faults.hosts import Fleet
from tests.e2e.faults.results import Results, export
from tests.fakes import nvml
from tests.fakes.listening import listening
from tests.needs import need_program

pytestmark = pytest.mark.e2e

FIRST, SECOND, NEIGHBOURS = (0, 1), (4, 5), (2, 3)
"""Cards of host A."""
TASKS = ("before", "while it moves", "after")


@dataclass
class Host:
    """``moved``: to another card of the host by the second start of the server."""

    name: str
    gpus: int
    directory: Path
    address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")

    def start(self, stack: ExitStack) -> None:
        cards = [
            nvml.FakeGpu(
                uuid=f"GPU-{self.name}{number}",
                phase=0.013 * (number + 1),
                power=((0.0, 180.0 + 20 * number), (0.7, 90.0 + 10 * number)),
                loop=1.1 + 0.07 * number,
            )
            for number in range(self.gpus)
        ]
        self.busy = nvml.BusyFile(self.directory / f"{self.name}.busy")
        self.script = nvml.FakeGpuScript(cards, busy=self.busy)
        environment = nvml.environment(self.script.write(self.directory / f"{self.name}.gpus"))
        argv = [sys.executable, "-m", "joulebench.cli", "exporter", f"--web.listen-address={self.address}", "--no-ollama"]
        log = self.directory / f"{self.name}.log"
        program = Program("exporter", argv, log, f"http://{self.address}/healthz", environment)
        program.start()
        stack.callback(program.stop)


@dataclass
class Outcome:
    """Results of one run each: ``answered`` by the exporters, ``stored`` without them, ``pushed`` without its journal, too."""

    hosts: tuple[Host, Host]
    results: Mapping[str, Results]

    def truth(self, start: float, end: float, used: Sequence[tuple[int, int]]) -> float:
        return sum(self.hosts[host].script.joules(gpu, start, end) for host, gpu in used)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    for name in ("prometheus", "pushgateway"):
        need_program(name)
    directory = tmp_path_factory.mktemp("owners")
    with ExitStack() as stack:
        a, b = hosts = Host("a", 8, directory), Host("b", 2, directory)
        (server, address), (neighbour, _) = (stack.enter_context(listening()) for _ in range(2))
        for host in hosts:
            host.start(stack)
        for gpu in FIRST:
            a.busy.enter(gpu, server.pid)
            b.busy.enter(gpu, server.pid)
        for gpu in NEIGHBOURS:
            a.busy.enter(gpu, neighbour.pid)
        fleet = Fleet(directory / "stack", Ports.free(), with_exporter=False, with_alertmanager=False)
        stack.enter_context(fleet.scraping([host.address for host in hosts]))
        api = PrometheusApi(fleet.prometheus_url)
        stack.callback(api.close)
        # Of the server and of all its ancestors: this process may have ports of its own.
        start, end = (
            f'{m.name}{{server=~"(.+,)?{address}(,.+)?"}}'
            for m in (metrics.GPU_PROCESS_OWNER_START, metrics.GPU_PROCESS_OWNER_END)
        )
        # A process that came to a card where another one of its owner has just ended takes that end away again.
        used = f"{start} unless on (uuid) {end}"

        def is_used(*uuids: str) -> bool:
            return {series.labels["uuid"] for series in api.query(used)} == {*uuids, "GPU-b0", "GPU-b1"}

        assert wait_until(lambda: is_used("GPU-a0", "GPU-a1"), 30.0), "the server is not seen on its cards"

        def run(name: str, exporter_url: str) -> Run:
            return Run(
                model="m",
                run_id=name,
                worker="w",
                runs_dir=directory / "runs",
                gateway_url=fleet.gateway_url,
                prometheus_url=fleet.prometheus_url,
                exporter_url=exporter_url,
                server=address,
            )

        def start_again() -> None:
            server.kill()
            server.wait()
            again, _ = stack.enter_context(listening(int(address.rpartition(":")[2])))
            for gpu in FIRST:
                a.busy.leave(gpu, server.pid)
                b.busy.leave(gpu, server.pid)
                b.busy.enter(gpu, again.pid)
            for gpu in SECOND:
                a.busy.enter(gpu, again.pid)

        with run("answered", ",".join(f"http://{host.address}" for host in hosts)) as answered, run("stored", NO_URL) as stored:
            for name, meanwhile in zip(TASKS, (None, start_again, None), strict=True):
                with stored.task(name) as alone, answered.task(name) as task:
                    threading.Event().wait(1.6)
                    if meanwhile is not None:
                        meanwhile()
                    threading.Event().wait(1.9)
                    task.succeed()
                    alone.succeed()
                if meanwhile is not None:
                    assert wait_until(lambda: is_used("GPU-a4", "GPU-a5"), 30.0), "it is not seen on its new cards"
        results = {name: export(name, directory / "runs", fleet.prometheus_url, "--wait=8") for name in ("answered", "stored")}
        shutil.rmtree(directory / "runs/stored")
        results["pushed"] = export("stored", directory / "runs", fleet.prometheus_url)
        yield Outcome(hosts, results)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("source", ["answered", "stored", "pushed"])
def test_a_task_is_charged_for_the_cards_that_its_server_used(outcome: Outcome, source: str, task: str) -> None:
    result = outcome.results[source][task]
    on_a = {TASKS[0]: FIRST, TASKS[1]: (*FIRST, *SECOND), TASKS[2]: SECOND}[task]
    truth = outcome.truth(*result.window, [*((0, gpu) for gpu in on_a), *((1, gpu) for gpu in FIRST)])
    measured = result.record["measurement"]
    # Samples each 250 ms, which come late on a busy machine, say less of the edges than the exporter does.
    assert result.cell("total_energy_joules") == pytest.approx(truth, rel=0.01 if source == "answered" else 0.03)
    assert measured["low_joules"] <= truth <= measured["high_joules"]
    assert result.row["device_basis"] == "observed"
    uuids = {device["uuid"] for device in measured["devices"]}
    assert uuids == {*(f"GPU-a{gpu}" for gpu in on_a), "GPU-b0", "GPU-b1"}
    # A busy machine scrapes late; nothing else may be in question.
    assert set(result.reasons) <= {"short", "gap"}
