"""Which programs use each GPU: expected model servers, foreign programs, and processes without a name here.

A thread of its own polls the process lists every few seconds, because they can take the driver milliseconds; the exporter prints
its last poll, and a window is marked by what was seen until then. A program is expected by its own name or by that of one of its
parents, since servers start helpers that are called just python. A process that cannot be named, such as one of another
container, is unknown and never called foreign. What is not known is None, as is a poll that is too old.
Sources: nvmlDeviceGetProcessUtilization, nvmlDeviceGetComputeRunningProcesses, nvmlSystemGetProcessName, /proc.
"""

from __future__ import annotations

import logging
import math
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from joulebench.clock import Clock
from joulebench.gpu.device_use import DeviceUseHistory
from joulebench.gpu.owners import ProcessReader, parse_stat, read_small_file
from joulebench.gpu.reading import NO_PROCESSES, GpuDevice, ProcessSummary, ProcessUse
from joulebench.supervise import BackgroundLoop
from joulebench.units import Ratio, Seconds

log = logging.getLogger(__name__)

EXPECTED_PROGRAMS = (
    r"ollama|llama[-_]?server|llama[-_.]cpp|llama[-_]swap|llama_cpp|llamafile|llama-box|koboldcpp|vllm|sglang|text[-_]generation"
    r"|tritonserver|trtllm|tensorrt[-_]llm|lmdeploy|lm[-_ ]?studio|local-?ai|mlc[-_]llm|exllama|tabbyapi|aphrodite|joulebench"
    r"|ray::\w*(?:worker|engine|llm|replica)|engine[-_]?core"
)
"""Regex of expected programs, searched for in a program's name in any case. Ray's workers and vLLM's engine cores have titles of
their own."""
DESKTOP_PROGRAMS = re.compile(
    r"x(?:org|wayland)|gnome-shell|mutter|kwin(?:_\w+)?|plasmashell|sway|weston|hyprland|cinnamon|picom|compton|compiz|marco|xfwm4|gdm\S*|sddm",
    re.IGNORECASE,
)
DESKTOP_SM = 0.1
"""Share of the SMs up to which drawing a desktop is no foreign use."""
GENERATIONS = 6
"""Parents that are looked at: a helper of a helper of a server."""
_INTERPRETER = re.compile(r"(python|pypy|node|ruby|perl|java|bash|sh)[\d.]*")

FRESH_PERIODS = 3.0
REFRESH_PERIOD = 1.0
"""Seconds between two polls that window requests cause."""
LIVENESS_PERIOD = 0.5
"""Seconds between two looks whether the processes on the GPUs are still there; costs no call into the driver."""
MAX_OWNERS = 64
"""Owners that are shown of each GPU; the driver lets 48 clients of MPS share one."""
CONTINUOUS_PERIODS = 1.5
"""Foreign uses that were seen no further apart than this count as one stretch."""


class ProcessClass(Enum):
    EXPECTED = "expected"
    FOREIGN = "foreign"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class GpuProcesses:
    """Processes on one GPU between two polls. ``foreign``: names by pid, for the log alone. ``sm``: the foreign programs' share
    of the SMs, None where the driver does not say. ``unnamed``: processes without a name. ``used``: unix times of the first and
    the last foreign use; None without any, or where the driver gives no times."""

    foreign: dict[int, str]
    unnamed: int
    sm: Ratio | None
    used: tuple[Seconds, Seconds] | None


