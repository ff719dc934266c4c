"""Values, names and ends of calls, format by format, and texts that only look like a call."""

from __future__ import annotations

import pytest

from joulebench.confidence.call_finder import CallSpans, find_call_spans
from joulebench.confidence.measures import find_attempted_calls

BAR = "\uff5c"


def shown(text: str) -> list[tuple[str | None, list[str], list[str], bool]]:
    """Name, argument names, values and completeness of each call in ``text``."""

    def words(call: CallSpans) -> tuple[list[str], list[str]]:
        return [text[a:b] for a, b in call.keys], [text[a:b] for a, b in call.values]

    return [(call.name, *words(call), call.complete) for call in find_call_spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '<|tool_call>call:book{city:<|"|>Oslo, "N"<|"|>,seats:[1,2],opt:{gold:true}}<tool_call|>',
            [("book", ["city", "seats", "opt", "gold"], ['Oslo, "N"', "1", "2", "true"], True)],
        ),
        (
            '<|tool_call>call:a{x:1}<tool_call|><|tool_call>call:b{y:<|"|><|"|>}<tool_call|>',
            [("a", ["x"], ["1"], True), ("b", ["y"], ['<|"|><|"|>'], True)],
        ),
        ("<start_function_call>call:now{}<end_function_call>", [("now", [], [], True)]),
        ("<start_function_call>call:find{q:<escape>a{b}<escape>,n:-2.5}", [("find", ["q", "n"], ["a{b}", "-2.5"], True)]),
        ("<start_function_call>call:find{q:<escape>never closed", [("find", ["q"], [], False)]),
        (
            f'<{BAR}tool▁calls▁begin{BAR}><{BAR}tool▁call▁begin{BAR}>a<{BAR}tool▁sep{BAR}>{{"x": 1}}<{BAR}tool▁call▁end{BAR}>'
            f'<{BAR}tool▁call▁begin{BAR}>b<{BAR}tool▁sep{BAR}>{{"y": "z"',
            [("a", ["x"], ["1"], True), ("b", ["y"], ["z"], False)],
        ),
        (
            '<|START_THINKING|>I call {"tool_name": "no"}<|END_THINKING|><|START_ACTION|>[{"tool_call_id": "0", "tool_name": "a",'
            ' "parameters": {"x": 1}}, {"tool_name": "b", "parameters": {}}]<|END_ACTION|>',
            [("a", ["x"], ["1"], True), ("b", [], [], True)],
        ),
        (
            "<|tool_call_start|>[a(x='it\\'s', y=[1, {'k': None}],), b()]<|tool_call_end|>",
            [("a", ["x", "y", "k"], ["it\\'s", "1", "None"], True), ("b", [], [], True)],
        ),
        (
            "<function_calls>a(x=1)\nb.c(True, y=-.5)</function_calls>",
            [("a", ["x"], ["1"], True), ("b.c", ["y"], ["-.5", "True"], True)],
        ),
        ("[a(x=1), b(y='2')]", [("a", ["x"], ["1"], True), ("b", ["y"], ["2"], True)]),
        ("[a(x=1), b(y='2", [("a", ["x"], ["1"], True), ("b", ["y"], [], False)]),
        ("<|tool_call_start|>[a(x=foo)]<|tool_call_end|>", [("a", ["x"], [], False)]),
        ("<|tool_call_start|>not a call", [(None, [], [], False)]),
        ("<|channel>thought\ncall:x{}<channel|><|tool_call>call:a{x:1}<tool_call|>", [("a", ["x"], ["1"], True)]),
        (
            "<|channel|>analysis<|message|>use to=functions.b?<|end|><|start|>assistant to=functions.a<|channel|>commentary"
            ' json<|message|>{"x": 1}',
            [("a", ["x"], ["1"], True)],
        ),
    ],
)
def test_calls_are_read_by_format(text: str, expected: list[tuple[str | None, list[str], list[str], bool]]) -> None:
    assert shown(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "The value f(x=1) is [f(x=1)].",
        "[see(1)] and [note]",
        "[1, 2, 3]",
        "<|channel>thought\nI could call:x{} here",
        "<|channel|>analysis<|message|>to=functions.search",
        "{1: 2}",
    ],
)
def test_what_only_looks_like_a_call_is_none(text: str) -> None:
    assert find_attempted_calls(text, ["f", "see"]) == []


def test_no_text_breaks_the_search() -> None:
    """Every cut of every format is a text that a model stopped at."""
    texts = [
        '<|tool_call>call:book{city:<|"|>Oslo<|"|>,seats:[1,2],opt:{gold:true}}<tool_call|>',
        "<start_function_call>call:find{q:<escape>a<escape>}<end_function_call>",
        f'<{BAR}tool▁call▁begin{BAR}>function<{BAR}tool▁sep{BAR}>a\n```json\n{{"x": [1, null]}}\n```',
        "<|tool_call_start|>[a(x='b', y=[1, {'k': None}]), b()]<|tool_call_end|>",
        '<|START_ACTION|>[{"tool_name": "a", "parameters": {"x": 1}}]<|END_ACTION|>',
    ]
    for text in texts:
        for end in range(len(text) + 1):
            for call in find_call_spans(text[:end]):
                assert 0 <= call.opener.start < call.opener.end <= call.end <= end
                assert all(0 <= a <= b <= end for a, b in (*call.keys, *call.values))
