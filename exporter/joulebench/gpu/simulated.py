"""Simulated GPUs for a machine without a GPU: the whole pipeline runs, and no number of it is a measurement.

The first GPU is as busy as this machine's CPUs are (so a model that runs on the CPU drives it), the others idle. Invariant:
the energy counter is the exact integral of the power that is shown, known up to the last whole 100 ms, as a real counter is.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, floor
from pathlib import Path
from threading import Lock

from joulebench.clock import Clock, SystemClock
from joulebench.errors import UserError
from joulebench.gpu.reading import CounterReading, GpuDevice, GpuIdentity, ProcessUse, StateReading
from joulebench.metrics import THERMAL_REASONS, THROTTLE_REASONS
from joulebench.units import Bytes, Celsius, Hertz, Joules, Ratio, Seconds, Watts

SCENARIOS = ("steady", "overheating", "recovering")
PROC_STAT = Path("/proc/stat")

STEP = 0.1
LOAD_PERIOD = 0.2
IDLE_WATTS, LIMIT_WATTS, THROTTLED_SHARE = 55.0, 350.0, 0.5
AMBIENT_CELSIUS, CELSIUS_PER_WATT, THERMAL_SECONDS = 28.0, 0.13, 20.0
SLOWDOWN_CELSIUS, RESUME_CELSIUS = 90.0, 84.0
MEMORY_TOTAL, MEMORY_BASE, MEMORY_BUSY = 24 << 30, 600 << 20, 9 << 30
CLOCKS_MAX = {"graphics": Hertz(2.1e9), "sm": Hertz(2.1e9), "memory": Hertz(9.5e9)}

# The overheating GPU: busy with a blocked fan for a while, then at rest, over and over.
CYCLE_SECONDS, HOT_FROM, HOT_UNTIL, BLOCKED_FAN = 90.0, 10.0, 55.0, 1.9
THROTTLED_CELSIUS = 92.0
"""Temperature of a GPU that is throttled by schedule."""

PERIOD_SECONDS, HEATING_SECONDS, ONSET = 300.0, 25.0, 30.0
"""The GPU throttles once each period; its heating ends at ``ONSET``, counted from the beginning of the period."""
SHORTEST, LONGEST = 1.0, 120.0


def own_host() -> str:
    """The name of this machine, as it can stand in the id of a simulated GPU."""
    return re.sub(r"[^\w.-]", "-", socket.gethostname(), flags=re.ASCII)


@dataclass(frozen=True, slots=True)
class ThrottleSchedule:
    """When a simulated GPU overheats, so that a test knows how long its clocks really were throttled.

    Every five minutes the GPU heats up for a while, then software throttles it for ``length`` seconds, in the middle half of
    them the hardware too, and then it rests and cools. Seconds follow from the schedule alone, not from when it is read.
    ``begin``: unix time at which the schedule begins, None for now.
    """

    length: float = 45.0
    begin: float | None = None

    def __post_init__(self) -> None:
        if not SHORTEST <= self.length <= LONGEST:
            raise UserError(f"--simulated.throttle-seconds: {self.length:g} is not between {SHORTEST:g} and {LONGEST:g} seconds")

    @property
    def spans(self) -> Mapping[str, tuple[float, float]]:
        """Start and end of each reason within a period."""
        return {
            "sw_thermal": (ONSET, ONSET + self.length),
            "hw_thermal": (ONSET + self.length / 4, ONSET + self.length * 3 / 4),
        }

    def seconds(self, reason: str, at: float) -> float:
        """Returns the seconds for which ``reason`` was active until ``at``, in seconds after the beginning."""
        since, until = self.spans.get(reason, (0.0, 0.0))
        periods, rest = divmod(max(at, 0.0), PERIOD_SECONDS)
        return periods * (until - since) + min(max(rest - since, 0.0), until - since)

    def is_active(self, reason: str, at: float) -> bool:
        since, until = self.spans.get(reason, (0.0, 0.0))
        return at >= 0 and since <= at % PERIOD_SECONDS < until

    def is_busy(self, at: float) -> bool:
        """Whether the GPU is under load: it heats up, or would if it were not throttled."""
        return at >= 0 and ONSET - HEATING_SECONDS <= at % PERIOD_SECONDS < ONSET + self.length


Load = Callable[[], Ratio]


class CpuLoad:
    """Busy share of all CPUs since the call before, from /proc/stat; 0 where there is nothing to read: it drives a simulation."""

    def __init__(self, path: Path = PROC_STAT) -> None:
        self._path = path
        self._before = self._read()

    def __call__(self) -> Ratio:
        now = self._read()
        total, busy = now[0] - self._before[0], now[1] - self._before[1]
        if total > 0:
            self._before = now
        return Ratio(min(max(busy / total, 0.0), 1.0)) if total > 0 else Ratio(0.0)

    def _read(self) -> tuple[int, int]:
        """Jiffies (all, busy)."""
        try:
            with self._path.open() as file:
                ticks = [int(text) for text in file.readline().split()[1:9]]
        except (OSError, ValueError):
            return (0, 0)
        return sum(ticks), sum(ticks) - sum(ticks[3:5])


class SimulatedSource:
    """A ``GpuSource``. ``scenario`` steady; overheating, where the last GPU gets too hot and throttles itself again and again; or
    recovering, where it does so by ``schedule`` and cools in between. ``host``: a part of the UUIDs, so that the simulated GPUs
    of two hosts in one Prometheus are not taken for the same."""

    name = "simulated"

    def __init__(
        self,
        gpus: int = 1,
        scenario: str = "steady",
        clock: Clock | None = None,
        load: Load | None = None,
        schedule: ThrottleSchedule | None = None,
        *,
        host: str = "",
    ) -> None:
        if scenario not in SCENARIOS:
            raise UserError(f"simulated scenario: {scenario!r} is not known; give one of {', '.join(SCENARIOS)}")
        clock = clock or SystemClock()
        load_meter = _SharedLoad(load or CpuLoad(), clock)
        started_at = clock.monotonic()
        prefix = f"SIMULATED-{host}-" if host else "SIMULATED-"
        self._devices = [
            SimulatedDevice(index, f"{prefix}{index}", clock, load_meter if index == 0 else None) for index in range(gpus)
        ]
        last = self._devices[-1]
        if scenario == "overheating":
            last.overheats_from = started_at
        if scenario == "recovering":
            schedule = schedule or ThrottleSchedule()
            ahead = 0.0 if schedule.begin is None else schedule.begin - clock.unix()
            last.follow(schedule, started_at + ahead)

    def devices(self) -> Sequence[GpuDevice]:
        return self._devices

    def scan(self) -> Sequence[str]:
        return ()

    def process_name(self, pid: int) -> str | None:  # noqa: ARG002 - part of the Protocol
        return None

    def close(self) -> None:
        pass


class _SharedLoad:
    """The machine's load, measured at most every ``LOAD_PERIOD`` seconds."""

    def __init__(self, measure: Load, clock: Clock) -> None:
        self._measure = measure
        self._clock = clock
        self._measured_at = clock.monotonic()
        self._load = Ratio(0.0)

    def __call__(self) -> Ratio:
        now = self._clock.monotonic()
        if now - self._measured_at >= LOAD_PERIOD:
            self._load, self._measured_at = self._measure(), now
        return self._load


