"""One result file as text and as data: read tolerantly, written back with nothing changed but the sections that are ours.

The text around those sections is kept byte for byte, so what the client wrote keeps its order, its spelling of numbers and its
duplicates, whatever they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulebench.parsing import replace_unusable
from joulebench.schema import UnreadableResult

BOM = "\ufeff"
_SPACE = re.compile(r"[ \t\r\n]*")
_FIRST_KEY = re.compile(r"\s*\{(\r?\n)([ \t]+)\"")


@dataclass(frozen=True, slots=True)
class Document:
    """``spans``: where the value of each top-level key stands in ``text``."""

    path: Path
    text: str
    body: Mapping[str, Any]
    spans: Mapping[str, tuple[int, int]]

    def section(self, *keys: str) -> Mapping[str, Any]:
        """The object at this path; empty where it is missing or is something else, such as the client's text of an error."""
        value: Any = self.body
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value if isinstance(value, Mapping) else {}

    def with_sections(self, sections: Mapping[str, Any]) -> str:
        """The text with these top-level values in place of those of the same key; new keys come last."""
        newline, indent = self._style()
        replaced = {key: _laid_out(value, newline, indent) for key, value in sections.items()}
        text = self.text
        last = max(end for _, end in self.spans.values())
        added = [key for key in replaced if key not in self.spans]
        separator = f",{newline}{indent}" if newline else ", "
        tail = "".join(f"{separator}{json.dumps(key)}: {replaced[key]}" for key in added)
        edits = [(last, last, tail), *((*self.spans[key], replaced[key]) for key in replaced if key in self.spans)]
        for start, end, new in sorted(edits, reverse=True):
            text = text[:start] + new + text[end:]
        return text

    def _style(self) -> tuple[str, str]:
        """(newline, indent) of the file; both empty where it is all on one line."""
        found = _FIRST_KEY.match(self.text.removeprefix(BOM))
        return (found[1], found[2]) if found else ("", "")


def read_document(path: Path) -> Document:
    """Raises UnreadableResult with what is wrong with the file."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UnreadableResult(f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UnreadableResult(f"is not UTF-8 text ({error.reason} at byte {error.start})") from error
    if not text.strip():
        raise UnreadableResult("is empty")
    try:
        body, spans = _members(text)
    except (ValueError, RecursionError, IndexError) as error:
        raise UnreadableResult(f"is not valid JSON ({error})") from error
    return Document(path, text, body, spans)


def _members(text: str) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    decoder = json.JSONDecoder()
    body: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}

    def after_space(at: int) -> int:
        found = _SPACE.match(text, at)
        return found.end() if found else at

    at = after_space(1 if text.startswith(BOM) else 0)
    if text[at] != "{":
        raise ValueError("the top level is no object")
    at = after_space(at + 1)
    while text[at] != "}":
        if body:
            at = _expect(text, at, ",")
            at = after_space(at)
        _expect(text, at, '"')
        key, at = decoder.raw_decode(text, at)
        at = after_space(_expect(text, after_space(at), ":"))
        value, end = decoder.raw_decode(text, at)
        body[key], spans[key] = replace_unusable(value), (at, end)
        at = after_space(end)
    if text[at + 1 :].strip():
        raise ValueError("there is more after its end")
    if not body:
        raise ValueError("it holds nothing")
    return body, spans


def _expect(text: str, at: int, sign: str) -> int:
    if text[at] != sign:
        raise ValueError(f"{sign} was expected at character {at}")
    return at + 1


def _laid_out(value: Any, newline: str, indent: str) -> str:
    if not newline:
        return json.dumps(value, ensure_ascii=True, allow_nan=False)
    depth: int | str = indent if "\t" in indent else len(indent)
    text = json.dumps(value, indent=depth, ensure_ascii=True, allow_nan=False)
    return text.replace("\n", f"{newline}{indent}")
