"""How a field of a written record is described: its unit, its meaning and where it comes from, beside its type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec


@dataclass(frozen=True, slots=True)
class FieldDoc:
    """``unit``: empty for text, objects and truth values."""

    unit: str
    meaning: str
    source: str = ""


def doc(unit: str, meaning: str, source: str = "") -> FieldDoc:
    return FieldDoc(unit, meaning, source)


@dataclass(frozen=True, slots=True)
class Field:
    """A declared field: ``type`` without its annotation, ``record`` the Struct of its value or of its items, if there is one."""

    name: str
    type: Any
    doc: FieldDoc
    record: type[msgspec.Struct] | None


@cache
def fields_of(record: type[msgspec.Struct]) -> dict[str, Field]:
    """The described fields of a Struct by name, in order."""
    hints = get_type_hints(record, include_extras=True)
    found = {}
    for name in record.__struct_fields__:
        hint = hints[name]
        description = FieldDoc("", "")
        if get_origin(hint) is Annotated:
            description = next((one for one in get_args(hint)[1:] if isinstance(one, FieldDoc)), description)
            hint = get_args(hint)[0]
        found[name] = Field(name, hint, description, _record_in(hint))
    return found


def field_at(record: type[msgspec.Struct], path: str) -> Field:
    """The field that a dotted path leads to. Raises KeyError for a path that the schema does not have."""
    name, _, rest = path.partition(".")
    field = fields_of(record)[name]
    if not rest:
        return field
    if field.record is None:
        raise KeyError(path)
    return field_at(field.record, rest)


def records_of(record: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    """The Structs that a Struct is made of, itself first, each once."""
    seen: dict[type[msgspec.Struct], None] = {record: None}
    waiting = [record]
    while waiting:
        for field in fields_of(waiting.pop(0)).values():
            if field.record is not None and field.record not in seen:
                seen[field.record] = None
                waiting.append(field.record)
    yield from seen


def _record_in(hint: Any) -> type[msgspec.Struct] | None:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    return next((record for one in get_args(hint) if (record := _record_in(one)) is not None), None)