class SimulatedDevice:
    """A ``GpuDevice``. ``load`` None: the GPU idles. ``overheats_from``: monotonic start of the overheating cycles."""

    def __init__(self, index: int, uuid: str, clock: Clock, load: Load | None) -> None:
        self.identity = GpuIdentity(index, uuid, f"Simulated GPU {index}", "Simulated", "simulated", "simulated")
        self.power_ceiling = Watts(2 * LIMIT_WATTS)
        self.power_averaging = Seconds(0.0)
        self.overheats_from: float | None = None
        self._clock = clock
        self._load = load
        self._model = _GpuModel(clock.monotonic())
        self._lock = Lock()  # counters and state are read by two threads

    def follow(self, schedule: ThrottleSchedule, begin: float) -> None:
        """From now on the clocks are throttled by ``schedule``, which began at ``begin`` (monotonic)."""
        self._model.follow(schedule, begin)

    def read_counters(self) -> CounterReading:
        with self._lock:
            model = self._advance()
            return CounterReading(
                energy=model.counter(), power=Watts(model.power), throttle=model.throttle(), thermal=Seconds(model.thermal)
            )

    def read_state(self) -> StateReading:
        with self._lock:
            return self._advance().state()

    def read_residents(self) -> Mapping[str, Sequence[int] | None]:
        """No process uses a simulated GPU."""
        return {}

    def read_processes(self, since: Seconds) -> Sequence[ProcessUse] | None:  # noqa: ARG002 - part of the Protocol
        return None

    def _advance(self) -> _GpuModel:
        now = self._clock.monotonic()
        load, cooling = (Ratio(0.0) if self._load is None else self._load()), 1.0
        overheats = self.overheats_from is not None and HOT_FROM <= (now - self.overheats_from) % CYCLE_SECONDS < HOT_UNTIL
        if overheats or self._model.is_busy(now):
            load, cooling = Ratio(1.0), BLOCKED_FAN
        self._model.advance(now, load, cooling)
        return self._model


