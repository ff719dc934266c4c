"""Where the tool calls stand in the raw text of a reply, by the format in which the model wrote them.

Formats: Hermes and Qwen (``<tool_call>`` with JSON), Qwen3-Coder (``<function=NAME>``), GLM (``<tool_call>NAME``), Llama 3 (bare
JSON, with or without ``<|python_tag|>``), Mistral (``[TOOL_CALLS]`` with a JSON list, or ``NAME[ARGS]`` and JSON), gpt-oss
(``to=functions.NAME``), and any JSON object that looks like a call. Thinking is skipped: a call that is only thought about is
none. A call that was opened and broken is found too, with what there is of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from joulebench.confidence.json_offsets import Node, scan, string


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

_THINKING_ENDS = re.compile(r"</think>|</thinking>|\[/THINK\]|<\|END_THINKING\|>")
_THINKING_BEGINS = re.compile(r"\s*(?:<think>|<thinking>|\[THINK\]|<\|START_THINKING\|>)")
_OPENER = re.compile(r"<tool_call>|\[TOOL_CALLS\]|<\|python_tag\|>|<function=|to=functions\.|\{")
_NAME = re.compile(rf"(?:{NAME_CHARACTER})+")
_HARMONY_ARGUMENTS = re.compile(r"[^{]*?<\|message\|>\s*")
_MISTRAL_ARGUMENTS = re.compile(r"(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?\s*")


class _Listed(NamedTuple):
    """How a format writes one argument (groups: name, value) and the end of the call."""

    parameter: re.Pattern[str]
    end: re.Pattern[str]


_QWEN = _Listed(
    re.compile(r"\s*<parameter=([^>]*)>\n?(.*?)\n?</parameter>", re.DOTALL),
    re.compile(r"\s*</function>"),
)
_GLM = _Listed(
    re.compile(r"\s*<arg_key>([^<]*)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL),
    re.compile(r"\s*</tool_call>"),
)
_SPACE = re.compile(r"\s*")

NAME_KEYS = ("name", "tool_name", "function", "tool")
ARGUMENT_KEYS = ("arguments", "parameters", "args", "input")


def after_thinking(text: str) -> int:
    """Offset behind the last thinking; the end of the text where thinking was begun and never ended."""
    end = 0
    for match in _THINKING_ENDS.finditer(text):
        end = match.end()
    return len(text) if _THINKING_BEGINS.match(text, end) else end


def find_calls(text: str) -> list[FoundCall]:
    """All calls in the order of the text."""
    found: list[FoundCall] = []
    at = after_thinking(text)
    while match := _OPENER.search(text, at):
        opener = Span(*match.span())
        calls = list(_calls_at(text, opener))
        found += calls
        at = max([opener.end, *(call.end for call in calls)])
    return found


def _calls_at(text: str, opener: Span) -> Iterator[FoundCall]:
    tag = text[opener.start : opener.end]
    body = _space(text, opener.end)
    if tag == "{":
        node = scan(text, opener.start)
        name, arguments = _parts(text, node)
        if name is not None and (arguments is not None or not node.complete):
            yield _json_call(text, node, opener, tagged=False)
    elif tag == "<function=":
        yield _function_call(text, opener, opener.end)
    elif tag == "to=functions.":
        yield _named_call(text, opener, opener.end, _HARMONY_ARGUMENTS)
    elif text.startswith("<function=", body):
        yield _function_call(text, opener, body + len("<function="))
    elif text.startswith("{", body):
        yield _json_call(text, scan(text, body), opener, tagged=True)
    elif text.startswith("[", body):
        yield from _json_list(text, scan(text, body), opener)
    elif tag == "[TOOL_CALLS]" and _NAME.match(text, body):
        yield _named_call(text, opener, body, _MISTRAL_ARGUMENTS)
    elif tag == "<tool_call>" and (glm := _NAME.match(text, body)):
        yield _listed_call(text, opener, Span(*glm.span()), glm.end(), _GLM)
    else:
        yield _broken(opener, body)


def _json_list(text: str, node: Node, opener: Span) -> Iterator[FoundCall]:
    for number, item in enumerate(node.items):
        begins = opener if number == 0 else Span(item.start, min(item.start + 1, item.end))
        yield _json_call(text, item, begins, tagged=True)
    if not node.items:
        yield _broken(opener, node.end)


def _json_call(text: str, node: Node, opener: Span, *, tagged: bool) -> FoundCall:
    name, arguments = _parts(text, node)
    return FoundCall(
        opener=opener,
        tagged=tagged,
        name=None if name is None else string(text, name),
        name_span=None if name is None else _inside(name),
        has_arguments=arguments is not None,
        keys=() if arguments is None else _keys(arguments),
        values=() if arguments is None else _values(arguments),
        complete=node.complete and name is not None,
        end=node.end,
    )


def _parts(text: str, node: Node) -> tuple[Node | None, Node | None]:
    """Name and arguments of an object that is a call; both may lie one level down, in ``{"function": {...}}``."""
    members = {string(text, key): value for key, value in node.members}
    inner = members.get("function")
    if inner is not None and inner.kind == "object":
        return _parts(text, inner)
    name = next((members[key] for key in NAME_KEYS if key in members and string(text, members[key])), None)
    return name, next((members[key] for key in ARGUMENT_KEYS if key in members), None)


def _keys(arguments: Node) -> tuple[Span, ...]:
    return tuple(_inside(key) for key in arguments.object_keys())


def _values(arguments: Node) -> tuple[Span, ...]:
    """Leaf values read to the end; ``{}`` holds none."""
    if not arguments.members and arguments.kind == "object":
        return ()
    return tuple(_inside(leaf) for leaf in arguments.leaves() if leaf.complete)


def _named_call(text: str, opener: Span, name_start: int, before_arguments: re.Pattern[str]) -> FoundCall:
    """A name in the text itself, with JSON arguments some way behind it."""
    name = _NAME.match(text, name_start)
    if not name:
        return _broken(opener, name_start)
    gap = before_arguments.match(text, name.end())
    arguments = scan(text, gap.end() if gap else name.end())
    is_object = arguments.kind == "object"
    return FoundCall(
        opener=opener,
        tagged=True,
        name=name.group(),
        name_span=Span(*name.span()),
        has_arguments=is_object,
        keys=_keys(arguments) if is_object else (),
        values=_values(arguments) if is_object else (),
        complete=arguments.complete and is_object,
        end=max(name.end(), arguments.end),
    )


def _function_call(text: str, opener: Span, name_start: int) -> FoundCall:
    name = _NAME.match(text, name_start)
    if not name or not text.startswith(">", name.end()):
        return _broken(opener, name_start)
    return _listed_call(text, opener, Span(*name.span()), name.end() + 1, _QWEN)


def _listed_call(text: str, opener: Span, name: Span, at: int, form: _Listed) -> FoundCall:
    """Arguments one by one, each with its name and its value between markers."""
    keys, values = [], []
    while match := form.parameter.match(text, at):
        keys.append(Span(*match.span(1)))
        values.append(Span(*match.span(2)))
        at = match.end()
    end = form.end.match(text, at)
    return FoundCall(
        opener=opener,
        tagged=True,
        name=text[name.start : name.end],
        name_span=name,
        has_arguments=True,
        keys=tuple(keys),
        values=tuple(values),
        complete=end is not None,
        end=end.end() if end else at,
    )


def _broken(opener: Span, end: int) -> FoundCall:
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


def _inside(node: Node) -> Span:
    """Without the quotes; an empty string is its quotes, since writing nothing was a decision too."""
    if node.kind == "string" and node.end - node.start > 2:
        return Span(node.start + 1, node.end - 1)
    return Span(node.start, node.end)


def _space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
