"""The scenario of a fake library, as data: what each GPU does over time, which faults it has, and how many joules that is.

Times are seconds since the origin, which is a pair of wall and monotonic time taken when the script was made; so ``joules``
may be asked in unix seconds whatever the process clock does later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from joulebench.clock import Clock, SystemClock
from tests.fakes.nvml.busy import BusyFile
from tests.fakes.nvml.curve import Points, integral
from tests.fakes.nvml.virtual_clock import VirtualClock

NOT_SUPPORTED = 3
ADA, AMPERE, HOPPER, TURING, PASCAL = 8, 7, 9, 6, 4
SW_POWER_CAP, HW_SLOWDOWN, SYNC_BOOST, SW_THERMAL, HW_THERMAL, HW_POWER_BRAKE = 0x4, 0x8, 0x10, 0x20, 0x40, 0x80


@dataclass(frozen=True, slots=True)
class During:
    """A fault that holds from ``start`` to ``end``, in seconds since the origin."""

    start: float = 0.0
    end: float = inf

    def text(self) -> str:
        return f"time {self.start!r} {self.end!r}"


@dataclass(frozen=True, slots=True)
class OnCalls:
    """A fault of the ``first`` to ``last`` call of the function on its GPU, counted from 1."""

    first: int
    last: int

    def text(self) -> str:
        return f"calls {self.first} {self.last}"


@dataclass(frozen=True, slots=True)
class Every:
    """A fault of every ``count``-th call."""

    count: int
    offset: int = 0

    def text(self) -> str:
        return f"every {self.count} {self.offset}"


When = During | OnCalls | Every
ALWAYS = During()


@dataclass(frozen=True, slots=True)
class Fault:
    kind: str
    when: When
    target: str
    value: float

    def text(self) -> str:
        return f"fault {self.kind} {self.when.text()} {self.target} {self.value!r}"


def fails(function: str, when: When = ALWAYS, code: int = NOT_SUPPORTED) -> Fault:
    """``function`` (``*`` for all of this GPU) answers ``code``."""
    return Fault("call", when, function, code)


def field_fails(field_id: int, when: When = ALWAYS, code: int = NOT_SUPPORTED) -> Fault:
    """One field of nvmlDeviceGetFieldValues answers ``code``; the others stay good."""
    return Fault("field", when, str(field_id), code)


def field_answers(field_id: int, raw: float, when: When = ALWAYS, scope: int | None = None) -> Fault:
    """One field answers this raw value, right or wrong, supported or not; in this ``scope`` alone where one is given."""
    return Fault("value", when, str(field_id) if scope is None else f"{field_id}/{scope}", raw)


def field_moves(field_id: int, millijoules: float, when: When = ALWAYS) -> Fault:
    """A counter field answers so much more than it should, or less."""
    return Fault("offset", when, str(field_id), millijoules)


def counter_freezes(field_id: int, start: float, end: float) -> Fault:
    """The energy counter answers what it stood at at ``start``."""
    return Fault("freeze", During(start, end), str(field_id), start)


def slow(seconds: float, when: When, function: str = "nvmlDeviceGetFieldValues") -> Fault:
    return Fault("slow", when, function, seconds)


@dataclass(frozen=True, slots=True)
class Answer:
    """What ``function`` always says, called with ``argument``: ``values`` in the order of NVML's structure (memory: total,
    reserved in its second version, free, used), or ``code`` alone where it fails. Stands for what the curves would say."""

    function: str
    values: Sequence[float] = ()
    argument: int | None = None
    code: int = 0

    def text(self) -> str:
        target = self.function if self.argument is None else f"{self.function}/{self.argument}"
        return " ".join([f"answer {target} {self.code}", *map(repr, self.values)])


def gone(start: float, end: float) -> Fault:
    """The GPU falls off the bus and comes back; handles from before stay dead."""
    return Fault("gone", During(start, end), "*", 15)


@dataclass(frozen=True, slots=True)
class Process:
    """One that is on the GPU from ``start`` to ``end``, in seconds since the origin. ``sm``: percent of the SMs' time that it
    uses; ``name``: what the driver calls it, empty where it cannot say; ``mig``: index of the MIG instance that it runs on."""

    pid: int
    start: float = 0.0
    end: float = inf
    sm: float = 40.0
    name: str = ""
    mig: int = -1

    def text(self) -> str:
        return f"process {self.pid} {self.start!r} {self.end!r} {self.sm!r} {self.mig} {self.name}"


NO_PROFILE = "-"
"""Profile of a MIG instance whose name cannot be read."""


@dataclass(frozen=True, slots=True)
class Mig:
    """A MIG instance (one compute instance) that exists from ``start`` to ``end``, in seconds since the origin. Instances of one
    GPU instance share ``gpu_instance``, ``activity`` (busy share of its SMs) and memory."""

    profile: str
    multiprocessors: int
    gpu_instance: int
    gpu_slices: int
    compute_slices: int
    compute_instance: int = 0
    uuid: str | None = None
    memory_total: int = 20 << 30
    memory_used: Points = ()
    activity: Points = ()
    start: float = 0.0
    end: float = inf

    def lines(self, gpu: int, index: int) -> list[str]:
        ids = f"{self.gpu_instance} {self.compute_instance} {self.multiprocessors} {self.gpu_slices} {self.compute_slices}"
        uuid = self.uuid or f"MIG-fake-{gpu}-{index}"
        return [
            f"mig {uuid} {self.profile} {self.start!r} {self.end!r} {ids} {self.memory_total}",
            *(f"mig_memory_used {at!r} {value!r}" for at, value in self.memory_used),
            *(f"mig_activity {at!r} {value!r}" for at, value in self.activity),
        ]


MIG_3G = Mig("3g.20gb", 42, gpu_instance=1, gpu_slices=3, compute_slices=3)
MIG_4G = Mig("4g.20gb", 56, gpu_instance=2, gpu_slices=4, compute_slices=4)
"""The two halves of an A100 of 40 GB."""


@dataclass(frozen=True)
class FakeGpu:
    """Curves are (seconds, value) pairs. ``step``: seconds between counter updates. ``sensor_window``: the part of a step that
    instant power averages over; ``counter_window``: the same for the counter, 0 for a counter that misses nothing.
    ``counter_gain``: 1 for an honest counter. ``margin``: the card gives a temperature margin instead of a threshold, as
    Hopper does. ``mig_mode``: MIG is on, with the instances ``migs`` or without any; ``gpm``: the activity of instances can be
    read, as on Hopper and newer."""

    power: Points = ((0.0, 50.0),)
    uuid: str | None = None
    name: str = "NVIDIA GeForce RTX 4090"
    arch: int = ADA
    step: float = 0.1
    phase: float = 0.0
    sensor_window: float = 0.1
    counter_window: float = 0.0
    counter_gain: float = 1.0
    base_mj: int = 1_000_000
    loop: float | None = None
    limit: float = 450.0
    temperature: Points = ()
    utilization: Points = ()
    memory_total: int = 24 << 30
    memory_used: Points = ()
    reasons: Points = ()
    clock_mhz: Points = ()
    slowdown: int = 97
    margin: bool = False
    resets: Sequence[float] = ()
    faults: Sequence[Fault] = ()
    answers: Sequence[Answer] = ()
    processes: Sequence[Process] = ()
    mig_mode: bool = False
    migs: Sequence[Mig] = ()
    gpm: bool = False

    def lines(self, index: int) -> list[str]:
        lines = [
            "gpu",
            f"uuid {self.uuid or f'GPU-fake-{index}'}",
            f"name {self.name}",
            f"arch {self.arch}",
            f"step {self.step!r}",
            f"phase {self.phase!r}",
            f"sensor_window {self.sensor_window!r}",
            f"counter_window {self.counter_window!r}",
            f"counter_gain {self.counter_gain!r}",
            f"base_mj {self.base_mj}",
            f"limit {self.limit!r}",
            f"memory_total {self.memory_total}",
            f"slowdown {self.slowdown}",
            f"margin {int(self.margin)}",
            f"mig_mode {int(self.mig_mode)}",
            f"gpm {int(self.gpm)}",
        ]
        for key in ("power", "temperature", "utilization", "memory_used", "reasons", "clock_mhz"):
            lines += [f"{key} {at!r} {value!r}" for at, value in getattr(self, key)]
        if self.loop:
            lines.append(f"loop {self.loop!r}")
        for number, mig in enumerate(self.migs):
            lines += mig.lines(index, number)
        lines += [f"reset {at!r}" for at in self.resets]
        lines += [fault.text() for fault in self.faults] + [answer.text() for answer in self.answers]
        return lines + [process.text() for process in self.processes]


@dataclass
class FakeGpuScript:
    """``clock``: a ``VirtualClock`` gives the library that clock too; any other one only fixes the origin."""

    gpus: Sequence[FakeGpu]
    driver: str = "580.95.05"
    init: int = 0
    busy: BusyFile | None = None
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        self.origin_unix: float = self.clock.unix()
        self.origin_monotonic: float = self.clock.monotonic()

    def write(self, path: Path) -> Path:
        lines = [
            f"origin_unix {self.origin_unix!r}",
            f"origin_mono {self.origin_monotonic!r}",
            f"driver {self.driver}",
            f"init {self.init}",
        ]
        if self.busy is not None:
            lines.append(f"busy {self.busy.path}")
        if isinstance(self.clock, VirtualClock):
            lines.append(f"clock {self.clock.path}")
        for index, gpu in enumerate(self.gpus):
            lines += gpu.lines(index)
        # Names may have bytes that are no UTF-8, as Python writes them into a text.
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
        return path

    def joules(self, gpu: int, start_unix: float, end_unix: float) -> float:
        """The energy that ``gpu`` really used between two unix times (of the wall clock as it was at the origin)."""
        return self.joules_at(gpu, start_unix - self.origin_unix, end_unix - self.origin_unix)

    def joules_at(self, gpu: int, start: float, end: float) -> float:
        """The same in seconds since the origin, whatever the wall clock did."""
        described = self.gpus[gpu]
        points = list(described.power)
        if self.busy is not None:
            points += [(at - self.origin_unix, watts) for at, watts in self.busy.points(gpu)]
        return integral(points, start, end, described.loop)
