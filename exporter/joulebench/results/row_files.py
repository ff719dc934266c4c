"""Tables of others, CSV or JSON Lines, read row by row and written again with cells of ours beside each row.

Whatever the file holds else stays: the encoding, the delimiter and the values of a CSV, the text of every value of a JSON line.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec

from joulebench.clock import iso_seconds, parse_iso_time
from joulebench.errors import UserError
from joulebench.results.write import csv_cell
from joulebench.schema.columns import CellValue, is_configured_column

PREFIX = "joulebench"
"""Of our columns in a CSV, ``joulebench_joules``, and the name of our object in a JSON line."""

Cells = Mapping[str, CellValue | Mapping[str, Any]]
UNITS: Mapping[str, float] = {
    "epoch seconds": 1.0,
    "epoch milliseconds": 1e-3,
    "epoch microseconds": 1e-6,
    "epoch nanoseconds": 1e-9,
}
"""Their seconds. A number is told apart by its size: the times from 2001 to 2286 have 10, 13, 16 or 19 digits."""
ISO, ISO_UTC = "ISO 8601", "ISO 8601 without a zone, taken as UTC"
_LEAST, _MOST = 1e9, 1e10
MOST_CELL_CHARACTERS = 1 << 30

_encode = msgspec.json.Encoder().encode
_decode_line = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_value = msgspec.json.Decoder().decode


class RowFile(Protocol):
    """A table that is read twice: for the times of its rows, and to write it with our cells."""

    def times(self, start: str, end: str) -> Iterator[tuple[object, object]]:
        """The cells of both columns, None where a row has none. Raises UserError for a file that cannot be read."""

    def write(self, out: IO[bytes], columns: Sequence[str], cells: Iterator[Cells]) -> None:
        """Writes every row with its cells, in place of those of an earlier run."""


def open_rows(path: Path) -> RowFile:
    """Raises UserError for a file of neither form."""
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return JsonLines(path)
    if suffix in (".csv", ".tsv"):
        return CsvTable(path)
    raise UserError(f"FILE: {path} is neither .csv nor .jsonl; give a table with one row, or one JSON object, a line")


class JsonLines:
    """One JSON object a line; a column is a key, or a path of keys with dots. Our cells are one object in each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        try:
            with self._path.open("rb") as lines:
                yield from enumerate(lines, 1)
        except OSError as error:
            raise UserError(f"FILE: {self._path} cannot be read ({error.strerror})") from error

    def _object(self, number: int, line: bytes) -> dict[str, msgspec.Raw] | None:
        text = line.removeprefix(codecs.BOM_UTF8).strip()
        if not text:
            return None
        try:
            return _decode_line(text)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise UserError(f"FILE: {self._path}, line {number}: is no JSON object ({error}); nothing was written") from error

    def times(self, start: str, end: str) -> Iterator[tuple[object, object]]:
        for number, line in self._lines():
            row = self._object(number, line)
            if row is not None:
                yield self._value(row, start, number), self._value(row, end, number)

    def _value(self, row: dict[str, msgspec.Raw], column: str, number: int) -> object:
        if column in row:
            return self._decoded(row[column], number)
        head, _, rest = column.partition(".")
        value: object = self._decoded(row[head], number) if rest and head in row else None
        for key in rest.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def _decoded(self, raw: msgspec.Raw, number: int) -> object:
        try:
            found: object = _decode_value(raw)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise UserError(f"FILE: {self._path}, line {number}: is no JSON object ({error}); nothing was written") from error
        return found

    def write(self, out: IO[bytes], columns: Sequence[str], cells: Iterator[Cells]) -> None:  # noqa: ARG002
        for number, line in self._lines():
            row = self._object(number, line)
            if row is None:
                out.write(line)
                continue
            row.pop(PREFIX, None)
            own = _next_cells(cells, self._path)
            row[PREFIX] = msgspec.Raw(_encode({name: _finite(value) for name, value in own.items()}))
            out.write(_encode(row) + b"\n")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class CsvTable:
    """A CSV with commas, semicolons or tabs in UTF-8, UTF-16 or UTF-32. Our cells are columns at its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                head = file.read(1 << 16)
        except OSError as error:
            raise UserError(f"FILE: {path} cannot be read ({error.strerror})") from error
        self._encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
        first = head.decode(self._encoding, "replace").lstrip("\r\n").split("\n", 1)[0]
        self._delimiter = max((",", ";", "\t"), key=first.count)
        self._line_end = "\r\n" if first.endswith("\r") else "\n"

    def _rows(self) -> Iterator[list[str]]:
        # A cell may hold a whole reply of a model. The limit is one of the process, so it is put back.
        limit = csv.field_size_limit(MOST_CELL_CHARACTERS)
        try:
            with self._path.open(encoding=self._encoding, newline="") as text:
                yield from (row for row in csv.reader(text, delimiter=self._delimiter) if row)
        except OSError as error:
            raise UserError(f"FILE: {self._path} cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise UserError(f"FILE: {self._path} is not {self._encoding} text (byte {error.start}); save it as UTF-8") from error
        except csv.Error as error:
            raise UserError(f"FILE: {self._path} is no CSV ({error}); nothing was written") from error
        finally:
            csv.field_size_limit(limit)

    def times(self, start: str, end: str) -> Iterator[tuple[object, object]]:
        rows = self._rows()
        header = next(rows, [])
        for option, column in (("--start", start), ("--end", end)):
            if column not in header:
                raise UserError(f"{option}: {self._path} has no column {column!r}; it has {', '.join(header[:40]) or 'none'}")
        first, last = header.index(start), header.index(end)
        for row in rows:
            yield (row[first] if first < len(row) else None), (row[last] if last < len(row) else None)

    def write(self, out: IO[bytes], columns: Sequence[str], cells: Iterator[Cells]) -> None:
        text = io.TextIOWrapper(out, encoding=self._encoding, newline="", write_through=False)
        writer = csv.writer(text, delimiter=self._delimiter, lineterminator=self._line_end)
        rows = self._rows()
        header = next(rows, [])
        kept = [place for place, name in enumerate(header) if not _is_of_earlier_run(name, columns)]
        writer.writerow([*(header[place] for place in kept), *(f"{PREFIX}_{name}" for name in columns)])
        for row in rows:
            own = _next_cells(cells, self._path)
            values = [row[place] if place < len(row) else "" for place in kept]
            # What a row has beyond the header stays out of our columns.
            writer.writerow([*values, *(csv_cell(_cell(own.get(name))) for name in columns)])
        text.flush()
        text.detach()


def _next_cells(cells: Iterator[Cells], path: Path) -> Cells:
    own = next(cells, None)
    if own is None:
        raise UserError(f"FILE: {path} has grown while it was read; annotate it when it is finished")
    return own


def _is_of_earlier_run(name: str, columns: Sequence[str]) -> bool:
    prefix, _, own = name.partition("_")
    return prefix == PREFIX and (own in columns or is_configured_column(own))


def _cell(value: CellValue | Mapping[str, Any]) -> CellValue:
    return None if isinstance(value, Mapping) else value


_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class TimeReader:
    """How the times of a column are read; ``form`` names it for the user."""

    form: str
    read: Callable[[object], float | None]


def detect_times(sample: object, setting: str) -> TimeReader:
    """The reader for a column whose first time is ``sample``. Raises UserError, which names ``setting``, for what is no time."""
    number = _number(sample)
    if number is not None:
        for form, seconds in UNITS.items():
            if _LEAST <= number * seconds < _MOST:
                return TimeReader(form, _number_reader(seconds))
        raise UserError(
            f"{setting}: {str(sample)[:40]!r} is no time of a day; give a column with epoch seconds, milliseconds, microseconds"
            " or nanoseconds, or ISO 8601"
        )
    parsed = parse_iso_time(sample) if isinstance(sample, str) else None
    if parsed is None:
        raise UserError(f"{setting}: {str(sample)[:40]!r} is no time; give a column with epoch seconds or ISO 8601")
    return TimeReader(ISO if parsed.tzinfo else ISO_UTC, lambda value: iso_seconds(value) if isinstance(value, str) else None)


def _number_reader(seconds: float) -> Callable[[object], float | None]:
    def read(value: object) -> float | None:
        number = _number(value)
        # A time of another unit in the same column is not guessed at.
        return None if number is None or not _LEAST <= number * seconds < _MOST else number * seconds

    return read


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
