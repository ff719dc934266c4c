"""Invented GPUs for a machine without one: the whole pipeline runs, and no number of it is a measurement.

The first GPU is as busy as this machine's CPUs are (so a model that runs on the CPU drives it), the others idle. Invariant:
the energy counter is the exact integral of the power that is shown, known up to the last whole 100 ms, as a real counter is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp, floor
from pathlib import Path
from threading import Lock

from joulebench.clock import Clock, SystemClock
from joulebench.errors import UserError
from joulebench.gpu.reading import FastReading, GpuIdentity, SlowReading
from joulebench.gpu.spells import Spells
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

# The overheating card: busy with a blocked fan for a while, then at rest, over and over.
CYCLE_SECONDS, HOT_FROM, HOT_UNTIL, BLOCKED_FAN = 90.0, 10.0, 55.0, 1.9
HELD_CELSIUS = 92.0
"""Where a card stays whose clocks a timetable holds down."""

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
    """``scenario`` steady; overheating, where the last GPU gets too hot and slows itself down, again and again; or recovering,
    where it does so by the timetable of ``spells`` and is well in between."""

    name = "simulated"

    def __init__(
        self,
        gpus: int = 1,
        scenario: str = "steady",
        clock: Clock | None = None,
        load: Load | None = None,
        spells: Spells | None = None,
    ) -> None:
        if scenario not in SCENARIOS:
            raise UserError(f"simulated scenario: {scenario!r} is not known; give one of {', '.join(SCENARIOS)}")
        self._clock = clock or SystemClock()
        self._load = load or CpuLoad()
        self._load_now = Ratio(0.0)
        self._born = self._load_at = self._clock.monotonic()
        self._cards = [_Card(index, self._born) for index in range(gpus)]
        self._hot_card = gpus - 1 if scenario == "overheating" else None
        if scenario == "recovering":
            timetable = spells or Spells()
            ahead = 0.0 if timetable.begin is None else timetable.begin - self._clock.unix()
            self._cards[-1].follow(timetable, self._born + ahead)
        self._lock = Lock()  # the fast and the slow poll come from two threads

    def gpus(self) -> Sequence[GpuIdentity]:
        return [card.identity for card in self._cards]

    def read_fast(self, index: int) -> FastReading:
        with self._lock:
            card = self._advanced(index)
            return FastReading(
                energy=card.counter(), power=Watts(card.power), throttle=card.throttle(), thermal=Seconds(card.thermal)
            )

    def read_slow(self, index: int) -> SlowReading:
        with self._lock:
            return self._advanced(index).slow()

    def close(self) -> None:
        pass

    def _advanced(self, index: int) -> _Card:
        now = self._clock.monotonic()
        if now - self._load_at >= LOAD_PERIOD:
            self._load_now, self._load_at = self._load(), now
        load, cooling = (self._load_now if index == 0 else Ratio(0.0)), 1.0
        if index == self._hot_card and HOT_FROM <= (now - self._born) % CYCLE_SECONDS < HOT_UNTIL:
            load, cooling = Ratio(1.0), BLOCKED_FAN
        card = self._cards[index]
        if card.is_busy(now):
            load, cooling = Ratio(1.0), BLOCKED_FAN
        card.advance(now, load, cooling)
        return card


class _Card:
    def __init__(self, index: int, now: float) -> None:
        self.identity = GpuIdentity(index, f"SIMULATED-{index}", f"Simulated GPU {index}", "Simulated", "simulated")
        self.power = IDLE_WATTS
        self._throttled = 0.0
        self._spells: Spells | None = None
        self._spells_from = 0.0
        self._load = 0.0
        self._hot = False
        self._temperature = AMBIENT_CELSIUS + CELSIUS_PER_WATT * IDLE_WATTS
        self._at = now
        self._joules = 0.0
        self._shown = 0.0

    def follow(self, spells: Spells, begin: float) -> None:
        """From now on the clocks are held down by this timetable, which began at ``begin`` (monotonic)."""
        self._spells, self._spells_from = spells, begin

    def is_busy(self, now: float) -> bool:
        return self._spells is not None and self._spells.is_busy(now - self._spells_from)

    def advance(self, now: float, load: float, cooling: float) -> None:
        """Time passed at the power that was shown; from now on the power is what ``load`` asks for."""
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
        if self._spells is not None and self._hot:
            goal = HELD_CELSIUS
        self._temperature = goal + (self._temperature - goal) * exp(-span / THERMAL_SECONDS)
        if self._spells is None:
            self._hot = self._temperature >= (RESUME_CELSIUS if self._hot else SLOWDOWN_CELSIUS)
        else:
            self._hot = any(self._spells.holds(reason, now - self._spells_from) for reason in THERMAL_REASONS)
        self._at, self._load = now, load
        self.power = IDLE_WATTS + (LIMIT_WATTS - IDLE_WATTS) * load * (THROTTLED_SHARE if self._hot else 1.0)

    def counter(self) -> Joules:
        return Joules(floor(self._shown * 1000.0 + 1e-6) / 1000.0)

    @property
    def thermal(self) -> float:
        """Seconds for which any heat held the clocks down."""
        return max(self.throttle().values())

    def throttle(self) -> Mapping[str, Seconds]:
        if self._spells is not None:
            return {reason: Seconds(self._spells.seconds(reason, self._at - self._spells_from)) for reason in THROTTLE_REASONS}
        return {reason: Seconds(self._throttled if reason == "hw_thermal" else 0.0) for reason in THROTTLE_REASONS}

    def _holds(self, reason: str) -> bool:
        if self._spells is not None:
            return self._spells.holds(reason, self._at - self._spells_from)
        return reason == "hw_thermal" and self._hot

    def slow(self) -> SlowReading:
        speed = (0.15 + 0.85 * self._load) * (THROTTLED_SHARE if self._hot else 1.0)
        clocks = {name: Hertz(highest if name == "memory" else highest * speed) for name, highest in CLOCKS_MAX.items()}
        celsius = Celsius(round(self._temperature))
        return SlowReading(
            utilization=Ratio(round(self._load, 2)),
            memory_used=Bytes(MEMORY_BASE + (MEMORY_BUSY if self._load > 0.05 else 0)),
            memory_total=Bytes(MEMORY_TOTAL),
            temperature=celsius,
            temperature_margin=Celsius(SLOWDOWN_CELSIUS - celsius),
            power_limit=Watts(LIMIT_WATTS),
            clocks=clocks,
            clocks_max=CLOCKS_MAX,
            throttle_active={reason: self._holds(reason) for reason in THROTTLE_REASONS},
        )
