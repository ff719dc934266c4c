"""Which servers, units, containers, pods and jobs used each GPU, and when: the memory behind ``basis: observed``.

A process uses a GPU while it has memory there (``nvmlDeviceGetComputeRunningProcesses``), from its start (``/proc/PID/stat``)
until it is seen to be gone. Where two owners use one GPU at a time, its energy is divided by the SM time of their processes
(``nvmlDeviceGetProcessUtilization``): an estimate, since power is not proportional to SM time. Times are monotonic seconds.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from joulebench.devices import parse_server
from joulebench.gpu.owners import ServedBy
from joulebench.gpu.reading import MigInstance, OwnerLabels, OwnerUse, ProcessUse
from joulebench.units import Ratio, Seconds

MAX_SAMPLES = 4096
"""SM samples kept of each process: more than an hour at the driver's one a second."""
MAX_RESIDENTS = 256
"""Processes remembered of each GPU; the longest gone are forgotten first."""
LONGEST_SAMPLE = 1.5
"""Seconds that one SM sample stands for at most; the driver averages over up to one second."""
UNSEEN_SM = 0.1
"""Share of the SMs from which on a process that was never seen is somebody else's work, and not the drawing of a window."""
MIN_CONTAINER_ID = 12
KEEP_ENDED = 120.0
"""Seconds for which an owner is still shown after its use ended, so that a scrape after a window sees all uses in it."""
MAX_ADDRESSES = 4
"""Addresses of one server that are shown."""
FIRST_EPHEMERAL_PORT = 32_768
"""From here on Linux chooses ports by itself (``net.ipv4.ip_local_port_range``)."""


class OwnerKind(Enum):
    SERVER = "server"
    UNIT = "unit"
    CONTAINER = "container"
    POD = "pod"
    JOB = "job"


@dataclass(frozen=True, slots=True)
class OwnerName:
    """An owner as a request names it. Made by ``parse_owner``."""

    kind: OwnerKind
    value: str
    server: tuple[str, int] | None = None

    def matches(self, served: ServedBy) -> bool:
        """Whether a process that serves this belongs to the owner."""
        owner = served.owner
        match self.kind:
            case OwnerKind.SERVER:
                assert self.server is not None
                return any(endpoint.accepts(*self.server) for endpoint in served.endpoints or ())
            case OwnerKind.CONTAINER:
                return owner.container is not None and owner.container.startswith(self.value)
            case OwnerKind.UNIT:
                return owner.unit is not None and owner.unit in (self.value, f"{self.value}.service")
            case OwnerKind.POD:
                return owner.pod == self.value
            case OwnerKind.JOB:
                return owner.job == self.value


def parse_owner(kind: str, value: str) -> OwnerName:
    """Returns the owner of a kind, such as ("server", "127.0.0.1:11434"). Raises ValueError saying what is wrong."""
    value = value.strip()
    if not value:
        raise ValueError(f"{kind} is empty")
    parsed = OwnerKind(kind)
    if parsed is OwnerKind.SERVER:
        return OwnerName(parsed, value, parse_server(value))
    if parsed in (OwnerKind.POD, OwnerKind.CONTAINER):
        value = value.lower()
    if parsed is OwnerKind.CONTAINER and (len(value) < MIN_CONTAINER_ID or not set(value) <= set("0123456789abcdef")):
        raise ValueError(f"container={value[:80]!r} is not an id of at least {MIN_CONTAINER_ID} hexadecimal digits")
    return OwnerName(parsed, value)


@dataclass(frozen=True, slots=True)
class GpuUse:
    """Use of one GPU in one window.

    ``own``: the owner's processes had memory there. ``others``: so had processes of somebody else. ``share``: the owner's part of
    the SM time of all processes, 0 to 1; None where only others or nobody used SMs, or where the driver does not report them.
    """

    own: bool
    others: bool
    share: float | None


class InstanceUse(NamedTuple):
    """Use of one MIG instance in one window. ``use`` and ``activity`` are None where they are unknown."""

    instance: MigInstance
    use: GpuUse | None
    activity: Ratio | None


