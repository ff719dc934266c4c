"""Grafana panels as plain dictionaries (classic model): queries, thresholds, one builder for each visualization.

Every panel names the metrics that it reads, taken from its queries. Colours judge only where a threshold is given.

A reading can be missing in three ways, which tiles and cells keep apart: "n/a" where a GPU answers but lacks the reading, "no GPU
reported" where the exporter has no GPU, and "No data" where nothing is collected. The first two are numbers below everything that
is measured, mapped to these words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from scripts.dashboards.promql import LONGEST_QUERY, select

from joulebench import metrics as m

Json: TypeAlias = dict[str, Any]

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Query:
    """``kind``: range, instant, table (instant, one row a series) or heatmap."""

    expr: str
    legend: str = "__auto"
    kind: str = "range"


def target(query: Query, ref: str) -> Json:
    instant = query.kind in ("instant", "table")
    formats = {"table": "table", "heatmap": "heatmap"}
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "format": formats.get(query.kind, "time_series"),
        "instant": instant,
        "legendFormat": query.legend,
        "range": not instant,
        "refId": ref,
    }


def steps(*bounds: tuple[float | None, str]) -> Json:
    """Thresholds as (from, colour); the first bound is None."""
    return {"mode": "absolute", "steps": [{"color": colour, "value": bound} for bound, colour in bounds]}


NEUTRAL = steps((None, "text"))


def states(texts: Mapping[float, tuple[str, str]]) -> list[Json]:
    """Value mapping from number to (text, colour)."""
    options = {
        f"{value:g}": {"color": colour, "index": place, "text": text}
        for place, (value, (text, colour)) in enumerate(texts.items())
    }
    return [{"type": "value", "options": options}]


def override(field: str, *, by: str = "byName", **properties: Any) -> Json:
    """Property names with ``__`` for the dot; ``by``: Grafana's field matcher."""
    return {
        "matcher": {"id": by, "options": field},
        "properties": [{"id": name.replace("__", "."), "value": value} for name, value in properties.items()],
    }


def hidden(field: str) -> Json:
    """A column for links that is not shown; older and newer Grafana each know one of the two properties."""
    return override(field, custom__hidden=True, custom__hideFrom={"legend": False, "tooltip": False, "viz": True})


NOT_AVAILABLE, NO_GPU, NO_RUN, NOT_MEASURED = -1000, -1001, -1002, -1003
GPU_KEYS = "instance, gpu, uuid"

ABSENCE: list[Json] = states(
    {NOT_AVAILABLE: ("n/a", "text"), NO_GPU: ("no GPU reported", "text"), NOT_MEASURED: ("not measured", "text")}
)
NO_READING = "No reading: the tile “GPU source” says whether there is a GPU"
"""In place of a graph of the hardware; a graph cannot show which of the states it is, the tile above it can."""
NO_CALLS = "No data: no such call of a run in this time range"
NO_COSTS = "No data: no task with a known energy in this time range, or no price list"
NO_TASKS = "No data: no task ran in this time range"
NO_RUN_STATE: dict[float, tuple[str, str]] = {NO_RUN: ("no live run", "text")}


def or_absence(expr: str) -> str:
    """For one number of all chosen GPUs, without labels."""
    lacks = f"0 * max({select(m.GPU_UP)} == 1) - {-NOT_AVAILABLE}"
    without = f"""0 * max({select(m.EXPORTER_INFO, 'gpu_source="none"')}) - {-NO_GPU}"""
    return f"{expr} or {lacks} or {without}"


def or_absence_by_gpu(expr: str) -> str:
    """For one number per GPU; a lost GPU keeps its empty cell."""
    return f"{expr} or on ({GPU_KEYS}) 0 * max by ({GPU_KEYS}) ({select(m.GPU_UP)} == 1) - {-NOT_AVAILABLE}"


def or_no_run(expr: str) -> str:
    """For a value that only a live run has: kept apart from a collection that has stopped."""
    return f"{expr} or on () 0 * max({select(m.EXPORTER_INFO)}) - {-NO_RUN}"


def or_unknown(expr: str, task: str) -> str:
    """For a number of the one task that ``task`` selects: kept apart from a task without any series."""
    return f"{expr} or 0 * count({task}) - {-NOT_AVAILABLE}"


METRIC_NAME = re.compile(r"\bjoulebench_[a-z0-9_]+")
NO_HIDING: Json = {"legend": False, "tooltip": False, "viz": False}
GAP_MILLISECONDS = 5000
TWO_SCRAPES = "2s"
NO_DATA = "No data"
"""Of a panel without any series; a panel that can be empty for a known reason says so instead."""


