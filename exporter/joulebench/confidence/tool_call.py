"""The spans of a tool call in the raw text of a reply."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from joulebench.confidence.literal_scanner import Node


class Span(NamedTuple):
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class CallSpans:
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
"""Regex class of the characters of a tool name; any other character ends the name, in every format."""

NAME = re.compile(rf"(?:{NAME_CHARACTER})+")


def incomplete_call(opener: Span, end: int) -> CallSpans:
    """Returns a call that was opened and of which no name could be read."""
    return CallSpans(
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


def argument_name_spans(arguments: Node) -> tuple[Span, ...]:
    return tuple(unquoted_span(key) for key in arguments.object_keys())


def argument_value_spans(arguments: Node) -> tuple[Span, ...]:
    """Returns the spans of complete leaf values; empty for an object without members."""
    if not arguments.members and not arguments.items and arguments.kind == "object":
        return ()
    return tuple(unquoted_span(leaf) for leaf in arguments.leaves() if leaf.complete)


def unquoted_span(node: Node) -> Span:
    """Returns the span of ``node`` without its quotes. An empty string keeps them, since writing nothing was a decision too."""
    if node.kind == "string" and node.end - node.start > 2 * node.quote:
        return Span(node.start + node.quote, node.end - node.quote)
    return Span(node.start, node.end)
