"""A table of a report: rows of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joulebench.analysis.show_comparison import number


@dataclass(frozen=True, slots=True)
class Table:
    """By place: columns that are ``numbers``, ``names`` that stay on one line, and ``labels`` of models, which need some room."""

    key: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()
    notes: Sequence[str] = ()
    names: frozenset[int] = frozenset()
    labels: frozenset[int] = frozenset()


def bounded(one: Mapping[str, Any] | None, *, percent: bool = False) -> str:
    """The value with its interval in brackets, where it has one."""
    if one is None or one["value"] is None:
        return "-"
    told = number(one["value"], percent=percent)
    if one["low"] is None and one["high"] is None:
        return told
    low, high = ("unbounded" if one[bound] is None else number(one[bound], percent=percent) for bound in ("low", "high"))
    return f"{told} [{low} to {high}]"
