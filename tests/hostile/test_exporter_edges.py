"""What clients can do to the exporter's HTTP edge: half-open heads, guessed passwords, many windows at once."""

from __future__ import annotations

import base64
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import bcrypt

from joulebench.clock import SystemClock, wait_until
from tests.unit.exporter.exporter_process import Exporter, exporter

HALF_OPEN = 1100
DESCRIPTORS = 1024
GUESSERS = 100
ASKING = 100
FLAGS = ("--gpu-source=simulated", "--simulated.gpus=8", "--no-ollama")


@contextmanager
def descriptors(soft: int) -> Iterator[None]:
    """With this limit of open files, for this process and those that it starts."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def connection(running: Exporter) -> HTTPConnection:
    return HTTPConnection(urlsplit(running.url).netloc, timeout=30)


def seconds_of_a_scrape(running: Exporter, headers: dict[str, str] | None = None) -> float:
    clock = SystemClock()
    begun = clock.monotonic()
    scrape = connection(running)
    scrape.request("GET", "/metrics", headers=headers or {})
    response = scrape.getresponse()
    assert response.status == 200
    response.read()
    scrape.close()
    return clock.monotonic() - begun


def ends_within_five_seconds(running: Exporter) -> bool:
    running.process.send_signal(signal.SIGTERM)
    return running.process.wait(timeout=5) == 0


def test_half_open_heads_neither_keep_a_scrape_out_nor_fill_the_log() -> None:
    with descriptors(DESCRIPTORS), exporter(*FLAGS) as running, descriptors(4 * DESCRIPTORS), ExitStack() as stack:
        parts = urlsplit(running.url)
        waited = []
        for number in range(HALF_OPEN):
            peer = stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=10))
            peer.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
            if number % 100 == 99:
                waited.append(seconds_of_a_scrape(running))
        assert max(waited) < 2.0
        assert ends_within_five_seconds(running)
    assert len(running.log) < 20


def test_the_right_password_gets_in_after_a_restart_while_clients_guess(tmp_path: Path) -> None:
    hashed = bcrypt.hashpw(b"correct horse", bcrypt.gensalt(10)).decode()
    file = tmp_path / "web.yml"
    file.write_text(f"basic_auth_users:\n  ada: {hashed}\n", encoding="utf-8")
    file.chmod(0o600)
    stop = threading.Event()

    def guess(running: Exporter, client: int) -> None:
        number = 0
        while not stop.is_set():
            try:
                peer = connection(running)
                peer.request("GET", "/metrics", headers=basic("ada", f"guess {client} {number}"))
                assert peer.getresponse().status == 401
                number += 1
            except OSError:  # noqa: PERF203
                stop.wait(0.1)  # its place was taken
            finally:
                peer.close()

    def basic(user: str, password: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}

    with exporter(*FLAGS, f"--web.config.file={file}") as running:
        threads = [threading.Thread(target=guess, args=(running, client)) for client in range(GUESSERS)]
        for thread in threads:
            thread.start()
        stop.wait(0.3)
        waited = seconds_of_a_scrape(running, basic("ada", "correct horse"))
        stop.set()
        assert ends_within_five_seconds(running)
        for thread in threads:
            thread.join()
    assert waited < 2.0


def test_the_sampler_keeps_its_pace_while_a_hundred_clients_ask_for_windows() -> None:
    """The target of 40 polls a second is for ``make bench``: a busy machine slows the sampler without any client."""
    stop = threading.Event()
    clock = SystemClock()

    def ask(running: Exporter) -> None:
        peer = connection(running)
        while not stop.is_set():
            end = clock.unix()
            peer.request("GET", f"/api/v1/energy?start={end - 2!r}&end={end!r}&wait=0.5")
            peer.getresponse().read()
        peer.close()

    with exporter(*FLAGS) as running:
        undisturbed = polls_a_second(running)
        threads = [threading.Thread(target=ask, args=(running,)) for _ in range(ASKING)]
        for thread in threads:
            thread.start()
        disturbed = polls_a_second(running)
        stop.set()
        for thread in threads:
            thread.join()
    assert disturbed >= min(40.0, 0.6 * undisturbed)


def polls_a_second(running: Exporter) -> float:
    clock = SystemClock()
    threading.Event().wait(1.0)
    before, began = polls(running), clock.monotonic()
    threading.Event().wait(4.0)
    return (polls(running) - before) / (clock.monotonic() - began)


def polls(running: Exporter) -> float:
    """Of the GPU with the fewest."""
    _, text = running.get("/metrics?name[]=joulebench_exporter_energy_polls_total")
    return min(float(line.rpartition(" ")[2]) for line in text.splitlines() if not line.startswith("#"))


def test_sighup_takes_a_new_password(tmp_path: Path) -> None:
    file = tmp_path / "web.yml"

    def write(password: bytes) -> None:
        hashed = bcrypt.hashpw(password, bcrypt.gensalt(4)).decode()
        file.write_text(f"basic_auth_users:\n  ada: {hashed}\n", encoding="utf-8")

    def status(password: str) -> int:
        peer = connection(running)
        token = base64.b64encode(f"ada:{password}".encode()).decode()
        with closing(peer):
            peer.request("GET", "/healthz", headers={"Authorization": f"Basic {token}"})
            return peer.getresponse().status

    write(b"old")
    with exporter(*FLAGS, f"--web.config.file={file}") as running:
        assert status("old") == 200
        write(b"new")
        os.kill(running.process.pid, signal.SIGHUP)
        assert wait_until(lambda: status("new") == 200, 10.0)
        assert status("old") == 401