class ProcessNames:
    """``driver_name``: asked where /proc has no entry; returns None for a process that the driver cannot name either."""

    def __init__(
        self,
        expected: re.Pattern[str],
        driver_name: Callable[[int], str | None] = lambda _: None,
        proc: Path = Path("/proc"),
    ) -> None:
        self._expected = expected
        self._driver_name = driver_name
        self._proc = proc

    def classify(self, pid: int) -> tuple[ProcessClass, str]:
        """Returns the class of a process and its program's short name."""
        name = self.name(pid)
        if name is None:
            return ProcessClass.UNKNOWN, ""
        ancestor: int | None = pid
        for _ in range(GENERATIONS):
            if ancestor is None or ancestor <= 1:
                break
            if self._expected.search(self.name(ancestor) or ""):
                return ProcessClass.EXPECTED, name
            ancestor = self._parent(ancestor)
        return ProcessClass.FOREIGN, name

    def name(self, pid: int) -> str | None:
        """Returns the program, and what an interpreter runs; never its other arguments, which may be private."""
        command_line = read_small_file(f"{self._proc}/{pid}/cmdline")
        # A process of the kernel has none.
        comm = "" if command_line else read_small_file(f"{self._proc}/{pid}/comm")
        if command_line is None or comm is None:
            name = self._driver_name(pid)
            return short_name([name]) if name else None
        words = command_line.split("\0")
        return short_name(words) if words[0] else comm.strip() or None

    def _parent(self, pid: int) -> int | None:
        stat = parse_stat(read_small_file(f"{self._proc}/{pid}/stat") or "")
        return None if stat is None else stat.parent


def short_name(words: Sequence[str]) -> str:
    """Returns ``/usr/bin/python3 -u -m vllm.entrypoints.api --model x`` as ``python3 vllm.entrypoints.api``."""
    # A program that sets its own title has it all in one word.
    title = words[0].split(" ")[0] if " " in words[0] and not words[0].startswith("/") else words[0]
    program = title.rpartition("/")[2]
    if not _INTERPRETER.fullmatch(program):
        return program
    options = iter(words[1:])
    for word in options:
        if word == "-m":
            return f"{program} {next(options, '')}".rstrip()
        if word == "-c":
            break
        if word and not word.startswith("-"):
            return f"{program} {word.rpartition('/')[2]}"
    return program


def _only_draws_a_desktop(name: str, shares: Sequence[float]) -> bool:
    return bool(shares) and max(shares) <= DESKTOP_SM and DESKTOP_PROGRAMS.fullmatch(name) is not None


def classify_processes(uses: Sequence[ProcessUse], names: ProcessNames, own_pid: int) -> GpuProcesses:
    """Sums up all uses of one GPU since the last poll."""
    sm: dict[int, list[float]] = {}
    times: dict[int, list[Seconds]] = {}
    for use in uses:
        if use.pid in (0, own_pid) or (use.sm is not None and not 0 < use.sm <= 1):
            continue
        sm.setdefault(use.pid, []).extend([] if use.sm is None else [use.sm])
        times.setdefault(use.pid, []).extend([] if use.at is None else [use.at])
    classes = {pid: names.classify(pid) for pid in sm}
    foreign = {
        pid: name
        for pid, (kind, name) in classes.items()
        if kind is ProcessClass.FOREIGN and not _only_draws_a_desktop(name, sm[pid])
    }
    # Without any sample nothing is known of shares: a card may be busy and list no process at all.
    has_shares = bool(uses) and all(use.sm is not None for use in uses)
    used = [at for pid in foreign for at in times[pid]]
    return GpuProcesses(
        foreign=foreign,
        unnamed=sum(kind is ProcessClass.UNKNOWN for kind, _ in classes.values()),
        sm=Ratio(min(1.0, sum(sum(sm[pid]) / len(sm[pid]) for pid in foreign))) if has_shares else None,
        used=(min(used), max(used)) if used else None,
    )


class _GpuUse:
    def __init__(self, device: GpuDevice) -> None:
        self.device = device
        self.polled: tuple[float, GpuProcesses] | None = None
        self.since: Seconds | None = None
        self.foreign_use: tuple[Seconds | None, Seconds | None] = (None, None)
        # Stretches of foreign use in monotonic time.
        self.spans: deque[tuple[float, float]] = deque()
        self.logged_pids: set[int] = set()
        # UUIDs of the GPU and its MIG instances whose processes the last poll listed.
        self.listed: frozenset[str] = frozenset()
        # The last summary of owners, and what it was made from.
        self.owners: tuple[Sequence[object], ProcessSummary] = ((), NO_PROCESSES)


