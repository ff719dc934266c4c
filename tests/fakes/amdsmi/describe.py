"""Prints the structures of the package ``amdsmi`` as C, so that the fake library is laid out as the package expects.

Runs in a process of its own: the package binds its library when it is imported. Structures with bit fields and unions are bytes.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

SCALARS = {
    ctypes.c_uint8: "uint8_t",
    ctypes.c_uint16: "uint16_t",
    ctypes.c_uint32: "uint32_t",
    ctypes.c_uint64: "uint64_t",
    ctypes.c_int32: "int32_t",
    ctypes.c_int64: "int64_t",
    ctypes.c_float: "float",
    ctypes.c_double: "double",
    ctypes.c_char: "char",
}


def declare(kind: Any, name: str, known: dict[str, str]) -> str:
    """A field of this type in C; structures that it needs are added to ``known``."""
    if hasattr(kind, "_length_") and kind not in SCALARS:
        return declare(kind._type_, f"{name}[{kind._length_}]", known)
    if kind in SCALARS:
        return f"{SCALARS[kind]} {name};"
    if issubclass(kind, ctypes.Structure) and all(len(field) == 2 for field in kind._fields_):
        return f"{define(kind, known)} {name};"
    return f"uint8_t {name}[{ctypes.sizeof(kind)}];"


def define(kind: Any, known: dict[str, str]) -> str:
    """The name of the structure in C; its definition is added to ``known``, after those that it needs."""
    name = f"{kind.__name__}_c"
    if name not in known:
        fields = " ".join(declare(each, field, known) for field, each in kind._fields_)
        size = f'_Static_assert(sizeof({name}) == {ctypes.sizeof(kind)}, "{name}");'
        known[name] = f"typedef struct __attribute__((packed)) {{ {fields} }} {name};\n{size}"
    return name


def main(names: list[str]) -> None:
    from amdsmi import amdsmi_wrapper

    known: dict[str, str] = {}
    aliases = []
    for name in names:
        kind = getattr(amdsmi_wrapper, name)
        if issubclass(kind, ctypes.Structure):
            aliases.append(f"typedef {define(kind, known)} {name};")
        else:
            aliases.append(f"typedef struct {{ uint8_t bytes[{ctypes.sizeof(kind)}]; }} {name};")
    sys.stdout.write("\n".join(["#include <stdint.h>", *known.values(), *aliases, ""]))


if __name__ == "__main__":
    main(sys.argv[1:])
