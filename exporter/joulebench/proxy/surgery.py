"""Members taken out of JSON text, or put in, with every other byte left as it is.

Each cut is checked: what is left must parse to what was there without the member. Where no cut passes, the text is written anew
from its values, which is the same JSON in other bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

Path = tuple[str | int, ...]

_DECODER = json.JSONDecoder()
_COLON = re.compile(r"\s*:\s*")
_COMMA_BEFORE = re.compile(r",\s*\Z")
_COMMA_AFTER = re.compile(r"\s*,\s*")


def without(text: str, value: Any, paths: Iterable[Path]) -> str:
    """``text`` without the members at ``paths``; those that are not there are no error. ``value``: the text, parsed."""
    for path in paths:
        if _holds(value, path):
            rest = _copied_without(value, path)
            text = next((cut for cut in _cuts(text, str(path[-1])) if _parses_to(cut, rest)), None) or _written(rest)
            value = rest
    return text


def with_members(text: str, members: Iterable[str]) -> str:
    """``text``, an object with at least one member, with more at its end; ``members`` as JSON text, ``"key":value``."""
    end = text.rindex("}")
    return ",".join((text[:end].rstrip(), *members)) + text[end:]


def member_text(text: str, value: Any, path: Path) -> str:
    """The member at ``path`` as ``"key":value`` in the very text of its value."""
    wanted = _at(value, path)
    for _, start, end in _occurrences(text, str(path[-1])):
        if _DECODER.raw_decode(text, start)[0] == wanted:
            return f"{json.dumps(path[-1])}:{text[start:end]}"
    return f"{json.dumps(path[-1])}:{_written(wanted)}"


def _cuts(text: str, key: str) -> Iterator[str]:
    for at, _, end in _occurrences(text, key):
        before = _COMMA_BEFORE.search(text, max(0, at - 64), at)
        if before:
            yield text[: before.start()] + text[end:]
            continue
        after = _COMMA_AFTER.match(text, end)
        yield text[:at] + text[after.end() if after else end :]


def _occurrences(text: str, key: str) -> Iterator[tuple[int, int, int]]:
    """Where the key stands as a member's name: start of the key, start and end of the value."""
    quoted = json.dumps(key)
    at = text.find(quoted)
    while at >= 0:
        colon = _COLON.match(text, at + len(quoted))
        if colon:
            with suppress(ValueError):
                yield at, colon.end(), _DECODER.raw_decode(text, colon.end())[1]
        at = text.find(quoted, at + 1)


def _holds(value: Any, path: Path) -> bool:
    try:
        _at(value, path)
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _at(value: Any, path: Path) -> Any:
    for step in path:
        if isinstance(step, str) != isinstance(value, dict):
            raise TypeError(step)
        value = value[step]
    return value


def _copied_without(value: Any, path: Path) -> Any:
    """A copy of what lies on the path; the rest is shared."""
    step, *left = path
    changed: Any = dict(value) if isinstance(value, dict) else list(value)
    if left:
        changed[step] = _copied_without(changed[step], tuple(left))
    else:
        del changed[step]
    return changed


def _parses_to(text: str, value: Any) -> bool:
    try:
        return bool(json.loads(text) == value)
    except ValueError:
        return False


_written: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
