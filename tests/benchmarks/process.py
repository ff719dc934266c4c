"""What a process costs, from /proc, and how long its scrapes take."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from joulebench.clock import Clock
from tests.benchmarks.statistics import percentile

TICKS = os.sysconf("SC_CLK_TCK")
# As Prometheus sends them.
HEADERS = {"Accept": "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "Accept-Encoding": "gzip"}


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one scrape, in seconds, on a connection that stays open; ``size``: bytes of the answer as sent."""

    p50: float
    p99: float
    size: int


def cpu_share(pid: int, seconds: float, clock: Clock, meanwhile: threading.Event | None = None) -> float:
    """Share of one core that the process (all its threads) used over the next ``seconds``."""
    began, spent = clock.monotonic(), cpu_seconds(pid)
    (meanwhile or threading.Event()).wait(seconds)
    return (cpu_seconds(pid) - spent) / (clock.monotonic() - began)


def cpu_seconds(pid: int) -> float:
    """User and system time, in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def thread_cpu_seconds(pid: int) -> list[float]:
    """CPU time of each thread of a process, in the order in which they were started."""
    tasks = sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda task: int(task.name))
    return [int((task / "schedstat").read_text().split()[0]) / 1e9 for task in tasks]


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/{pid}/status has no VmRSS")


def scrape_latency(port: int, path: str, times: int, clock: Clock, pause: float) -> Latency:
    """``pause``: seconds between two scrapes, so that they do not all find the process in the same mood."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    waits: list[float] = []
    size = 0
    between = threading.Event()
    for _ in range(times):
        began = clock.monotonic()
        size = len(_get(connection, path, HEADERS))
        waits.append(clock.monotonic() - began)
        between.wait(pause)
    connection.close()
    return Latency(median(waits), percentile(waits, 99), size)


def _get(connection: http.client.HTTPConnection, path: str, headers: Mapping[str, str]) -> bytes:
    connection.request("GET", path, headers=dict(headers))
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path}: HTTP {response.status}")
    return body
