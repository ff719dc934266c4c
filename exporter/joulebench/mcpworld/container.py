"""CPU and memory of one container: from its cgroup where this machine can see it, else from the Docker API.

No process is started for a reading. What cannot be read is None; a container that restarts begins a new count.
"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from joulebench.clock import Clock
from joulebench.parsing import load_json
from joulebench.supervise import BackgroundLoop
from joulebench.units import BYTES_PER_MIB

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")
DOCKER_SOCKET = "/var/run/docker.sock"
TIMEOUT_SECONDS = 5.0
MAX_ANSWER_BYTES = 1 << 24
POLL_SECONDS = 1.0
FRESH_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Usage:
    """``cpu_seconds`` of all cores since the container began. ``memory_bytes`` without page cache that can be dropped."""

    cpu_seconds: float | None
    memory_bytes: float | None


@dataclass(frozen=True, slots=True)
class ContainerReading:
    """``cpu_percent``: 100 is one core, as ``docker stats`` has it."""

    cpu_percent: float | None
    memory_mib: float | None


class Meter(Protocol):
    def read(self) -> Usage | None: ...


class Cgroup:
    """cgroup v2 directory of a container or service (``cpu.stat``, ``memory.current``, ``memory.stat``)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Usage | None:
        cpu = _fields(self.path / "cpu.stat").get("usage_usec")
        try:
            memory = float((self.path / "memory.current").read_text())
        except (OSError, ValueError):
            return None if cpu is None else Usage(cpu / 1e6, None)
        cache = _fields(self.path / "memory.stat").get("inactive_file", 0.0)
        return Usage(None if cpu is None else cpu / 1e6, max(memory - cache, 0.0))


class DockerContainer:
    """A container by name. The API is asked once for its process, and again for usage only where its cgroup cannot be read."""

    def __init__(self, name: str, host: str | None = None, cgroups: Path = CGROUPS, proc: Path = PROC) -> None:
        self._name = quote(name, safe="")
        self._host = host if host is not None else os.environ.get("DOCKER_HOST", "") or f"unix://{DOCKER_SOCKET}"
        self._cgroups = cgroups
        self._proc = proc
        self._cgroup: Cgroup | None = None

    def read(self) -> Usage | None:
        if self._cgroup is None:
            self._cgroup = self._find()
        usage = self._cgroup.read() if self._cgroup is not None else None
        if usage is not None:
            return usage
        self._cgroup = None
        return _of_stats(self._get(f"/containers/{self._name}/stats?stream=false&one-shot=true"))

    def _find(self) -> Cgroup | None:
        state = self._get(f"/containers/{self._name}/json").get("State")
        pid = state.get("Pid") if isinstance(state, Mapping) else None
        if not isinstance(pid, int) or pid <= 0:
            return None
        try:
            lines = (self._proc / str(pid) / "cgroup").read_text().splitlines()
        except OSError:
            return None
        own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
        found = None if own is None else Cgroup(self._cgroups / own.lstrip("/"))
        return found if found is not None and found.read() is not None else None

    def _get(self, path: str) -> Mapping[str, Any]:
        """The JSON object at ``path``; empty where there is none."""
        connection = _connection(self._host)
        try:
            connection.request("GET", path, headers={"Host": "docker"})
            answer = connection.getresponse()
            body = load_json(answer.read(MAX_ANSWER_BYTES)) if answer.status == 200 else {}
        except (OSError, ValueError, http.client.HTTPException):
            return {}
        finally:
            connection.close()
        return body if isinstance(body, Mapping) else {}


class ContainerPoller:
    """Reads the meter about once a second in a thread of its own, so that no sampler ever waits for a container."""

    def __init__(self, meter: Meter, clock: Clock, period: float = POLL_SECONDS) -> None:
        self._meter = meter
        self._clock = clock
        self._period = period
        self._before: tuple[float, float] | None = None
        self._latest: tuple[float, ContainerReading] | None = None
        self._loop = BackgroundLoop("container", self._step)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        """Returns after a moment even where the Docker API hangs: the thread is a daemon."""
        self._loop.stop(timeout=1.0)

    def latest(self) -> ContainerReading | None:
        """None where nothing was read in the last seconds."""
        latest = self._latest
        return latest[1] if latest is not None and self._clock.monotonic() - latest[0] <= FRESH_SECONDS else None

    def poll(self) -> None:
        """One reading, in the calling thread."""
        usage = self._meter.read()
        now = self._clock.monotonic()
        if usage is None:
            self._before = None
            return
        percent = None
        if usage.cpu_seconds is not None:
            if self._before is not None and now > self._before[0] and usage.cpu_seconds >= self._before[1]:
                percent = 100 * (usage.cpu_seconds - self._before[1]) / (now - self._before[0])
            self._before = (now, usage.cpu_seconds)
        mib = None if usage.memory_bytes is None else usage.memory_bytes / BYTES_PER_MIB
        self._latest = (now, ContainerReading(percent, mib))

    def _step(self) -> float:
        self.poll()
        return self._period


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(self._path)


def _connection(host: str) -> http.client.HTTPConnection:
    parts = urlsplit(host)
    if parts.scheme == "unix":
        return _UnixConnection(parts.path)
    return http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 2375, timeout=TIMEOUT_SECONDS)


def _of_stats(stats: Mapping[str, Any]) -> Usage | None:
    """Of ``GET /containers/NAME/stats``: nanoseconds of CPU, and memory less the cache, under either name of it."""
    memory = _object(stats.get("memory_stats"))
    used, parts = memory.get("usage"), _object(memory.get("stats"))
    nanoseconds = _object(_object(stats.get("cpu_stats")).get("cpu_usage")).get("total_usage")
    cache = parts.get("inactive_file", parts.get("total_inactive_file", 0))
    cpu = nanoseconds / 1e9 if isinstance(nanoseconds, int | float) and nanoseconds > 0 else None
    known = float(used - cache) if isinstance(used, int | float) and isinstance(cache, int | float) else None
    return None if cpu is None and known is None else Usage(cpu, known)


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _fields(path: Path) -> dict[str, float]:
    """``name number`` lines; empty where there are none."""
    try:
        pairs = [line.split() for line in path.read_text().splitlines()]
        return {name: float(value) for name, value in pairs}
    except (OSError, ValueError):
        return {}
