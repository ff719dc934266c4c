"""The scenario of a fake libamd_smi.so, as data: what each GPU does over time, and how many joules that is.

Times are seconds since the origin, which is the clock's time when the script was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from joulebench.clock import SystemClock
from tests.fakes.nvml.curve import Points, integral
from tests.fakes.nvml.virtual_clock import VirtualClock

JOULES_PER_COUNT = 2.0**-16
NO_PERMISSION, NOT_SUPPORTED, BUSY, DRIVER_NOT_LOADED = 10, 2, 30, 34


@dataclass(frozen=True, slots=True)
class AmdFault:
    """``function`` (``*`` for all of this GPU) answers ``code`` from ``start`` to ``end``."""

    function: str
    code: int
    start: float = -inf
    end: float = inf

    def text(self) -> str:
        return f"fails {self.function} {self.code} {max(self.start, -1e18)!r} {min(self.end, 1e18)!r}"


@dataclass(frozen=True)
class AmdGpu:
    """Curves are (seconds, value) pairs. ``step``: seconds between two updates of the accumulator, whose ``resolution`` the
    library gives in microjoules. ``ppt``, ``socket``, ``prochot``: share of the samples in which that limit holds; ``bits``:
    ``indep_throttle_status``. ``resets``: the accumulator begins at 0 again; ``wrap_bits``: it has only so many bits.

    ``absent``: values that the GPU answers with all ones: energy, power, mean_power, residency, bits, activity, memory, clock;
    or not at all: cap, temperature, hotspot; ``zero_energy``: an accumulator that is always 0. ``processes``: (pid, bytes, name).
    """

    power: Points = ((0.0, 100.0),)
    uuid: str = "4eff74a0-0000-1000-8000-0123456789ab"
    name: str = "AMD Instinct MI300X"
    target: int = 0x942
    step: float = 0.001
    resolution: float = 15.3
    base_counts: int = 1_000_000
    cap: float = 750.0
    critical: float = 100.0
    memory_total: int = 192 << 30
    memory_used: Points = ((0.0, float(64 << 30)),)
    temperature: Points = ((0.0, 55.0),)
    activity: Points = ((0.0, 40.0),)
    clock_mhz: Points = ((0.0, 1800.0),)
    clock_max: float = 2100.0
    ppt: Points = ()
    socket: Points = ()
    prochot: Points = ()
    bits: Points = ()
    resets: Sequence[float] = ()
    wrap_bits: int = 0
    absent: Sequence[str] = ("bits",)
    faults: Sequence[AmdFault] = ()
    processes: Sequence[tuple[int, int, str]] = ()

    def lines(self) -> list[str]:
        curves = ("power", "temperature", "activity", "memory_used", "clock_mhz", "ppt", "socket", "prochot", "bits")
        values = ("step", "resolution", "base_counts", "cap", "critical", "memory_total", "clock_max", "wrap_bits")
        return [
            f"gpu {self.uuid} {self.target:x} {self.name}",
            *(f"{name} {getattr(self, name)!r}" for name in values),
            *(f"{name} {at!r} {float(value)!r}" for name in curves for at, value in getattr(self, name)),
            *(f"reset {at!r}" for at in self.resets),
            *(f"absent {name}" for name in self.absent),
            *(fault.text() for fault in self.faults),
            *(f"process {pid} {size} {name}" for pid, size, name in self.processes),
        ]


@dataclass(frozen=True)
class AmdScript:
    """``clock``: the time of the library too, where a test owns it; the machine's without one. ``init``: the answer of
    amdsmi_init."""

    gpus: Sequence[AmdGpu]
    clock: VirtualClock | None = None
    init: int = 0
    origin: float = field(init=False)
    origin_unix: float = field(init=False)

    def __post_init__(self) -> None:
        clock = self.clock or SystemClock()
        object.__setattr__(self, "origin", float(clock.monotonic()))
        object.__setattr__(self, "origin_unix", float(clock.unix()))

    def write(self, path: Path) -> Path:
        lines = [] if self.clock is None else [f"clock {self.clock.path}"]
        lines += [f"origin {self.origin!r}", f"init {self.init}"]
        path.write_text("\n".join([*lines, *(line for gpu in self.gpus for line in gpu.lines())]) + "\n", encoding="utf-8")
        return path

    def joules(self, gpu: int, start: float, end: float) -> float:
        """The truth between two times in seconds since the origin."""
        return integral(self.gpus[gpu].power, start, end)
