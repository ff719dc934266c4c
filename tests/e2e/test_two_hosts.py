"""A model on cards of two hosts, each with its exporter process, beside cards that serve somebody else: known joules of the cards
that were declared, and of no others, whatever the clock of a host shows and never without a host that is gone."""

from __future__ import annotations

import csv
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from joulebench import Run
from joulebench.clock import SystemClock
from joulebench.results.export import Options, export
from joulebench.settings import NO_URL
from joulebench.stack.process import Program, free_port
from tests.fakes import nvml
from tests.fakes.wall_clock import ForeignWallClock

pytestmark = pytest.mark.e2e

SERVING_WATTS, NEIGHBOUR_WATTS, AHEAD, TASK_SECONDS = 250.0, 350.0, 3.0, 2.5
A_GPUS, B_GPUS = ("GPU-a0", "GPU-a1"), ("GPU-b0", "GPU-b1")
ROLES = ",".join([*(f"{uuid}=prefill" for uuid in A_GPUS), *(f"{uuid}=decode" for uuid in B_GPUS)])


@dataclass
class Host:
    script: nvml.FakeGpuScript
    program: Program
    address: str


def start_host(stack: ExitStack, directory: Path, name: str, gpus: int, clock: ForeignWallClock | None = None) -> Host:
    """Its first two cards serve, at power steps that no other card has; the others serve somebody else."""
    address = f"127.0.0.1:{free_port()}"
    cards = [
        nvml.FakeGpu(
            uuid=f"GPU-{name}{number}",
            phase=0.013 * (number + 1),
            power=((0.0, SERVING_WATTS + 20 * number), (0.7, 120.0)) if number < 2 else ((0.0, NEIGHBOUR_WATTS),),
            loop=1.1 if number < 2 else None,
        )
        for number in range(gpus)
    ]
    script = nvml.FakeGpuScript(cards)
    environment = nvml.environment(script.write(directory / f"{name}.gpus"))
    if clock is not None:
        environment = {**environment, **clock.environment}
    argv = [sys.executable, "-m", "joulebench.cli", "exporter", f"--web.listen-address={address}", "--no-ollama"]
    program = Program("exporter", argv, directory / f"{name}.log", f"http://{address}/healthz", environment)
    program.start()
    stack.callback(program.stop)
    return Host(script, program, address)


@dataclass
class Outcome:
    hosts: tuple[Host, Host]
    rows: dict[str, dict[str, str]]
    measurements: dict[str, Any]
    windows: dict[str, tuple[float, float]]

    def truth(self, task: str) -> tuple[float, float]:
        """Joules of the declared cards of A and of B."""
        start, end = self.windows[task]
        of_host = [sum(host.script.joules(gpu, start, end) for gpu in (0, 1)) for host in self.hosts]
        return of_host[0], of_host[1]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    directory = tmp_path_factory.mktemp("two-hosts")
    with ExitStack() as stack:
        clock = ForeignWallClock(directory / "b.clock")
        clock.step(AHEAD)
        a, b = start_host(stack, directory, "a", 8), start_host(stack, directory, "b", 2, clock)
        # The counters of new cards are learned in the first seconds.
        threading.Event().wait(2.0)
        run = Run(
            model="m",
            run_id="two",
            runs_dir=directory / "runs",
            gateway_url=NO_URL,
            prometheus_url=NO_URL,
            exporter_url=f"http://{a.address},http://{b.address}",
            gpus=ROLES,
        )
        with run:
            for name in ("both", "gone"):
                with run.task(name) as task:
                    threading.Event().wait(TASK_SECONDS)
                    if name == "gone":
                        b.program.stop()
                    task.succeed()
        export(Options("two", directory / "runs"), None, SystemClock())
        results = directory / "runs/two"
        with (results / "results.csv").open(newline="") as file:
            rows = {row["task_id"]: row for row in csv.DictReader(file)}
        records = [json.loads(path.read_text()) for path in results.glob("result_*.json")]
        by_task = {record["metadata"]["task_id"]: record for record in records}
        yield Outcome(
            (a, b),
            rows,
            {task: record["measurement"] for task, record in by_task.items()},
            {
                task: (record["metadata"]["session_start_unix"], record["metadata"]["session_end_unix"])
                for task, record in by_task.items()
            },
        )


def test_two_of_eight_cards_and_two_of_a_host_whose_clock_is_ahead_have_their_joules(outcome: Outcome) -> None:
    on_a, on_b = outcome.truth("both")
    row, measured = outcome.rows["both"], outcome.measurements["both"]
    assert float(row["total_energy_joules"]) == pytest.approx(on_a + on_b, rel=0.01)
    assert measured["low_joules"] <= on_a + on_b <= measured["high_joules"]
    assert row["device_basis"] == "declared"
    # A busy machine polls late; nothing else may be in question. This run has no Prometheus.
    assert set(measured["reasons"]) <= {"short", "gap", "prometheus_not_asked"}
    a, b = outcome.hosts
    assert row["devices"].split() == [*(f"{a.address}/{uuid}" for uuid in A_GPUS), *(f"{b.address}/{uuid}" for uuid in B_GPUS)]
    assert float(row["prefill_devices_energy_joules"]) == pytest.approx(on_a, rel=0.01)
    assert float(row["decode_devices_energy_joules"]) == pytest.approx(on_b, rel=0.01)


def test_the_offset_of_the_clock_is_said(outcome: Outcome) -> None:
    offsets = [device["clock_offset_seconds"] for device in outcome.measurements["both"]["devices"]]
    assert offsets == [None, None, pytest.approx(AHEAD, abs=0.1), pytest.approx(AHEAD, abs=0.1)]


def test_a_host_that_is_gone_makes_the_total_unknown(outcome: Outcome) -> None:
    row, measured = outcome.rows["gone"], outcome.measurements["gone"]
    on_a, _ = outcome.truth("gone")
    assert (row["total_energy_joules"], row["quality"]) == ("", "missing")
    assert "host_missing" in row["reasons"]
    assert measured["missing_hosts"] == [outcome.hosts[1].address]
    assert measured["high_joules"] is None
    assert measured["low_joules"] <= on_a
    assert measured["joules_by_role"] == {"prefill": None}
