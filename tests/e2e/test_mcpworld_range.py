"""``scripts/run_tasks_range.sh`` cut off by Ctrl-C, by kill, by kill -9 and by a model server that hangs.

Each time: results of finished tasks are there, no process is left, and a second start goes on and runs nothing twice.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from joulebench import cli
from joulebench.clock import wait_until
from joulebench.mcpworld import client_names, telemetry
from joulebench.stack.native import NativeStack, Ports
from tests.e2e.range_server import tasks
from tests.e2e.scene import write_suite
from tests.fakes.model_turns import MODEL
from tests.needs import need_program

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/run_tasks_range.sh"
SEVERAL = str(ROOT / "scripts/run_multi_model_benchmark.sh")
NOWHERE = "http://127.0.0.1:9"
SECONDS = 0.6


@dataclass
class Bench:
    directory: Path
    server: subprocess.Popen[str]
    url: str
    stack: NativeStack
    environment: dict[str, str] = field(
        default_factory=lambda: {**os.environ, "JOULEBENCH": str(Path(sys.executable).parent / "joulebench")}
    )

    @property
    def run_directory(self) -> Path:
        return self.directory / "runs" / "tag-scripted-1b"

    def command(self, *numbers: str, timeout: float = 20.0) -> list[str]:
        suite = write_suite(self.directory / "suite.yaml", tasks(SECONDS))
        nowhere = ["--gateway-url", self.stack.gateway_url, "--exporter-url", self.stack.exporter_url, "--prometheus-url", "none"]
        places = ["--tag", "tag", "--runs-dir", str(self.directory / "runs"), "--base-url", self.url, "--monitor", "simulated"]
        limits = ["--task-timeout", str(timeout), "--kill-after", "2"]
        return [
            str(SCRIPT),
            str(suite),
            *numbers,
            "--model",
            MODEL,
            *places,
            *nowhere,
            *limits,
            "--bench",
            "--idle-seconds 0 --no-warm-up",
        ]

    def run(self, *numbers: str, timeout: float = 20.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*numbers, timeout=timeout),
            check=False,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=120,
        )

    def start(self, *numbers: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command(*numbers), env=self.environment, stderr=subprocess.DEVNULL)

    def statuses(self) -> dict[str, str]:
        with (self.run_directory / "known_metrics.csv").open(newline="") as file:
            return {row["task_id"]: row["status"] for row in csv.DictReader(file)}

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.run_directory.glob("result_*.json"))]

    def results(self) -> dict[str, str]:
        """Status of each task, of its last time."""
        return {one["metadata"]["task_id"]: one["computed_metrics"]["task_completion_status"]["status"] for one in self.records()}

    def await_begun(self, task_id: str, times: int) -> None:
        assert wait_until(lambda: self.run_directory.exists() and self.begun().count(task_id) == times, 40.0), self.begun()

    def begun(self) -> list[str]:
        """Tasks in the order in which they were begun, over all starts."""
        lines = [line for path in self.run_directory.glob("journal-*.jsonl") for line in path.read_text().splitlines()]
        events = [json.loads(line) for line in lines if '"TASK_START"' in line]
        return [event["task_id"] for event in sorted(events, key=lambda event: float(event["timestamp"]))]

    def processes(self) -> list[str]:
        """Command lines of what runs for this test's directory."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.directory) in text:
                found.append(text)
        return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """A Pushgateway and an exporter with invented GPUs; no Prometheus."""
    need_program("pushgateway")
    flags = ["--gpu-source", "simulated", "--ollama.url", NOWHERE]
    stack = NativeStack(tmp_path_factory.mktemp("stack"), Ports.free(), exporter_flags=flags)
    try:
        stack.started += [stack.pushgateway().start(), stack.exporter().start()]
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def bench(tmp_path: Path, stack: NativeStack) -> Iterator[Bench]:
    command = [sys.executable, "-m", "tests.e2e.range_server", str(SECONDS)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield Bench(tmp_path, server, server.stdout.readline().strip(), stack)
        server.send_signal(signal.SIGCONT)
        server.kill()


def test_a_range_has_its_results_its_tables_and_its_monitor_and_a_killed_runner_costs_one_task(bench: Bench) -> None:
    with bench.start("2", "3") as process:
        bench.await_begun("t2", 1)
        (path,) = bench.run_directory.glob("journal-*.jsonl")
        os.kill(int(path.stem.rpartition("-")[2]), signal.SIGKILL)
        assert process.wait(60) == 1
    assert bench.statuses() == {"known/t2": "unfinished", "known/t3": "failure"}
    assert bench.processes() == []
    done = bench.run("2", "4")
    assert done.returncode == 0, done.stderr
    assert "1 of 3 tasks are done already" in done.stderr
    assert bench.begun() == ["t2", "t3", "t2", "t4"]
    assert bench.statuses() == {"known/t2": "success", "known/t3": "failure", "known/t4": "success"}
    with (bench.run_directory / "known_batch_summary.csv").open(newline="") as file:
        assert tuple(csv.DictReader(file).fieldnames or ()) == client_names.SUMMARY_COLUMNS
    log = telemetry.read_monitor_log(bench.run_directory / "gpu_logs" / "gpu_metrics_scripted-1b.csv")
    finished = [one for one in bench.records() if one["measurement"]["joules"] is not None]
    assert len(finished) == 3
    for record in finished:
        metadata, measured = record["metadata"], record["measurement"]
        assert (measured["energy_source"], measured["simulated"]) == ("exporter", True)
        assert log.rows_within(metadata["session_start_unix"], metadata["session_end_unix"]) >= 2


def test_cut_off_again_and_again_it_keeps_what_is_done_and_goes_on(bench: Bench) -> None:
    for number, code, task_id, times, done in (
        (signal.SIGINT, 130, "t2", 1, {"t1"}),
        (signal.SIGTERM, 143, "t2", 2, {"t1"}),
        (signal.SIGKILL, -9, "t2", 3, {"t1"}),
    ):
        with bench.start("1", "3") as process:
            bench.await_begun(task_id, times)
            process.send_signal(number)
            assert process.wait(30) == code
        assert wait_until(lambda: bench.processes() == [], 20.0), bench.processes()
        assert {one for one, status in bench.results().items() if status == "success"} == done, number
    with subprocess.Popen(
        bench.command("1", "3", timeout=1.8), env=bench.environment, stderr=subprocess.PIPE, text=True
    ) as process:
        bench.await_begun("t3", 1)
        bench.server.send_signal(signal.SIGSTOP)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 1
    assert "does not answer" in told
    assert bench.processes() == []
    bench.server.send_signal(signal.SIGCONT)
    assert bench.run("1", "3").returncode == 0
    assert bench.begun() == ["t1", "t2", "t2", "t2", "t2", "t3", "t3"]
    assert list(bench.statuses().values()) == ["success", "success", "failure"]


def test_several_models_have_a_run_each(bench: Bench) -> None:
    flags = bench.command("1", "1")
    flags = [SEVERAL, flags[1], "tag", *(one for one in flags[2:] if one not in ("--model", MODEL))]
    place = flags.index("--tag")
    del flags[place : place + 2]
    done = subprocess.run(
        flags, check=False, capture_output=True, text=True, env={**bench.environment, "MODELS": f"{MODEL} hf.co/x/other:2b"}
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (bench.directory / "runs").iterdir()) == ["tag-hf.co_x_other-2b", "tag-scripted-1b"]
    assert bench.results() == {"t1": "success"}


def test_bad_ranges_are_refused(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    for numbers in (("3", "2"), ("0", "1"), ("1", "99"), ("x", "2")):
        assert cli.main(["range", *bench.command(*numbers)[1:]]) == 2
        assert "is no range of this suite" in capsys.readouterr().err
    usage = subprocess.run([str(SCRIPT)], check=False, capture_output=True, text=True)
    assert (usage.returncode, "usage" in usage.stderr) == (2, True)
