"""Who a process belongs to: the servers whose ports it helps to serve, and its systemd unit, container, pod or Slurm job.

Everything is read from /proc, which may be another machine's in a test and the host's in a container (``pid: host``). A
listening port is found in ``/proc/PID/net/tcp`` by its socket's inode, which a file descriptor of its process names. A process
serves the ports of itself and of its ancestors: a model server and the workers that it starts are one tree. Workers that
something else starts, such as Ray, also serve the ports of processes in the same job, pod, container or unit that have no
worker of their own. Sources: proc(5) and cgroups(7); the names of cgroups are those of systemd, Docker, Podman, containerd, the
kubelet (cgroupfs and systemd drivers) and Slurm (cgroup v1 and v2).
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeAlias

from joulebench.clock import Clock, SystemClock
from joulebench.devices import IpAddress, parse_ip, reaches
from joulebench.gpu.listening_sockets import read_listening_sockets

MAX_PROCESSES = 65_536
GENERATIONS = 8
"""Ancestors of a process whose ports it serves."""
REAL_PROC = "/proc"
SMALL_FILE = 16_384
"""Bytes that are read of a process's line of numbers or its cgroups."""
PORT_PROXY = "docker-proxy"
WORKER_STARTERS = frozenset({"raylet"})
"""Programs that start the workers of servers that are no ancestors of them."""
REMEMBERED_SECONDS = 60.0
"""How long the sockets of a process are remembered where no socket begins to listen meanwhile. Only a process that is handed a
listening socket by another, or closes one that another has too, is seen that late."""
_LISTEN = "0A"
_LOOPBACK = "127.0.0.1"
_IPV6_DIGITS = 32
_HEX = "[0-9a-f]"
_POD = re.compile(
    rf"(?:^|[-/])pod({_HEX}{{8}}(?:[-_]{_HEX}{{4}}){{3}}[-_]{_HEX}{{12}}|{_HEX}{{32}})(?:\.slice)?(?=[/:]|$)",
)
_CONTAINER = re.compile(r"(?:^|[-/:])([0-9a-f]{64})(?:\.scope)?(?=/|$)")
_SLURM_JOB = re.compile(r"/(?:slurm[^/]*|[^/]*slurmstepd\.scope)(?:/[^/]+)*?/job_(\d+)(?=/|$)")
_UNIT = re.compile(r"([^/]+\.service)(?=/|$)")
_SESSION_MANAGER = re.compile(r"user@\d+\.service")

Group: TypeAlias = tuple[str, str]
"""Kind and identifier of what the processes of one workload have in common."""


@dataclass(frozen=True, slots=True)
class Owner:
    """What a process belongs to by its cgroup; None where it belongs to nothing of that kind. All are identifiers, not names.

    ``unit``: systemd service. ``container``: 64 hexadecimal digits. ``pod``: UID with hyphens. ``job``: Slurm job id.
    """

    unit: str | None = None
    container: str | None = None
    pod: str | None = None
    job: str | None = None

    def group(self) -> Group | None:
        """Returns what the processes of one workload have in common: the job, else the pod, the container, or the unit."""
        kinds = (("job", self.job), ("pod", self.pod), ("container", self.container), ("unit", self.unit))
        return next(((kind, value) for kind, value in kinds if value is not None), None)


@lru_cache(maxsize=256)
def parse_cgroup(text: str) -> Owner:
    """Returns the owner that ``/proc/PID/cgroup`` names, in version 1 or 2."""
    paths = [line.split(":", 2)[2] for line in text.splitlines() if line.count(":") >= 2]
    unit = container = pod = job = None
    for path in paths:
        if (match := _SLURM_JOB.search(path)) is not None:
            job = job or match[1]
        if (match := _POD.search(path)) is not None:
            pod = pod or _hyphenated(match[1])
        if containers := _CONTAINER.findall(path):
            # Of a container inside a container the inner one is what runs the process.
            container = container or containers[-1]
        units = [name for name in _UNIT.findall(path) if not _SESSION_MANAGER.fullmatch(name)]
        unit = unit or (units[-1] if units else None)
    if container is not None or pod is not None or job is not None:
        # The service of the container runtime or of Slurm, which some controllers of version 1 name.
        unit = None
    return Owner(unit, container, pod, job)