class ProcessPoller:
    """A ``ProcessObserver``. ``period``: seconds between two polls; ``keep_seconds``: how long use is remembered.

    ``use``: which servers and owners used each GPU.
    """

    def __init__(
        self,
        devices: Sequence[GpuDevice],
        names: ProcessNames,
        clock: Clock,
        *,
        period: float,
        keep_seconds: float,
        proc: Path = Path("/proc"),
    ) -> None:
        self.use = DeviceUseHistory(keep_seconds)
        self._proc = proc
        self._reader = ProcessReader(proc, clock)
        self._due = 0.0
        self._polled_at = -math.inf
        self._names = names
        self._clock = clock
        self._period = period
        self._keep_seconds = keep_seconds
        self._gpus = {device.identity.index: _GpuUse(device) for device in devices}
        self._hidden: set[int] = set()
        self._logged_hints: set[str] = set()
        self._lock = threading.Lock()
        self._polling = threading.Lock()
        self._loop = BackgroundLoop("gpu-processes", self._step)

    def set_devices(self, devices: Sequence[GpuDevice]) -> None:
        """Takes the GPUs that are there now; what was seen of a GPU that had an index before stays with the same GPU only."""
        with self._lock:
            for device in devices:
                gpu = self._gpus.get(device.identity.index)
                if gpu is None or gpu.device is not device:
                    self._gpus = {**self._gpus, device.identity.index: _GpuUse(device)}

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        """Returns after a moment even where a call into the driver hangs."""
        self._loop.stop(timeout=1.0)

    def _step(self) -> float:
        now = self._clock.monotonic()
        if now >= self._due:
            self.poll()
            self._due = now + self._period
        else:
            self.use.end_processes(self._reader.is_alive, now)
        return min(LIVENESS_PERIOD, self._period)

    def poll(self) -> None:
        """Reads the processes of every GPU once, in the calling thread."""
        with self._polling:
            self._poll()

    def poll_unless_after(self, monotonic: float) -> None:
        """Polls in the calling thread, unless the last poll began after this time or less than ``REFRESH_PERIOD`` ago."""
        with self._polling:
            if self._polled_at <= monotonic and self._clock.monotonic() - self._polled_at >= REFRESH_PERIOD:
                self._poll()

    def _poll(self) -> None:
        self._polled_at = self._clock.monotonic()
        residents = {index: gpu.device.read_residents() for index, gpu in self._gpus.items()}
        pids = {pid for by_uuid in residents.values() for listed in by_uuid.values() for pid in listed or ()}
        table = self._reader.table()
        served = table.served_by(pids)
        self._log_unknown_owners({pid for pid in pids if pid not in table}, {p for p in served if served[p].endpoints is None})
        for index, gpu in self._gpus.items():
            now: float = self._clock.monotonic()
            wall_offset = self._clock.unix() - now
            since = gpu.since if gpu.since is not None else Seconds(wall_offset + now - self._period)
            uses = gpu.device.read_processes(since)
            listed = residents[index]
            # Nobody is left on an instance that was destroyed.
            for uuid, pids_there in {**dict.fromkeys(gpu.listed - listed.keys(), ()), **listed}.items():
                self.use.record(
                    uuid,
                    pids_there,
                    served,
                    table.age,
                    uses or (),
                    now=now,
                    wall_offset=wall_offset,
                )
            gpu.listed = frozenset(listed)
            if uses is None:
                gpu.polled = None
                continue
            gpu.since = max([since, *(use.at for use in uses if use.at is not None)])
            if gpu.since > wall_offset + now + self._period:
                gpu.since = None  # the clock was set back: no sample would ever be newer
            processes = classify_processes(uses, self._names, os.getpid())
            self._record(gpu, now, wall_offset, processes)
            self._log_foreign(gpu, processes)

    def _record(self, gpu: _GpuUse, now: float, wall_offset: float, processes: GpuProcesses) -> None:
        with self._lock:
            if processes.foreign:
                used = processes.used
                first, last = (now, now) if used is None else (used[0] - wall_offset, min(used[1] - wall_offset, now))
                if gpu.spans and first - gpu.spans[-1][1] <= CONTINUOUS_PERIODS * self._period:
                    first = gpu.spans.pop()[0]
                gpu.spans.append((first, last))
                gpu.foreign_use = Seconds(first + wall_offset), Seconds(last + wall_offset)
            while gpu.spans and gpu.spans[0][1] < now - self._keep_seconds:
                gpu.spans.popleft()
            gpu.polled = (now, processes)

    def _log_foreign(self, gpu: _GpuUse, processes: GpuProcesses) -> None:
        for pid in processes.foreign.keys() - gpu.logged_pids:
            log.warning(
                "GPU %d is used by %s (pid %d), which is no expected program (--processes.known): the energy of tasks on this GPU"
                " includes what it uses",
                gpu.device.identity.index,
                processes.foreign[pid],
                pid,
            )
        gpu.logged_pids = set(processes.foreign)

    def _log_unknown_owners(self, hidden: set[int], unreadable: set[int]) -> None:
        """Logs once what to do about processes whose owner is unknown. ``hidden``: those that /proc lacks."""
        # Of one poll alone they may just have ended.
        if hidden & self._hidden and "hidden" not in self._logged_hints:
            self._logged_hints.add("hidden")
            log.warning(
                "processes on the GPUs are not in %s, so the GPUs of a server cannot be found: in a container share the host's"
                " process ids (docker run --pid=host, 'pid: host' in Compose, 'hostPID: true' in Kubernetes), or name the GPUs of"
                " each run with --gpus",
                self._proc,
            )
        if unreadable and "unreadable" not in self._logged_hints:
            self._logged_hints.add("unreadable")
            log.warning(
                "sockets of processes on the GPUs may not be read (such as pid %d), so the GPUs of a server cannot be found: run"
                " the exporter as root or with CAP_SYS_PTRACE, or name the GPUs of each run with --gpus",
                min(unreadable),
            )
        self._hidden = hidden

    def summary(self, index: int) -> ProcessSummary:
        """Returns what the last poll of the GPU with this index showed; empty where that is too old or failed."""
        with self._lock:
            gpu = self._gpus.get(index)
            oldest = self._clock.monotonic() - FRESH_PERIODS * self._period
            if gpu is None or self._polled_at < oldest:
                return NO_PROCESSES
            summary = self._owners(gpu)
            if gpu.polled is None or gpu.polled[0] < oldest:
                return summary
            processes = gpu.polled[1]
            start, end = gpu.foreign_use
            return summary._replace(
                foreign=len(processes.foreign),
                unnamed=processes.unnamed,
                foreign_sm=processes.sm,
                foreign_use=end,
                foreign_use_start=start,
            )

    def _owners(self, gpu: _GpuUse) -> ProcessSummary:
        """The owners of a GPU's processes, at most ``MAX_OWNERS`` of them, and how many more there are."""
        uuid = gpu.device.identity.uuid
        # Of a GPU that is divided, the owners are those of its instances.
        places = {instance: instance for instance in gpu.listed - {uuid}} or {"": uuid}
        uses = {mig: self.use.owner_uses(place) for mig, place in places.items()}
        if all(known is None for known in uses.values()):
            return NO_PROCESSES
        made_from = [*uses, *uses.values()]
        if len(made_from) != len(gpu.owners[0]) or any(a is not b for a, b in zip(made_from, gpu.owners[0], strict=True)):
            owners = sorted(((mig, labels), use) for mig, known in uses.items() for labels, use in (known or {}).items())
            summary = ProcessSummary(owners=dict(owners[:MAX_OWNERS]), owners_dropped=max(len(owners) - MAX_OWNERS, 0))
            gpu.owners = (made_from, summary)
        return gpu.owners[1]

    def has_foreign_use(self, index: int, start: float, end: float) -> bool:
        """Whether a foreign program was seen to use the GPU between two monotonic times."""
        with self._lock:
            gpu = self._gpus.get(index)
            return gpu is not None and any(first <= end and start <= last for first, last in gpu.spans)
