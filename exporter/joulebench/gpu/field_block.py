"""The array that ``nvmlDeviceGetFieldValues`` fills, made once and read in one go.

It follows the C layout of ``nvmlFieldValue_t``. pynvml's own wrapper builds the same array anew for every call and then needs
several attribute reads a field, which is most of the cost of a poll at 50 Hz.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from ctypes import Array, Structure, Union, c_double, c_int32, c_int64, c_uint32, c_uint64
from dataclasses import dataclass
from functools import partial
from typing import Any

_GPU_SCOPE = 0
_UNSIGNED_INT = 1
# What is kept of a field: type, return code, value. Its time and latency, left out, would make every poll look like a change.
_ITEM = "24xiiQ"
_WIDTH = 3


class _Value(Union):
    _fields_ = (("d", c_double), ("ui", c_uint32), ("ull", c_uint64))


class _FieldValue(Structure):
    _fields_ = (
        ("field_id", c_uint32),
        ("scope_id", c_uint32),
        ("timestamp", c_int64),
        ("latency_us", c_int64),
        ("value_type", c_int32),
        ("nvml_return", c_int32),
        ("value", _Value),
    )


@dataclass(frozen=True, slots=True)
class FieldAnswer:
    """``code``: NVML's return for this field. ``value``: raw; means nothing where the code is not 0. ``kind``: its value type."""

    code: int
    kind: int
    value: int


class FieldBlock:
    """``array`` goes by reference to NVML, with ``len(block)``. ``raw()``: all that the last call said, cheap to compare.

    ``scopes``: one for each field; the whole GPU where not given.
    """

    def __init__(self, fields: Sequence[int], scopes: Sequence[int] = ()) -> None:
        self.fields = tuple(fields)
        pairs = zip(fields, scopes or [_GPU_SCOPE] * len(fields), strict=True)
        self.array: Array[Any] = (_FieldValue * len(fields))(*(_FieldValue(field, scope) for field, scope in pairs))
        unpack = struct.Struct("=" + _ITEM * len(fields)).unpack_from
        self.raw: Callable[[], Sequence[int]] = partial(unpack, self.array)

    def __len__(self) -> int:
        return len(self.fields)

    def first_two(self, raw: Sequence[int]) -> tuple[int, int]:
        """The raw values of the first two fields, which must have answered."""
        first, second = raw[2], raw[5]
        return first & 0xFFFFFFFF if raw[0] == _UNSIGNED_INT else first, second & 0xFFFFFFFF if raw[
            3
        ] == _UNSIGNED_INT else second

    def answers(self, raw: Sequence[int]) -> dict[int, FieldAnswer]:
        """By field id."""
        rows = zip(self.fields, raw[::_WIDTH], raw[1::_WIDTH], raw[2::_WIDTH], strict=True)
        # Of a 32-bit value, the other half of the union is whatever lay there.
        return {
            field: FieldAnswer(code, kind, value & 0xFFFFFFFF if kind == _UNSIGNED_INT else value)
            for field, kind, code, value in rows
        }

    def values(self, raw: Sequence[int]) -> tuple[dict[int | None, int], set[int]]:
        """(raw values of the fields that answered, the codes of those that did not)."""
        values: dict[int | None, int] = {}
        codes = set()
        for field, kind, code, value in zip(self.fields, raw[::_WIDTH], raw[1::_WIDTH], raw[2::_WIDTH], strict=True):
            if code:
                codes.add(code)
            else:
                values[field] = value & 0xFFFFFFFF if kind == _UNSIGNED_INT else value
        return values, codes
