"""A strict scanner of JSON-like literals that records the offset of every value, also of what precedes a syntax error.

Servers re-serialise the arguments of a call, so tokens can only be located in the raw text that the model wrote. The scanner is
strict because the servers' parsers are: what it finds broken was refused by them too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_DEPTH = 64

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"


@dataclass(frozen=True, slots=True)
class Dialect:
    """Syntax of values. ``quote``: length of a string's quote; ``key``: pattern of a member's name."""

    string: re.Pattern[str]
    scalar: re.Pattern[str]
    key: re.Pattern[str]
    quote: int = 1
    trailing_comma: bool = False


_JSON_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_JSON_SCALAR = re.compile(rf"{_NUMBER}|true|false|null")
_PYTHON_STRING = re.compile(r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\"""", re.DOTALL)
_PYTHON_SCALAR = re.compile(r"[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|True|False|None|true|false|null")
_BARE_KEY = re.compile(r"[^\s:{}\[\],<>]+")

JSON = Dialect(_JSON_STRING, _JSON_SCALAR, _JSON_STRING)
_PYTHON_KEY = re.compile(f"{_PYTHON_STRING.pattern}|{_PYTHON_SCALAR.pattern}", re.DOTALL)
PYTHON = Dialect(_PYTHON_STRING, _PYTHON_SCALAR, _PYTHON_KEY, trailing_comma=True)
GEMMA = Dialect(re.compile(r'<\|"\|>.*?<\|"\|>', re.DOTALL), _JSON_SCALAR, _BARE_KEY, quote=5)
FUNCTION_GEMMA = Dialect(re.compile(r"<escape>.*?<escape>", re.DOTALL), _JSON_SCALAR, _BARE_KEY, quote=8)


class _Form(NamedTuple):
    """What stands between opener and ``closer``: items, or members with a ``key`` and a ``separator``.

    ``keyless``: a member may also come without its key.
    """

    closer: str
    key: re.Pattern[str] | None = None
    separator: str = ""
    keyless: bool = False


_ITEMS = _Form("]")
_ARGUMENTS = _Form(")", re.compile(r"[^\W\d]\w*"), "=", keyless=True)


@dataclass(slots=True)
class Node:
    """A value at ``start`` to ``end`` of the text. ``members`` of an object hold key and value; ``complete`` is False from the
    outermost value down to where the text broke off or stopped being a literal. ``quote``: length of a string's, on each side."""

    kind: str
    start: int
    end: int
    complete: bool = False
    members: list[tuple[Node, Node]] = field(default_factory=list)
    items: list[Node] = field(default_factory=list)
    quote: int = 0

    def leaves(self) -> Iterator[Node]:
        """Yields strings, numbers, literals, and empty objects and arrays."""
        if not self.members and not self.items:
            yield self
        for _, value in self.members:
            yield from value.leaves()
        for item in self.items:
            yield from item.leaves()

    def object_keys(self) -> Iterator[Node]:
        """Yields the keys of all objects within this value."""
        for key, value in self.members:
            yield key
            yield from value.object_keys()
        for item in self.items:
            yield from item.object_keys()


class _SyntaxBreakError(Exception):
    """The text stopped being a literal at the offset it carries."""

    def __init__(self, at: int) -> None:
        self.at = at


def scan_literal(text: str, at: int, dialect: Dialect = JSON) -> Node:
    """Returns the value that begins at ``at``; where it breaks off, an incomplete node with what was read of it."""
    root = Node("none", at, at)
    try:
        _Scanner(text, dialect).value(at, root, 0)
    except _SyntaxBreakError as error:
        root.end = max(root.end, error.at)
    return root


def scan_python_arguments(text: str, at: int) -> Node:
    """Scans the arguments of a Python call whose parenthesis opens at ``at``. Keyword arguments are members, others items."""
    root = Node("none", at, at)
    try:
        _Scanner(text, PYTHON).arguments(at, root)
    except _SyntaxBreakError as error:
        root.end = max(root.end, error.at)
    return root


def json_string_value(text: str, node: Node) -> str | None:
    """Returns the value of a JSON string node; None for other kinds and incomplete strings."""
    if node.kind != "string" or not node.complete:
        return None
    value = json.loads(text[node.start : node.end])
    return value if isinstance(value, str) else None


class _Scanner:
    """Attaches each node to its parent before reading it, so that a syntax break keeps what was read."""

    def __init__(self, text: str, dialect: Dialect) -> None:
        self._text = text
        self._dialect = dialect

    def value(self, at: int, node: Node, depth: int) -> int:
        """Reads the value at ``at`` into ``node`` and returns the offset behind it."""
        text, dialect = self._text, self._dialect
        node.start = node.end = at
        if depth > MAX_DEPTH or at >= len(text):
            raise _SyntaxBreakError(at)
        if text[at] == "{":
            node.kind = "object"
            end = self._members(at + 1, node, depth, _Form("}", dialect.key, ":"))
        elif text[at] == "[":
            node.kind = "array"
            end = self._members(at + 1, node, depth, _ITEMS)
        elif match := dialect.string.match(text, at):
            node.kind, node.quote, end = "string", dialect.quote, match.end()
        else:
            node.kind = "scalar"
            match = dialect.scalar.match(text, at)
            if not match:
                raise _SyntaxBreakError(at)
            end = match.end()
        node.end, node.complete = end, True
        return end

    def arguments(self, at: int, node: Node) -> None:
        node.kind = "object"
        end = self._members(self._expect(at, "("), node, 0, _ARGUMENTS)
        node.end, node.complete = end, True

    def _members(self, at: int, node: Node, depth: int, form: _Form) -> int:
        at = self._skip(at)
        if self._text[at : at + 1] == form.closer:
            return at + 1
        while True:
            value = Node("none", at, at)
            key = self._key(at, form)
            if key is None:
                node.items.append(value)
            else:
                at = self._skip(self._expect(self._skip(key.end), form.separator))
                node.members.append((key, value))
            at = self._skip(self.value(at, value, depth + 1))
            if self._text[at : at + 1] == form.closer:
                return at + 1
            at = self._skip(self._expect(at, ","))
            if self._dialect.trailing_comma and self._text[at : at + 1] == form.closer:
                return at + 1

    def _key(self, at: int, form: _Form) -> Node | None:
        match = form.key.match(self._text, at) if form.key else None
        if match and (not form.keyless or self._text.startswith(form.separator, self._skip(match.end()))):
            quoted = self._text[at] in "'\""
            return Node("string" if quoted else "scalar", at, match.end(), True, quote=int(quoted))
        if form.key is None or form.keyless:
            return None
        raise _SyntaxBreakError(at)

    def _skip(self, at: int) -> int:
        match = _SPACE.match(self._text, at)
        return match.end() if match else at

    def _expect(self, at: int, character: str) -> int:
        if self._text[at : at + 1] != character:
            raise _SyntaxBreakError(at)
        return at + 1
