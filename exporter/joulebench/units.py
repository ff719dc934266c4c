"""Units as types, so that a number cannot change its unit between two rooms without mypy noticing.

Everything that leaves a sensor is in a base unit: joules, watts, seconds, bytes, celsius, hertz, ratio (0 to 1).
NVML's own integers (milliwatt, millijoule, MHz, percent) are converted at the sensor's door with the functions below and
exist nowhere else. ``None`` beside one of these types means "no reading"; 0 is only ever a measurement.
"""

from __future__ import annotations

from typing import NewType

Joules = NewType("Joules", float)
Watts = NewType("Watts", float)
Seconds = NewType("Seconds", float)
Bytes = NewType("Bytes", float)
Celsius = NewType("Celsius", float)
Hertz = NewType("Hertz", float)
Ratio = NewType("Ratio", float)

JOULES_PER_KWH = 3_600_000.0
BYTES_PER_MIB = 1_048_576.0


def joules_from_millijoules(value: int) -> Joules:
    return Joules(value / 1000.0)


def watts_from_milliwatts(value: int) -> Watts:
    return Watts(value / 1000.0)


def seconds_from_nanoseconds(value: int) -> Seconds:
    return Seconds(value / 1e9)


def hertz_from_megahertz(value: int) -> Hertz:
    return Hertz(value * 1e6)


def ratio_from_percent(value: float) -> Ratio:
    return Ratio(value / 100.0)


def kwh_from_joules(value: float) -> float:
    return value / JOULES_PER_KWH


def mib_from_bytes(value: float) -> float:
    return value / BYTES_PER_MIB