class _GpuModel:
    """Power, heat and counters of a GPU over monotonic time."""

    def __init__(self, now: float) -> None:
        self.power = IDLE_WATTS
        self._throttled = 0.0
        self._schedule: ThrottleSchedule | None = None
        self._schedule_from = 0.0
        self._load = 0.0
        self._hot = False
        self._temperature = AMBIENT_CELSIUS + CELSIUS_PER_WATT * IDLE_WATTS
        self._at = now
        self._joules = 0.0
        self._shown = 0.0

    def follow(self, schedule: ThrottleSchedule, begin: float) -> None:
        self._schedule, self._schedule_from = schedule, begin

    def is_busy(self, now: float) -> bool:
        return self._schedule is not None and self._schedule.is_busy(now - self._schedule_from)

    def advance(self, now: float, load: float, cooling: float) -> None:
        """Lets time pass at the power shown so far; from now on the power is what ``load`` asks for."""
        span = now - self._at
        if span <= 0:
            return
        boundary = floor(now / STEP + 1e-9) * STEP
        if boundary > self._at:
            self._shown = self._joules + self.power * (boundary - self._at)
        self._joules += self.power * span
        if self._hot:
            self._throttled += span
        goal = AMBIENT_CELSIUS + CELSIUS_PER_WATT * cooling * self.power
        if self._schedule is not None and self._hot:
            goal = THROTTLED_CELSIUS
        self._temperature = goal + (self._temperature - goal) * exp(-span / THERMAL_SECONDS)
        if self._schedule is None:
            self._hot = self._temperature >= (RESUME_CELSIUS if self._hot else SLOWDOWN_CELSIUS)
        else:
            self._hot = any(self._schedule.is_active(reason, now - self._schedule_from) for reason in THERMAL_REASONS)
        self._at, self._load = now, load
        self.power = IDLE_WATTS + (LIMIT_WATTS - IDLE_WATTS) * load * (THROTTLED_SHARE if self._hot else 1.0)

    def counter(self) -> Joules:
        return Joules(floor(self._shown * 1000.0 + 1e-6) / 1000.0)

    @property
    def thermal(self) -> float:
        """Seconds for which heat throttled the clocks."""
        return max(self.throttle().values())

    def throttle(self) -> Mapping[str, Seconds]:
        if self._schedule is not None:
            return {
                reason: Seconds(self._schedule.seconds(reason, self._at - self._schedule_from)) for reason in THROTTLE_REASONS
            }
        return {reason: Seconds(self._throttled if reason == "hw_thermal" else 0.0) for reason in THROTTLE_REASONS}

    def _is_active(self, reason: str) -> bool:
        if self._schedule is not None:
            return self._schedule.is_active(reason, self._at - self._schedule_from)
        return reason == "hw_thermal" and self._hot

    def state(self) -> StateReading:
        speed = (0.15 + 0.85 * self._load) * (THROTTLED_SHARE if self._hot else 1.0)
        clocks = {name: Hertz(highest if name == "memory" else highest * speed) for name, highest in CLOCKS_MAX.items()}
        celsius = Celsius(round(self._temperature))
        return StateReading(
            utilization=Ratio(round(self._load, 2)),
            memory_used=Bytes(MEMORY_BASE + (MEMORY_BUSY if self._load > 0.05 else 0)),
            memory_total=Bytes(MEMORY_TOTAL),
            temperature=celsius,
            temperature_margin=Celsius(SLOWDOWN_CELSIUS - celsius),
            power_limit=Watts(LIMIT_WATTS),
            clock=clocks,
            clock_max=CLOCKS_MAX,
            throttle_active={reason: self._is_active(reason) for reason in THROTTLE_REASONS},
        )
