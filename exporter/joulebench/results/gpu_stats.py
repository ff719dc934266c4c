"""What the stored samples say of tasks: energies, phases, gauges and throttle counters of each GPU, many tasks at once.

Also ``gpu_hardware_metrics``: the 43 keys that analysis of this benchmark's results has always read, all GPUs of a task as one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from joulebench import metrics
from joulebench.energy.curve import EnergyCurve, Floats
from joulebench.energy.estimator import window_energies
from joulebench.energy.phases import PhaseEnergy, Timeline, phase_energies, timeline
from joulebench.energy.window import WindowEnergy, missing
from joulebench.metrics import THROTTLE_REASONS, Metric
from joulebench.parsing import sum_or_none
from joulebench.results.attribution import call_windows, task_timeline
from joulebench.results.fetch import NO_CURVE, GpuSamples
from joulebench.results.task import Task, TaskKey
from joulebench.results.timeseries import (
    EMPTY,
    TimeSeries,
    Window,
    combine,
    gauge_stats,
    increases,
    lowest_values,
    mean_of_rows,
    window_means,
)
from joulebench.schema.reasons import Reason
from joulebench.schema.result import GaugeStats, HardwareMetrics
from joulebench.units import BYTES_PER_MIB, kwh_from_joules

HALVES, FIFTHS = 2, 5
SEEN_WITHIN_SECONDS = 10.0
"""A counter that was not read does not stand still: throttling is known where the GPU was seen this close to both edges."""

_GAUGES: Mapping[str, tuple[Metric, Callable[[Floats], Floats], float]] = {
    "util": (metrics.GPU_UTILIZATION, mean_of_rows, 100.0),
    "vram": (metrics.GPU_MEMORY_USED, np.add.reduce, 1 / BYTES_PER_MIB),
    "temp": (metrics.GPU_TEMPERATURE, np.maximum.reduce, 1.0),
    "power": (metrics.GPU_POWER, np.add.reduce, 1.0),
}
"""(metric, how several GPUs become one, factor to percent, MiB, celsius, watts)"""


@dataclass(frozen=True, slots=True)
class Gauges:
    """Of one GPU, or of several as one, in the units of the result columns; None without a sample in the window."""

    util: GaugeStats | None
    vram: GaugeStats | None
    temp: GaugeStats | None
    power: GaugeStats | None


@dataclass(frozen=True, slots=True)
class GpuReadings:
    """Of one task on one GPU. ``window``: None where the store has no counter of it. ``calls``: energies of the windows of
    ``call_windows``. ``parts``: joules of halves, then fifths. ``throttled``: seconds by reason; ``margin``: least margin in
    celsius to the temperature at which the card slows down.
    """

    samples: GpuSamples
    window: WindowEnergy | None
    calls: Sequence[WindowEnergy]
    parts: Sequence[float | None]
    phases: PhaseEnergy
    gauges: Gauges
    throttled: Mapping[str, float | None]
    margin: float | None


@dataclass(frozen=True, slots=True)
class TaskReadings:
    """``gauges``: all GPUs as one. ``vram_parts``: mean MiB of halves, then fifths."""

    gpus: Sequence[GpuReadings]
    gauges: Gauges
    vram_parts: Sequence[float | None]
    timeline: Timeline

    def of(self, uuid: str) -> GpuReadings | None:
        return next((gpu for gpu in self.gpus if gpu.samples.uuid == uuid), None)


NO_READINGS = TaskReadings([], Gauges(None, None, None, None), [None] * (HALVES + FIFTHS), timeline(0.0, 0.0, ()))


class GpuGroup:
    """GPUs that serve tasks together, with their gauges as one."""

    def __init__(self, gpus: Sequence[GpuSamples]) -> None:
        self.gpus = gpus
        self.own = [list(combined_gauges([gpu]).values()) for gpu in gpus]
        self.together = list(combined_gauges(gpus).values())

    def read_tasks(
        self, tasks: Sequence[Task], on_two_clocks: Callable[[Task, GpuSamples], bool]
    ) -> Mapping[TaskKey, TaskReadings]:
        """Readings of every task with a window. ``on_two_clocks``: whether samples before and after a jump of the exporter's
        clock mean different times, so that energy samples say nothing of the task."""
        timed = [(task, task.window) for task in tasks if task.window is not None]
        windows = [window for _, window in timed]
        parts = [part for window in windows for count in (HALVES, FIFTHS) for part in split_window(window, count)]
        lines = [task_timeline(task, *window) for task, window in timed]
        cuts = _Cuts(windows, [call_windows(task) for task, _ in timed], parts, lines)
        stats = _gauges_of([*self.own, self.together], windows)
        vram_parts = window_means(self.together[1], parts)
        by_gpu = []
        for gpu, gauges in zip(self.gpus, stats, strict=False):
            doubtful = [on_two_clocks(task, gpu) for task, _ in timed]
            energies = _energies(gpu, cuts, doubtful)
            throttled = throttled_by_reason(gpu, windows)
            margins = lowest_values(gpu.gauges.get(metrics.GPU_TEMPERATURE_MARGIN.name, EMPTY), windows)
            rows = zip(energies, gauges, throttled, margins, strict=True)
            by_gpu.append([GpuReadings(gpu, *energy, one, slowed, margin) for energy, one, slowed, margin in rows])
        size = HALVES + FIFTHS
        return {
            task.key: TaskReadings(
                [readings[i] for readings in by_gpu], stats[-1][i], vram_parts[i * size : (i + 1) * size], lines[i]
            )
            for i, (task, _) in enumerate(timed)
        }


GpuEnergies = tuple[WindowEnergy | None, Sequence[WindowEnergy], Sequence[float | None], PhaseEnergy]
"""(window, calls, parts, phases)"""


@dataclass(frozen=True, slots=True)
class _Cuts:
    """By task: its window, those of its calls, its halves and fifths (one after another), its phases."""

    windows: Sequence[Window]
    calls: Sequence[Sequence[Window]]
    parts: Sequence[Window]
    lines: Sequence[Timeline]


def _energies(gpu: GpuSamples, cuts: _Cuts, doubtful: Sequence[bool]) -> list[GpuEnergies]:
    """Of each task; of those that are ``doubtful`` nothing is known but that the clock stepped."""
    method = gpu.method or "counter"
    found = _curve_energies(gpu.energy, method, cuts)
    if any(doubtful):
        nothing = _curve_energies(NO_CURVE, method, cuts)
        stepped = missing(method, (Reason.CLOCK_STEP,))
        found = [
            (stepped if one[0] else None, *other[1:]) if is_doubtful else one
            for one, other, is_doubtful in zip(found, nothing, doubtful, strict=True)
        ]
    return found


def _curve_energies(curve: EnergyCurve, method: str, cuts: _Cuts) -> list[GpuEnergies]:
    energies = iter(window_energies(curve, [*cuts.windows, *itertools.chain.from_iterable(cuts.calls)], method=method))
    whole = list(itertools.islice(energies, len(cuts.windows)))
    edges = np.array(cuts.parts, np.float64).reshape(-1, 2)
    joules = [None if np.isnan(value) else value for value in curve.energy(edges[:, 0], edges[:, 1]).tolist()]
    phases = phase_energies(curve, cuts.lines, whole)
    size = HALVES + FIFTHS
    return [
        (
            whole[i] if len(curve.at) else None,
            list(itertools.islice(energies, len(cuts.calls[i]))),
            joules[i * size : (i + 1) * size],
            phases[i],
        )
        for i in range(len(cuts.windows))
    ]


def combined_gauges(gpus: Sequence[GpuSamples]) -> dict[str, TimeSeries]:
    """util (percent), vram (MiB), temp (celsius) and power (watts) of several GPUs as one.

    A GPU that never reports a value (no temperature sensor, say) does not take it from the others.
    """
    found = {}
    for name, (metric, fold, scale) in _GAUGES.items():
        known = [series for gpu in gpus if len(series := gpu.gauges.get(metric.name, EMPTY))]
        combined = combine(known, fold)
        found[name] = combined if scale == 1.0 else TimeSeries(combined.at, combined.value * scale)
    return found


def _gauges_of(series: Sequence[Sequence[TimeSeries]], windows: Sequence[Window]) -> list[list[Gauges]]:
    """By group of util, vram, temp and power, then by window."""
    stats = gauge_stats([one for some in series for one in some], windows)
    size = len(_GAUGES)
    return [[Gauges(*row) for row in zip(*stats[i * size : (i + 1) * size], strict=True)] for i in range(len(series))]


def throttled_by_reason(gpu: GpuSamples, windows: Sequence[Window]) -> list[dict[str, float | None]]:
    """Seconds by reason, by window; None where the GPU was not seen on both sides of the window."""
    if not windows:
        return []
    starts, ends = np.array(windows, np.float64).T
    seen = gpu.seen.at
    if len(seen):
        before, after = seen.searchsorted(starts, "right") - 1, seen.searchsorted(ends)
        known = (before >= 0) & (after < len(seen))
        known &= starts - seen[np.maximum(before, 0)] <= SEEN_WITHIN_SECONDS
        known &= seen[np.minimum(after, len(seen) - 1)] - ends <= SEEN_WITHIN_SECONDS
    else:
        known = np.zeros(len(windows), np.bool_)
    columns = [increases(gpu.throttle.get(reason, EMPTY), windows) for reason in THROTTLE_REASONS]
    nothing: dict[str, float | None] = dict.fromkeys(THROTTLE_REASONS)
    rows = zip(zip(*columns, strict=True), known.tolist(), strict=True)
    return [dict(zip(THROTTLE_REASONS, row, strict=True)) if sure else nothing for row, sure in rows]


def split_window(window: Window, count: int) -> list[Window]:
    """A window in ``count`` parts of equal length."""
    start, end = window
    cuts = [start + (end - start) * i / count for i in range(count)] + [end]
    return list(itertools.pairwise(cuts))


def hardware_metrics(readings: TaskReadings, joules: float | None, start: float, end: float) -> HardwareMetrics:
    """``joules``: of the window. Halves and fifths are by time, not by sample count, and their energy comes from the counter."""
    gauges = readings.gauges
    power, vram = gauges.power, readings.vram_parts
    part_joules = _part_joules(readings, joules)
    seconds = [(end - start) / count for count in (HALVES, FIFTHS) for _ in range(count)]
    watts = [None if j is None or s <= 0 else j / s for j, s in zip(part_joules, seconds, strict=True)]
    avg_power = joules / (end - start) if joules is not None and end > start else power.mean if power else None
    return HardwareMetrics(
        avg_gpu_util_pct=gauges.util.mean if gauges.util else None,
        max_gpu_util_pct=gauges.util.high if gauges.util else None,
        min_gpu_util_pct=gauges.util.low if gauges.util else None,
        avg_vram_mb=gauges.vram.mean if gauges.vram else None,
        peak_vram_mb=gauges.vram.high if gauges.vram else None,
        min_vram_mb=gauges.vram.low if gauges.vram else None,
        avg_temp_c=gauges.temp.mean if gauges.temp else None,
        max_temp_c=gauges.temp.high if gauges.temp else None,
        avg_power_w=avg_power,
        max_power_w=power.high if power else None,
        total_energy_joules=joules,
        total_energy_kwh=None if joules is None else round(kwh_from_joules(joules), 8),
        energy_rate_ratio_h2_h1=ratio(watts[1], watts[0]),
        energy_rate_ratio_q4_q2=ratio(watts[5], watts[3]),
        vram_ratio_h2_h1=ratio(vram[1], vram[0]),
        vram_ratio_q4_q2=ratio(vram[5], vram[3]),
        sample_count=power.samples if power else 0,
        monitoring_duration_sec=None if joules is None and power is None else end - start,
        **{f"energy_{part}_joules": value for part, value in zip(_PARTS, part_joules, strict=True)},
        **{f"avg_power_{part}_w": value for part, value in zip(_PARTS, watts, strict=True)},
        **{f"avg_vram_{part}_mb": value for part, value in zip(_PARTS, vram, strict=True)},
    )


_PARTS = ("h1", "h2", "q1", "q2", "q3", "q4", "q5")


def _part_joules(readings: TaskReadings, joules: float | None) -> list[float | None]:
    """Of halves, then fifths, by the stored counter, scaled so that either add up to ``joules``."""
    if not readings.gpus:
        return [None] * len(_PARTS)
    stored: list[float | None] = [sum_or_none(some) for some in zip(*(gpu.parts for gpu in readings.gpus), strict=True)]
    return [*_scaled(stored[:HALVES], joules), *_scaled(stored[HALVES:], joules)]


def _scaled(parts: Sequence[float | None], joules: float | None) -> list[float | None]:
    whole: float | None = sum_or_none(parts)
    if joules is None or not whole:
        return list(parts)
    return [None if part is None else part * joules / whole for part in parts]


def ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other
