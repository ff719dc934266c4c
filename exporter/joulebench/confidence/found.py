"""A tool call found in the raw text of a reply: its spans, and how they are read off a scanned value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from joulebench.confidence.literals import Node


class Span(NamedTuple):
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class FoundCall:
    """``opener``: what the model wrote to begin the call. ``tagged``: by a marker that is used for nothing else.

    ``name`` and ``name_span`` are None where no name was read; ``keys`` and ``values`` are argument names and leaf values,
    without their quotes. ``complete``: the name and all arguments were read to the end.
    """

    opener: Span
    tagged: bool
    name: str | None
    name_span: Span | None
    has_arguments: bool
    keys: tuple[Span, ...]
    values: tuple[Span, ...]
    complete: bool
    end: int


NAME_CHARACTER = r"[^\s\"<>{}()\[\],=]"
"""What a tool's name may be written with; everything else ends it, in every format."""

NAME = re.compile(rf"(?:{NAME_CHARACTER})+")


def broken(opener: Span, end: int) -> FoundCall:
    """A call of which there is nothing but its beginning."""
    return FoundCall(
        opener=opener,
        tagged=True,
        name=None,
        name_span=None,
        has_arguments=False,
        keys=(),
        values=(),
        complete=False,
        end=max(end, opener.end),
    )


def keys(arguments: Node) -> tuple[Span, ...]:
    return tuple(inside(key) for key in arguments.object_keys())


def values(arguments: Node) -> tuple[Span, ...]:
    """Leaf values read to the end; an object without members holds none."""
    if not arguments.members and not arguments.items and arguments.kind == "object":
        return ()
    return tuple(inside(leaf) for leaf in arguments.leaves() if leaf.complete)


def inside(node: Node) -> Span:
    """Without the quotes; an empty string is its quotes, since writing nothing was a decision too."""
    if node.kind == "string" and node.end - node.start > 2 * node.quote:
        return Span(node.start + node.quote, node.end - node.quote)
    return Span(node.start, node.end)
