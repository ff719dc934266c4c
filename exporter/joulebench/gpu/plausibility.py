"""Drops readings that cannot be true: a value outside of what a GPU can be, or be at, is a glitch and no reading.

Seen on real machines: utilization 808334905 %, power 0xFFFFFFFF mW, 1 W on a card of 240 W, 588 W that never change on a laptop
of 35 W, memory calls that succeed with zeros on unified memory, clocks of 0 MHz while kernels run. The energy counter is checked
by energy_meter.py, which knows what it was before. Counters of throttled seconds are checked here, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf

from joulebench.gpu.reading import CounterReading, StateReading
from joulebench.units import Hertz, Watts

GLITCH_READINGS = ("energy", "power", "state")
"""Values of the label ``reading``; state is everything that is read once a second."""

DEFAULT_POWER_CEILING = 3000.0
"""Watts that no single GPU or module draws, for a GPU whose power limits are unknown."""
LEAST_POWER_SHARE = 1 / 150
"""Of the power ceiling, which is 1.5 times the highest limit: no card that answers draws less than a hundredth of that limit."""
FROZEN_SPAN = 2.0
"""Least seconds between two changes of the energy counter whose mean power is compared with the power shown."""
FROZEN_FACTOR, FROZEN_SLACK_WATTS = 3.0, 5.0
"""By which a power that stands still may be off from the counter's, and by which the counter's may vary meanwhile."""
STANDING_SECONDS = 10.0
"""For which a power has to stand still before it is compared with utilization and clock: real sensors vary by milliwatts
all the time, coarse ones at the latest with the work."""
UTILIZATION_SWING, CLOCK_SWING = 0.5, 3.0
"""Least change of the utilization, or where there is none least factor between two SM clocks, that changes any power."""
MOST_COUNTED_SECONDS = 1e9
"""More than thirty years for which no GPU has been throttled."""
COUNTED_SLACK_SECONDS = 2.0
"""By which a counter of seconds may be shown late."""
COUNTER_STAYS_SECONDS = 5.0
CELSIUS = (-60.0, 150.0)
MARGIN_CELSIUS = (-100.0, 200.0)
MAX_HERTZ = 20e9
MAX_BYTES = float(1 << 50)


def drop_impossible_power(reading: CounterReading, ceiling: Watts | None) -> tuple[CounterReading, bool]:
    """Returns the reading without a power that the GPU cannot draw, and whether there was one."""
    least, most = (0.0, DEFAULT_POWER_CEILING) if ceiling is None else (LEAST_POWER_SHARE * ceiling, ceiling)
    if reading.power is None or (reading.power > 0 and least <= reading.power <= most):
        return reading, False
    return reading._replace(power=None), True


class CountedSecondsCheck:
    """Recognizes values that a cumulative counter of seconds cannot have: it grows by no less than nothing and by no more than
    the time since it was read before. A value outside of that is a new beginning of the counter only once it has gone on from
    there for ``COUNTER_STAYS_SECONDS``; when the counter returns before, nothing happened.
    """

    def __init__(self) -> None:
        # By name of the counter: (time, seconds) when it was last read, and the same of the value that may be a new beginning,
        # after the time of its first reading.
        self._known: dict[str, tuple[float, float]] = {}
        self._candidates: dict[str, tuple[float, float, float]] = {}

    @property
    def has_candidates(self) -> bool:
        """Whether a counter is in question, so that each reading of it counts."""
        return bool(self._candidates)

    def is_possible(self, name: str, seconds: float, at: float, rested_until: float | None) -> bool:
        """``rested_until``: until when the counter stood as it was read last; None where it was not read since."""
        if not 0 <= seconds <= MOST_COUNTED_SECONDS:
            return False
        known, candidate = self._known.get(name), self._candidates.get(name)
        since = 0.0 if known is None else known[0] if rested_until is None else max(known[0], rested_until)
        if known is None or can_have_grown(seconds - known[1], at - since):
            self._candidates.pop(name, None)
        elif candidate is None or not can_have_grown(seconds - candidate[2], at - candidate[1]):
            self._candidates[name] = (at, at, seconds)
            return False
        elif at - candidate[0] < COUNTER_STAYS_SECONDS:
            self._candidates[name] = (candidate[0], at, seconds)
            return False
        else:
            del self._candidates[name]
        self._known[name] = (at, seconds)
        return True


def can_have_grown(seconds: float, elapsed: float) -> bool:
    """Whether a cumulative counter of seconds can have grown by so much in the time between two readings."""
    return 0 <= seconds <= elapsed + COUNTED_SLACK_SECONDS


class FrozenPowerDetector:
    """Recognizes a power reading that has stopped following the GPU: to the milliwatt the same, while the energy counter goes on
    at another power, or at a power that varies. A reading that changes is never frozen, nor one whose counter stands still.
    """

    def __init__(self) -> None:
        self._watched: tuple[float, int] | None = None
        self._span_from: tuple[float, float] | None = None
        # Least and most mean power by the counter since the reading last changed.
        self._least, self._most = inf, 0.0

    def is_frozen(self, watts: float, counted: tuple[float, float] | None, epoch: int) -> bool:
        """``counted``: (monotonic time, joules) of the energy counter's last change, None without a counter; ``epoch``: how often
        it began anew."""
        if (watts, epoch) != self._watched or counted is None:
            self._watched, self._span_from = (watts, epoch), counted
            self._least, self._most = inf, 0.0
            return False
        if self._span_from is None:
            self._span_from = counted
        elif counted[0] - self._span_from[0] >= FROZEN_SPAN:
            mean = (counted[1] - self._span_from[1]) / (counted[0] - self._span_from[0])
            self._least, self._most = min(self._least, mean), max(self._most, mean)
            self._span_from = counted
        if self._least > self._most:
            return False
        is_off = not self._least / FROZEN_FACTOR <= watts <= self._most * FROZEN_FACTOR
        return is_off or self._most > FROZEN_FACTOR / 2 * self._least + FROZEN_SLACK_WATTS


class StandingPowerDetector:
    """Recognizes a power that has stopped following a GPU without an energy counter: to the milliwatt the same for
    ``STANDING_SECONDS`` while the GPU went from idle to work or back. ``since``: monotonic time from which on it is the same."""

    def __init__(self) -> None:
        self.since = 0.0
        self._watts: float | None = None
        self._utilization = (inf, -inf)
        self._clock = (inf, -inf)

    def observe_state(self, reading: StateReading) -> None:
        """Takes in what the GPU did while the power stood still."""
        clock = reading.clock.get("sm")
        if reading.utilization is not None:
            self._utilization = _widened(self._utilization, reading.utilization)
        if clock:
            self._clock = _widened(self._clock, clock)

    def is_standing(self, watts: float, at: float) -> bool:
        """Whether the power read at this monotonic time is no reading."""
        if watts != self._watts:
            self._watts, self.since = watts, at
            self._utilization = self._clock = (inf, -inf)
            return False
        if at - self.since < STANDING_SECONDS:
            return False
        least, most = self._utilization
        if least <= most:
            return most - least >= UTILIZATION_SWING
        slowest, fastest = self._clock
        return fastest >= CLOCK_SWING * slowest


def _widened(span: tuple[float, float], value: float) -> tuple[float, float]:
    return min(span[0], value), max(span[1], value)


def drop_impossible_state(reading: StateReading) -> tuple[StateReading, tuple[str, ...]]:
    """Returns the reading without impossible values, and which readings were dropped."""
    glitches: list[str] = []

    def keep(name: str, value: float | None, low: float, high: float) -> bool:
        if value is None or low <= value <= high:
            return True
        glitches.append(name)
        return False

    if not keep("utilization", reading.utilization, 0.0, 1.0):
        reading = replace(reading, utilization=None)
    total, used = reading.memory_total, reading.memory_used
    if total is not None and (not 0 < total <= MAX_BYTES or (used is not None and not 0 <= used <= total)):
        glitches.append("memory")
        reading = replace(reading, memory_total=None, memory_used=None, memory_reserved=None)
    if not keep("temperature", reading.temperature, *CELSIUS):
        reading = replace(reading, temperature=None, temperature_margin=None)
    if not keep("temperature", reading.temperature_margin, *MARGIN_CELSIUS):
        reading = replace(reading, temperature_margin=None)
    if not keep("power_limit", reading.power_limit, 0.001, 2 * DEFAULT_POWER_CEILING):
        reading = replace(reading, power_limit=None)
    clock, clock_max = _possible_clocks(reading.clock), _possible_clocks(reading.clock_max)
    if any(hertz < 0 or hertz > MAX_HERTZ for hertz in (*reading.clock.values(), *reading.clock_max.values())):
        glitches.append("clock")
    if len(clock) < len(reading.clock) or len(clock_max) < len(reading.clock_max):
        reading = replace(reading, clock=clock, clock_max=clock_max)
    return reading, tuple(glitches)


def _possible_clocks(clocks: Mapping[str, Hertz]) -> Mapping[str, Hertz]:
    """Leaves out 0 Hz too, by which a driver says that a clock is off or unknown."""
    return {domain: hertz for domain, hertz in clocks.items() if 0 < hertz <= MAX_HERTZ}
