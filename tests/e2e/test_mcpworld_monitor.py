"""``scripts/monitor_gpu.py`` as a process on a fake GPU with known joules: its times, its energy, and its end by any signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from joulebench import metrics
from joulebench.clock import wait_until
from joulebench.energy.window import total, window_energy
from joulebench.mcpworld import telemetry
from joulebench.mcpworld.backfill import FILLED, Options, backfill
from joulebench.results.timeseries import TimeSeries
from tests.fakes import nvml
from tests.fakes.listening import listening

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).parents[2] / "scripts/monitor_gpu.py"
INTERVAL = 0.25
SECONDS = 11
MOVES_AT = 10.0
"""Seconds after the origin of the script; both monitors have to have begun 3.5 s before."""
STEPS = ((0.0, 62.0), (1.3, 331.0), (1.9, 279.0), (4.05, 62.0))


def scenario(tmp_path: Path) -> nvml.FakeGpuScript:
    return nvml.FakeGpuScript([nvml.FakeGpu(power=STEPS, loop=5.2), nvml.FakeGpu(power=((0.0, 48.5),), step=0.02)])


@contextmanager
def monitor(tmp_path: Path, script: nvml.FakeGpuScript, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    out = tmp_path / "gpu_metrics_x.csv"
    environment = {**os.environ, **nvml.environment(script.write(tmp_path / "gpus"))}
    command = [sys.executable, str(SCRIPT), str(out), str(INTERVAL), "--container", "none", "--gpu-source", "nvml", *flags]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        try:
            assert wait_until(lambda: out.exists() and out.read_bytes().count(b"\n") > 3, 10.0)
            yield process, out
        finally:
            if process.poll() is None:
                process.kill()


def test_times_are_even_and_the_energy_is_the_true_one(tmp_path: Path) -> None:
    script = scenario(tmp_path)
    with monitor(tmp_path, script, "--per-gpu") as (process, out):
        assert wait_until(lambda: out.read_bytes().count(b"\n") > SECONDS / INTERVAL, SECONDS + 10.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    log = telemetry.read_monitor_log(out)
    steps = [later - earlier for earlier, later in pairwise(log.times)]
    # The benchmark prints the tail; other processes of a test run may hold up single rows.
    assert median(abs(step - INTERVAL) for step in steps) <= 0.005
    start, end = log.times[8], log.times[-4]
    truth = sum(script.joules(gpu, start, end) for gpu in (0, 1))
    counted = total(window_energy(gpu.energy, start, end) for gpu in log.samples.gpus)
    assert counted.joules == pytest.approx(truth, rel=0.01)
    assert counted.low is not None
    assert counted.high is not None
    assert counted.low <= truth <= counted.high
    power = [(float(row[0]), float(row[4])) for row in (line.split(",") for line in out.read_text().splitlines()[1:])]
    summed = window_energy(telemetry.integrated(TimeSeries.of(power)), start, end, method="power_integration")
    assert summed.joules == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_ends_well_by_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    # What the tests' own caller ignores, as nohup does, stays ignored by the monitor, too.
    before = signal.signal(number, signal.SIG_DFL)
    with monitor(tmp_path, scenario(tmp_path)) as (process, out):
        signal.signal(number, before)
        process.send_signal(number)
        assert process.wait(5) == 0
        assert b"Traceback" not in (process.stderr.read() if process.stderr else b"")
    assert out.read_bytes().endswith(b"\n")


def test_rows_are_of_the_gpus_that_the_server_uses_and_sessions_are_charged_for_them(tmp_path: Path) -> None:
    """The server is on two of four GPUs and then on another one, beside a neighbour, which is this process."""
    logs = {"together": (), "single": ("--per-gpu",)}
    with listening() as (server, address):
        own, moved = nvml.Process(server.pid, end=MOVES_AT), nvml.Process(server.pid, start=MOVES_AT)
        script = nvml.FakeGpuScript(
            [
                *(nvml.FakeGpu(power=((0.0, watts),), processes=[own]) for watts in (200.0, 230.0)),
                nvml.FakeGpu(power=((0.0, 310.0),), processes=[nvml.Process(os.getpid())]),
                nvml.FakeGpu(power=((0.0, 170.0),), processes=[moved]),
            ]
        )
        last = script.origin_unix + MOVES_AT + 5.0
        with ExitStack() as stack:
            for name, flags in logs.items():
                (tmp_path / name).mkdir()
                process, out = stack.enter_context(monitor(tmp_path / name, script, "--server", address, *flags))
                stack.callback(process.terminate)
            assert wait_until(lambda: telemetry.read_monitor_log(out).times[-1] > last, 30.0)
    sessions = {"before": (MOVES_AT - 3.5, MOVES_AT - 0.5, (0, 1)), "after": (MOVES_AT + 1.5, MOVES_AT + 4.0, (3,))}
    for name in logs:
        for task, (start, end, _) in sessions.items():
            events = [
                {"event_type": "TASK_START", "timestamp": script.origin_unix + start},
                {"event_type": "TASK_END", "timestamp": script.origin_unix + end, "status": "success"},
            ]
            metadata = {"model_name": "m", "task_config_at_start": {"task_id": task}}
            (tmp_path / name / f"result_{task}.json").write_text(json.dumps({"metadata": metadata, "raw_events": events}))
        report = backfill(Options(tmp_path / name), None)
        assert [outcome.status for outcome in report.outcomes] == [FILLED, FILLED], report
        for task, (start, end, gpus) in sessions.items():
            measured = json.loads((tmp_path / name / f"result_{task}.json").read_text())["measurement"]
            truth = sum(script.joules(gpu, script.origin_unix + start, script.origin_unix + end) for gpu in gpus)
            assert measured["joules"] == pytest.approx(truth, rel=0.01), (name, task)
            assert measured["device_basis"] == "observed"
            devices = [device["uuid"] for device in measured["devices"]]
            assert devices == ([f"GPU-fake-{gpu}" for gpu in gpus] if name == "single" else ["all"])


def test_a_server_that_nobody_knows_leaves_cells_empty_and_is_named(tmp_path: Path) -> None:
    with monitor(tmp_path, scenario(tmp_path), "--server", "127.0.0.1:9") as (process, out):
        process.terminate()
        assert process.wait(5) == 0
        assert process.stderr is not None
        assert b"127.0.0.1:9 uses no GPU of this machine that can be seen; rows have no GPU values" in process.stderr.read()
    assert all(row.endswith(",,,,,,,observed") for row in out.read_text().splitlines()[1:])


def test_killed_it_leaves_a_file_that_reads_and_goes_on(tmp_path: Path) -> None:
    with monitor(tmp_path, scenario(tmp_path)) as (process, out):
        process.kill()
        process.wait()
    first = telemetry.read_monitor_log(out)
    assert first.damaged == 0
    assert len(first.times) >= 3
    with monitor(tmp_path, scenario(tmp_path)) as (process, out):
        assert wait_until(lambda: len(telemetry.read_monitor_log(out).times) > len(first.times) + 2, 10.0)
    assert telemetry.read_monitor_log(out).times[: len(first.times)] == first.times


def test_a_lost_gpu_is_empty_cells(tmp_path: Path) -> None:
    script = nvml.FakeGpuScript([nvml.FakeGpu(faults=[nvml.gone(3.0, 999.0)])])
    with monitor(tmp_path, script) as (_, out):
        assert wait_until(lambda: out.read_text().rstrip().endswith(",,,,,,"), 10.0)
    log = telemetry.read_monitor_log(out)
    power = log.samples.gpus[0].gauges[metrics.GPU_POWER.name]
    assert 3 <= len(power) < len(log.times)
    assert {watts for _, watts in power} == {50.0}


def test_without_a_gpu_it_says_so_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "m.csv"
    script = nvml.FakeGpuScript([nvml.FakeGpu()], init=9)
    environment = {**os.environ, **nvml.environment(script.write(tmp_path / "gpus"))}
    command = [sys.executable, str(SCRIPT), str(out), "0.05", "--container", "none"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"no GPU columns" in process.stderr.readline()
        assert wait_until(lambda: out.exists() and out.read_text().count(",,,,,,\n") > 3, 10.0)
        process.terminate()
        assert process.wait(5) == 0
