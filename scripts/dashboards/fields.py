"""The parts that every panel is made of: queries, thresholds, value mappings and overrides of single fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

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
    """A column that links may use and nobody sees; older and newer Grafana each know one of the two properties."""
    return override(field, custom__hidden=True, custom__hideFrom={"legend": False, "tooltip": False, "viz": True})
