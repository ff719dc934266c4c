"""The exporter command from the outside: what it serves, what it says, how it ends, how much memory it takes."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from threading import Event

import pytest

from joulebench.clients.exporter import ExporterApi
from joulebench.clock import SystemClock
from joulebench.units import Seconds
from tests.unit.exporter.exporter_process import Exporter, exporter, run_to_its_end
from tests.unit.exporter.exposition_lint import complaints
from tests.unit.exporter.ollama_server import FakeOllama, ollama_server

TWO = "/metrics?name[]=joulebench_gpu_energy_joules_total&name[]=joulebench_gpu_energy_sample_timestamp_seconds"
RSS_LIMIT = 60e6


@pytest.fixture
def no_nvml(tmp_path: Path) -> dict[str, str]:
    """An environment in which NVML cannot be loaded, also on a machine that has it."""
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library", encoding="ascii")
    return {"LD_LIBRARY_PATH": str(tmp_path)}


def value(text: str, series: str) -> float:
    (line,) = [line for line in text.splitlines() if line.startswith(series)]
    return float(line.rsplit(" ", 1)[1])


def joules(running: Exporter) -> float:
    return value(running.get(TWO)[1], 'joulebench_gpu_energy_joules_total{gpu="0"')


def wait_until_energy_moves(running: Exporter) -> None:
    clock = SystemClock()
    limit = clock.monotonic() + 10
    while "joulebench_gpu_energy_joules_total{" not in running.get(TWO)[1]:
        assert clock.monotonic() < limit
        Event().wait(0.02)
    first = joules(running)
    while joules(running) == first:
        assert clock.monotonic() < limit
        Event().wait(0.02)


def test_simulated_gpus_are_served_marked_and_within_the_memory_limit() -> None:
    with (
        ollama_server(FakeOllama()) as ollama,
        exporter("--gpu-source=simulated", "--simulated.gpus=8", f"--ollama.url={ollama.url}") as running,
    ):
        wait_until_energy_moves(running)
        status, text = running.get("/metrics")
        assert status == 200
        assert list(complaints(text)) == []
        assert len(re.findall(r'^joulebench_gpu_info\{.*source="simulated"', text, re.MULTILINE)) == 8
        assert value(text, "joulebench_ollama_up") == 1
        assert not re.search(r"^joulebench_exporter_collector_success.* 0\.0$", text, re.MULTILINE)
        clock = SystemClock()
        for path in ("/metrics", TWO):
            took = []
            for _ in range(50):
                begin = clock.monotonic()
                running.get(path)
                took.append((clock.monotonic() - begin) * 1000)
            print(f"8 GPUs, {path.partition('?')[0]}{'?2 names' if '?' in path else ''}: median {sorted(took)[25]:.1f} ms")  # noqa: T201
        print(f"resident memory {running.resident_bytes() / 1e6:.1f} MB, limit {RSS_LIMIT / 1e6:.0f} MB")  # noqa: T201
        assert running.resident_bytes() <= RSS_LIMIT


def test_the_energy_of_a_window_is_answered_and_the_client_understands_it() -> None:
    clock = SystemClock()
    with exporter("--gpu-source=simulated", "--no-ollama") as running:
        wait_until_energy_moves(running)
        start = clock.unix()
        end = Seconds(start + 1.0)
        answer = ExporterApi(running.url).energy(start, end, wait=2.0)
        (gpu,) = answer.gpus
        assert answer.source == "simulated"
        assert gpu.joules is not None
        assert gpu.low is not None
        assert gpu.high is not None
        assert 40 <= gpu.low <= gpu.joules <= gpu.high <= 450
        assert answer.raw_total["joules"] == gpu.joules


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(number: signal.Signals) -> None:
    with exporter("--gpu-source=simulated", "--no-ollama") as running:
        running.process.send_signal(number)
        assert running.process.wait(timeout=10) == 0
    assert not any("Traceback" in line for line in running.log)


def test_without_nvml_auto_says_why_once_and_shows_no_gpu_family(no_nvml: dict[str, str]) -> None:
    with exporter("--no-ollama", environment=no_nvml) as running:
        for _ in range(3):
            text = running.get("/metrics")[1]
        names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE joulebench_")}
        assert not {
            name for name in names if name.startswith(("joulebench_gpu", "joulebench_ollama", "joulebench_exporter_energy"))
        }
        assert 'gpu_source="none"' in text
        now = SystemClock().unix()
        status, body = running.get(f"/api/v1/energy?start={now - 1}&end={now}")
        assert (status, json.loads(body)["source"], json.loads(body)["total"]["joules"]) == (200, "none", None)
        running.process.terminate()
        assert running.process.wait(timeout=10) == 0
    assert len([line for line in running.log if "no GPU metrics: " in line]) == 1


def test_nvml_without_nvml_fails_with_the_reason(no_nvml: dict[str, str]) -> None:
    code, told = run_to_its_end("--gpu-source=nvml", "--no-ollama", "--web.listen-address=127.0.0.1:0", environment=no_nvml)
    assert code == 1
    assert told.startswith("joulebench exporter: ")
    assert "libnvidia-ml.so.1" in told
    assert "Traceback" not in told


def test_a_second_exporter_on_the_same_port_is_told_so() -> None:
    with exporter("--gpu-source=simulated", "--no-ollama") as running:
        address = running.url.removeprefix("http://")
        code, told = run_to_its_end("--gpu-source=simulated", "--no-ollama", f"--web.listen-address={address}")
    assert code == 2
    assert f"cannot listen on {address}: Address already in use; choose another address, or port 0 for a free one" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("flag", "complaint"),
    [
        ("--web.listen-address=here", "--web.listen-address: 'here' is not HOST:PORT"),
        ("--web.listen-address=256.1.1.1:0", "cannot listen on 256.1.1.1:0"),
        ("--web.config.file=/nonexistent.yml", "/nonexistent.yml"),
        ("--simulated.gpus=0", "--simulated.gpus: 0 is not a whole number between 1 and 64"),
        ("--energy.poll-period=0", "--energy.poll-period: 0 is not a number of seconds between 0.005 and 1"),
        ("--energy.poll-period=nan", "--energy.poll-period: nan is not"),
        ("--energy.ring-seconds=1", "--energy.ring-seconds: 1 is not a number of seconds between 10 and 86400"),
        ("--processes.period=3", "--processes.period: 3 is neither 0 nor between 5 and 10 seconds"),
        ("--processes.known=[", "--processes.known: '[' is no regular expression"),
        ("--ollama.url=ollama", "--ollama.url: 'ollama' is not a URL"),
        ("--gpu-source=intel", "--gpu-source: 'intel' is not one of 'auto', 'nvml', 'amd', 'simulated'"),
        ("--simulated.scenario=calm", "--simulated.scenario: 'calm' is not one of 'steady'"),
        ("--simulated.throttle-seconds=5", "need --simulated.scenario=recovering beside them"),
        ("--simulated.begin=nan", "--simulated.begin: nan is not a number of at least 0"),
    ],
)
def test_a_flag_that_cannot_be_used_is_refused_with_the_reason(flag: str, complaint: str) -> None:
    code, told = run_to_its_end("--gpu-source=simulated", "--web.listen-address=127.0.0.1:0", flag)
    assert code == 2
    assert complaint in told
    assert "Traceback" not in told
