"""The report as one HTML page that loads nothing else: styles, data and the chart library are inside.

The template escapes all text of tasks and models; a content policy forbids every request. Tables are complete without scripts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from joulebench.analysis.report.content import PHASES, Content
from joulebench.analysis.report.figures import chart_library, pareto_figure, phase_figure, reliability_figure, scope_figure
from joulebench.analysis.report.formats import finite_json
from joulebench.analysis.report.tables import Table, all_tables
from joulebench.analysis.report.timelines import MOST_TIMELINES
from joulebench.errors import UserError

try:
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup
except ImportError as error:  # pragma: no cover
    raise UserError("the page needs jinja2; install it with: pip install 'joulebench[report]'; --format md does not") from error

_HERE = Path(__file__).parent
LONG_TABLE = 100
"""Rows; a script lays a longer table out as it is scrolled, and without scripts it is there in full."""
MANY_COLUMNS = 11
"""Tables with more are printed in a smaller type."""
SORTABLE = ("tasks", "excluded", "findings", "low-confidence-tools", "low-confidence-tasks", "low-confidence-calls")


def render_page(content: Content, timelines: list[Content]) -> str:
    """Raises UserError without the chart library."""
    simulated = content["simulated"]
    curves = [
        (each["model"], each["bins"]) for each in (content["failures"] or {"predictions": ()})["predictions"] if each["bins"]
    ]
    figures = {
        "pareto": pareto_figure(content["models"], simulated=simulated),
        "scopes": scope_figure(content["scopes"], simulated=simulated),
        "phases": phase_figure(content["models"], PHASES, simulated=simulated),
        "reliability": reliability_figure(curves, simulated=simulated),
    }
    drawn = {name: figure.to_plotly_json() for name, figure in figures.items() if figure is not None}
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["one_line"] = lambda text: " ".join(str(text).split())
    tables = {table.key: table for table in all_tables(content)}
    return environment.get_template("page.html.jinja").render(
        content=content,
        runs=", ".join(run["run"] for run in content["runs"]),
        tables=tables,
        pairs=[table for key, table in tables.items() if key.startswith("pair-")],
        figures=drawn,
        attempts=len(content["tasks"]),
        timelines=len(timelines),
        most_timelines=MOST_TIMELINES,
        many_columns=MANY_COLUMNS,
        long_table=LONG_TABLE,
        sortable=SORTABLE,
        cell_classes=_cell_classes,
        style=_file("page.css"),
        script=_file("page.js"),
        data=_json({"cost": content["cost"], "simulated": simulated, "timelines": timelines, "figures": drawn}),
        library=chart_library(),
    )


def _cell_classes(table: Table) -> list[Markup]:
    """The class attribute of each column: numbers, names that stay on a line, and labels of models."""
    kinds = ((table.numbers, "n"), (table.names, "k"), (table.labels, "m"))
    names = [next((name for columns, name in kinds if place in columns), "") for place in range(len(table.columns))]
    return [Markup(f' class="{name}"' if name else "") for name in names]


def _json(values: Any) -> str:
    """Nothing in it can end the script element that it is in."""
    text = finite_json(values, _plain, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _plain(value: Any) -> Any:
    """Plotly's objects as JSON has them."""
    return value.to_plotly_json()


def _file(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
