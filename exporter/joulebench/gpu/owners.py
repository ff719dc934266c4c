"""Who a process belongs to: the server whose port it serves, and its systemd unit, container, pod or Slurm job.

Everything is read from /proc, which may be another machine's in a test and the host's in a container (``pid: host``). A
listening port leads to its socket's inode in ``/proc/PID/net/tcp``, the inode to the process that has it open, and that process
to its children: a model server and the workers that it starts are one tree. Workers that something else starts, such as Ray,
share the server's container, unit, pod or job instead. Sources: proc(5) and cgroups(7); the names of cgroups are those of
systemd, Docker, Podman, containerd, the kubelet (cgroupfs and systemd drivers) and Slurm (cgroup v1 and v2).
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

MAX_PROCESSES = 65_536
_LISTEN = "0A"
_HEX = "[0-9a-f]"
_POD = re.compile(
    rf"(?:^|[-/])pod({_HEX}{{8}}(?:[-_]{_HEX}{{4}}){{3}}[-_]{_HEX}{{12}}|{_HEX}{{32}})(?:\.slice)?(?=[/:]|$)",
)
_CONTAINER = re.compile(r"(?:^|[-/:])([0-9a-f]{64})(?:\.scope)?(?=/|$)")
_SLURM_JOB = re.compile(r"/(?:slurm[^/]*|[^/]*slurmstepd\.scope)(?:/[^/]+)*?/job_(\d+)(?=/|$)")
_UNIT = re.compile(r"([^/]+\.service)(?=/|$)")
_SESSION_MANAGER = re.compile(r"user@\d+\.service")


@dataclass(frozen=True, slots=True)
class Owner:
    """What a process belongs to by its cgroup; None where it belongs to nothing of that kind. All are identifiers, not names.

    ``unit``: systemd service. ``container``: 64 hexadecimal digits. ``pod``: UID with hyphens. ``job``: Slurm job id.
    """

    unit: str | None = None
    container: str | None = None
    pod: str | None = None
    job: str | None = None

    def shares_with(self, other: Owner) -> bool:
        """Whether both are in the same job, pod or container, or else in the same unit."""
        for mine, theirs in ((self.job, other.job), (self.pod, other.pod), (self.container, other.container)):
            if mine is not None or theirs is not None:
                return mine == theirs
        return self.unit is not None and self.unit == other.unit


def parse_cgroup(text: str) -> Owner:
    """Returns the owner that ``/proc/PID/cgroup`` names, in version 1 or 2."""
    paths = [line.split(":", 2)[2] for line in text.splitlines() if line.count(":") >= 2]
    unit = container = pod = job = None
    for path in paths:
        if (match := _SLURM_JOB.search(path)) is not None:
            job = job or match[1]
        if (match := _POD.search(path)) is not None:
            pod = pod or _hyphenated(match[1])
        if (match := _CONTAINER.search(path)) is not None:
            container = container or match[1]
        units = [name for name in _UNIT.findall(path) if not _SESSION_MANAGER.fullmatch(name)]
        if units and container is None and pod is None and job is None:
            unit = unit or units[-1]
    return Owner(unit, container, pod, job)


def _hyphenated(uid: str) -> str:
    plain = uid.replace("_", "").replace("-", "")
    return "-".join((plain[:8], plain[8:12], plain[12:16], plain[16:20], plain[20:]))


@dataclass(frozen=True, slots=True)
class ServerProcesses:
    """The processes that serve a port, with all their descendants. ``owners``: of the processes that listen.

    ``hidden``: something listens there whose process cannot be seen, as from inside a container without the host's process ids.
    """

    pids: frozenset[int] = frozenset()
    owners: tuple[Owner, ...] = ()
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class ProcessTable:
    """All processes at one moment. ``parents``: parent by pid. Made by ``read_processes``."""

    parents: dict[int, int]
    proc: Path
    _owners: dict[int, Owner | None] = field(default_factory=dict, repr=False, compare=False)

    def owner(self, pid: int) -> Owner | None:
        """Returns what the process belongs to; None where its cgroup cannot be read."""
        if pid not in self._owners:
            text = _read(self.proc / str(pid) / "cgroup")
            self._owners[pid] = None if text is None else parse_cgroup(text)
        return self._owners[pid]

    def descendants(self, roots: Iterable[int]) -> frozenset[int]:
        """Returns the given processes and all processes that they started."""
        children: dict[int, list[int]] = {}
        for pid, parent in self.parents.items():
            children.setdefault(parent, []).append(pid)
        reached: set[int] = set()
        pending = [pid for pid in roots if pid > 1]
        while pending:
            pid = pending.pop()
            if pid not in reached:
                reached.add(pid)
                pending += children.get(pid, ())
        return frozenset(reached)

    def servers(self, address: str, port: int) -> ServerProcesses:
        """Returns the processes that serve ``address:port`` on this machine, in whichever network namespace they listen."""
        inodes = self._listening_inodes(address, port)
        if not inodes:
            return ServerProcesses()
        listeners = {pid for pid in self.parents if self._has_socket(pid, inodes)}
        behind = set(listeners)
        for pid in listeners:
            behind |= self._behind_port_proxy(pid)
        owners = tuple(dict.fromkeys(owner for pid in sorted(behind) if (owner := self.owner(pid)) is not None))
        return ServerProcesses(self.descendants(behind), owners, hidden=not listeners)

    def serves(self, pid: int, servers: ServerProcesses) -> bool:
        """Whether a process belongs to a server: by its tree, or by sharing its job, pod, container or unit."""
        if pid in servers.pids:
            return True
        owner = self.owner(pid)
        return owner is not None and any(owner.shares_with(other) for other in servers.owners)

    def _namespaces(self) -> Iterator[int]:
        """Yields one process of each network namespace, the one of process 1 or the lowest pid first."""
        seen: set[str] = set()
        for pid in sorted(self.parents):
            try:
                namespace = os.readlink(self.proc / str(pid) / "ns/net")
            except OSError:
                continue
            if namespace not in seen:
                seen.add(namespace)
                yield pid

    def _listening_inodes(self, address: str, port: int) -> set[str]:
        """Returns the inodes of sockets that listen there: in the first network namespace, and in those that have the address."""
        namespaces = list(self._namespaces())
        first, others = (namespaces[0], namespaces[1:]) if namespaces else (None, [])
        inodes = set(_listeners(self.proc / "net" if first is None else self.proc / str(first) / "net", port, address))
        wanted = _ip(address)
        if wanted is None or wanted.is_loopback or wanted.is_unspecified:
            return inodes
        for pid in others:
            base = self.proc / str(pid) / "net"
            if _has_address(base, str(wanted)):
                inodes |= set(_listeners(base, port, address))
        return inodes

    def _has_socket(self, pid: int, inodes: set[str]) -> bool:
        try:
            entries = list(os.scandir(self.proc / str(pid) / "fd"))
        except OSError:
            return False
        for entry in entries:
            try:
                target = os.readlink(entry.path)
            except OSError:
                continue
            if target.startswith("socket:[") and target[8:-1] in inodes:
                return True
        return False

    def _behind_port_proxy(self, pid: int) -> set[int]:
        """Returns the processes in a container that Docker's port proxy forwards to; none for any other program."""
        raw = _read(self.proc / str(pid) / "cmdline")
        words = raw.split("\0") if raw else []
        if not words or words[0].rpartition("/")[2] != "docker-proxy":
            return set()
        values = {words[i]: words[i + 1] for i in range(len(words) - 1) if words[i] in ("-container-ip", "-container-port")}
        container_address, container_port = values.get("-container-ip"), values.get("-container-port", "")
        if container_address is None or not container_port.isdecimal():
            return set()
        reached: set[int] = set()
        for namespace_pid in self._namespaces():
            base = self.proc / str(namespace_pid) / "net"
            if not _has_address(base, container_address):
                continue
            inodes = set(_listeners(base, int(container_port), container_address))
            reached |= {other for other in self.parents if inodes and self._has_socket(other, inodes)}
        return reached - {pid}


