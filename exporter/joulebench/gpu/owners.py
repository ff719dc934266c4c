"""Who a process belongs to: the servers whose ports it helps to serve, and its systemd unit, container, pod or Slurm job.

Everything is read from /proc, which may be another machine's in a test and the host's in a container (``pid: host``). A
listening port is found in ``/proc/PID/net/tcp`` by its socket's inode, which a file descriptor of its process names. A process
serves the ports of itself and of its ancestors: a model server and the workers that it starts are one tree. Workers that
something else starts, such as Ray, serve the ports of processes in the same job, pod, container or unit that have no worker of
their own. Sources: proc(5) and cgroups(7); the names of cgroups are those of systemd, Docker, Podman, containerd, the kubelet
(cgroupfs and systemd drivers) and Slurm (cgroup v1 and v2).
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from joulebench.devices import IpAddress, parse_ip, reaches

MAX_PROCESSES = 65_536
GENERATIONS = 8
"""Ancestors of a process whose ports it serves."""
PORT_PROXY = "docker-proxy"
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
class Endpoint:
    """A socket that accepts TCP connections. ``own_addresses``: IPv4 addresses of its network namespace, where it is not the
    first one; it is reached by those only."""

    address: IpAddress
    port: int
    own_addresses: frozenset[str] = frozenset()

    def accepts(self, host: str, port: int) -> bool:
        """Whether a connection to ``host:port`` arrives here; a name that is no address counts as this machine's."""
        if port != self.port:
            return False
        wanted = parse_ip(host)
        if self.own_addresses and (wanted is None or str(wanted) not in self.own_addresses or wanted.is_loopback):
            return False
        return reaches(host, self.address)

    def addresses(self) -> list[str]:
        """Returns ``ADDRESS:PORT`` of each address at which the endpoint is reached from the first network namespace."""
        here = {str(self.address)}
        if self.own_addresses:
            own = {address for address in self.own_addresses if not ipaddress.ip_address(address).is_loopback}
            here = own if self.address.is_unspecified else own & here
        return [f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}" for address in sorted(here)]


@dataclass(frozen=True, slots=True)
class ServedBy:
    """What a process on a GPU serves. ``endpoints`` is None where the files of it or of an ancestor may not be read."""

    owner: Owner
    endpoints: frozenset[Endpoint] | None


class ProcessTable:
    """All processes at one moment. Made by ``read_processes``."""

    def __init__(self, proc: Path, parents: Mapping[int, int], programs: Mapping[int, str]) -> None:
        self._proc = proc
        self._parents = parents
        self._programs = programs
        self._owners: dict[int, Owner] = {}
        self._listeners: dict[str, Mapping[str, Endpoint]] = {}
        self._own_network: str | None = None

    def __contains__(self, pid: int) -> bool:
        return pid in self._parents

    def owner(self, pid: int) -> Owner:
        """Returns what the process belongs to; nothing where its cgroup cannot be read."""
        if pid not in self._owners:
            self._owners[pid] = parse_cgroup(_read(self._proc / str(pid) / "cgroup") or "")
        return self._owners[pid]

    def served_by(self, pids: Collection[int]) -> dict[int, ServedBy]:
        """Returns for each of these processes, all that use a GPU, whose ports it serves. Those that are gone are left out."""
        lineage = {pid: [pid, *self._ancestors(pid)] for pid in pids if pid in self._parents}
        own = {member: self._endpoints(member) for member in {member for members in lineage.values() for member in members}}
        result: dict[int, ServedBy] = {}
        without_server = []
        for pid, members in lineage.items():
            sockets = [own[member] for member in members]
            if all(endpoints is None for endpoints in sockets):
                result[pid] = ServedBy(self.owner(pid), None)
                continue
            endpoints = frozenset().union(*(known for known in sockets if known))
            if not endpoints:
                without_server.append(pid)
            result[pid] = ServedBy(self.owner(pid), endpoints)
        for pid in without_server:
            result[pid] = ServedBy(
                self.owner(pid), self._endpoints_of_owner(pid, busy={m for ms in lineage.values() for m in ms})
            )
        forwarded = self._forwarded_ports()
        return {pid: ServedBy(served.owner, _with_forwarded(served.endpoints, forwarded)) for pid, served in result.items()}

    def _ancestors(self, pid: int) -> Iterator[int]:
        for _ in range(GENERATIONS):
            pid = self._parents.get(pid, 0)
            if pid <= 1:
                return
            yield pid

    def _endpoints_of_owner(self, pid: int, busy: Collection[int]) -> frozenset[Endpoint]:
        """Returns the endpoints of processes that share the process's owner and have no GPU process in their own tree."""
        owner = self.owner(pid)
        if owner == Owner():
            return frozenset()
        found: set[Endpoint] = set()
        for other in self._parents:
            if other not in busy and owner.shares_with(self.owner(other)):
                found |= self._endpoints(other) or frozenset()
        return frozenset(found)

    def _endpoints(self, pid: int) -> frozenset[Endpoint] | None:
        """Returns the endpoints that the process itself listens on, None where its file descriptors may not be read."""
        network = self._network(pid)
        if network is None:
            return None
        listeners = self._listeners_of(network, pid)
        inodes = self._socket_inodes(pid)
        return None if inodes is None else frozenset(listeners[inode] for inode in inodes if inode in listeners)

    def _network(self, pid: int) -> str | None:
        try:
            return os.readlink(self._proc / str(pid) / "ns/net")
        except OSError:
            return None

    def _listeners_of(self, network: str, pid: int) -> Mapping[str, Endpoint]:
        if network not in self._listeners:
            base = self._proc / str(pid) / "net"
            own = frozenset() if network == self._first_network() else _addresses(base)
            self._listeners[network] = dict(_listening_sockets(base, own))
        return self._listeners[network]

    def _first_network(self) -> str | None:
        """Returns the network namespace of process 1, or of this process where that may not be read."""
        if self._own_network is None:
            self._own_network = self._network(1) or self._network(os.getpid()) or ""
        return self._own_network

    def _socket_inodes(self, pid: int) -> set[str] | None:
        try:
            entries = list(os.scandir(self._proc / str(pid) / "fd"))
        except FileNotFoundError:
            return set()
        except OSError:
            return None
        inodes = set()
        for entry in entries:
            try:
                target = os.readlink(entry.path)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
        return inodes

    def _forwarded_ports(self) -> list[tuple[str, int, Endpoint]]:
        """Returns (container address, container port, endpoint on the host) of Docker's port proxies."""
        found = []
        for pid in (pid for pid, program in self._programs.items() if program == PORT_PROXY):
            words = (_read(self._proc / str(pid) / "cmdline") or "").split("\0")
            values = dict(pairwise(words))
            address, port = values.get("-container-ip", ""), values.get("-container-port", "")
            host, host_port = parse_ip(values.get("-host-ip", "")), values.get("-host-port", "")
            if host is not None and port.isdecimal() and host_port.isdecimal():
                found.append((address, int(port), Endpoint(host, int(host_port))))
        return found


