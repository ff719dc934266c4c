"""Seconds for which something held a GPU's clocks down during a task, by reason.

The exporter's own answer is preferred, for it saw every change of the counters; Prometheus, which has a value of them once a
second, checks it, and stands in where there is none. Known from Prometheus only where it saw the GPU on both sides of the
window: a counter that nobody read did not stand still. A 0 is told only where every GPU is known to have been left alone.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from joulebench import metrics
from joulebench.results.gauge_stats import growth_bounds, increase, lowest, stats
from joulebench.results.points import EMPTY, Columns, Points
from joulebench.results.samples import GpuSamples

SEEN_WITHIN_SECONDS = 10.0
LIMITED_BY_DESIGN = ("sw_power_cap", "sync_boost")
"""Reasons that are settings, not trouble; they are told by reason and not counted as throttling."""
SUMS_UP_OTHERS = "hw_slowdown"
DISAGREEMENT = "throttle_disagreement"
TOLERANCE_SECONDS = 0.3
"""By which a scraped value may be late: a poll, a scrape and the offset of two clocks."""
EXPORTER, PROMETHEUS = "exporter", "prometheus"

Reasons = Mapping[str, float | None]
UNKNOWN: Reasons = dict.fromkeys(metrics.THROTTLE_REASONS)


@dataclass(frozen=True, slots=True)
class Throttling:
    """Of one GPU over one window. ``exporter`` and ``prometheus``: what each of them says, None where it cannot say.

    ``disagreements``: reasons of which the exporter says what the samples in Prometheus exclude.
    """

    uuid: str
    exporter: Reasons
    prometheus: Reasons
    disagreements: tuple[str, ...]

    @property
    def seconds(self) -> Reasons:
        return {r: self.prometheus[r] if self.exporter[r] is None else self.exporter[r] for r in metrics.THROTTLE_REASONS}

    @property
    def sources(self) -> dict[str, str]:
        """Of the reasons that are known."""
        return {
            reason: PROMETHEUS if self.exporter[reason] is None else EXPORTER
            for reason, seconds in self.seconds.items()
            if seconds is not None
        }


def of_gpu(uuid: str, told: Mapping[str, float], gpu: GpuSamples | None, start: float, end: float) -> Throttling:
    """``told``: seconds by reason as the exporter gave them, those that it knew."""
    exporter = {reason: told.get(reason) for reason in metrics.THROTTLE_REASONS}
    stored = UNKNOWN if gpu is None else reasons(gpu, start, end)
    doubtful = [r for r, claim in told.items() if (other := stored.get(r)) is not None and abs(claim - other) > TOLERANCE_SECONDS]
    apart = tuple(r for r in doubtful if gpu and _excludes(gpu.throttle[r], told[r], start, end))
    return Throttling(uuid, exporter, stored, apart)


def reasons(gpu: GpuSamples, start: float, end: float) -> Reasons:
    """Seconds by reason for one GPU, from Prometheus alone."""
    seen = _seen_around(gpu.seen, start, end)
    return {r: increase(gpu.throttle.get(r, EMPTY), start, end) if seen else None for r in metrics.THROTTLE_REASONS}


def _excludes(points: Points, claim: float, start: float, end: float) -> bool:
    bounds = growth_bounds(points, start, end)
    return bounds is not None and not bounds[0] - TOLERANCE_SECONDS <= claim <= bounds[1] + TOLERANCE_SECONDS


def together(gpus: Sequence[Reasons]) -> Reasons:
    """The most throttled GPU, reason by reason: GPUs of one task wait for one another."""
    return {reason: _most([gpu[reason] for gpu in gpus]) for reason in metrics.THROTTLE_REASONS}


def throttled_seconds(found: Reasons) -> float | None:
    """Longest of the reasons that are trouble; they overlap, so they do not add up."""
    trouble = {reason: seconds for reason, seconds in found.items() if reason not in LIMITED_BY_DESIGN}
    if trouble.get(SUMS_UP_OTHERS) is None:
        trouble.pop(SUMS_UP_OTHERS, None)
    return _most(list(trouble.values()))


def section(gpus: Sequence[Throttling], margin: float | None) -> dict[str, object]:
    """``throttle`` of a result file. ``sources``: by reason, ``mixed`` where GPUs differ; ``source``: of all together."""
    by_reason = together([gpu.seconds for gpu in gpus])
    told: dict[str, set[str]] = {reason: set() for reason in metrics.THROTTLE_REASONS}
    for gpu in gpus:
        for reason, source in gpu.sources.items():
            told[reason].add(source)
    return {
        "throttled_seconds": throttled_seconds(by_reason),
        "seconds_by_reason": dict(by_reason) if gpus else {},
        "source": _one(set().union(*told.values())),
        "sources": {reason: _one(sources) for reason, sources in told.items() if sources},
        "throttled_seconds_exporter": throttled_seconds(together([gpu.exporter for gpu in gpus])),
        "throttled_seconds_prometheus": throttled_seconds(together([gpu.prometheus for gpu in gpus])),
        "disagreements": [
            {"uuid": gpu.uuid, "reason": reason, EXPORTER: gpu.exporter[reason], PROMETHEUS: gpu.prometheus[reason]}
            for gpu in gpus
            for reason in gpu.disagreements
        ],
        "min_temp_margin_c": margin,
    }


def _one(sources: set[str]) -> str | None:
    return "mixed" if len(sources) > 1 else next(iter(sources), None)


def least_margin(gpus: Iterable[GpuSamples], start: float, end: float) -> float | None:
    """How near the GPU that was nearest came to slowing itself down, in degrees; None where no card tells."""
    margins = (lowest(gpu.gauges.get(metrics.GPU_TEMPERATURE_MARGIN.name, EMPTY), start, end) for gpu in gpus)
    return min((margin for margin in margins if margin is not None), default=None)


def within(
    gpus: Sequence[GpuSamples],
    start: float,
    end: float | None,
    of_task: float | None,
    told: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, float | None]:
    """Of one call: seconds throttled, and how hot the hottest GPU was, which is told only of a task that was throttled at all.

    ``told``: what the exporter said of the call, by uuid.
    """
    if end is None or not of_task:
        return {"throttled_seconds": None if end is None else of_task, "max_temp_c": None}
    heat = [stats(gpu.gauges.get(metrics.GPU_TEMPERATURE.name, EMPTY), start, end) for gpu in gpus]
    answers, known = told or {}, {gpu.uuid: gpu for gpu in gpus}
    slowed = [of_gpu(uuid, answers.get(uuid, {}), known.get(uuid), start, end) for uuid in {**answers, **known}]
    return {
        "throttled_seconds": throttled_seconds(together([gpu.seconds for gpu in slowed])),
        "max_temp_c": max((one.high for one in heat if one is not None), default=None),
    }


def _most(values: Sequence[float | None]) -> float | None:
    """The largest; what is not known may be larger than a 0."""
    most = max((value for value in values if value is not None), default=None)
    return None if most == 0 and None in values else most


def _seen_around(seen: Points, start: float, end: float) -> bool:
    at = Columns.of(seen).at
    before, after = bisect_right(at, start) - 1, bisect_left(at, end)
    if before < 0 or after >= len(at):
        return False
    return start - at[before] <= SEEN_WITHIN_SECONDS and at[after] - end <= SEEN_WITHIN_SECONDS