def read_processes(proc: Path = Path("/proc")) -> ProcessTable:
    """Returns the table of all processes now. A process that ends meanwhile is left out."""
    parents: dict[int, int] = {}
    for entry in os.scandir(proc):
        if not entry.name.isdecimal() or len(parents) >= MAX_PROCESSES:
            continue
        stat = _read(proc / entry.name / "stat")
        words = [] if stat is None else stat.rpartition(")")[2].split()
        if len(words) > 1 and words[1].isdecimal():
            parents[int(entry.name)] = int(words[1])
    return ProcessTable(parents, proc)


def start_ticks(proc: Path, pid: int) -> int | None:
    """Returns when a process started, in clock ticks since boot (field 22 of ``/proc/PID/stat``); None when it is gone."""
    stat = _read(proc / str(pid) / "stat")
    words = [] if stat is None else stat.rpartition(")")[2].split()
    return int(words[19]) if len(words) > 19 and words[19].isdecimal() else None


def _listeners(base: Path, port: int, address: str) -> Iterator[str]:
    """Yields the inodes of sockets of a network namespace that accept connections to ``address:port``."""
    for table in ("tcp", "tcp6"):
        for line in (_read(base / table) or "").splitlines()[1:]:
            words = line.split()
            if len(words) < 10 or words[3] != _LISTEN:
                continue
            local, _, local_port = words[1].partition(":")
            if int(local_port, 16) == port and _accepts(_address(local), address):
                yield words[9]


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Returns an address of ``/proc/net/tcp``: 32-bit words in the byte order of the machine, here little-endian."""
    raw = bytes.fromhex(text)
    swapped = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    return ipaddress.IPv4Address(swapped) if len(swapped) == 4 else ipaddress.IPv6Address(swapped)


def _accepts(listening: ipaddress.IPv4Address | ipaddress.IPv6Address, address: str) -> bool:
    """Whether a socket on ``listening`` gets connections to ``address``; any name counts as one of this machine's addresses."""
    if isinstance(listening, ipaddress.IPv6Address) and listening.ipv4_mapped is not None:
        listening = listening.ipv4_mapped
    if listening.is_unspecified:
        return True
    wanted = _ip(address)
    if wanted is None:
        return address != "localhost" or listening.is_loopback
    if wanted.is_unspecified:
        return True
    return listening == wanted


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return None


def _has_address(base: Path, address: str) -> bool:
    """Whether a network namespace has an IPv4 address of its own, by ``/proc/PID/net/fib_trie``."""
    return re.search(rf"(?<![\d.]){re.escape(address)}(?![\d.])", _read(base / "fib_trie") or "") is not None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