def _with_forwarded(
    endpoints: frozenset[Endpoint] | None, forwarded: Iterable[tuple[str, int, Endpoint]]
) -> frozenset[Endpoint] | None:
    if not endpoints:
        return endpoints
    outside = {
        host for address, port, host in forwarded for inner in endpoints if inner.own_addresses and inner.accepts(address, port)
    }
    return endpoints | outside


def read_processes(proc: Path = Path("/proc")) -> ProcessTable:
    """Returns the table of all processes now. A process that ends meanwhile is left out."""
    parents: dict[int, int] = {}
    programs: dict[int, str] = {}
    for entry in os.scandir(proc):
        if not entry.name.isdecimal() or len(parents) >= MAX_PROCESSES:
            continue
        before, _, after = (_read(proc / entry.name / "stat") or "").rpartition(")")
        words = after.split()
        if len(words) > 1 and words[1].isdecimal():
            parents[int(entry.name)] = int(words[1])
            programs[int(entry.name)] = before.partition("(")[2]
    return ProcessTable(proc, parents, programs)


def process_age(pid: int, proc: Path = Path("/proc")) -> float | None:
    """Returns the seconds since a process started (``starttime`` of ``/proc/PID/stat``, and ``/proc/uptime``); None if gone."""
    words = (_read(proc / str(pid) / "stat") or "").rpartition(")")[2].split()
    uptime = (_read(proc / "uptime") or "").split()
    if len(words) <= 19 or not words[19].isdecimal() or not uptime:
        return None
    return max(float(uptime[0]) - int(words[19]) / os.sysconf("SC_CLK_TCK"), 0.0)


def _listening_sockets(base: Path, own_addresses: frozenset[str]) -> Iterator[tuple[str, Endpoint]]:
    """Yields (inode, endpoint) of all sockets of a network namespace that accept connections."""
    for table in ("tcp", "tcp6"):
        for line in (_read(base / table) or "").splitlines()[1:]:
            words = line.split()
            if len(words) >= 10 and words[3] == _LISTEN:
                address, _, port = words[1].partition(":")
                yield words[9], Endpoint(_address(address), int(port, 16), own_addresses)


def _address(text: str) -> IpAddress:
    """Returns an address of ``/proc/net/tcp``: 32-bit words in the byte order of the machine, here little-endian."""
    raw = bytes.fromhex(text)
    swapped = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    if len(swapped) == 4:
        return ipaddress.IPv4Address(swapped)
    address = ipaddress.IPv6Address(swapped)
    return address.ipv4_mapped or address


def _addresses(base: Path) -> frozenset[str]:
    """Returns the IPv4 addresses of a network namespace, by ``/proc/PID/net/fib_trie``."""
    return frozenset(re.findall(r"\|-- ([\d.]+)\n\s+/32 host LOCAL", _read(base / "fib_trie") or ""))


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
