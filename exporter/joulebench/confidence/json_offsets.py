"""A strict JSON scanner that keeps the place of everything and what there was up to an error.

The server re-serialises the arguments of a call, so its JSON is not the text that the model wrote; tokens can only be found in
the raw text. Strict, because the servers are: what this scanner finds broken was refused by them too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_DEPTH = 64

_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_SCALAR = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")


@dataclass(slots=True)
class Node:
    """A JSON value at ``start`` to ``end`` of the text. ``members`` of an object hold key and value; ``complete`` is False from
    the outermost value down to where the text broke off or stopped being JSON."""

    kind: str
    start: int
    end: int
    complete: bool = False
    members: list[tuple[Node, Node]] = field(default_factory=list)
    items: list[Node] = field(default_factory=list)

    def leaves(self) -> Iterator[Node]:
        """Strings, numbers, literals, and empty objects and arrays."""
        if not self.members and not self.items:
            yield self
        for _, value in self.members:
            yield from value.leaves()
        for item in self.items:
            yield from item.leaves()

    def object_keys(self) -> Iterator[Node]:
        """Keys of all objects within."""
        for key, value in self.members:
            yield key
            yield from value.object_keys()
        for item in self.items:
            yield from item.object_keys()


class _BrokenError(Exception):
    """The text stopped being JSON at the offset it carries."""

    def __init__(self, at: int) -> None:
        self.at = at


def scan(text: str, at: int) -> Node:
    """The value that begins at ``at``; not complete, and with what was read of it, where it is broken."""
    root = Node("none", at, at)
    try:
        _value(text, at, root, 0)
    except _BrokenError as broken:
        root.end = max(root.end, broken.at)
    return root


def string(text: str, node: Node) -> str | None:
    """The value of a string node; None for any other and for a broken one."""
    if node.kind != "string" or not node.complete:
        return None
    value = json.loads(text[node.start : node.end])
    return value if isinstance(value, str) else None


def _value(text: str, at: int, node: Node, depth: int) -> int:
    """Fills ``node`` in and gives the offset behind it. Nodes hang in their parent before they are read, so a break keeps all."""
    node.start = node.end = at
    if depth > MAX_DEPTH or at >= len(text):
        raise _BrokenError(at)
    if text[at] == "{":
        node.kind = "object"
        end = _object(text, at + 1, node, depth)
    elif text[at] == "[":
        node.kind = "array"
        end = _array(text, at + 1, node, depth)
    else:
        node.kind = "string" if text[at] == '"' else "scalar"
        match = (_STRING if text[at] == '"' else _SCALAR).match(text, at)
        if not match:
            raise _BrokenError(at)
        end = match.end()
    node.end, node.complete = end, True
    return end


def _object(text: str, at: int, node: Node, depth: int) -> int:
    at = _skip(text, at)
    if text[at : at + 1] == "}":
        return at + 1
    while True:
        key = Node("string", at, at)
        match = _STRING.match(text, at)
        if not match:
            raise _BrokenError(at)
        key.end, key.complete = match.end(), True
        at = _expect(text, _skip(text, key.end), ":")
        value = Node("none", at, at)
        node.members.append((key, value))
        at = _skip(text, _value(text, _skip(text, at), value, depth + 1))
        if text[at : at + 1] == "}":
            return at + 1
        at = _skip(text, _expect(text, at, ","))


def _array(text: str, at: int, node: Node, depth: int) -> int:
    at = _skip(text, at)
    if text[at : at + 1] == "]":
        return at + 1
    while True:
        item = Node("none", at, at)
        node.items.append(item)
        at = _skip(text, _value(text, at, item, depth + 1))
        if text[at : at + 1] == "]":
            return at + 1
        at = _skip(text, _expect(text, at, ","))


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, character: str) -> int:
    if text[at : at + 1] != character:
        raise _BrokenError(at)
    return at + 1