def _hyphenated(uid: str) -> str:
    plain = uid.replace("_", "").replace("-", "")
    return "-".join((plain[:8], plain[8:12], plain[12:16], plain[16:20], plain[20:]))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A socket that accepts TCP connections. ``own_addresses``: those of its network namespace, where it is not the first one;
    it is reached by those only."""

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
            own = {ip for ip in map(ipaddress.ip_address, self.own_addresses) if not (ip.is_loopback or ip.is_link_local)}
            if self.address == ipaddress.IPv4Address(0):
                own = {ip for ip in own if ip.version == 4}
            here = {str(ip) for ip in own} if self.address.is_unspecified else {str(ip) for ip in own} & here
        return [f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}" for address in sorted(here)]


@dataclass(frozen=True, slots=True)
class ServedBy:
    """What a process on a GPU serves. ``endpoints`` is None where the files of it or of an ancestor may not be read."""

    owner: Owner
    endpoints: frozenset[Endpoint] | None


class ProcessStat(NamedTuple):
    """Of ``/proc/PID/stat``. ``started``: clock ticks after the boot."""

    parent: int
    started: int
    program: str


class _Sockets(NamedTuple):
    """The listening sockets of a process, when ``listening`` were all those of its network namespace. ``inodes`` is None where
    its file descriptors may not be read."""

    started: int
    network: str
    listening: frozenset[str]
    inodes: frozenset[str] | None
    read_at: float


class _Listeners(NamedTuple):
    """All listening sockets of a network namespace, by inode."""

    endpoints: Mapping[str, Endpoint]
    inodes: frozenset[str]


class _GroupSearch(NamedTuple):
    """The endpoints of processes by their owner's group, as they were found at ``at`` for these groups, while these processes
    and their ancestors used GPUs and these sockets of each network namespace listened."""

    groups: frozenset[Group]
    busy: frozenset[int]
    listening: Mapping[str, frozenset[str]]
    endpoints: Mapping[Group, frozenset[Endpoint]]
    at: float


@dataclass(slots=True)
class _Memory:
    """What a table leaves to the next one."""

    sockets: dict[int, _Sockets] = field(default_factory=dict)
    search: _GroupSearch | None = None

    def forget_before(self, at: float) -> None:
        self.sockets = {pid: known for pid, known in self.sockets.items() if known.read_at > at}
        if self.search is not None and self.search.at <= at:
            self.search = None


class ProcessReader:
    """Reads the processes of ``proc``, and remembers their sockets from one table to the next.

    A worker of a model server has hundreds of file descriptors, and the kernel takes microseconds to say what each is: 40 such
    processes on 8 GPUs take 40 ms a poll without this memory (make bench, part cost).
    """

    def __init__(self, proc: Path = Path(REAL_PROC), clock: Clock | None = None) -> None:
        self._proc = proc
        self._clock = clock or SystemClock()
        self._memory = _Memory()

    def table(self) -> ProcessTable:
        """Returns the processes now. Used by one thread, and the table before is not used any more."""
        now: float = self._clock.monotonic()
        self._memory.forget_before(now - REMEMBERED_SECONDS)
        return ProcessTable(self._proc, self._memory, now)

    def is_alive(self, pid: int) -> bool:
        """Whether there is a process of this number now."""
        return os.access(f"{self._proc}/{pid}", os.F_OK)


class ProcessTable:
    """All processes at one moment, each read when it is asked for. Made by ``ProcessReader``."""

    def __init__(self, proc: Path, memory: _Memory, now: float) -> None:
        self._proc = str(proc)
        self._memory = memory
        self._now = now
        self._stats: dict[int, ProcessStat | None] = {}
        self._owners: dict[int, Owner] = {}
        self._endpoints_by_pid: dict[int, frozenset[Endpoint] | None] = {}
        self._listeners: dict[str, _Listeners] = {}
        self._first_network: str | None = None
        self._all_pids: list[int] | None = None

    def __contains__(self, pid: int) -> bool:
        return self.stat(pid) is not None

    def stat(self, pid: int) -> ProcessStat | None:
        """Returns the process's line of ``/proc/PID/stat``; None where there is no such process."""
        if pid not in self._stats:
            self._stats[pid] = parse_stat(read_small_file(f"{self._proc}/{pid}/stat") or "")
        return self._stats[pid]

    def age(self, pid: int) -> float | None:
        """Returns the seconds since a process started (``starttime``, and ``/proc/uptime``); None where there is none."""
        stat = self.stat(pid)
        uptime = (read_small_file(f"{self._proc}/uptime") or "").split()
        if stat is None or not uptime:
            return None
        return max(float(uptime[0]) - stat.started / os.sysconf("SC_CLK_TCK"), 0.0)

    def owner(self, pid: int) -> Owner:
        """Returns what the process belongs to; nothing where its cgroup cannot be read."""
        if pid not in self._owners:
            self._owners[pid] = parse_cgroup(read_small_file(f"{self._proc}/{pid}/cgroup") or "")
        return self._owners[pid]

    def served_by(self, pids: Collection[int]) -> dict[int, ServedBy]:
        """Returns for each of these processes, all that use a GPU, whose ports it serves. Those that are gone are left out."""
        lineage = {pid: [pid, *self._ancestors(pid)] for pid in pids if pid in self}
        result: dict[int, ServedBy] = {}
        without_server = []
        for pid, members in lineage.items():
            sockets = [self._endpoints(member) for member in members]
            if all(endpoints is None for endpoints in sockets):
                result[pid] = ServedBy(self.owner(pid), None)
                continue
            endpoints = frozenset().union(*(known for known in sockets if known))
            # Workers of Ray and their parent listen, but not for the clients of the model server.
            if not endpoints or any((stat := self.stat(member)) and stat.program in WORKER_STARTERS for member in members[1:]):
                without_server.append(pid)
            result[pid] = ServedBy(self.owner(pid), endpoints)
        if without_server:
            busy = frozenset(member for members in lineage.values() for member in members)
            by_group = self._endpoints_by_group({self.owner(pid).group() for pid in without_server}, busy)
            for pid in without_server:
                owner, own = result[pid].owner, result[pid].endpoints or frozenset()
                group = owner.group()
                result[pid] = ServedBy(owner, own if group is None else own | by_group.get(group, frozenset()))
        if not any(endpoint.own_addresses for served in result.values() for endpoint in served.endpoints or ()):
            return result
        forwarded = self._forwarded_ports()
        return {pid: ServedBy(served.owner, _with_forwarded(served.endpoints, forwarded)) for pid, served in result.items()}

    def _pids(self) -> list[int]:
        if self._all_pids is None:
            self._all_pids = [int(name) for name in os.listdir(self._proc) if name.isdecimal()][:MAX_PROCESSES]
        return self._all_pids

    def _ancestors(self, pid: int) -> Iterator[int]:
        for _ in range(GENERATIONS):
            stat = self.stat(pid)
            if stat is None or stat.parent <= 1:
                return
            pid = stat.parent
            yield pid

    def _endpoints_by_group(self, groups: Collection[Group | None], busy: frozenset[int]) -> Mapping[Group, frozenset[Endpoint]]:
        """Returns the endpoints of the processes in each of these groups that have no GPU process in their own tree."""
        wanted = frozenset(group for group in groups if group is not None)
        if not wanted:
            return {}
        listening = {network: listeners.inodes for network, listeners in self._listeners.items()}
        last = self._memory.search
        if last is not None and (last.groups, last.busy, last.listening) == (wanted, busy, listening):
            return last.endpoints
        found: dict[Group, frozenset[Endpoint]] = {}
        for pid in self._pids():
            if pid not in busy and (group := self.owner(pid).group()) in wanted:
                found[group] = found.get(group, frozenset()) | (self._endpoints(pid) or frozenset())
        self._memory.search = _GroupSearch(wanted, busy, listening, found, self._now)
        return found

    def _endpoints(self, pid: int) -> frozenset[Endpoint] | None:
        """Returns the endpoints that the process itself listens on, None where its file descriptors may not be read."""
        if pid not in self._endpoints_by_pid:
            self._endpoints_by_pid[pid] = self._find_endpoints(pid)
        return self._endpoints_by_pid[pid]

    def _find_endpoints(self, pid: int) -> frozenset[Endpoint] | None:
        network, stat = self._network(pid), self.stat(pid)
        if network is None or stat is None:
            return None
        endpoints, listening = self._listeners_of(network, pid)
        known = self._memory.sockets.get(pid)
        # A socket that is gone changes nothing; whose a new one is, only the file descriptors say.
        if known is None or (known.started, known.network) != (stat.started, network) or not listening <= known.listening:
            inodes = self._socket_inodes(pid)
            own = None if inodes is None else listening & inodes
            known = self._memory.sockets[pid] = _Sockets(stat.started, network, listening, own, self._now)
        if known.inodes is None:
            return None
        return frozenset(endpoints[inode] for inode in known.inodes if inode in endpoints)

    def _network(self, pid: int) -> str | None:
        try:
            return os.readlink(f"{self._proc}/{pid}/ns/net")
        except OSError:
            return None

    def _listeners_of(self, network: str, pid: int) -> _Listeners:
        if network not in self._listeners:
            base = Path(self._proc) / str(pid) / "net"
            addresses = frozenset() if network == self._first_network_name() else _addresses(base)
            endpoints = self._own_listeners(network, addresses) or dict(_listening_sockets(base, addresses))
            self._listeners[network] = _Listeners(endpoints, frozenset(endpoints))
        return self._listeners[network]

    def _own_listeners(self, network: str, addresses: frozenset[str]) -> dict[str, Endpoint] | None:
        """Returns the listening sockets of this process's network namespace; None of another, or where netlink fails."""
        if self._proc != REAL_PROC or network != self._network(os.getpid()):
            return None
        try:
            return {found.inode: Endpoint(found.address, found.port, addresses) for found in read_listening_sockets()}
        except OSError:
            return None

    def _first_network_name(self) -> str | None:
        """Returns the network namespace of process 1, or of this process where that may not be read."""
        if self._first_network is None:
            self._first_network = self._network(1) or self._network(os.getpid()) or ""
        return self._first_network

    def _socket_inodes(self, pid: int) -> set[str] | None:
        inodes = set()
        try:
            directory = os.open(f"{self._proc}/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return set()
        except OSError:
            return None
        try:
            for name in os.listdir(directory):
                try:
                    target = os.readlink(name, dir_fd=directory)
                except OSError:
                    continue
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        except OSError:
            # The process ended meanwhile.
            return set()
        finally:
            os.close(directory)
        return inodes

    def _forwarded_ports(self) -> list[tuple[str, int, Endpoint]]:
        """Returns (container address, container port, endpoint on the host) of Docker's port proxies."""
        found = []
        for pid in self._pids():
            stat = self.stat(pid)
            if stat is None or stat.program != PORT_PROXY:
                continue
            words = (_read(Path(self._proc) / str(pid) / "cmdline") or "").split("\0")
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


def parse_stat(text: str) -> ProcessStat | None:
    """Returns what a line of ``/proc/PID/stat`` says; None where it is no such line."""
    # The program's name may hold any character, a parenthesis too.
    before, _, after = text.rpartition(")")
    words = after.split()
    if len(words) <= 19 or not (words[1].isdecimal() and words[19].isdecimal()):
        return None
    return ProcessStat(int(words[1]), int(words[19]), before.partition("(")[2])


def _listening_sockets(base: Path, own_addresses: frozenset[str]) -> Iterator[tuple[str, Endpoint]]:
    """Yields (inode, endpoint) of all sockets of a network namespace that accept connections."""
    for table in ("tcp", "tcp6"):
        for line in (_read(base / table) or "").splitlines()[1:]:
            if _LISTEN not in line:
                continue
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
    """Returns the addresses of a network namespace that is not the first one, by ``fib_trie`` and ``if_inet6`` of
    ``/proc/PID/net``; its loopback address alone where it has no other, or where these cannot be read."""
    found = {_LOOPBACK, *re.findall(r"\|-- ([\d.]+)\n\s+/32 host LOCAL", _read(base / "fib_trie") or "")}
    for line in (_read(base / "if_inet6") or "").splitlines():
        digits = line.partition(" ")[0]
        if len(digits) == _IPV6_DIGITS:
            found.add(str(ipaddress.IPv6Address(bytes.fromhex(digits))))
    return frozenset(found)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def read_small_file(path: str) -> str | None:
    """Reads the start of a file of /proc in one call, which takes a third of the time of ``_read``; None where that fails."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return os.read(file, SMALL_FILE).decode(errors="replace")
    except OSError:
        return None
    finally:
        os.close(file)
