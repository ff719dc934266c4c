"""Seconds for which something held a GPU's clocks down during a task, by reason, from cumulative counters.

Known only where the GPU was seen on both sides of the window: a counter that nobody read did not stand still.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence

from joulebench import catalogue
from joulebench.results.gauge_stats import increase, lowest, stats
from joulebench.results.points import EMPTY, Columns, Points
from joulebench.results.samples import GpuSamples

SEEN_WITHIN_SECONDS = 10.0
LIMITED_BY_DESIGN = ("sw_power_cap", "sync_boost")
"""Reasons that are settings, not trouble; they are told by reason and not counted as throttling."""

Reasons = Mapping[str, float | None]


def reasons(gpu: GpuSamples, start: float, end: float) -> Reasons:
    """Seconds by reason for one GPU."""
    seen = _seen_around(gpu.seen, start, end)
    return {r: increase(gpu.throttle.get(r, EMPTY), start, end) if seen else None for r in catalogue.THROTTLE_REASONS}


def together(gpus: Sequence[Reasons]) -> Reasons:
    """The most throttled GPU, reason by reason: GPUs of one task wait for one another."""
    return {reason: _most(gpu[reason] for gpu in gpus) for reason in catalogue.THROTTLE_REASONS}


def throttled_seconds(found: Reasons) -> float | None:
    """Longest of the reasons that are trouble; they overlap, so they do not add up."""
    return _most(seconds for reason, seconds in found.items() if reason not in LIMITED_BY_DESIGN)


def least_margin(gpus: Iterable[GpuSamples], start: float, end: float) -> float | None:
    """How near the GPU that was nearest came to slowing itself down, in degrees; None where no card tells."""
    margins = (lowest(gpu.gauges.get(catalogue.GPU_TEMPERATURE_MARGIN.name, EMPTY), start, end) for gpu in gpus)
    return min((margin for margin in margins if margin is not None), default=None)


def within(gpus: Sequence[GpuSamples], start: float, end: float | None, of_task: float | None) -> dict[str, float | None]:
    """Of one call: seconds throttled, and how hot the hottest GPU was, which is told only of a task that was throttled at all."""
    if end is None or not of_task:
        return {"throttled_seconds": None if end is None else of_task, "max_temp_c": None}
    highs = [found.high for gpu in gpus if (found := stats(gpu.gauges.get(catalogue.GPU_TEMPERATURE.name, EMPTY), start, end))]
    seconds = throttled_seconds(together([reasons(gpu, start, end) for gpu in gpus]))
    return {"throttled_seconds": seconds, "max_temp_c": _most(highs)}


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _seen_around(seen: Points, start: float, end: float) -> bool:
    at = Columns.of(seen).at
    before, after = bisect_right(at, start) - 1, bisect_left(at, end)
    if before < 0 or after >= len(at):
        return False
    return start - at[before] <= SEEN_WITHIN_SECONDS and at[after] - end <= SEEN_WITHIN_SECONDS
