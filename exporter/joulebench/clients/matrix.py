"""Answers to range selectors as columns of numbers, read without an object for each sample: most of an export is this.

The samples are cut out of the body as text and the rest is read as JSON. A body that does not look as expected is refused with
ValueError, never half read, and may then be read as JSON whole.
"""

from __future__ import annotations

import json
import struct
from array import array
from dataclasses import dataclass
from operator import le
from typing import Any, TypeAlias

OPENING, CLOSING = b'"values":[[', b"]]"

Times: TypeAlias = "dict[bytes, array[float]]"


@dataclass(frozen=True, slots=True)
class Column:
    """One series: unix seconds, strictly rising, and the value at each. Series of one scrape share their ``at``: leave it be."""

    labels: dict[str, str]
    at: array[float]
    value: array[float]


def read(body: bytes, times: Times) -> tuple[dict[str, Any], list[Column]]:
    """(the answer without its samples, the series). ``times`` keeps columns of time that series have in common."""
    rest, found, place = [], [], 0
    # Inside of a JSON string a quote is escaped, so no label can look like the opening.
    while (mark := body.find(OPENING, place)) >= 0:
        begin = mark + len(OPENING)
        end = body.index(CLOSING, begin)
        rest.append(body[place : begin - 1])
        found.append(_columns(body[begin:end], times))
        place = end + 1
    rest.append(body[place:])
    answer = json.loads(b"".join(rest))
    if not isinstance(answer, dict):
        raise ValueError("no JSON object")
    rows = [row for row in answer["data"]["result"] if "values" in row]
    if len(rows) != len(found) or any(row["values"] or not isinstance(row["metric"], dict) for row in rows):
        raise ValueError("samples in an unusual form")
    return answer, [Column(row["metric"], *columns) for row, columns in zip(rows, found, strict=True)]


def of_points(labels: dict[str, str], points: list[tuple[float, float]]) -> Column:
    return Column(labels, array("d", (at for at, _ in points)), array("d", (value for _, value in points)))


def _columns(text: bytes, times: Times) -> tuple[array[float], array[float]]:
    """Of ``1.5,"20"],[2.5,"30"``: times and values."""
    parts = text.split(b'"')
    value = _numbers(parts[1::2])
    key = b"".join(parts[0::2])
    at = times.get(key)
    if at is None:
        at = _numbers(key.rstrip(b",").split(b",],["))
        if len(at) != len(value):
            raise ValueError("not a value for each time")
        if any(map(le, at[1:], at)):
            # Where replicas are merged or a range is closed on both ends, a timestamp may come twice.
            points = sorted(dict(zip(at, value, strict=True)).items())
            return array("d", (t for t, _ in points)), array("d", (v for _, v in points))
        times[key] = at
    return at, value


def _numbers(texts: list[bytes]) -> array[float]:
    """Read as one list, several times as fast as one by one; what JSON does not know (``+Inf``) is read one by one."""
    found = array("d")
    try:
        numbers = json.loads(b"[%b]" % b",".join(texts))
        found.frombytes(struct.pack(f"{len(texts)}d", *numbers))
    except (ValueError, OverflowError, struct.error):
        return array("d", map(float, texts))
    return found
