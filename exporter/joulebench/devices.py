"""Which GPUs a user means: indices, UUIDs, unique prefixes and MIG UUIDs, each with or without a host in front.

    parse_devices("0,1")                    the first two GPUs of the only host
    parse_devices("GPU-5c1d, hostb:0")      a UUID prefix, and GPU 0 of hostb
    parse_devices("a:0=prefill,b:0=decode") what each does, where prefill and decode are served by different GPUs

A device is identified by (host, UUID); an index is only a name for it at a time. A name that matches nothing, or two devices, is
a ``UserError`` that lists the devices.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from joulebench.errors import UserError

MAX_DEVICES = 1024
SHOWN_DEVICES = 8
ROLES = ("prefill", "decode")
"""What a device may be declared to do, where a model is served disaggregated."""
_NAME = re.compile(
    r"(?:(?P<host>\[[^\]]+\](?::\d+)?|[^\s,\[\]]+):)?"
    r"(?P<name>\d{1,4}|(?i:GPU|MIG|SIMULATED)[-\w./]*|[0-9a-fA-F][-0-9a-fA-F]{3,})"
    rf"(?:=(?P<role>{'|'.join(ROLES)}))?"
)


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU or MIG instance of one host. ``parent``: UUID of the GPU that a MIG instance is a part of, else None.

    ``role``: of ROLES, as it was declared.
    """

    host: str
    index: int
    uuid: str
    parent: str | None = None
    role: str | None = None

    def __str__(self) -> str:
        place = f"{self.host}:{self.index}" if self.host else str(self.index)
        return f"{place} ({self.uuid})"


@dataclass(frozen=True, slots=True)
class DeviceName:
    """A device as a user named it. ``host`` is None where none was named; ``name`` is an index, or a UUID or its beginning."""

    host: str | None
    name: str
    role: str | None = None

    def __str__(self) -> str:
        name = self.name if self.host is None else f"{self.host}:{self.name}"
        return name if self.role is None else f"{name}={self.role}"

    def matches(self, device: Device) -> bool:
        if self.host is not None and not is_host(self.host, device.host):
            return False
        if self.name.isdecimal():
            return device.parent is None and int(self.name) == device.index
        wanted, uuid = self.name.lower(), device.uuid.lower()
        return uuid.startswith(wanted) or uuid.partition("-")[2].startswith(wanted)

    def is_uuid_of(self, device: Device) -> bool:
        """Whether the name is all of the UUID, which may also be the beginning of another one."""
        return self.name.lower() == device.uuid.lower()


_AUTHORITY_END = re.compile(r"[/?#]")

ENV_GPUS = "JOULEBENCH_GPUS"
ENV_SERVER = "JOULEBENCH_SERVER_URL"
ENV_SLURM_JOB = "SLURM_JOB_ID"


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """Which devices a task is charged for; all devices of the exporters where nothing is given.

    ``gpus``: named by the user. ``server``: address of the model server, by which exporters find the devices that it uses.
    ``job``: id of the Slurm job that everything runs in; beside a server where it has several nodes. ``allocated``: the GPUs that
    Slurm gave to it on this node; they count where exporters find none of the job's processes, as without cgroups.
    """

    gpus: tuple[DeviceName, ...] = ()
    server: str | None = None
    job: str | None = None
    allocated: tuple[DeviceName, ...] = ()

    @classmethod
    def from_settings(
        cls,
        gpus: str | int | Iterable[str | int] | None = None,
        server: str | None = None,
        environ: Mapping[str, str] | None = None,
        setting: str = "gpus",
    ) -> DeviceChoice:
        """What is given first, ``JOULEBENCH_GPUS`` and ``JOULEBENCH_SERVER_URL`` second, a Slurm job last. Raises UserError."""
        environ = os.environ if environ is None else environ
        names: tuple[DeviceName, ...] = ()
        if gpus is not None:
            names = parse_devices(gpus, setting)
        elif environ.get(ENV_GPUS, "").strip():
            names = parse_devices(environ[ENV_GPUS], ENV_GPUS)
        server = server or environ.get(ENV_SERVER, "").strip() or None
        if server is not None:
            try:
                parse_server(server)
            except ValueError as error:
                raise UserError(f"server: {error}") from error
        job = environ.get(ENV_SLURM_JOB, "").strip()
        if not job.isdecimal() or names or (server is not None and _is_one_node(environ)):
            return cls(names, server)
        return cls(server=server, job=job, allocated=_allocated_by_slurm(environ))

    def as_json(self) -> dict[str, object]:
        """For the journal: the names as they were given, and the server without credentials."""
        return {"gpus": [str(name) for name in self.gpus], "server": self.server_address, "job": self.job}

    @property
    def server_address(self) -> str | None:
        """``HOST:PORT`` of the server, without the credentials that its URL may hold."""
        if self.server is None:
            return None
        host, port = parse_server(self.server)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def environment(self) -> dict[str, str]:
        """The variables that give a child process the same choice."""
        named = {ENV_GPUS: ",".join(map(str, self.gpus)), ENV_SERVER: self.server or ""}
        return {name: value for name, value in named.items() if value}


def _allocated_by_slurm(environ: Mapping[str, str]) -> tuple[DeviceName, ...]:
    """Returns the GPUs of a job on one node, which is this node; none of several nodes: Slurm names only its own to a process.

    ``SLURM_JOB_GPUS`` has indices of the node. Indices in ``CUDA_VISIBLE_DEVICES`` may count from 0 within the job's cgroup, so
    only UUIDs count there, and only as many as Slurm gave: fewer were chosen for the benchmark alone, and not for the server.
    """
    if not _is_one_node(environ):
        return ()
    visible = environ.get("CUDA_VISIBLE_DEVICES", "")
    given = environ.get("SLURM_JOB_GPUS", "")
    is_of_job = "-" in visible and (not given or visible.count(",") == given.count(","))
    try:
        return parse_devices(visible if is_of_job else given, "SLURM_JOB_GPUS")
    except UserError:
        return ()


