"""BFCL's function descriptions as tools: its type names become those of JSON Schema, and names become legal for servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jsonschema

from joulebench.bench.bfcl.package import Entry
from joulebench.llm.chat import ToolSpec

_TYPES = {
    "dict": "object",
    "float": "number",
    "tuple": "array",
    "any": "string",
    **{name: name for name in ("object", "number", "integer", "string", "boolean", "array")},
}
"""The package's own translation; a type it does not know is a string there too."""


def tool_name(name: str) -> str:
    """Servers take letters, digits, underscores and hyphens."""
    return name.replace(".", "_")


def tools(functions: Sequence[Entry]) -> tuple[ToolSpec, ...]:
    return tuple(ToolSpec(tool_name(one["name"]), one["description"], _schema(one["parameters"])) for one in functions)


def validators(specs: Sequence[ToolSpec]) -> dict[str, jsonschema.Draft202012Validator]:
    return {tool.name: jsonschema.Draft202012Validator(dict(tool.parameters)) for tool in specs}


def _schema(given: Mapping[str, object]) -> dict[str, object]:
    schema: dict[str, object] = {}
    for key, value in given.items():
        if key == "type":
            schema[key] = _TYPES.get(str(value), "string")
        elif key == "properties" and isinstance(value, dict):
            schema[key] = {name: _schema(one) for name, one in value.items()}
        elif key == "items" and isinstance(value, dict):
            schema[key] = _schema(value)
        elif key != "optional":
            schema[key] = value
    return schema
