"""A dashboard in the form in which grafana.com takes and Grafana imports it: the data source is asked for at import.

``__inputs`` names what an importer chooses, ``__requires`` the Grafana and the plugins that the dashboard needs.
"""

from __future__ import annotations

from collections.abc import Iterator

from scripts.dashboards.panels import Json

DATASOURCE_INPUT = "DS_PROMETHEUS"
GRAFANA_VERSION = "13.2.0"
"""That of docker-compose.yml; an older Grafana warns at import."""
_PANEL_NAMES = {
    "bargauge": "Bar gauge",
    "heatmap": "Heatmap",
    "stat": "Stat",
    "state-timeline": "State timeline",
    "table": "Table",
    "timeseries": "Time series",
}


def exported(board: Json) -> Json:
    """Returns the board for grafana.com: its panels keep the variable ``datasource``, which starts at the importer's choice."""
    variables = [_with_input(variable) for variable in board["templating"]["list"]]
    return {
        "__inputs": [
            {
                "name": DATASOURCE_INPUT,
                "label": "Prometheus",
                "description": "The Prometheus that scrapes Joulebench",
                "type": "datasource",
                "pluginId": "prometheus",
                "pluginName": "Prometheus",
            }
        ],
        "__elements": {},
        "__requires": [
            {"type": "grafana", "id": "grafana", "name": "Grafana", "version": GRAFANA_VERSION},
            {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
            *(
                {"type": "panel", "id": kind, "name": _PANEL_NAMES[kind], "version": ""}
                for kind in sorted(set(_panel_kinds(board["panels"])))
            ),
        ],
        **board,
        "editable": True,
        "templating": {**board["templating"], "list": variables},
    }


def _with_input(variable: Json) -> Json:
    if variable["type"] != "datasource":
        return variable
    chosen = f"${{{DATASOURCE_INPUT}}}"
    return {**variable, "current": {"selected": False, "text": chosen, "value": chosen}}


def _panel_kinds(panels: list[Json]) -> Iterator[str]:
    for panel in panels:
        if panel["type"] != "row":
            yield panel["type"]
        yield from _panel_kinds(panel.get("panels", []))
