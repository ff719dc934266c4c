"""``joulebench proxy`` as the process that it is: addresses, signals, refusals, energy from a real exporter."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests

from joulebench import cli
from joulebench.stack.process import free_port
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import say
from tests.unit.proxy.seen import wait_for

LOOPBACK = "127.0.0.1:0"


@contextmanager
def process(command: str, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the address that it tells last."""
    argv = [sys.executable, "-m", "joulebench.cli", command, *flags]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            for line in running.stderr:
                if found := re.search(r"listening on (http://[\d.:]+)", line):
                    break
            else:
                raise AssertionError(f"{command} ended with {running.wait()}")
            yield running, found.group(1)
        finally:
            running.terminate()


def proxy_flags(upstream: str) -> list[str]:
    return ["--upstream", upstream, "--listen", LOOPBACK]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_stops_when_it_is_told(number: int) -> None:
    flags = ("--web.listen-address", LOOPBACK, "--no-energy")
    with ModelServer([say("hello")]) as server, process("proxy", *proxy_flags(server.ollama_url), *flags) as (running, url):
        assert requests.post(f"{url}/api/chat", json={"model": "m", "stream": False}, timeout=5).json()["done"] is True
        running.send_signal(number)
        assert running.wait(10) == 0


def test_it_tells_metrics_and_energy_of_a_real_exporter() -> None:
    exporter_flags = ("--web.listen-address", LOOPBACK, "--gpu-source", "simulated", "--no-ollama")
    with process("exporter", *exporter_flags) as (_, exporter), ModelServer([say("one two").with_(token_gap=0.5)]) as server:
        metrics = f"127.0.0.1:{free_port()}"
        flags = ("--web.listen-address", metrics, "--exporter.url", exporter)
        with process("proxy", *proxy_flags(server.ollama_url), *flags) as (_, url):
            requests.post(f"{url}/run/r/task/t/api/chat", json={"model": "m", "stream": True}, timeout=5)

            def told(name: str) -> float:
                text = requests.get(f"http://{metrics}/metrics", timeout=5).text
                return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{"))

            wait_for(lambda: told("joulebench_proxy_energy_joules_total") > 0.0)
            assert 10 < told("joulebench_proxy_energy_joules_total") < 400
            assert told("joulebench_proxy_completion_tokens_total") == 2
            assert requests.get(f"http://{metrics}/healthz", timeout=5).text == "ok\n"
            assert requests.get(f"http://{metrics}/v1/models", timeout=5).status_code == 404


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--upstream", "localhost:1"], "--upstream: 'localhost:1' is not a URL"),
        (["--upstream", "http://h:1/v1"], "--upstream: give http://h:1;"),
        (["--listen", "8080"], "--listen: '8080' is not HOST:PORT"),
        (["--tasks", "0"], "--tasks: 0 is not a whole number between 1 and 2000"),
        (["--add-logprobs", "21"], "--add-logprobs: 21 is not a whole number between 0 and 20"),
        (["--exporter.url", "x"], "--exporter.url: 'x' is not a URL"),
        (["--listen", "192.0.2.1:1", "--web.listen-address", LOOPBACK, "--no-energy"], "--listen: cannot listen on 192.0.2.1:1"),
    ],
)
def test_bad_input_is_refused_with_what_to_give(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["proxy", *flags]) == 2
    assert message in capsys.readouterr().err
