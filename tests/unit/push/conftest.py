"""The outside of the push room: a Pushgateway that can be told to fail, the real Pushgateway, and an exporter's energy API."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from joulebench import metrics
from joulebench.clock import wait_until
from joulebench.stack.process import Program, free_port
from tests.needs import need_program


@dataclass
class LocalServer:
    """``answer`` gives (status, body) for a path; every request is kept as (method, path, body)."""

    requests: list[tuple[str, str, str]] = field(default_factory=list)
    status: int = 200
    body: str = ""
    url: str = ""

    def answer(self, path: str) -> tuple[int, str]:
        return self.status, self.body

    def answer_post(self, path: str, body: str) -> tuple[int, str]:
        return 405, "only GET, PUT and DELETE"


@contextmanager
def serving(server: LocalServer) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 3.0  # of a kept connection: no thread is left behind for a client that a test did not close

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            server.requests.append((self.command, self.path, body))
            status, text = server.answer(self.path) if self.command != "POST" else server.answer_post(self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_PUT(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture
def server() -> Iterator[LocalServer]:
    local = LocalServer()
    with serving(local):
        yield local


@dataclass
class FakePrometheus(LocalServer):
    """Scrapes the gateway whenever it is asked, and answers every query with the sent times found there."""

    gateway_url: str = ""
    scrapes: bool = True

    def answer(self, path: str) -> tuple[int, str]:
        found = sent_times(self.gateway_url) if self.scrapes else []
        rows = [{"metric": labels, "value": [0, repr(value)]} for labels, value in found]
        return 200, json.dumps({"status": "success", "data": {"resultType": "vector", "result": rows}})


@dataclass
class FakeExporter(LocalServer):
    """Gives every window 10 W on one GPU, hot for a quarter of it, and nothing on a second.

    ``tells_throttling`` and ``takes_many`` False: an exporter of a version that did not. ``unknown``: parameters that its version
    does not know.
    """

    tells_throttling = True
    takes_many = True
    unknown: Collection[str] = ()

    @property
    def queries(self) -> list[str]:
        """Of each window that it was asked for, in order."""
        return [
            query
            for method, path, body in self.requests
            for query in (body.split("\n") if method == "POST" else [urlsplit(path).query])
        ]

    def answer_post(self, path: str, body: str) -> tuple[int, str]:
        if not self.takes_many:
            return super().answer_post(path, body)
        if self.status != 200:
            return self.answer(path)
        answers = [self.answer(f"{path}?{query}") for query in body.split("\n")]
        return 200, json.dumps({"answers": [{"status": status, "body": json.loads(text)} for status, text in answers]})

    def answer(self, path: str) -> tuple[int, str]:
        if self.status != 200:
            return self.status, json.dumps({"error": "told to fail"})
        query = parse_qs(urlsplit(path).query)
        for name in query:
            if name in self.unknown:
                return 400, json.dumps({"error": f"unknown parameter {name!r}; known are start, end, wait"})
        joules = 10.0 * (float(query["end"][0]) - float(query["start"][0]))
        known = {"joules": joules, "low": joules - 1, "high": joules + 1, "quality": "ok", "reasons": []}
        unknown = {"joules": None, "low": None, "high": None, "quality": "missing", "reasons": ["no samples"]}
        gpus: list[dict[str, object]] = [
            {"gpu": "0", "uuid": "GPU-a", "method": "counter", "samples": 3, **known},
            {"gpu": "1", "uuid": "GPU-b", "method": "counter", "samples": 0, **unknown},
        ]
        if "cuts" in query:
            edges = [0.0, *map(float, query["cuts"][0].split(",")), float(query["end"][0]) - float(query["start"][0])]
            gpus[0]["parts"] = [[10.0 * (b - a), None, None] for a, b in pairwise(edges)]
        if self.tells_throttling:
            gpus[0]["throttled_seconds"] = {"hw_thermal": joules / 40, "sw_thermal": 0.0, "hw_slowdown": None, "of_tomorrow": 1}
            gpus[1]["throttled_seconds"] = {"hw_thermal": None, "sw_thermal": None}
        return 200, json.dumps({"start": 0, "end": 0, "gpus": gpus, "total": unknown, "source": "simulated"})


class RealGateway:
    def __init__(self, directory: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.program = Program(
            "pushgateway",
            [
                str(need_program("pushgateway")),
                f"--web.listen-address=127.0.0.1:{port}",
                f"--persistence.file={directory / 'pushgateway.data'}",
                "--persistence.interval=1s",
                "--log.level=warn",
            ],
            directory / "pushgateway.log",
            f"{self.url}/-/ready",
        )

    def samples(self) -> dict[tuple[str, str], float]:
        """Value by (series name, task id); the last of several with other labels."""
        return {(name, labels.get("task_id", "")): value for name, labels, value in scrape(self.url)}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RealGateway]:
    real = RealGateway(tmp_path)
    real.program.start()
    try:
        yield real
    finally:
        real.program.stop()


def scrape(url: str) -> list[tuple[str, dict[str, str], float]]:
    with requests.get(f"{url}/metrics", timeout=5) as response:
        families = text_string_to_metric_families(response.text)
        return [
            (sample.name, sample.labels, sample.value)
            for family in families
            for sample in family.samples
            if sample.name.startswith("joulebench_")
        ]


def sent_times(url: str) -> list[tuple[dict[str, str], float]]:
    return [(labels, value) for name, labels, value in scrape(url) if name == metrics.TASK_SENT.name]


def events(directory: Path, event_type: str | None = None) -> list[dict[str, Any]]:
    """Events of all journals of a run, in order."""
    paths = sorted(directory.glob("journal-*.jsonl"))
    found = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return [event for event in found if event_type in (None, event["event_type"])]


def eventually(condition: Any, seconds: float = 10.0) -> None:
    assert wait_until(condition, seconds, interval=0.02), "did not come true in time"
