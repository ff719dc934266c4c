"""Readers of the call formats: where name, arguments and end of a call stand behind its opener."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from joulebench.confidence.literal_scanner import JSON, Dialect, Node, json_string_value, scan_literal, scan_python_arguments
from joulebench.confidence.tool_call import (
    NAME,
    CallSpans,
    Span,
    argument_name_spans,
    argument_value_spans,
    incomplete_call,
    unquoted_span,
)

NAME_KEYS = ("name", "tool_name", "function", "tool")
ARGUMENT_KEYS = ("arguments", "parameters", "args", "input")

HARMONY_ARGUMENTS = re.compile(r"[^{]*?<\|message\|>\s*")
MISTRAL_ARGUMENTS = re.compile(r"(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?\s*")
DEEPSEEK_MARK = "<\uff5c{}\uff5c>"
"""Its bars are full-width. Between its words stands U+2581, which tokenizers that use it for spaces give back as a space."""
DEEPSEEK_SEPARATOR = DEEPSEEK_MARK.format("tool[▁ ]sep")
DEEPSEEK_ARGUMENTS = re.compile(rf"(?:{DEEPSEEK_SEPARATOR}|\s*```(?:json)?)\s*")
GEMMA_ARGUMENTS = re.compile(r"(?=\{)")

_PYTHON_NAME = re.compile(r"[^\W\d][\w.]*(?=\()")
_BETWEEN_PYTHON = re.compile(r"[\s,;]*")


class Listed(NamedTuple):
    """Patterns of one argument (groups: name, value) and of the end of the call."""

    parameter: re.Pattern[str]
    end: re.Pattern[str]


QWEN = Listed(
    re.compile(r"\s*<parameter=([^>]*)>\n?(.*?)\n?</parameter>", re.DOTALL),
    re.compile(r"\s*</function>"),
)
GLM = Listed(
    re.compile(r"\s*<arg_key>([^<]*)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL),
    re.compile(r"\s*</tool_call>"),
)


def json_list(text: str, node: Node, opener: Span) -> Iterator[CallSpans]:
    for number, item in enumerate(node.items):
        begins = opener if number == 0 else Span(item.start, min(item.start + 1, item.end))
        yield json_call(text, item, begins, tagged=True)
    if not node.items:
        yield incomplete_call(opener, node.end)


def json_call(text: str, node: Node, opener: Span, *, tagged: bool) -> CallSpans:
    name, arguments = json_parts(text, node)
    return CallSpans(
        opener=opener,
        tagged=tagged,
        name=None if name is None else json_string_value(text, name),
        name_span=None if name is None else unquoted_span(name),
        has_arguments=arguments is not None,
        keys=() if arguments is None else argument_name_spans(arguments),
        values=() if arguments is None else argument_value_spans(arguments),
        complete=node.complete and name is not None,
        end=node.end,
    )


def json_parts(text: str, node: Node) -> tuple[Node | None, Node | None]:
    """Returns name and arguments of a call object; both may lie one level down, in ``{"function": {...}}``."""
    members = {json_string_value(text, key): value for key, value in node.members}
    inner = members.get("function")
    if inner is not None and inner.kind == "object":
        return json_parts(text, inner)
    name = next((members[key] for key in NAME_KEYS if key in members and json_string_value(text, members[key])), None)
    return name, next((members[key] for key in ARGUMENT_KEYS if key in members), None)


def named_call(text: str, opener: Span, name_start: int, before_arguments: re.Pattern[str], dialect: Dialect = JSON) -> CallSpans:
    """Reads a call whose name stands in the text, followed by an object of arguments."""
    name = NAME.match(text, name_start)
    if not name:
        return incomplete_call(opener, name_start)
    gap = before_arguments.match(text, name.end())
    arguments = scan_literal(text, gap.end() if gap else name.end(), dialect)
    return _with_arguments(text, opener, Span(*name.span()), arguments, tagged=True)


def function_call(text: str, opener: Span, name_start: int) -> CallSpans:
    name = NAME.match(text, name_start)
    if not name or not text.startswith(">", name.end()):
        return incomplete_call(opener, name_start)
    return listed_call(text, opener, Span(*name.span()), name.end() + 1, QWEN)


def listed_call(text: str, opener: Span, name: Span, at: int, form: Listed) -> CallSpans:
    """Reads a call whose arguments are listed, each name and value between markers."""
    names, value_spans = [], []
    while match := form.parameter.match(text, at):
        names.append(Span(*match.span(1)))
        value_spans.append(Span(*match.span(2)))
        at = match.end()
    end = form.end.match(text, at)
    return CallSpans(
        opener=opener,
        tagged=True,
        name=text[name.start : name.end],
        name_span=name,
        has_arguments=True,
        keys=tuple(names),
        values=tuple(value_spans),
        complete=end is not None,
        end=end.end() if end else at,
    )


def python_calls(text: str, opener: Span, at: int, *, tagged: bool) -> Iterator[CallSpans]:
    """Reads calls in Python syntax, in a list or one after another."""
    begins, first = opener, True
    while name := _PYTHON_NAME.match(text, at):
        call = _with_arguments(text, begins, Span(*name.span()), scan_python_arguments(text, name.end()), tagged=tagged)
        yield call
        between = _BETWEEN_PYTHON.match(text, call.end)
        at = between.end() if between else call.end
        begins, first = Span(at, at + 1), False
        if not call.complete:
            return
    if first:
        yield incomplete_call(opener, at)


def _with_arguments(text: str, opener: Span, name: Span, arguments: Node, *, tagged: bool) -> CallSpans:
    is_object = arguments.kind == "object"
    return CallSpans(
        opener=opener,
        tagged=tagged,
        name=text[name.start : name.end],
        name_span=name,
        has_arguments=is_object,
        keys=argument_name_spans(arguments) if is_object else (),
        values=argument_value_spans(arguments) if is_object else (),
        complete=arguments.complete and is_object,
        end=max(name.end, arguments.end),
    )
