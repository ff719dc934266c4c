"""Answers to range selectors as columns of numbers, read without an object for each sample: most of an export is this."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One series: unix seconds, strictly rising, and the value at each."""

    labels: dict[str, str]
    at: Floats
    value: Floats


class _Series(msgspec.Struct):
    metric: dict[str, str]
    values: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Data(msgspec.Struct):
    result: list[_Series]


class _Answer(msgspec.Struct):
    data: _Data
    status: str = ""
    warnings: Any = None
    error: Any = None


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_numbers = msgspec.json.Decoder(list[float]).decode


def decode_matrix(body: bytes) -> tuple[dict[str, Any], list[Column]]:
    """(the answer without its samples, the series). Raises ValueError for a body in another form, which is never half read."""
    answer = _decode_answer(body)
    columns = [
        Column(one.metric, *_columns(bytes(one.values))) for one in answer.data.result if isinstance(one.values, msgspec.Raw)
    ]
    rest = {"status": answer.status, "warnings": answer.warnings, "error": answer.error}
    return rest, columns


def column_of_points(labels: dict[str, str], points: list[tuple[float, float]]) -> Column:
    rows = np.array(points, np.float64).reshape(-1, 2)
    return Column(labels, rows[:, 0].copy(), rows[:, 1].copy())


def _columns(text: bytes) -> tuple[Floats, Floats]:
    """Times and values of ``[[1.5,"20"],[2.5,"30"]]``."""
    numbers = np.array(_numbers(text), np.float64)
    at, value = numbers[0::2].copy(), numbers[1::2].copy()
    if (np.diff(at) <= 0).any():
        # Where replicas are merged or a range is closed on both ends, a timestamp may come twice; the last one counts.
        order = np.argsort(at, kind="stable")
        at, value = at[order], value[order]
        last = np.append(np.diff(at) > 0, True)
        at, value = at[last], value[last]
    return at, value


def _numbers(text: bytes) -> list[float]:
    """Times and values in turn. Every row has to have one of each."""
    try:
        # Without brackets and quotes they are one flat list, which is read several times as fast as one row after another.
        numbers = _decode_numbers(b"[%b]" % text.translate(None, b'[]"'))
    except msgspec.DecodeError:
        # What JSON does not know (``+Inf``, ``NaN``).
        return [float(number) for row in json.loads(text) for number in _checked_row(row)]
    if text.count(b'"') != len(numbers) or text.count(b"[") != len(numbers) // 2 + 1:
        raise ValueError("samples in an unusual form")
    return numbers


def _checked_row(row: Any) -> Any:
    if not isinstance(row, list) or len(row) != 2 or not isinstance(row[1], str):
        raise ValueError("samples in an unusual form")
    return row
