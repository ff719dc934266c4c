"""What one GPU said: frozen, in base units, ``None`` where the card or driver does not say.

``FastReading`` is taken at 50 Hz and holds what integrates (energy, power, throttle counters); ``SlowReading`` about once a
second. A reading is complete or absent field by field; an error of the whole GPU is raised, never written into a field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from joulebench.units import Bytes, Celsius, Hertz, Joules, Ratio, Seconds, Watts


@dataclass(frozen=True, slots=True)
class GpuIdentity:
    index: int
    uuid: str
    name: str
    architecture: str
    driver_version: str


_NONE: Mapping[str, Any] = MappingProxyType({})


class FastReading(NamedTuple):
    """``energy``: the card's own counter, since driver load. ``throttle``: cumulative seconds by catalogue reason, only those
    the driver counts itself. ``thermal``: the driver's total of both thermal reasons. ``throttle_active``: by catalogue reason,
    read this often only where the driver leaves a reason uncounted, else empty. A tuple, because so many are made."""

    energy: Joules | None
    power: Watts | None
    throttle: Mapping[str, Seconds] = _NONE
    thermal: Seconds | None = None
    throttle_active: Mapping[str, bool] = _NONE


@dataclass(frozen=True, slots=True)
class SlowReading:
    """``clocks`` and ``clocks_max`` by catalogue clock domain; ``throttle_active`` by catalogue reason, empty where unknown.
    ``traffic``: bytes since the first read by (link, direction) of the catalogue, those that the card counts.
    ``failures``: calls that failed for another reason than not being supported."""

    utilization: Ratio | None = None
    memory_used: Bytes | None = None
    memory_total: Bytes | None = None
    temperature: Celsius | None = None
    temperature_margin: Celsius | None = None
    power_limit: Watts | None = None
    clocks: Mapping[str, Hertz] = field(default_factory=dict)
    clocks_max: Mapping[str, Hertz] = field(default_factory=dict)
    throttle_active: Mapping[str, bool] = field(default_factory=dict)
    traffic: Mapping[tuple[str, str], Bytes] = field(default_factory=dict)
    failures: int = 0


class GpuSource(Protocol):
    """Where GPU readings come from: NVML, or the simulation. Indices are those of ``gpus()``."""

    @property
    def name(self) -> str:
        """``nvml`` or ``simulated``; becomes the ``source`` label."""
        ...

    def gpus(self) -> Sequence[GpuIdentity]: ...

    def read_fast(self, index: int) -> FastReading:
        """One cheap read for the 50 Hz loop. Raises GpuLost or GpuError."""
        ...

    def read_slow(self, index: int) -> SlowReading:
        """Raises GpuLost or GpuError."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class GpuState:
    """What the monitor knows of one GPU at one moment; the scrape only prints it.

    ``energy`` belongs to the unix time ``energy_at``, true to within ``energy_uncertainty``; both move only when the counter
    changes. ``slow`` is None when the last slow read failed or is older than a few periods.
    """

    identity: GpuIdentity
    up: bool
    energy_method: str
    energy: Joules | None
    energy_at: Seconds | None
    energy_uncertainty: Seconds | None
    energy_step: Seconds | None
    energy_resets: int
    crosscheck: Ratio | None
    power: Watts | None
    slow: SlowReading | None
    throttle: Mapping[str, Seconds]
    read_errors: Mapping[str, int]
    polls: int
    overruns: int
