"""The queries of a dashboard as Prometheus would get them from Grafana, for tests that run every one of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

VALUES: Final[Mapping[str, str]] = {
    "job": ".+",
    "instance": ".+",
    "run_id": ".+",
    "model": ".*",
    "gpu": ".*",
    "__rate_interval": "5s",
    "__interval": "1s",
    "__range": "15m",
    "__from": "0",
    "__to": "9999999999999",
    "task_id": "done",
    "api_model": "small-api",
    "cached": "as_run",
    "task_key": "done",
}
"""What Grafana puts in: variables set to their defaults, a range of 15 minutes that cuts no task, one-second scrapes."""

EMPTY_WHEN_WELL: Final = frozenset({"Firing alerts", "Alerts"})
"""Panels and annotations whose queries find nothing while no alert fires."""

_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)(?::\w+)?\}?")


def substituted(expr: str, values: Mapping[str, str] | None = None) -> str:
    """``expr`` with every ``$name`` and ``${name}`` replaced; KeyError for one that no value is given for."""
    known = {**VALUES, **(values or {})}
    return _VARIABLE.sub(lambda found: known[found[1]], expr)


def panels_of(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel that is no row, those inside collapsed rows too."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def queries_of(dashboard: Mapping[str, Any], values: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """(panel title, PromQL) of every query of every panel, in order, variables replaced."""
    return [
        (
            panel["title"],
            substituted(target["expr"], {"__interval": panel.get("interval", VALUES["__interval"]), **(values or {})}),
        )
        for panel in panels_of(dashboard)
        for target in panel["targets"]
    ]


def annotation_queries_of(dashboard: Mapping[str, Any], values: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """(name, PromQL) of every annotation that asks Prometheus."""
    return [(mark["name"], substituted(mark["expr"], values)) for mark in dashboard["annotations"]["list"] if "expr" in mark]


def variable_queries_of(dashboard: Mapping[str, Any], values: Mapping[str, str] | None = None) -> list[tuple[str, str, str]]:
    """(variable, PromQL, label) of every ``label_values(PromQL, label)``."""
    found = []
    for variable in dashboard["templating"]["list"]:
        if variable["type"] != "query":
            continue
        matched = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        if matched is None:
            raise ValueError(f"variable {variable['name']}: no label_values: {variable['query']['query']!r}")
        found.append((variable["name"], substituted(matched[1], values), matched[2]))
    return found
