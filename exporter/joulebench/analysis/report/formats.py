"""The report as JSON, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

from joulebench.analysis.report.content import Content
from joulebench.analysis.report.tables import Table, all_tables
from joulebench.results.write import csv_cell

COLUMNS = ("section", "model", "item", "measure", "value", "low", "high")


def finite_json(values: Any, default: Callable[[Any], Any] | None = None, **layout: Any) -> str:
    """JSON of ``values``, in which an infinity is null: ``default``: as of ``json.dumps``."""
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False, default=default, **layout)
    except ValueError:
        plain = json.loads(json.dumps(values, default=default), parse_constant=lambda _: None)
        return json.dumps(plain, ensure_ascii=False, allow_nan=False, **layout)


def report_json(content: Content) -> str:
    return finite_json(content, indent=1) + "\n"


def report_markdown(content: Content) -> str:
    lines = ["# Joulebench report", "", f"Of {', '.join(run['run'] for run in content['runs'])}; made {content['created']}.", ""]
    lines += [*content["summary"], ""]
    for table in all_tables(content):
        lines += [f"## {table.title}", "", *table.notes, *([""] if table.notes else []), *_markdown(table), ""]
    return "\n".join(lines)


def _markdown(table: Table) -> Iterator[str]:
    if not table.rows:
        yield "none"
        return
    yield f"| {' | '.join(map(_plain, table.columns))} |"
    yield f"|{' --- |' * len(table.columns)}"
    yield from (f"| {' | '.join(map(_plain, row))} |" for row in table.rows)


def _plain(text: str) -> str:
    """Data cannot become a cell, an element or a line of its own."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


def report_csv(content: Content) -> str:
    """One line for each number, with its interval where it has one."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([csv_cell(value) for value in row] for row in _numbers(content))
    return out.getvalue()


def _numbers(content: Content) -> Iterator[tuple[Any, ...]]:
    for model in content["models"]:
        yield from _of("model", model["label"], "", model)
    for row in content["scopes"]:
        estimate = row["joules_per_success"] or {"value": None, "low": None, "high": None}
        yield from _of("scope", row["arm"], row["scope"], {**row, "joules_per_success": estimate["value"]})
    for row in content["emissions"]:
        estimate = row["per_success"] or {"value": None, "low": None, "high": None}
        rest = {key: value for key, value in row.items() if key not in ("kind", "per_success")}
        yield "emission", row["arm"], row["kind"], "per_success", estimate["value"], estimate["low"], estimate["high"]
        yield from _of("emission", row["arm"], row["kind"], rest)
    for pair in content["pairs"]:
        for key, each in pair["measures"].items():
            for name in ("difference", "quotient"):
                bounds = each[name]
                yield "pair", pair["arm"], pair["base"], f"{key} {name}", bounds["value"], bounds["low"], bounds["high"]
            yield "pair", pair["arm"], pair["base"], f"{key} finding", each["finding"], None, None
            yield "pair", pair["arm"], pair["base"], f"{key} p_adjusted", each["p_adjusted"], None, None
    for task in content["tasks"]:
        yield from _of("task", task["arm"], task["task_id"], task)
    for each in content["findings"]:
        yield from _of("finding", each["scope"], each["kind"], each)
    for each in content["excluded"]:
        yield "excluded", each["arm"], each["task_id"], "reason", each["reason"], None, None
    for arm in (content["cost"] or {"arms": ()})["arms"]:
        yield from _of("cost", arm["label"], "local", arm["local"])
        for api in arm["apis"]:
            yield from _of("cost", arm["label"], api["model"], api)


def _of(section: str, model: str, item: str, values: Content) -> Iterator[tuple[Any, ...]]:
    for key, value in values.items():
        if key == "measures":
            yield from ((section, model, item, name, each["value"], each["low"], each["high"]) for name, each in value.items())
        elif isinstance(value, dict):
            yield from ((section, model, item, f"{key} {name}", each, None, None) for name, each in value.items())
        elif isinstance(value, list):
            yield section, model, item, key, ";".join(map(str, value)), None, None
        elif key == "joules":
            yield section, model, item, key, value, values.get("joules_low"), values.get("joules_high")
        elif key not in ("label", "arm", "task_id", "joules_low", "joules_high"):
            yield section, model, item, key, value, None, None
