"""Columns of results.csv against the schema of the result file."""

from __future__ import annotations

from joulebench.schema.columns import COLUMN_NAMES, COLUMNS, KEY_COLUMNS, result_row
from joulebench.schema.fields import fields_of, records_of
from joulebench.schema.result import TaskResult


def test_every_field_says_what_it_is() -> None:
    silent = [
        f"{record.__name__}.{name}"
        for record in records_of(TaskResult)
        for name, field in fields_of(record).items()
        if not field.doc.meaning.endswith(".")
    ]
    assert not silent


def test_every_column_says_what_it_is_and_names_are_unique() -> None:
    assert [column.name for column in COLUMNS if not column.doc.meaning.endswith(".")] == []
    assert len(set(COLUMN_NAMES)) == len(COLUMN_NAMES)
    assert COLUMN_NAMES[:3] == KEY_COLUMNS


def test_a_result_without_values_has_empty_cells_only() -> None:
    row = result_row(TaskResult())
    assert {name: value for name, value in row.items() if value not in (None, "")} == {}
