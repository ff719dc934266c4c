"""The energy of a window as results have it."""

from __future__ import annotations

from typing import TypeVar

from joulebench.energy.window import WindowEnergy
from joulebench.schema.result import GpuEnergy, Measurement, MeterResult
from joulebench.units import kwh_from_joules

WindowRecord = TypeVar("WindowRecord", Measurement, GpuEnergy, MeterResult)


def window_record(energy: WindowEnergy, record: type[WindowRecord]) -> WindowRecord:
    """Joules, bounds, method and verdict of a window, in a record of this type."""
    return record(
        joules=energy.joules,
        kwh=None if energy.joules is None else kwh_from_joules(energy.joules),
        low_joules=energy.low,
        high_joules=energy.high,
        method=energy.method,
        coverage=energy.coverage,
        samples=energy.samples,
        longest_gap_seconds=energy.longest_gap,
        counter_resets=energy.resets,
        quality=energy.quality,
        reasons=[str(reason) for reason in energy.reasons],
    )