def _quantile_error(queries: Sequence[Query]) -> str:
    """Says by how much quantiles can be off: the true one lies anywhere in the bucket that the shown one is interpolated in."""
    series = {name for query in queries if "histogram_quantile" in query.expr for name in METRIC_NAME.findall(query.expr)}
    buckets = {m.BY_NAME[name.removesuffix("_bucket")].buckets for name in series if name.endswith("_bucket")}
    shares = [bounds for bounds in buckets if bounds[-1] <= 1.0]
    others = [bounds for bounds in buckets if bounds[-1] > 1.0]
    sentences = []
    if others:
        ratio = max(b / a for bounds in others for a, b in pairwise(bounds))
        lowest = max(bounds[0] for bounds in others)
        sentences.append(
            f"Quantiles are interpolated in the histogram's buckets: above {lowest:g}, the true value is less than {ratio:g}"
            " times higher or lower."
        )
    if shares:
        width = max(b - a for bounds in shares for a, b in pairwise((0.0, *bounds)))
        sentences.append(f"The percentile of the confidence is interpolated in buckets: it is less than {width:.2g} off.")
    return " ".join(sentences)


def panel(
    kind: str,
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    defaults: Json,
    options: Json,
    overrides: Sequence[Json] = (),
    **more: Any,
) -> Json:
    for query in queries:
        if len(query.expr) > LONGEST_QUERY:
            raise ValueError(f"{title}: a query of {len(query.expr)} characters, at most {LONGEST_QUERY}: {query.expr}")
    targets = [target(query, chr(ord("A") + place)) for place, query in enumerate(queries)]
    metrics = sorted({name for query in queries for name in METRIC_NAME.findall(query.expr)})
    if error := _quantile_error(queries):
        description = f"{description} {error}"
    if metrics:
        description = f"{description}\n\nMetrics: {', '.join(f'`{name}`' for name in metrics)}"
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": [*overrides]},
        "options": options,
        **more,
    }


def reduced(calculation: str = "lastNotNull") -> Json:
    return {"calcs": [calculation], "fields": "", "values": False}


def stat(
    title: str,
    description: str,
    queries: Sequence[Query],
    unit: str,
    *,
    thresholds: Json = NEUTRAL,
    mappings: Sequence[Json] = (),
    overrides: Sequence[Json] = (),
    decimals: int | None = None,
    text: str = "auto",
    value_size: int | None = None,
    empty: str = NO_DATA,
) -> Json:
    """``text``: auto, or name for a tile that shows the names of its series. ``value_size``: pixels, else by the tile's size."""
    judged = thresholds is not NEUTRAL or bool(mappings)
    defaults: Json = {
        "unit": unit,
        "mappings": [*mappings],
        "thresholds": thresholds,
        "color": {"mode": "thresholds"},
        "noValue": empty,
    }
    if decimals is not None:
        defaults["decimals"] = decimals
    options = {
        "colorMode": "value" if judged else "none",
        "graphMode": "none" if all(query.kind == "instant" for query in queries) else "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "reduceOptions": reduced(),
        "showPercentChange": False,
        "textMode": text,
        **({} if value_size is None else {"text": {"valueSize": value_size}}),
        "wideLayout": False,
    }
    return panel("stat", title, description, queries, defaults=defaults, options=options, overrides=overrides)


def timeseries(
    title: str,
    description: str,
    queries: Sequence[Query],
    unit: str,
    *,
    thresholds: Json | None = None,
    maximum: float | None = None,
    minimum: float | None = 0,
    overrides: Sequence[Json] = (),
    stacked: bool = False,
    highest_first: bool = False,
    empty: str = NO_DATA,
) -> Json:
    """``highest_first``: the legend shows the maximum of each curve, the highest first."""
    custom: Json = {
        "drawStyle": "line",
        "fillOpacity": 25 if stacked else 8,
        "hideFrom": NO_HIDING,
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "showPoints": "auto",
        "spanNulls": GAP_MILLISECONDS,
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        "thresholdsStyle": {"mode": "line" if thresholds else "off"},
    }
    defaults: Json = {"unit": unit, "custom": custom, "color": {"mode": "palette-classic"}, "mappings": [], "noValue": empty}
    defaults["thresholds"] = thresholds or NEUTRAL
    for name, value in (("min", minimum), ("max", maximum)):
        if value is not None:
            defaults[name] = value
    legend: Json = {"calcs": ["lastNotNull"], "displayMode": "table", "placement": "right", "showLegend": True}
    if highest_first:
        legend |= {"calcs": ["max"], "sortBy": "Max", "sortDesc": True}
    options = {
        "legend": legend,
        "tooltip": {"hideZeros": False, "mode": "multi", "sort": "desc"},
    }
    return panel("timeseries", title, description, queries, defaults=defaults, options=options, overrides=overrides)


