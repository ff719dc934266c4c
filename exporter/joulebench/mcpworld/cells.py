"""What stands in a cell of a table: a number only where there is one, text that no spreadsheet runs, nothing for nothing.

The client writes text such as ``ERROR_GETTING_VALUE: ...`` where a metric failed; in a column of numbers that is no value.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from joulebench.errors import UserError
from joulebench.results.files import write_whole
from joulebench.results.journal import number, text

FAILED_METRIC = "ERROR_GETTING_VALUE"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def numeric(value: object) -> str:
    """With all its digits; empty for what is no finite number."""
    if number(value) is None:
        return ""
    return str(value)


def truth(value: object) -> str:
    return str(value) if isinstance(value, bool) else ""


def words(value: object) -> str:
    """Text as it is, a number as text; empty for what failed."""
    if isinstance(value, bool) or (not isinstance(value, str) and number(value) is None):
        return ""
    # JSON can hold half a character, which no file can.
    shown = str(value).encode("utf-8", "replace").decode("utf-8")
    if shown.startswith(FAILED_METRIC):
        return ""
    return f"'{shown}" if shown.startswith(_FORMULA) and isinstance(value, str) else shown


def listed(value: object) -> str:
    """As Python writes a list, which is how the client's tables have it."""
    return repr(list(value)) if isinstance(value, list | tuple) else ""


def joined(values: object) -> str:
    found = [one for one in values if text(one)] if isinstance(values, Iterable) and not isinstance(values, str) else []
    return words(", ".join(found))


def plain(value: object) -> str:
    """For tables that are split at commas by hand: no comma and no newline in a cell."""
    shown = words(value)
    return " ".join(shown.replace(",", ";").split())


def table(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def put_row(path: Path, columns: Sequence[str], key: Sequence[str], row: Mapping[str, str]) -> None:
    """The row in its table, in place of the one with the same key where there is one; the table is whole at every moment.

    Raises UserError for a file that has other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        rows = _read(path, columns)
        same = [index for index, one in enumerate(rows) if all(one[name] == row[name] for name in key)]
        if same:
            rows[same[0]] = row
            rows = [one for index, one in enumerate(rows) if index not in same[1:]]
        else:
            rows.append(row)
        write_whole(path, table(columns, rows), durable=True)


def _read(path: Path, columns: Sequence[str]) -> list[Mapping[str, str]]:
    if not path.exists() or not path.stat().st_size:
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        if list(reader.fieldnames or ()) != list(columns):
            raise UserError(f"{path}: has other columns than this table; give a new file, or move this one away")
        # A last row that was cut off by a crash has too few cells.
        return [
            {name: row[name] or "" for name in columns} for row in reader if all(row.get(name) is not None for name in columns)
        ]


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
