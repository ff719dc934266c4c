"""Seconds for which something held a GPU's clocks down during a task, by reason.

The exporter's own answer is preferred, for it saw every change of the counters; Prometheus, which has a value of them once a
second, checks it, and stands in where there is none. There is a 0 only where every GPU is known to have been left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from joulebench import metrics
from joulebench.metrics import POWER_CAP, THROTTLE_REASONS
from joulebench.results.fetch import GpuSamples
from joulebench.results.gpu_stats import throttled_by_reason
from joulebench.results.timeseries import EMPTY, TimeSeries, Window, gauge_stats, growth_bounds
from joulebench.schema.reasons import Reason
from joulebench.schema.result import Throttle, ThrottleDisagreement

LIMITED_BY_DESIGN = (POWER_CAP, "sync_boost")
"""Reasons that are settings, not trouble; they stand by reason and are not counted as throttling."""
SUMS_UP_OTHERS = "hw_slowdown"
TOLERANCE_SECONDS = 0.3
"""By which a scraped value may be late: a poll, a scrape and the offset of two clocks."""
EXPORTER, PROMETHEUS = "exporter", "prometheus"

SecondsByReason = Mapping[str, float | None]
UNKNOWN: SecondsByReason = dict.fromkeys(THROTTLE_REASONS)


@dataclass(frozen=True, slots=True)
class Throttling:
    """Of one GPU over one window. ``exporter`` and ``prometheus``: seconds by each, None where it does not know; ``seconds``: of
    both together, with ``sources`` of the reasons that are known.

    ``disagreements``: reasons for which the exporter says what the samples in Prometheus exclude.
    """

    uuid: str
    exporter: SecondsByReason
    prometheus: SecondsByReason
    seconds: SecondsByReason
    sources: Mapping[str, str]
    disagreements: tuple[str, ...]


def gpu_throttling(
    uuid: str, answer: Mapping[str, float], stored: SecondsByReason | None, gpu: GpuSamples | None, window: Window
) -> Throttling:
    """``answer``: seconds by reason as the exporter gave them, those that it knew; ``stored``: by the samples of the ``gpu``."""
    prometheus = UNKNOWN if stored is None else stored
    if not answer:
        sources = {reason: PROMETHEUS for reason, seconds in prometheus.items() if seconds is not None}
        return Throttling(uuid, UNKNOWN, prometheus, prometheus, sources, ())
    if POWER_CAP not in answer:
        # The exporter could not tell for all of the window whether the power was near the limit; its counter rests meanwhile.
        prometheus = {**prometheus, POWER_CAP: None}
    exporter = {reason: answer.get(reason) for reason in THROTTLE_REASONS}
    seconds = {r: prometheus[r] if exporter[r] is None else exporter[r] for r in THROTTLE_REASONS}
    sources = {r: PROMETHEUS if exporter[r] is None else EXPORTER for r, some in seconds.items() if some is not None}
    differ = [r for r, claim in answer.items() if (s := prometheus.get(r)) is not None and abs(claim - s) > TOLERANCE_SECONDS]
    apart = tuple(r for r in differ if gpu and _excludes(gpu.throttle[r], answer[r], *window))
    return Throttling(uuid, exporter, prometheus, seconds, sources, apart)


def _excludes(series: TimeSeries, claim: float, start: float, end: float) -> bool:
    bounds = growth_bounds(series, start, end)
    return bounds is not None and not bounds[0] - TOLERANCE_SECONDS <= claim <= bounds[1] + TOLERANCE_SECONDS


def most_throttled(gpus: Sequence[SecondsByReason]) -> SecondsByReason:
    """The most throttled GPU, reason by reason: GPUs of one task wait for one another."""
    return {reason: _most([gpu[reason] for gpu in gpus]) for reason in THROTTLE_REASONS}


def throttled_seconds(found: SecondsByReason) -> float | None:
    """Longest of the reasons that are trouble; they overlap, so they do not add up."""
    trouble = {reason: seconds for reason, seconds in found.items() if reason not in LIMITED_BY_DESIGN}
    if trouble.get(SUMS_UP_OTHERS) is None:
        trouble.pop(SUMS_UP_OTHERS, None)
    return _most(list(trouble.values()))


def throttle_result(gpus: Sequence[Throttling], margins: Sequence[float | None]) -> Throttle:
    """All GPUs of a task. ``margins``: least of each in celsius."""
    by_reason = most_throttled([gpu.seconds for gpu in gpus])
    sources: dict[str, set[str]] = {reason: set() for reason in THROTTLE_REASONS}
    for gpu in gpus:
        for reason, source in gpu.sources.items():
            sources[reason].add(source)
    return Throttle(
        throttled_seconds=throttled_seconds(by_reason),
        seconds_by_reason=dict(by_reason) if gpus else {},
        source=_common_source(set().union(*sources.values())),
        sources={reason: _common_source(some) for reason, some in sources.items() if some},
        throttled_seconds_exporter=throttled_seconds(most_throttled([gpu.exporter for gpu in gpus])),
        throttled_seconds_prometheus=throttled_seconds(most_throttled([gpu.prometheus for gpu in gpus])),
        disagreements=[
            ThrottleDisagreement(uuid=gpu.uuid, reason=reason, exporter=gpu.exporter[reason], prometheus=gpu.prometheus[reason])
            for gpu in gpus
            for reason in gpu.disagreements
        ],
        min_temp_margin_c=min((margin for margin in margins if margin is not None), default=None),
    )


def disagreement_reasons(gpus: Sequence[Throttling]) -> list[str]:
    return [Reason.THROTTLE_DISAGREEMENT] if any(gpu.disagreements for gpu in gpus) else []


def _common_source(sources: set[str]) -> str | None:
    return "mixed" if len(sources) > 1 else next(iter(sources), None)


def call_throttling(
    gpus: Sequence[GpuSamples],
    start: float,
    end: float | None,
    of_task: float | None,
    answers: Mapping[str, Mapping[str, float]],
) -> tuple[float | None, float | None]:
    """(seconds throttled, celsius of the hottest GPU) of one call; the temperature only of a task that was throttled at all.

    ``of_task``: seconds of the task. ``answers``: what the exporter said of the call, by UUID.
    """
    if end is None or not of_task:
        return None if end is None else of_task, None
    temperatures = gauge_stats([gpu.gauges.get(metrics.GPU_TEMPERATURE.name, EMPTY) for gpu in gpus], [(start, end)])
    known = {gpu.uuid: gpu for gpu in gpus}
    slowed = []
    for uuid in {**answers, **known}:
        gpu = known.get(uuid)
        stored = None if gpu is None else throttled_by_reason(gpu, [(start, end)])[0]
        slowed.append(gpu_throttling(uuid, answers.get(uuid, {}), stored, gpu, (start, end)).seconds)
    hottest = [one.high for (one,) in temperatures if one is not None and one.high is not None]
    return throttled_seconds(most_throttled(slowed)), max(hottest, default=None)


def _most(values: Sequence[float | None]) -> float | None:
    """The largest; what is not known may be larger than a 0."""
    most = max((value for value in values if value is not None), default=None)
    return None if most == 0 and None in values else most
