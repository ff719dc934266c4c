"""The content as one page that needs nothing else: styles, data and the chart library are inside it, and it asks no other place.

It is there at once: charts that nobody turns are pictures in it, and the library is not run before a chart needs it. What comes
from tasks and models is escaped where it enters; a content policy forbids every request besides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from joulebench.analysis.report import figures, tables
from joulebench.analysis.report.content import MOST_TIMELINES, PHASES, Content
from joulebench.analysis.report.table import Table
from joulebench.errors import UserError

INSTALL = "pip install 'joulebench[report]'"
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
NUMBER = ' class="n"'
_HERE = Path(__file__).parent
LONG_TABLE = 100
"""Rows; a script lays a longer table out as it is scrolled, and without scripts it stands there whole."""
MANY_COLUMNS = 11
"""More are printed in a smaller type."""
SORTED = ("tasks", "excluded", "findings", "doubt-tools", "doubt-tasks", "doubt-calls")
_DRAWN = ("cost", "simulated")


def page(content: Content, timelines: list[Content]) -> str:
    """Raises UserError without the chart library."""
    found = {one.key: one for one in tables.all_of(content)}
    data = {**{name: content[name] for name in _DRAWN}, "timelines": timelines}
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">',
        f"<title>Joulebench: {escape(', '.join(run['run'] for run in content['runs'])[:120])}</title>",
        f"<style>{_file('page.css')}</style></head><body>",
        *_first_screen(content),
        _table(found["models"]),
        *(_table(one) for key, one in found.items() if key.startswith("pair-")),
        figures.phases(content["models"], PHASES, simulated=content["simulated"]),
        _table(found["phases"]),
        _table(found["findings"]),
        *(_cost(found["costs"]) if "costs" in found else ["<h2>Cost</h2><p>No price list: give --prices.file.</p>"]),
        *_failures(content, found),
        *_timeline(len(content["tasks"]), len(timelines)),
        *(_table(found[key]) for key in ("tasks", "excluded", "runs")),
        f'<script type="application/json" id="data">{_json(data)}</script>',
        f"<script>{_file('page.js')}</script>",
        f'<script type="text/plain" id="library">{_chart_library()}</script></body></html>\n',
    ]
    return "\n".join(parts)


def _first_screen(content: Content) -> Iterator[str]:
    yield "<h1>Which model, at what cost in joules</h1>"
    runs = escape(", ".join(run["run"] for run in content["runs"]))
    yield f'<p class="soft">Joulebench report of {runs}; made {escape(content["created"])}.</p>'
    if content["simulated"]:
        yield '<p class="simulated">SIMULATED GPU: watts and joules in this report are not measured.</p>'
    yield f'<div class="verdict">{"".join(f"<p>{escape(sentence)}</p>" for sentence in content["verdict"])}</div>'
    yield figures.front(content["models"], simulated=content["simulated"])
    yield "<noscript><p>Sliders and timelines need JavaScript; every number stands in the tables.</p></noscript>"


def _table(table: Table) -> str:
    head = f"<h2>{escape(table.title)}</h2>" + "".join(f'<p class="notes">{escape(note)}</p>' for note in table.notes)
    if not table.rows:
        return f"{head}<p>None.</p>"
    columns = "".join(f"<th{_class(place, table)}>{escape(text)}</th>" for place, text in enumerate(table.columns))
    rows = "\n".join(
        f"<tr>{''.join(f'<td{_class(place, table)}>{_line(text)}</td>' for place, text in enumerate(row))}</tr>"
        for row in table.rows
    )
    many = ' class="many"' if len(table.columns) > MANY_COLUMNS else ""
    top, end = f'<table id="table-{table.key}"{many}><thead><tr>{columns}</tr></thead><tbody>', "</tbody></table>"
    if len(table.rows) > LONG_TABLE:
        # The page's script finds these lines unparsed: a browser takes seconds to lay thousands of rows out.
        return f'{head}<noscript class="rows"><div class="wide">\n{top}\n{rows}\n{end}\n</div></noscript>'
    handled = " data-sort" if table.key in SORTED else ""
    return f'{head}<div class="wide"{handled}>{top}{rows}{end}</div>'


def _line(text: str) -> str:
    return escape(" ".join(text.split()))


def _class(place: int, table: Table) -> str:
    if place in table.numbers:
        return NUMBER
    return ' class="k"' if place in table.names else ' class="m"' if place in table.labels else ""


def _cost(table: Table) -> Iterator[str]:
    yield _table(table)
    live = (
        "model",
        "local, task",
        "local, success",
        "API, task",
        "API, success",
        "break-even utilisation",
        "break-even tokens/day",
    )
    columns = "".join(f"<th{NUMBER if place else ''}>{name}</th>" for place, name in enumerate(live))
    yield (
        '<div id="cost-live" class="live"><h2>Cost with your own numbers</h2><div id="sliders" class="sliders"></div>'
        '<p><label>API <select id="api"></select></label></p>'
        f'<div class="wide"><table><thead><tr>{columns}</tr></thead><tbody id="live-rows"></tbody></table></div>'
        '<div id="sensitivity" class="chart"></div></div>'
    )


def _failures(content: Content, found: Mapping[str, Table]) -> Iterator[str]:
    if content["failures"] is None:
        return
    yield _table(found["prediction"])
    curves = [(one["model"], one["bins"]) for one in content["failures"]["predictions"] if one["bins"]]
    yield figures.reliability(curves, simulated=content["simulated"])
    yield from (_table(found[key]) for key in ("doubt-tools", "doubt-tasks", "doubt-calls"))


def _timeline(attempts: int, held: int) -> Iterator[str]:
    yield '<div class="live"><h2>Timeline of a task</h2>'
    if held < attempts:
        yield f'<p class="notes">{held} of {attempts} attempts: at most {MOST_TIMELINES}, failures first, then the longest.</p>'
    yield '<p><select id="which" aria-label="task"></select></p><div id="timeline" class="chart tall"></div></div>'


def _json(values: Any) -> str:
    """Nothing in it can end the script element that it stands in."""
    return json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _file(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _chart_library() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError(f"the page needs plotly; install it with: {INSTALL}; --format md needs nothing") from error
    return str(get_plotlyjs())
