"""``joulebench proxy`` as a process under attack, and a bystander that goes on using it and times its requests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import requests
from prometheus_client.parser import text_string_to_metric_families

from joulebench.clock import SystemClock
from tests.fakes.raw_upstream import Part, RawRequest, whole
from tests.hostile.hostile_upstream import REPLY

CLOCK = SystemClock()
LOOPBACK = "127.0.0.1:0"
CHAT = "/v1/chat/completions"
TARGET_SECONDS = 0.1
"""A bystander's p99 during an attack, on a machine that has a core for it."""
BUSY_SECONDS = 2.0
"""The same where more programs want to run than the machine has cores: then most of it is their doing."""
STOP_SECONDS = 5.0
ATTACK_PAUSE = 0.05
"""Seconds between two rounds: the attacker, the proxy, its model server and the bystander share the machine."""


def answer_chat(_: RawRequest) -> list[Part]:
    return whole(REPLY)


@dataclass
class AttackedProxy:
    process: subprocess.Popen[bytes]
    url: str
    metrics_url: str
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    def scrape(self) -> tuple[str, float]:
        """Returns /metrics and the seconds that it took."""
        began = CLOCK.monotonic()
        answer = requests.get(f"{self.metrics_url}/metrics", timeout=10)
        assert answer.status_code == 200
        return answer.text, CLOCK.monotonic() - began

    def value(self, name: str, **labels: str) -> float:
        """Returns the sum over the series of the proxy that have these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.scrape()[0])
            for sample in family.samples
            if sample.name == f"joulebench_proxy_{name}" and labels.items() <= sample.labels.items()
        )

    def send(self, data: bytes) -> bytes:
        """Sends raw bytes on a connection of its own and returns what comes back within a second."""
        with socket.create_connection(self.address, 5) as link, contextlib.suppress(OSError):
            link.sendall(data)
            link.settimeout(1.0)
            received = b""
            while part := link.recv(65536):
                received += part
                if b"\r\n\r\n" in received:
                    break
            return received
        return b""

    def stop(self) -> float:
        """Ends the process with SIGTERM. Returns the seconds until it has ended."""
        began = CLOCK.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0
        return CLOCK.monotonic() - began


@contextlib.contextmanager
def attacked_proxy(upstream: str, log: Path, *flags: str, descriptors: int | None = None) -> Iterator[AttackedProxy]:
    argv = [sys.executable, "-m", "joulebench.cli", "proxy", "--upstream", upstream, "--listen", LOOPBACK]
    argv += ["--web.listen-address", LOOPBACK, "--no-energy", "--runs-dir", str(log.parent / "runs"), *flags]
    if descriptors is not None:
        argv = ["prlimit", f"--nofile={descriptors}:{descriptors}", *argv]
    with log.open("wb") as out, subprocess.Popen(argv, stderr=out) as process:
        try:
            end = CLOCK.monotonic() + 30.0
            pause = threading.Event()
            while (listening := re.search(r"listening on (\S+),", log.read_text())) is None:
                assert process.poll() is None, log.read_text()
                assert CLOCK.monotonic() < end
                pause.wait(0.05)
            metrics = re.search(r"metrics on (\S+)", log.read_text())
            assert metrics is not None
            yield AttackedProxy(process, listening.group(1), metrics.group(1), log)
        finally:
            if process.poll() is None:
                process.kill()


@dataclass
class Observed:
    """What a bystander saw: seconds of each request, and wrong answers."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def p99(self) -> float:
        return sorted(self.seconds)[int(0.99 * (len(self.seconds) - 1))]


@contextlib.contextmanager
def bystander(proxy: AttackedProxy) -> Iterator[Observed]:
    """What it observed is filled in when the context ends."""
    observed = Observed()
    host, port = proxy.address
    argv = [sys.executable, "-m", "tests.hostile.bystander", host, str(port)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"started\n"
        try:
            yield observed
        finally:
            process.stdin.close()
            found = json.loads(process.stdout.read())
            observed.seconds, observed.failures = found["seconds"], found["failures"]


@dataclass(frozen=True)
class MeasuredAttack:
    """``p99`` and ``p99_before``: seconds of a bystander's request during the attack and before it."""

    name: str
    p99: float
    p99_before: float
    requests: int
    slowest_scrape: float
    log_bytes: int


MEASURED: list[MeasuredAttack] = []
"""Of this process, for the table at the end of the tests."""


def attack(proxy: AttackedProxy, name: str, action: Callable[[], object], seconds: float = 3.0) -> None:
    """Repeats ``action`` for some seconds, and checks what a bystander and Prometheus see of it."""
    with bystander(proxy) as before:
        threading.Event().wait(1.0)
    with bystander(proxy) as during:
        scrapes: list[float] = []
        pause = threading.Event()
        end = CLOCK.monotonic() + seconds
        while CLOCK.monotonic() < end:
            action()
            scrapes.append(proxy.scrape()[1])
            pause.wait(ATTACK_PAUSE)
    MEASURED.append(MeasuredAttack(name, during.p99, before.p99, len(during.seconds), max(scrapes), proxy.log.stat().st_size))
    assert during.failures == []
    assert len(during.seconds) > 10
    is_busy = os.getloadavg()[0] > len(os.sched_getaffinity(0))
    assert during.p99 < (BUSY_SECONDS if is_busy else TARGET_SECONDS)
    assert max(scrapes) < (BUSY_SECONDS if is_busy else 1.0)


@contextlib.contextmanager
def proxy_of_hostile_upstream(log: Path, *flags: str, descriptors: int | None = None) -> Iterator[AttackedProxy]:
    argv = [sys.executable, "-m", "tests.hostile.hostile_upstream"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as upstream:
        assert upstream.stdout is not None
        assert upstream.stdin is not None
        try:
            url = upstream.stdout.readline().decode().strip()
            with attacked_proxy(url, log, *flags, descriptors=descriptors) as proxy:
                yield proxy
        finally:
            upstream.stdin.close()
            upstream.wait(10)
