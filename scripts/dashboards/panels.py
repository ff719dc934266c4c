"""Grafana panels as plain dictionaries (classic model): one builder for each visualization, nothing about what they show.

Every panel says which metrics it reads, taken from its queries. Colours judge only where a threshold is given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from scripts.dashboards.fields import DATASOURCE, NEUTRAL, Json, Query, override, target

METRIC_NAME = re.compile(r"\bjoulebench_[a-z0-9_]+")
NO_HIDING: Json = {"legend": False, "tooltip": False, "viz": False}
GAP_MILLISECONDS = 5000
TWO_SCRAPES = "2s"
NO_DATA = "No data"
"""Of a panel without any series; one that can be empty for a known reason names it."""


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
    targets = [target(query, chr(ord("A") + place)) for place, query in enumerate(queries)]
    metrics = sorted({name for query in queries for name in METRIC_NAME.findall(query.expr)})
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
    empty: str = NO_DATA,
) -> Json:
    """``text``: auto, or name for a tile that says the name of its series."""
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
    """``highest_first``: the legend tells the highest value of each curve and begins with the highest of all."""
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