def state_timeline(
    title: str,
    description: str,
    queries: Sequence[Query],
    mappings: Sequence[Json],
    *,
    unit: str = "none",
    show_value: str = "never",
    empty: str = NO_DATA,
) -> Json:
    defaults: Json = {
        "unit": unit,
        "noValue": empty,
        "mappings": [*mappings],
        "color": {"mode": "fixed", "fixedColor": "text"},
        "custom": {"fillOpacity": 80, "hideFrom": NO_HIDING, "insertNulls": GAP_MILLISECONDS, "lineWidth": 0, "spanNulls": False},
    }
    options = {
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "mergeValues": True,
        "rowHeight": 0.85,
        "showValue": show_value,
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return panel("state-timeline", title, description, queries, defaults=defaults, options=options)


def heatmap(
    title: str,
    description: str,
    query: Query,
    unit: str,
    scheme: str = "Oranges",
    *,
    empty: str = NO_DATA,
    interval: str = TWO_SCRAPES,
) -> Json:
    """``interval``: least width of a column, two scrapes; a column without one is empty and the next has its observations."""
    defaults: Json = {"unit": unit, "noValue": empty, "custom": {"hideFrom": NO_HIDING, "scaleDistribution": {"type": "linear"}}}
    options = {
        "calculate": False,
        "cellGap": 1,
        "cellValues": {"unit": "short"},
        "color": {
            "exponent": 0.5,
            "fill": "dark-orange",
            "mode": "scheme",
            "reverse": False,
            "scale": "exponential",
            "scheme": scheme,
            "steps": 32,
        },
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": True},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }
    return panel("heatmap", title, description, [query], defaults=defaults, options=options, maxDataPoints=60, interval=interval)


def bargauge(
    title: str,
    description: str,
    queries: Sequence[Query],
    unit: str,
    *,
    overrides: Sequence[Json] = (),
    decimals: int | None = None,
    maximum: float | None = None,
    empty: str = NO_DATA,
) -> Json:
    defaults: Json = {"unit": unit, "min": 0, "mappings": [], "thresholds": NEUTRAL, "noValue": empty}
    defaults["color"] = {"mode": "fixed", "fixedColor": "blue"}
    for name, value in (("decimals", decimals), ("max", maximum)):
        if value is not None:
            defaults[name] = value
    options = {
        "displayMode": "basic",
        "namePlacement": "left",
        "orientation": "horizontal",
        "reduceOptions": reduced(),
        "showUnfilled": True,
        "sizing": "auto",
        "valueMode": "text",
    }
    return panel("bargauge", title, description, queries, defaults=defaults, options=options, overrides=overrides)


def table(
    title: str,
    description: str,
    queries: Sequence[Query],
    columns: Mapping[str, str],
    *,
    drop: Sequence[str] = (),
    overrides: Sequence[Json] = (),
    sort: str | None = None,
    no_value: str = "n/a",
    empty: str = NO_DATA,
) -> Json:
    """``columns``: field -> heading, in the order shown; ``Value #A`` is the first query's value. ``drop``: fields left out.
    ``no_value`` stands in a cell, ``empty`` in place of a table without rows; Grafana takes the latter from the defaults."""
    defaults: Json = {
        "unit": "short",
        "mappings": [],
        "thresholds": NEUTRAL,
        "custom": {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True, "inspect": False},
        "noValue": empty,
    }
    options: Json = {"cellHeight": "sm", "showHeader": True, "sortBy": [{"displayName": sort, "desc": True}] if sort else []}
    organize: Json = {
        "excludeByName": dict.fromkeys(("Time", *drop), True),
        "indexByName": {field: place for place, field in enumerate(columns)},
        "renameByName": dict(columns),
        "includeByName": {},
    }
    transformations: list[Json] = [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}]
    return panel(
        "table",
        title,
        description,
        queries,
        defaults=defaults,
        options=options,
        overrides=[override("/.*/", by="byRegexp", noValue=no_value), *overrides],
        transformations=transformations,
    )
