"""``gpu_hardware_metrics`` of a task: the 43 keys that analysis of this benchmark's results has always read, with their units.

Several GPUs are one here: utilisation is their mean, VRAM and power their sum, temperature their maximum. VRAM is in MiB and
utilisation in percent, as the names have it. Halves and fifths are by time, not by sample count, and their energy comes from
the counter. Unknown is null. No container is measured, so its four keys are null.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from joulebench import metrics
from joulebench.energy.window import energies_between
from joulebench.metrics import Metric
from joulebench.results.energy import TaskEnergy
from joulebench.results.gauge_stats import Stats, mean, stats, together
from joulebench.results.points import EMPTY, Columns, Points
from joulebench.results.samples import GpuSamples
from joulebench.units import BYTES_PER_MIB, kwh_from_joules

_FOLDS: tuple[tuple[Metric, Callable[[Iterable[float]], float], float], ...] = (
    (metrics.GPU_UTILIZATION, mean, 100.0),
    (metrics.GPU_MEMORY_USED, sum, 1 / BYTES_PER_MIB),
    (metrics.GPU_TEMPERATURE, max, 1.0),
    (metrics.GPU_POWER, sum, 1.0),
)

Values = dict[str, float | int | None]


@dataclass(frozen=True, slots=True)
class Gauges:
    """Of one GPU, or of several folded into one; in the units of the result columns: percent, MiB, celsius, watts."""

    util: Points
    vram: Points
    temp: Points
    power: Points

    @classmethod
    def of(cls, gpus: Sequence[GpuSamples]) -> Gauges:
        return cls(*(_folded(gpus, metric, fold, scale) for metric, fold, scale in _FOLDS))

    @property
    def columns(self) -> tuple[Columns, ...]:
        return Columns.of(self.util), Columns.of(self.vram), Columns.of(self.temp), Columns.of(self.power)


def _folded(gpus: Sequence[GpuSamples], metric: Metric, fold: Callable[[Iterable[float]], float], scale: float) -> Points:
    series = [gpu.gauges.get(metric.name, EMPTY) for gpu in gpus]
    # A GPU that never reports the value (no temperature sensor, say) does not take it from the others.
    found = Columns.of(together([points for points in series if points], fold))
    return found if scale == 1.0 else Columns(found.at, array("d", (np.frombuffer(found.value) * scale).tobytes()))


def hardware_metrics(gauges: Gauges, gpus: Sequence[GpuSamples], energy: TaskEnergy, start: float, end: float) -> Values:
    """All 43 keys, in their order."""
    joules = energy.total.joules
    util, vram = stats(gauges.util, start, end), stats(gauges.vram, start, end)
    temp, power = stats(gauges.temp, start, end), stats(gauges.power, start, end)
    avg_power = joules / (end - start) if joules is not None and end > start else _mean(power)
    halves, fifths = parts(start, end, 2), parts(start, end, 5)
    half_joules, fifth_joules = _energies(gpus, halves), _energies(gpus, fifths)
    half_watts, fifth_watts = _watts(half_joules, halves), _watts(fifth_joules, fifths)
    half_vram, fifth_vram = _vrams(gauges.vram, halves), _vrams(gauges.vram, fifths)
    return {
        **_spread("gpu_util_pct", util),
        "avg_vram_mb": _mean(vram),
        "peak_vram_mb": vram.high if vram else None,
        "min_vram_mb": vram.low if vram else None,
        "avg_temp_c": _mean(temp),
        "max_temp_c": temp.high if temp else None,
        "avg_power_w": avg_power,
        # Samples a second apart can miss the peak; it cannot lie below the mean.
        "max_power_w": max((value for value in (power.high if power else None, avg_power) if value is not None), default=None),
        "total_energy_joules": joules,
        "total_energy_kwh": None if joules is None else round(kwh_from_joules(joules), 8),
        "energy_h1_joules": half_joules[0],
        "energy_h2_joules": half_joules[1],
        "avg_power_h1_w": half_watts[0],
        "avg_power_h2_w": half_watts[1],
        "energy_rate_ratio_h2_h1": ratio(half_watts[1], half_watts[0]),
        **{f"energy_q{i}_joules": value for i, value in enumerate(fifth_joules, 1)},
        **{f"avg_power_q{i}_w": value for i, value in enumerate(fifth_watts, 1)},
        "energy_rate_ratio_q4_q2": ratio(fifth_watts[3], fifth_watts[1]),
        "avg_vram_h1_mb": half_vram[0],
        "avg_vram_h2_mb": half_vram[1],
        "vram_ratio_h2_h1": ratio(half_vram[1], half_vram[0]),
        **{f"avg_vram_q{i}_mb": value for i, value in enumerate(fifth_vram, 1)},
        "vram_ratio_q4_q2": ratio(fifth_vram[3], fifth_vram[1]),
        "sample_count": power.samples if power else 0,
        "monitoring_duration_sec": None if joules is None and power is None else end - start,
        **dict.fromkeys(("avg_container_cpu_pct", "max_container_cpu_pct", "avg_container_mem_mb", "peak_container_mem_mb")),
    }


def ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other


def _spread(name: str, found: Stats | None) -> Values:
    return {
        f"avg_{name}": _mean(found),
        f"max_{name}": found.high if found else None,
        f"min_{name}": found.low if found else None,
    }


def _mean(found: Stats | None) -> float | None:
    return found.mean if found else None


def parts(start: float, end: float, count: int) -> list[tuple[float, float]]:
    """A window in ``count`` parts of equal length."""
    cuts = [start + (end - start) * i / count for i in range(count)] + [end]
    return list(itertools.pairwise(cuts))


def _energies(gpus: Sequence[GpuSamples], parts: Sequence[tuple[float, float]]) -> list[float | None]:
    edges = [parts[0][0], *(end for _, end in parts)]
    by_part = zip(*(energies_between(gpu.energy, edges) for gpu in gpus), strict=True)
    found = [None if None in joules else sum(one for one in joules if one is not None) for joules in by_part]
    return found or [None] * len(parts)


def _watts(joules: Sequence[float | None], parts: Sequence[tuple[float, float]]) -> list[float | None]:
    return [None if j is None or end <= start else j / (end - start) for j, (start, end) in zip(joules, parts, strict=True)]


def _vrams(points: Points, parts: Sequence[tuple[float, float]]) -> list[float | None]:
    return [_mean(stats(points, *part)) for part in parts]
