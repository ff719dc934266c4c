"""The array that ``nvmlDeviceGetFieldValues`` fills, made once and read in one go.

It follows the C layout of ``nvmlFieldValue_t``. pynvml's own wrapper builds the same array anew for every call and then needs
several attribute reads a field, which is most of the cost of a poll at 50 Hz.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ctypes import Structure, Union, c_double, c_int32, c_int64, c_uint32, c_uint64

_GPU_SCOPE = 0
_UNSIGNED_INT = 1
_ITEM = "IIqqiiQ"
_WIDTH = len(_ITEM)
_TYPE, _RETURN, _VALUE = 4, 5, 6


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


class FieldBlock:
    """``array`` goes by reference to NVML, with ``len(block)``."""

    def __init__(self, fields: Sequence[int]) -> None:
        self.fields = tuple(fields)
        self.array = (_FieldValue * len(self.fields))(*(_FieldValue(field, _GPU_SCOPE) for field in self.fields))
        self._rows = struct.Struct("=" + _ITEM * len(self.fields))

    def __len__(self) -> int:
        return len(self.fields)

    def read(self) -> tuple[Sequence[int], Sequence[int]]:
        """(NVML return codes, raw values) in the order of ``fields``; a value means nothing where its code is not 0."""
        flat = self._rows.unpack_from(self.array)
        values: Sequence[int] = flat[_VALUE::_WIDTH]
        if _UNSIGNED_INT in flat[_TYPE::_WIDTH]:
            # Of a 32-bit value, the other half of the union is whatever lay there.
            types = flat[_TYPE::_WIDTH]
            values = [raw & 0xFFFFFFFF if kind == _UNSIGNED_INT else raw for kind, raw in zip(types, values, strict=True)]
        return flat[_RETURN::_WIDTH], values
