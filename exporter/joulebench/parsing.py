"""Values of JSON from outside, checked by type: what has another type than it should is absent."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from decimal import Decimal
from numbers import Real
from typing import Any, TypeAlias

from joulebench.units import Seconds

Json: TypeAlias = dict[str, object]

LAST_UNIX_SECONDS = 253402300800.0
"""The end of the year 9999, the last that a calendar of Python has."""

_EMPTY: Json = {}


def load_json(text: str | bytes) -> Any:
    """Raises ValueError for what is no JSON, and for what is nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deep") from error


def as_dict(value: object) -> Json:
    """The object, or an empty one."""
    return value if isinstance(value, dict) else _EMPTY


def as_list(value: object) -> list[object]:
    """The list, or an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: object) -> str:
    """The text, or an empty one."""
    return value if isinstance(value, str) else ""


def as_float(value: object) -> float | None:
    """A finite number as float, or None; numpy's and Decimal numbers are numbers, booleans are not."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) else None


def as_int(value: object) -> int | None:
    """A finite number rounded to an integer, or None."""
    if type(value) is int:
        return value
    number = as_float(value)
    return None if number is None else round(number)


def as_count(value: object) -> int | None:
    """A non-negative integer, or None; unlike ``as_int`` it takes no fractions."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def as_name(value: object) -> str | None:
    """A text that is not empty, or None."""
    return value if isinstance(value, str) and value else None


def as_unix_time(value: object) -> float | None:
    """Unix seconds that a calendar has, or None."""
    number = as_float(value)
    return number if number is not None and 0 <= number < LAST_UNIX_SECONDS else None


def as_seconds(value: object, per_second: float) -> Seconds | None:
    """A duration given in parts of a second (``per_second`` 1e3 for milliseconds, 1e9 for nanoseconds), or None."""
    number = as_float(value)
    return None if number is None or number < 0 else Seconds(number / per_second)


def sum_or_none(values: Iterable[float | None]) -> Any:
    """The sum; None where a value is unknown, and where there is none."""
    total: float | int | None = None
    for value in values:
        if value is None:
            return None
        total = value if total is None else total + value
    return total
