"""Timelines of tasks for the page: calls, tools and steps, with power, utilization and temperature, thinned for a chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from joulebench.analysis.runs import Attempt, RunResults
from joulebench.results.fetch import Samples
from joulebench.results.gpu_stats import combined_gauges
from joulebench.results.timeseries import TimeSeries, Window

MOST_TIMELINES = 2000
MOST_POINTS = 60


def timeline_values(runs: Sequence[RunResults]) -> list[dict[str, Any]]:
    return [
        {
            "label": f"{attempt.task_id} · {attempt.model} · {attempt.status} · {run.name}",
            "events": attempt.timeline.events,
            "power": attempt.timeline.power,
            "samples": attempt.timeline.samples,
            "seconds": attempt.seconds,
            "util": attempt.util_percent,
            "temp": attempt.max_temp_c,
            "simulated": attempt.simulated,
        }
        for run, attempt in _selected(runs)
        if attempt.timeline is not None
    ]


def _selected(runs: Sequence[RunResults]) -> list[tuple[RunResults, Attempt]]:
    """The attempts whose timelines the page contains: failures first, then the longest."""
    attempts = [(run, attempt) for run in runs for attempt in run.attempts if attempt.timeline is not None]
    attempts.sort(key=lambda each: (each[1].success is True, -(each[1].seconds or 0.0)))
    return attempts[:MOST_TIMELINES]


def timeline_windows(runs: Sequence[RunResults]) -> list[Window]:
    """Unix seconds of the tasks whose timelines the page contains."""
    return [
        (attempt.start, attempt.start + attempt.seconds)
        for _, attempt in _selected(runs)
        if attempt.start is not None and attempt.seconds is not None
    ]


def add_samples(runs: Sequence[RunResults], stored: Samples) -> list[RunResults]:
    """The runs with ``stored`` in the timelines of the tasks that ran on these GPUs; several GPUs are taken together."""
    known = {gpu.uuid: gpu for gpu in stored.gpus}
    combined: dict[tuple[str, ...], dict[str, TimeSeries]] = {}

    def filled(attempt: Attempt) -> Attempt:
        if attempt.timeline is None or attempt.start is None or attempt.seconds is None:
            return attempt
        uuids = tuple(uuid for uuid in attempt.timeline.uuids if uuid in known)
        if not uuids:
            return attempt
        if uuids not in combined:
            combined[uuids] = combined_gauges([known[uuid] for uuid in uuids])
        gauges, end = combined[uuids], attempt.start + attempt.seconds
        parts = {name: _thinned(gauges[name], attempt.start, end) for name in ("power", "util", "temp")}
        return replace(
            attempt, timeline=replace(attempt.timeline, samples={name: points for name, points in parts.items() if points})
        )

    return [replace(run, attempts=tuple(map(filled, run.attempts))) for run in runs]


def _thinned(series: TimeSeries, start: float, end: float) -> tuple[tuple[float, float], ...]:
    within = series.between(start, end)
    step = -(-len(within) // MOST_POINTS) or 1
    return tuple((round(at - start, 2), round(value, 1)) for at, value in islice(within, 0, None, step))