def _is_one_node(environ: Mapping[str, str]) -> bool:
    return environ.get("SLURM_JOB_NUM_NODES", "1") == "1"


def parse_server(text: str) -> tuple[str, int]:
    """Returns (host, port) of ``HOST:PORT``, ``[IPv6]:PORT`` or an http(s) URL. Raises ValueError saying what is wrong."""
    scheme, separator, rest = text.strip().rpartition("://")
    authority = _AUTHORITY_END.split(rest, maxsplit=1)[0].rpartition("@")[2]
    host, colon, port = authority.rpartition(":")
    if not colon or "]" in port:
        host, port = authority, {"http": "80", "https": "443"}.get(scheme.lower() if separator else "", "")
    is_host = bool(host) and not re.search(r"\s", host) and (":" not in host or parse_ip(host) is not None)
    if not is_host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text.rpartition('@')[2][:80]!r} is not HOST:PORT, such as 127.0.0.1:11434")
    return host.strip("[]"), int(port)


IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_ip(host: str) -> IpAddress | None:
    """Returns the address, IPv4 where it is one in IPv6; None for a name."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


def reaches(host: str, address: IpAddress) -> bool:
    """Whether a connection to ``host`` arrives at a socket of ``address``, on the machine of the socket; a name that is no
    address counts as this machine's."""
    wanted = parse_ip(host)
    if address.is_unspecified:
        # A socket for all IPv6 addresses usually takes IPv4 connections, too, and never the other way round.
        return wanted is None or wanted.is_unspecified or address.version >= wanted.version
    if wanted is None:
        return host != "localhost" or address.is_loopback
    return wanted.is_unspecified or address == wanted


def serves(addresses: str, server: tuple[str, int]) -> bool:
    """Whether one of the addresses accepts connections to this host and port. They are as in a label ``server``:
    ``ADDRESS:PORT``, separated by commas."""
    host, port = server
    for text in filter(None, addresses.split(",")):
        try:
            own_host, own_port = parse_server(text)
        except ValueError:
            continue
        address = parse_ip(own_host)
        if own_port == port and address is not None and reaches(host, address):
            return True
    return False


def parse_devices(names: str | int | Iterable[str | int], setting: str) -> tuple[DeviceName, ...]:
    """Returns the devices named in a comma-separated text or a sequence. Raises UserError, naming ``setting``, for a bad name."""
    given = [names] if isinstance(names, int) else names.split(",") if isinstance(names, str) else list(names)
    words = [str(word).strip() for word in given]
    if not any(words):
        raise UserError(f"{setting}: names no GPU; give indices, UUIDs or host:index, such as 0,1 or GPU-5c1d,hostb:0")
    if len(words) > MAX_DEVICES:
        raise UserError(f"{setting}: {len(words)} GPUs are more than {MAX_DEVICES}")
    parsed = []
    for word in words:
        match = _NAME.fullmatch(word)
        if match is None:
            raise UserError(
                f"{setting}: {word[:80]!r} is not a GPU; give an index (0), a UUID or its beginning (GPU-5c1d), MIG-..."
                f" or host:index, each with ={' or ='.join(ROLES)} behind it if you like"
            )
        parsed.append(DeviceName(match["host"], match["name"], match["role"]))
    return tuple(dict.fromkeys(parsed))


def resolve_devices(names: Sequence[DeviceName], known: Sequence[Device], setting: str) -> tuple[Device, ...]:
    """Returns the devices that ``names`` mean, each once and with its role.

    Raises UserError for a name that matches no device, or several, and for a device of two roles.
    """
    chosen: dict[tuple[str, str], Device] = {}
    for name in names:
        matching = [device for device in known if name.matches(device)]
        matching = [device for device in matching if name.is_uuid_of(device)] or matching
        if len(matching) != 1:
            listing = ", ".join(map(str, sorted(known, key=lambda device: (device.host, device.index)))) or "none"
            problem = "matches no GPU" if not matching else f"matches {len(matching)} GPUs"
            hint = "" if len(matching) < 2 else "; put the host in front, or more of the UUID"
            raise UserError(f"{setting}: {name} {problem}{hint}; there are: {listing}")
        device = replace(matching[0], role=name.role)
        before = chosen.setdefault((device.host, device.uuid), device)
        if before.role != device.role:
            roles = " and ".join(role or "none" for role in (before.role, device.role))
            raise UserError(f"{setting}: {device} is given two roles, {roles}; name it once")
    return tuple(chosen.values())


def is_host(wanted: str, host: str) -> bool:
    """Whether ``host`` is the named one: equal in any case, or without its port, or where one of the two has no domain."""
    wanted, host = wanted.lower(), host.lower()
    if wanted == host:
        return True
    if host.startswith("["):
        plain = host[: host.find("]") + 1]
    else:
        plain = host if host.count(":") > 1 else host.rpartition(":")[0] or host
    address = parse_ip(plain)
    if address is not None or parse_ip(wanted) is not None:
        return address == parse_ip(wanted)
    wanted, plain = wanted.rstrip("."), plain.rstrip(".")
    if "." in wanted and "." in plain:
        return wanted == plain
    return wanted.partition(".")[0] == plain.partition(".")[0]


def format_devices(devices: Sequence[str]) -> str:
    """The first names and the number of the others."""
    more = f" and {len(devices) - SHOWN_DEVICES} more" if len(devices) > SHOWN_DEVICES else ""
    return (", ".join(devices[:SHOWN_DEVICES]) or "none named") + more
