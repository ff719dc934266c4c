"""Writing results: names that data cannot lead astray, JSON with a line for each section and row, and ``results.csv``.

An unknown number is null or an empty cell, which pandas reads as NaN. ``success`` is True, False or empty. Text comes from tasks
and models, so a cell that a spreadsheet would run as a formula gets an apostrophe in front.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from joulebench.errors import UserError
from joulebench.files import csv_reader, csv_text
from joulebench.schema.call_columns import CALL_COLUMN_NAMES, CALL_KEY_COLUMNS
from joulebench.schema.columns import COLUMN_NAMES, KEY_COLUMNS, CellValue, is_configured_column
from joulebench.schema.result import TaskResult

_LONGEST_PART = 80
_UNSAFE = re.compile(r"[^A-Za-z0-9._#-]")


def run_directory(runs_dir: Path, run_id: str) -> Path:
    """``runs_dir/run_id``. Raises UserError for a run id that would lead elsewhere."""
    if run_id in ("", ".", "..") or any(sign in run_id for sign in "/\\\0"):
        raise UserError(f"--run-id: {run_id!r} is not a run id; it is the name of one directory of --runs-dir")
    return runs_dir / run_id


def result_name(start: float | None, model: str | None, task_id: str, tail: str = "") -> str:
    """``result_{YYYYmmdd_HHMMSS}_{model}_{task_id}.json``, the time in UTC."""
    stamp = "00000000_000000" if start is None else f"{datetime.fromtimestamp(start, tz=timezone.utc):%Y%m%d_%H%M%S}"
    parts = [stamp, _name_part(model or "unknown"), _name_part(task_id), *([_name_part(tail)] if tail else [])]
    return f"result_{'_'.join(parts)}.json"


def _name_part(text: str) -> str:
    """As other tools clean a model name, and nothing that a file system or a shell would trip over.

    Where more than that was changed, a hash keeps two names from becoming one.
    """
    usual = text.replace(":", "-").replace("/", "_")
    clean = _UNSAFE.sub("_", usual)[:_LONGEST_PART]
    if clean == usual and clean:
        return clean
    return f"{clean}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]}"


_encoder = msgspec.json.Encoder()


def result_json(result: TaskResult) -> bytes:
    """A line for each section and for each row of a section, legible and encoded in one go."""
    sections = [(name, getattr(result, name)) for name in result.__struct_fields__ if name != "path"]
    return sections_json({name: value for name, value in sections if value is not msgspec.UNSET})


def sections_json(sections: Mapping[str, Any]) -> bytes:
    """Any sections in that form. JSON has no NaN and no infinity; a number that is neither is not known, and null."""
    lines = []
    for name, section in sections.items():
        if isinstance(section, list) and section:
            rows = b",\n    ".join(map(_encode, section))
            lines.append(b"  %b: [\n    %b\n  ]" % (_encode(name), rows))
        else:
            lines.append(b"  %b: %b" % (_encode(name), _encode(section)))
    return b"{\n" + b",\n".join(lines) + b"\n}\n"


def _encode(value: Any) -> bytes:
    try:
        return _encoder.encode(value)
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError, RecursionError):
        # Half a surrogate pair, or an integer of more than 64 bits.
        return json.dumps(_plain(value), allow_nan=False).encode()


def _plain(value: Any) -> Any:
    """Of dicts, lists and scalars that JSON has."""
    if isinstance(value, msgspec.Struct):
        fields = ((name, getattr(value, name)) for name in value.__struct_fields__)
        return {name: _plain(one) for name, one in fields if one is not msgspec.UNSET}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def csv_cell(value: CellValue) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        # Unix times need all their digits; elsewhere the last ones are only how the sum was rounded.
        return repr(value) if abs(value) >= 1e9 else f"{value:.12g}"
    return csv_text(value) if isinstance(value, str) else str(value)


@dataclass(frozen=True, slots=True)
class TableForm:
    """``keys``: columns that name a row. ``time``: the column of unix seconds by which the rows of a run are ordered."""

    columns: tuple[str, ...]
    keys: tuple[str, ...]
    time: str


TASK_TABLE = TableForm(COLUMN_NAMES, KEY_COLUMNS, "start_timestamp_seconds")
CALL_TABLE = TableForm(CALL_COLUMN_NAMES, CALL_KEY_COLUMNS, "start")


def merge_rows(existing: str, rows: Iterable[Mapping[str, CellValue]], form: TableForm = TASK_TABLE) -> str:
    """The CSV text with ``rows`` in place of those of the same key; in order of run, start and key."""
    cells = {tuple(r[name] for name in form.keys): r for r in read_rows(existing, form)}
    for new in rows:
        names = (*form.columns, *filter(is_configured_column, new))
        shown = {name: csv_cell(new.get(name)) for name in names}
        cells[tuple(shown[name] for name in form.keys)] = shown
    ordered = sorted(cells.values(), key=lambda r: (r["run_id"], _seconds(r[form.time]), *(r[name] for name in form.keys)))
    out = io.StringIO(newline="")
    # Meters of an earlier export keep their columns, and the cells of rows without them are empty.
    columns = dict.fromkeys((*form.columns, *(name for row in ordered for name in row)))
    writer = csv.DictWriter(out, list(columns), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(ordered)
    return out.getvalue()


def read_rows(existing: str, form: TableForm = TASK_TABLE) -> list[dict[str, str]]:
    """Rows of an earlier export; a file that is not one has none."""
    rows = csv_reader(existing)
    names = (*form.columns, *filter(is_configured_column, rows.fieldnames or ()))
    return [{name: r.get(name) or "" for name in names} for r in rows if all(r.get(name) is not None for name in form.keys)]


def _seconds(shown: str) -> float:
    try:
        return float(shown)
    except ValueError:
        return float("inf")
