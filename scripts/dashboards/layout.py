"""Places of panels on Grafana's grid of 24 columns, and the dashboard around them: variables, annotations, links.

Panels get their ids in the order in which they are added; a panel that does not fit begins a new line. The panels of a
collapsed row lie inside the row, at the places they take when it is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from scripts.dashboards.panels import DATASOURCE, Json
from scripts.dashboards.promql import FIRING, JOB, select

from joulebench import metrics as m

COLUMNS = 24
TAG = "joulebench"
LABEL_VALUES = 1
NATURAL, NATURAL_DESCENDING = 7, 8
HIDDEN = 2


class Layout:
    def __init__(self) -> None:
        self.panels: list[Json] = []
        self._into = self.panels
        self._id = 0
        self._x = self._y = self._line_height = 0

    def row(self, title: str, *, collapsed: bool = False) -> None:
        self._break_line()
        row: Json = {
            "type": "row",
            "title": title,
            "id": self._next_id(),
            "collapsed": collapsed,
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": self._y},
            "panels": [],
        }
        self.panels.append(row)
        self._into = row["panels"] if collapsed else self.panels
        self._y += 1

    def add(self, panel: Json, width: int, height: int) -> None:
        if not 0 < width <= COLUMNS:
            raise ValueError(f"{panel['title']}: {width} of {COLUMNS} columns")
        if self._x + width > COLUMNS:
            self._break_line()
        place = {"h": height, "w": width, "x": self._x, "y": self._y}
        self._into.append({"id": self._next_id(), **panel, "gridPos": place})
        self._x += width
        self._line_height = max(self._line_height, height)

    def all(self, panels: Iterable[Json], width: int, height: int) -> None:
        for panel in panels:
            self.add(panel, width, height)

    def _break_line(self) -> None:
        self._y += self._line_height
        self._x = self._line_height = 0

    def _next_id(self) -> int:
        self._id += 1
        return self._id


def datasource_variable() -> Json:
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "current": {"selected": False, "text": "Prometheus", "value": "prometheus"},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
    }


def query_variable(
    name: str,
    label: str,
    selector: str,
    *,
    all_value: str = ".+",
    newest_first: bool = False,
    single: bool = False,
    shown: bool = True,
) -> Json:
    """The values of label ``name`` on the series of ``selector``, read again whenever the time range changes. ``single``: exactly
    one of them is chosen, at first the first. A variable that is not ``shown`` follows the others."""
    every: Json = {"allValue": all_value, "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}
    return {
        **_query_variable(name, label, f"label_values({selector}, {name})"),
        **({"current": {}} if single else every),
        "hide": 0 if shown else HIDDEN,
        "includeAll": not single,
        "multi": not single,
        "sort": NATURAL_DESCENDING if newest_first else NATURAL,
    }


def choice_variable(name: str, label: str, choices: Mapping[str, str]) -> Json:
    """One of the values of ``choices`` (text -> value), at first the first."""
    options = [{"selected": place == 0, "text": text, "value": value} for place, (text, value) in enumerate(choices.items())]
    return {
        "type": "custom",
        "name": name,
        "label": label,
        "query": ", ".join(f"{text} : {value}" for text, value in choices.items()),
        "current": options[0],
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": options,
        "skipUrlSync": False,
    }


def _query_variable(name: str, label: str, query: str) -> Json:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"qryType": LABEL_VALUES, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "current": {},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 2,
        "regex": "",
        "skipUrlSync": False,
    }


def annotation(name: str, expr: str, colour: str, title: str, text: str, *, step: str, **more: object) -> Json:
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "expr": expr,
        "hide": False,
        "iconColor": colour,
        "step": step,
        "titleFormat": title,
        "textFormat": text,
        **more,
    }


def dashboard(
    uid: str,
    title: str,
    description: str,
    layout: Layout,
    *,
    variables: Sequence[Json],
    annotations: Sequence[Json],
    since: str = "now-15m",
    refresh: str = "5s",
) -> Json:
    builtin = {
        "builtIn": 1,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "name": "Annotations & Alerts",
        "type": "dashboard",
    }
    links: list[Json] = [
        {
            "asDropdown": True,
            "icon": "external link",
            "includeVars": True,
            "keepTime": True,
            "tags": [TAG],
            "targetBlank": False,
            "title": "Joulebench",
            "tooltip": "Other Joulebench dashboards, same time and selection",
            "type": "dashboards",
            "url": "",
        }
    ]
    return {
        "annotations": {"list": [builtin, *annotations]},
        "description": description,
        "editable": False,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "id": None,
        "links": links,
        "panels": layout.panels,
        "refresh": refresh,
        "schemaVersion": 41,
        "tags": [TAG],
        "templating": {"list": [datasource_variable(), *variables]},
        "time": {"from": since, "to": "now"},
        "timepicker": {"refresh_intervals": ["1s", "5s", "10s", "30s", "1m", "5m"]},
        "timezone": "browser",
        "title": title,
        "uid": uid,
        "version": 1,
        "weekStart": "",
    }


def variables(*more: Json, single_run: bool = False) -> list[Json]:
    return [
        query_variable("job", "Job", m.EXPORTER_INFO.name),
        query_variable("instance", "Instance", f"{m.EXPORTER_INFO.name}{{{JOB}}}"),
        query_variable("run_id", "Run", f"{m.RUN_TASKS.name}{{{JOB}}}", newest_first=True, single=single_run),
        query_variable("model", "Model", f'{m.TASK_INFO.name}{{{JOB}, run_id=~"$run_id"}}', all_value=".*"),
        query_variable("gpu", "GPU", f'{m.GPU_INFO.name}{{{JOB}, instance=~"$instance"}}', all_value=".*"),
        *more,
    ]


def marks(*more: Json, task_starts: bool = True) -> list[Json]:
    """``task_starts`` are for boards of minutes: 2,000 lines in a day hide the graph, and take seconds to fetch."""
    starts = annotation(
        "Task starts",
        f"floor({select(m.TASK_START)} * 1000)",
        "blue",
        "{{task_id}} starts",
        "{{model}}, worker {{worker}}",
        step="1s",
        useValueForTime=True,
    )
    alerts = annotation("Alerts", FIRING, "red", "{{alertname}}", "{{severity}} {{instance}} {{gpu}} {{run_id}}", step="5s")
    return [*([starts] if task_starts else []), *more, alerts]
