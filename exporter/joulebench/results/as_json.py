"""Result files as JSON: a line for each section and for each of its rows, legible and encoded in one go."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def text(record: Mapping[str, Any]) -> str:
    try:
        return _sections(record)
    except ValueError:
        return _sections(_finite(record))


def _sections(record: Mapping[str, Any]) -> str:
    sections = []
    for name, section in record.items():
        lines = ",\n    ".join(map(_encode, section)) if isinstance(section, list) else ""
        sections.append(f"  {_encode(name)}: " + (f"[\n    {lines}\n  ]" if lines else _encode(section)))
    return "{\n" + ",\n".join(sections) + "\n}\n"


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity; a number that is neither is not known."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
