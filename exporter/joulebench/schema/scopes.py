"""The joules of a task by what was measured: GPU, module, CPU, memory, host, wall or rack.

The scope ``gpu`` is what the task is charged for its GPUs. Every other scope is the first meter of it that knows the task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from joulebench.meters import INSIDE, SCOPES
from joulebench.parsing import sum_or_none
from joulebench.schema.reasons import QUALITIES, Reason
from joulebench.schema.result import MeterResult, TaskResult

GPU = "gpu"
GPU_METER = "GPU"
"""Name of the meter behind the scope ``gpu``: the measurement of the GPUs themselves."""


@dataclass(frozen=True, slots=True)
class ScopeEnergy:
    """What a task is charged in one scope, or in several that are added. ``meter``: name of the meter, or names with ``+``."""

    meter: str
    joules: float | None
    low: float | None
    high: float | None
    quality: str
    reasons: tuple[str, ...]
    simulated: bool


def energy_by_scope(result: TaskResult) -> dict[str, ScopeEnergy]:
    """From the inside out; a scope that no meter measures is not in it."""
    found: dict[str, ScopeEnergy] = {}
    if result.measurement.quality is not None:
        found[GPU] = _gpu_energy(result)
    for name, meter in result.meters.items():
        scope = meter.scope or ""
        if scope in SCOPES and (scope not in found or (found[scope].joules is None and meter.attributed_joules is not None)):
            found[scope] = meter_energy(name, meter)
    return {scope: found[scope] for scope in SCOPES if scope in found}


def _gpu_energy(result: TaskResult) -> ScopeEnergy:
    measured = result.measurement
    low, high = (None, None) if result.overlapped else (measured.low_joules, measured.high_joules)
    return ScopeEnergy(
        GPU_METER,
        result.charged_joules,
        low,
        high,
        measured.quality or "missing",
        tuple(measured.reasons),
        measured.simulated is True,
    )


def meter_energy(name: str, meter: MeterResult) -> ScopeEnergy:
    low, high = meter.low_joules, meter.high_joules
    if meter.overlap_fraction:
        low, high = meter.attributed_low_joules, meter.attributed_high_joules
    return ScopeEnergy(
        name, meter.attributed_joules, low, high, meter.quality or "missing", tuple(meter.reasons), meter.simulated
    )


def add_scopes(energies: Mapping[str, ScopeEnergy], scopes: Sequence[str]) -> ScopeEnergy | None:
    """The joules of scopes beside each other, added; None where one of them was not measured.

    Raises ValueError for scopes that are part of each other.
    """
    if any(inner in INSIDE[outer] for outer in scopes for inner in scopes):
        raise ValueError(f"the joules of {' and '.join(scopes)} cannot be added: one is inside another")
    parts = [energies[scope] for scope in scopes if scope in energies]
    if len(parts) < len(scopes):
        return None
    return ScopeEnergy(
        "+".join(part.meter for part in parts),
        sum_or_none(part.joules for part in parts),
        sum_or_none(part.low for part in parts),
        sum_or_none(part.high for part in parts),
        max((part.quality for part in parts), key=_rank),
        tuple(dict.fromkeys(reason for part in parts for reason in part.reasons)),
        any(part.simulated for part in parts),
    )


def _rank(quality: str) -> int:
    return QUALITIES.index(quality) if quality in QUALITIES else len(QUALITIES)


def kept_reasons(reasons: Sequence[str]) -> Iterator[str]:
    """Those of the GPUs that make a task incomparable whatever its joules are taken from."""
    return (reason for reason in reasons if reason == Reason.THROTTLED)
