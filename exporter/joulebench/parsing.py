"""Values of JSON from outside, checked by type: what has another type than it should is absent."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from decimal import Decimal
from numbers import Real
from typing import Any, TypeAlias

from joulebench.units import Seconds

Json: TypeAlias = dict[str, object]

LAST_UNIX_SECONDS = 253402300800.0
"""The end of the year 9999, the last that a calendar of Python has."""

_EMPTY: Json = {}
_LONG_NUMBER = re.compile(r"(?<![0-9.])[0-9]{19}")
_LONG_NUMBER_BYTES = re.compile(rb"(?<![0-9.])[0-9]{19}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters but line feed and tab, line separators, and characters that change the direction of text."""


def load_json(text: str | bytes) -> Any:
    """Raises ValueError for what is no JSON, and for what is nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deep") from error


def decode_json(text: str | bytes, *, keep_surrogates: bool = False) -> Any:
    """JSON that other programs wrote, with values that any reader can work with and write again. Raises ValueError for no JSON.

    Half of a surrogate pair becomes U+FFFD unless ``keep_surrogates``. An integer beyond 64 bits (no float may hold it) becomes
    the text of its digits; NaN and infinities, which Python's own writer knows, become None.
    """
    import msgspec  # Here, because the hook of a task reads no such file and starts sooner without it.

    try:
        try:
            value: object = msgspec.json.decode(text)
        except msgspec.DecodeError:
            return replace_unusable(json.loads(text, parse_constant=lambda _: None), keep_surrogates=keep_surrogates)
        pattern: re.Pattern[Any] = _LONG_NUMBER if isinstance(text, str) else _LONG_NUMBER_BYTES
        return replace_unusable(value, keep_surrogates=keep_surrogates) if pattern.search(text) else value
    except RecursionError as error:
        raise ValueError("JSON that is nested too deep") from error


def replace_unusable(value: object, *, keep_surrogates: bool = False) -> Any:
    """Decoded JSON without the values that ``decode_json`` replaces."""
    if isinstance(value, dict):
        pairs = ((replace_unusable(key, keep_surrogates=keep_surrogates), item) for key, item in value.items())
        return {key: replace_unusable(item, keep_surrogates=keep_surrogates) for key, item in pairs}
    if isinstance(value, list):
        return [replace_unusable(item, keep_surrogates=keep_surrogates) for item in value]
    if isinstance(value, str):
        return (
            value
            if keep_surrogates or value.isascii()
            else value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        )
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable_text(text: str) -> str:
    """``text`` for a terminal: without characters that could change it, and without half of a surrogate pair."""
    return _CONTROL.sub("\ufffd", text.encode("utf-8", "replace").decode("utf-8"))


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
