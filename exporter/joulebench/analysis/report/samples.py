"""Power, utilisation and temperature of each task as they were stored, thinned to what a chart can show, for its timeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from joulebench.analysis.report.content import shown
from joulebench.analysis.runs import Row, Run
from joulebench.results.fetch import Samples
from joulebench.results.gpu_stats import combined_gauges
from joulebench.results.timeseries import TimeSeries, Window

MOST_POINTS = 60


def windows(found: Sequence[Run]) -> list[Window]:
    """Unix seconds of the tasks whose timelines a page will hold."""
    return [(row.start, row.start + row.seconds) for _, row in shown(found) if row.start is not None and row.seconds is not None]


def with_samples(found: Sequence[Run], stored: Samples) -> list[Run]:
    """The runs with ``stored`` in the timelines of the tasks that ran on these GPUs; several GPUs are one, as in the table."""
    known = {gpu.uuid: gpu for gpu in stored.gpus}
    combined: dict[tuple[str, ...], dict[str, TimeSeries]] = {}

    def filled(row: Row) -> Row:
        if row.timeline is None or row.start is None or row.seconds is None:
            return row
        uuids = tuple(uuid for uuid in row.timeline.uuids if uuid in known)
        if not uuids:
            return row
        if uuids not in combined:
            combined[uuids] = combined_gauges([known[uuid] for uuid in uuids])
        gauges, end = combined[uuids], row.start + row.seconds
        parts = {name: _thinned(gauges[name], row.start, end) for name in ("power", "util", "temp")}
        return replace(row, timeline=replace(row.timeline, samples={name: points for name, points in parts.items() if points}))

    return [replace(run, rows=tuple(map(filled, run.rows))) for run in found]


def _thinned(series: TimeSeries, start: float, end: float) -> tuple[tuple[float, float], ...]:
    within = series.between(start, end)
    step = -(-len(within) // MOST_POINTS) or 1
    return tuple((round(at - start, 2), round(value, 1)) for at, value in islice(within, 0, None, step))
