"""Readings of one GPU: frozen, in base units, ``None`` where the GPU or its driver gives no value.

``CounterReading`` is taken at 50 Hz and holds what accumulates (energy, power, throttle counters); ``StateReading`` about once
a second. A field is complete or absent; an error of the whole GPU is raised, never written into a field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias

from joulebench.units import Bytes, Celsius, Hertz, Joules, Ratio, Seconds, Watts


@dataclass(frozen=True, slots=True)
class GpuIdentity:
    """``source``: ``nvml``, ``amd``, or ``simulated`` for a GPU that is not a measured one."""

    index: int
    uuid: str
    name: str
    architecture: str
    driver_version: str
    source: str = "nvml"


_EMPTY: Mapping[str, Any] = MappingProxyType({})


class CounterReading(NamedTuple):
    """``energy``: the GPU's own counter, since driver load. ``throttle``: cumulative seconds by reason, only those that the
    driver counts itself or cannot have. ``thermal``: the driver's total of both thermal reasons. ``throttle_active``: by reason,
    read this often only where the driver leaves a reason uncounted, else empty. ``failed``: of energy, power and throttle those
    that failed for another reason than that GPU or driver do not have them."""

    energy: Joules | None
    power: Watts | None
    throttle: Mapping[str, Seconds] = _EMPTY
    thermal: Seconds | None = None
    throttle_active: Mapping[str, bool] = _EMPTY
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MigInstance:
    """A MIG instance: a compute instance of a GPU instance. ``parent``: UUID of the GPU; ``profile``: such as ``3g.20gb``;
    ``multiprocessors``: its SMs, None where the driver does not say."""

    uuid: str
    parent: str
    gpu_instance: int
    compute_instance: int
    profile: str
    multiprocessors: int | None


@dataclass(frozen=True, slots=True)
class MigReading:
    """``utilization``: busy share of the SMs of its GPU instance since the read before. None where that is unknown."""

    instance: MigInstance
    memory_used: Bytes | None
    memory_total: Bytes | None
    utilization: Ratio | None


@dataclass(frozen=True, slots=True)
class StateReading:
    """Fields are named as the metrics that show them. ``clock`` and ``clock_max`` by clock domain; ``throttle_active`` by
    reason, empty where unknown; ``link_bytes``: bytes since the first read by (link, direction), only those that the GPU
    counts; ``instances``: the MIG instances that exist now. ``failures``: calls that failed for another reason than not being
    supported."""

    utilization: Ratio | None = None
    memory_used: Bytes | None = None
    memory_total: Bytes | None = None
    temperature: Celsius | None = None
    temperature_margin: Celsius | None = None
    power_limit: Watts | None = None
    clock: Mapping[str, Hertz] = field(default_factory=dict)
    clock_max: Mapping[str, Hertz] = field(default_factory=dict)
    throttle_active: Mapping[str, bool] = field(default_factory=dict)
    link_bytes: Mapping[tuple[str, str], Bytes] = field(default_factory=dict)
    memory_reserved: Bytes | None = None
    instances: Sequence[MigReading] = ()
    failures: int = 0


NO_STATE = StateReading()


class ProcessUse(NamedTuple):
    """One process on a GPU. ``at``: unix time up to which the driver saw it; ``sm``: share of the SMs' time. None where the
    driver only lists processes."""

    pid: int
    at: Seconds | None
    sm: Ratio | None


class GpuDevice(Protocol):
    """One GPU of a source. The reads raise GpuLost or GpuError, but for those of processes. ``docs/AMD.md`` says how to add a
    vendor. Counters, state and processes are read by a thread each, at the same time."""

    @property
    def identity(self) -> GpuIdentity: ...

    @property
    def power_ceiling(self) -> Watts | None:
        """Watts above which this GPU cannot draw; None where its limits are unknown."""
        ...

    @property
    def power_averaging(self) -> Seconds:
        """Seconds that a power reading is the mean of."""
        ...

    def read_counters(self) -> CounterReading:
        """One cheap read for the 50 Hz loop. May return the same object again where nothing changed since."""
        ...

    def read_state(self) -> StateReading: ...

    def read_processes(self, since: Seconds) -> Sequence[ProcessUse] | None:
        """Processes that used this GPU after the unix time ``since``; None where GPU or driver does not say."""
        ...

    def read_residents(self) -> Mapping[str, Sequence[int] | None]:
        """Process ids with memory on this GPU now and on each of its MIG instances, by UUID; None where the driver does not
        say."""
        ...


class GpuSource(Protocol):
    """Where GPU readings come from: NVML, AMD SMI, or the simulation."""

    @property
    def name(self) -> str:
        """One of ``metrics.GPU_SOURCES``; becomes the ``source`` label."""
        ...

    def devices(self) -> Sequence[GpuDevice]:
        """The GPUs that were there at the last ``scan``, or at the start; a GPU stays the same object, also once it is back."""
        ...

    def scan(self) -> Sequence[str]:
        """Looks for GPUs again. Returns why GPUs that should be there cannot be read, one text for each; empty if all can."""
        ...

    def process_name(self, pid: int) -> str | None:
        """The driver's name of this process; None where it has none or may not give it."""
        ...

    def close(self) -> None: ...


OwnerLabels: TypeAlias = tuple[str, str, str, str, str]
"""Values of ``metrics.OWNER``: server, unit, container, pod, job; empty where a process belongs to nothing of that kind."""


class OwnerUse(NamedTuple):
    """When an owner's processes had memory on a GPU, in unix seconds. ``end`` is None while they have."""

    start: Seconds
    end: Seconds | None


_NO_OWNERS: Mapping[tuple[str, OwnerLabels], OwnerUse] = MappingProxyType({})


class ProcessSummary(NamedTuple):
    """Processes on one GPU at the last poll. ``foreign``: how many programs are no expected server; ``unnamed``: how many
    have no name here; ``foreign_sm``: the foreign programs' share of the SMs; ``foreign_use``, ``foreign_use_start``: unix
    times of the end and the start of the last stretch of foreign use; ``owners``: uses by (UUID of the MIG instance or empty,
    labels of the owner); ``owners_dropped``: owners that are not in it, because there are too many. None: unknown."""

    foreign: int | None = None
    unnamed: int | None = None
    foreign_sm: Ratio | None = None
    foreign_use: Seconds | None = None
    foreign_use_start: Seconds | None = None
    owners: Mapping[tuple[str, OwnerLabels], OwnerUse] = _NO_OWNERS
    owners_dropped: int | None = None


NO_PROCESSES = ProcessSummary()


@dataclass(frozen=True, slots=True)
class GpuState:
    """Everything the monitor knows of one GPU at one moment; the exporter only prints it.

    ``energy`` belongs to the unix time ``energy_at``, true to within ``energy_uncertainty``; both change only when the counter
    changes. ``state`` is empty when the last state read failed or is older than a few periods.
    """

    identity: GpuIdentity
    up: bool
    energy_method: str
    energy: Joules | None
    energy_at: Seconds | None
    energy_uncertainty: Seconds | None
    energy_step: Seconds | None
    energy_resets: int
    energy_crosscheck: Ratio | None
    power: Watts | None
    state: StateReading
    throttle: Mapping[str, Seconds]
    read_errors: Mapping[str, int]
    glitches: Mapping[str, int]
    polls: int
    overruns: int
    processes: ProcessSummary = NO_PROCESSES