class _SmSamples:
    """Shares of the SMs of one process, as columns: an hour of them is 72 kB and not 0.5 MB."""

    __slots__ = ("_ends", "_shares", "_starts")

    def __init__(self) -> None:
        self._starts, self._ends, self._shares = array("d"), array("d"), array("f")

    @property
    def end(self) -> float | None:
        """The end of the latest."""
        return self._ends[-1] if self._ends else None

    def append(self, start: float, end: float, share: float) -> None:
        """Adds one that is later than all others; beyond ``MAX_SAMPLES`` the oldest are forgotten."""
        for column, value in ((self._starts, start), (self._ends, end), (self._shares, share)):
            if len(column) >= MAX_SAMPLES:
                del column[: MAX_SAMPLES // 8]
            column.append(value)

    def seconds(self, start: float, end: float) -> float:
        """Returns the SM seconds between two times."""
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        samples = zip(self._starts[first:last], self._ends[first:last], self._shares[first:last], strict=True)
        return sum((min(until, end) - max(since, start)) * share for since, until, share in samples)


@dataclass(slots=True)
class _Resident:
    """``served`` is None where nothing is known of the process but its number."""

    pid: int
    start: float
    last_seen: float
    served: ServedBy | None
    wall_offset: float
    end: float | None = None
    samples: _SmSamples = field(default_factory=_SmSamples)

    def overlaps(self, start: float, end: float) -> bool:
        return self.start <= end and (self.end is None or self.end >= start)


class DeviceUseHistory:
    """Written by one poller, read by any thread. ``keep_seconds``: how long a process that is gone is remembered."""

    def __init__(self, keep_seconds: float) -> None:
        self._keep_seconds = keep_seconds
        self._lock = threading.Lock()
        self._residents: dict[str, dict[int, _Resident]] = {}
        self._gone: dict[str, deque[_Resident]] = {}
        self._polled_at: dict[str, float] = {}
        # Answers of owner_uses, by UUID, until the GPU's residents change: every scrape asks for them.
        self._owner_uses: dict[str, Mapping[OwnerLabels, OwnerUse]] = {}

    def record(
        self,
        uuid: str,
        pids: Collection[int] | None,
        served: Mapping[int, ServedBy],
        age: Callable[[int], float | None],
        uses: Sequence[ProcessUse],
        *,
        now: float,
        wall_offset: float,
    ) -> None:
        """Takes in one poll of a GPU. ``pids`` is None where the driver does not list them: then the GPU's use is unknown."""
        with self._lock:
            self._owner_uses.pop(uuid, None)
            before = self._polled_at.get(uuid)
            if pids is None:
                self._polled_at.pop(uuid, None)
                return
            residents = self._residents.setdefault(uuid, {})
            for pid in [pid for pid in residents if pid not in pids]:
                self._end(uuid, residents.pop(pid), now)
            for pid in pids:
                seconds = age(pid)
                resident = residents.get(pid)
                if resident is not None and seconds is not None and now - seconds > resident.last_seen:
                    # The same number, another process.
                    self._end(uuid, residents.pop(pid), now - seconds)
                    resident = None
                if resident is None:
                    start = now - seconds if seconds is not None else now if before is None else before
                    residents[pid] = _Resident(pid, start, now, served.get(pid), wall_offset)
                else:
                    resident.last_seen = now
                    resident.served = served.get(pid) or resident.served
            self._take_samples(uuid, residents, uses, age, wall_offset)
            self._polled_at[uuid] = now

    def end_processes(self, is_alive: Callable[[int], bool], now: float) -> None:
        """Ends the residency of processes that are gone, between two polls of the driver."""
        with self._lock:
            for uuid, residents in self._residents.items():
                for pid in [pid for pid, one in residents.items() if one.served is not None and not is_alive(pid)]:
                    self._end(uuid, residents.pop(pid), now)
                    self._owner_uses.pop(uuid, None)

    def is_known(self, uuid: str) -> bool:
        """Whether the last poll of the GPU gave a list of its processes."""
        with self._lock:
            return uuid in self._polled_at

    def use(self, uuid: str, owner: OwnerName | None, start: float, end: float) -> GpuUse | None:
        """Returns how a GPU was used in a window; None where that is unknown. Without ``owner`` all processes are others."""
        with self._lock:
            if uuid not in self._polled_at:
                return None
            present = [one for one in self._all(uuid) if one.overlaps(start, end)]
            own = [one for one in present if owner is not None and one.served is not None and owner.matches(one.served)]
            own_seconds = sum(one.samples.seconds(start, end) for one in own)
            all_seconds = sum(one.samples.seconds(start, end) for one in present)
            return GpuUse(bool(own), len(own) < len(present), own_seconds / all_seconds if all_seconds > 0 else None)

    def owner_uses(self, uuid: str) -> Mapping[OwnerLabels, OwnerUse] | None:
        """Returns the owners that use the GPU at the last poll, or did within ``KEEP_ENDED`` seconds before; None where unknown.

        Owners with the same labels are one: its use starts with its first process and ends with its last. The mapping is
        replaced, never changed: readers may keep it.
        """
        with self._lock:
            polled_at = self._polled_at.get(uuid)
            if polled_at is None:
                return None
            if (answer := self._owner_uses.get(uuid)) is not None:
                return answer
            uses: dict[OwnerLabels, OwnerUse] = {}
            for one in self._all(uuid):
                if one.end is not None and one.end < polled_at - KEEP_ENDED:
                    continue
                labels = owner_labels(one.served)
                start = Seconds(round(one.start + one.wall_offset, 3))
                end = None if one.end is None else Seconds(round(one.end + one.wall_offset, 3))
                if (known := uses.get(labels)) is not None:
                    start = min(start, known.start)
                    end = None if end is None or known.end is None else max(end, known.end)
                uses[labels] = OwnerUse(start, end)
            self._owner_uses[uuid] = uses
            return uses

    def _all(self, uuid: str) -> list[_Resident]:
        return [*self._residents.get(uuid, {}).values(), *self._gone.get(uuid, ())]

    def _find_ended(self, uuid: str, pid: int, at: float) -> _Resident | None:
        """Returns the process of this number that used the GPU at that time, or hardly ended before, and is gone now."""
        ended = (one for one in reversed(self._gone.get(uuid, ())) if one.pid == pid and one.end is not None)
        return next((one for one in ended if one.start <= at <= (one.end or 0.0) + 2 * LONGEST_SAMPLE), None)

    def _end(self, uuid: str, resident: _Resident, at: float) -> None:
        resident.end = at
        gone = self._gone.setdefault(uuid, deque(maxlen=MAX_RESIDENTS))
        gone.append(resident)
        while gone and gone[0].end is not None and gone[0].end < at - self._keep_seconds:
            gone.popleft()

    def _take_samples(
        self,
        uuid: str,
        residents: Mapping[int, _Resident],
        uses: Sequence[ProcessUse],
        age: Callable[[int], float | None],
        wall_offset: float,
    ) -> None:
        for use in sorted((use for use in uses if use.at is not None), key=lambda use: use.at or 0.0):
            if use.sm is None or use.at is None or not 0 <= use.sm <= 1:
                continue
            at = use.at - wall_offset
            resident = residents.get(use.pid) or self._find_ended(uuid, use.pid, at)
            if resident is None and use.sm > UNSEEN_SM and age(use.pid) is None:
                # It came and went between two polls.
                resident = _Resident(use.pid, at - LONGEST_SAMPLE, at, None, wall_offset)
                self._end(uuid, resident, at)
            if resident is None:
                continue
            if resident.end is not None and resident.served is None:
                resident.end = max(resident.end, at)
            latest = resident.samples.end
            begun = max(at - 1.0 if latest is None else latest, at - LONGEST_SAMPLE)
            if at > begun:
                resident.samples.append(begun, at, use.sm)


def owner_labels(served: ServedBy | None) -> OwnerLabels:
    """Returns the values of ``metrics.OWNER``: server, unit, container, pod and job, each empty where there is none.

    ``server`` has the addresses at which it accepts connections, separated by commas. Ports that the kernel gave, such as those
    of Ollama's runners, are left out beside a port that was chosen: they differ after every start.
    """
    if served is None:
        return ("", "", "", "", "")
    endpoints = served.endpoints or frozenset()
    chosen = [endpoint for endpoint in endpoints if endpoint.port < FIRST_EPHEMERAL_PORT] or endpoints
    addresses = sorted({address for endpoint in chosen for address in endpoint.addresses()})[:MAX_ADDRESSES]
    owner = served.owner
    return (",".join(addresses), owner.unit or "", owner.container or "", owner.pod or "", owner.job or "")
