"""Writes docs/RESULTS.md from the schema; ``--check`` only says whether it is up to date (exit code 1 when not)."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

import msgspec

from generated_doc import ROOT, table, write_or_check
from joulebench.schema import events
from joulebench.schema.call_columns import call_column_docs
from joulebench.schema.columns import COLUMNS, EMISSION_COLUMNS, METER_FIELDS
from joulebench.schema.definitions import DEFINITIONS
from joulebench.schema.fields import fields_of, records_of
from joulebench.schema.reasons import NOTES, Reason
from joulebench.schema.result import CALLS_CSV_NAME, CSV_NAME, SCHEMA_VERSION, TaskResult

TARGET = ROOT / "docs" / "RESULTS.md"

INTRO = f"""\
# Results

Made from `exporter/joulebench/schema/` by `python scripts/render_results_doc.py`; change it there.

`joulebench export` writes one `result_*.json` a task, one row a task in `{CSV_NAME}`, and `run.json` for the run as a whole.
Null, or an empty cell, is unknown; 0 is a measurement. Where the MCPWorld client has a key, it has the same name, unit and
meaning here. Text in a cell that a spreadsheet would run as a formula has an apostrophe in front.
"""
_PLAIN = {float: "number", int: "integer", str: "text", bool: "true/false", Any: "any"}


def render() -> str:
    return "\n".join(
        (
            INTRO,
            "## Definitions\n",
            table(("name", "formula", "meaning"), ((one.name, one.formula, one.meaning) for one in DEFINITIONS)),
            f"## `{CSV_NAME}`\n",
            table(
                ("column", "unit", "meaning", "in the result file"),
                ((f"`{c.name}`", c.doc.unit, c.doc.meaning, f"`{c.path}`" if c.path else "") for c in COLUMNS),
            ),
            "Each meter of `--meters` adds columns `meter_NAME_FIELD`, each FIELD one of `meters.NAME` (MeterResult):"
            f" {', '.join(METER_FIELDS)}.\n",
            "Emission factors in the same file add columns, fields of `emissions.carbon` and `emissions.water` (EmissionResult):"
            f" {', '.join(f'`{name}`' for name in EMISSION_COLUMNS)}.\n",
            f"## `{CALLS_CSV_NAME}`\n",
            "`joulebench export --per call`: one row for each LLM call or proxied request.\n",
            table(
                ("column", "unit", "meaning"), ((f"`{name}`", one.unit, one.meaning) for name, one in call_column_docs().items())
            ),
            "## Quality and its reasons\n",
            "The quality of a window is the worst that its reasons call for: `ok`, `short`, `suspect`, `missing`.\n",
            table(("reason", "makes it", "meaning"), ((f"`{r.value}`", r.verdict, r.sentence) for r in Reason)),
            "Reasons of `idle` beside `below_idle`:\n",
            table(("reason", "meaning"), ((f"`{name}`", sentence) for name, sentence in NOTES.items())),
            f"## `result_*.json`, version {SCHEMA_VERSION}\n",
            *map(record_section, records_of(TaskResult)),
            "## Journal events\n",
            f"One flat JSON object a line in `{events.JOURNAL_PATTERN}`. In every event:\n",
            event_fields(events.COMMON),
            *(event_section(name, event) for name, event in events.EVENTS.items()),
        )
    )


def record_section(record: type[msgspec.Struct]) -> str:
    meaning = (record.__doc__ or "").split("\n\n")[0].replace("``", "`").replace("\n    ", " ").strip()
    rows = (
        (f"`{field.name}`", type_name(field.type), field.doc.unit, field.doc.meaning)
        for field in fields_of(record).values()
        if field.name != "path"
    )
    return f"### {record.__name__}\n\n{meaning}\n\n{table(('key', 'type', 'unit', 'meaning'), rows)}"


def event_section(name: str, event: events.EventType) -> str:
    fields = f"\n{event_fields(event.fields)}" if event.fields else ""
    return f"### `{name}`\n\n{event.meaning}\n{fields}"


def type_name(hint: Any) -> str:
    origin, inner = get_origin(hint), [one for one in get_args(hint) if one not in (type(None), msgspec.UnsetType)]
    if origin in (Union, types.UnionType):
        return " or ".join(map(type_name, inner))
    if origin is list:
        return f"list of {type_name(inner[0])}"
    if origin is dict:
        return "object" if inner[1] is Any else f"object of {type_name(inner[1])}"
    return _PLAIN.get(hint, getattr(hint, "__name__", str(hint)))


def event_fields(fields: Mapping[str, events.EventField]) -> str:
    return table(("field", "unit", "meaning"), ((f"`{name}`", one.unit, one.meaning) for name, one in fields.items()))


if __name__ == "__main__":
    sys.exit(write_or_check(render, TARGET, __doc__))
