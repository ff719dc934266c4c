"""Values of a model server's JSON, read with suspicion: what has another type than it should is absent."""

from __future__ import annotations

import math
from typing import TypeAlias

from joulebench.units import Seconds

Json: TypeAlias = dict[str, object]

_EMPTY: Json = {}


def members(value: object) -> Json:
    return value if isinstance(value, dict) else _EMPTY


def items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def text(value: object) -> str:
    return value if isinstance(value, str) else ""


def count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def seconds(value: object, per_second: float) -> Seconds | None:
    """A duration in parts of a second: 1e3 for milliseconds, 1e9 for nanoseconds."""
    found = number(value)
    return None if found is None or found < 0 else Seconds(found / per_second)
