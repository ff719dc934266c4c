"""Drops readings that cannot be true: a value outside of what a GPU can be, or be at, is a glitch and no reading.

Seen on real machines: utilization 808334905 %, power 0xFFFFFFFF mW, memory calls that succeed with zeros on unified memory,
clocks of 0 MHz while kernels run. The energy counter is checked by energy_meter.py, which knows what it was before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from joulebench.gpu.reading import CounterReading, StateReading
from joulebench.units import Hertz, Watts

GLITCH_READINGS = ("energy", "power", "state")
"""Values of the label ``reading``; state is everything that is read once a second."""

DEFAULT_POWER_CEILING = 3000.0
"""Watts that no single GPU or module draws, for a GPU whose power limits are unknown."""
CELSIUS = (-60.0, 150.0)
MARGIN_CELSIUS = (-100.0, 200.0)
MAX_HERTZ = 20e9
MAX_BYTES = float(1 << 50)


def drop_impossible_power(reading: CounterReading, ceiling: Watts | None) -> tuple[CounterReading, bool]:
    """Returns the reading without a power that the GPU cannot draw, and whether there was one."""
    most = DEFAULT_POWER_CEILING if ceiling is None else ceiling
    if reading.power is None or 0 < reading.power <= most:
        return reading, False
    return reading._replace(power=None), True


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
