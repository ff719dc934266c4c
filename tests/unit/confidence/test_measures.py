"""Confidence is measured on the right tokens, in every format, and not at all where it cannot be.

Expected numbers are worked out by hand from the probabilities written into the rows (`p` of each token); tolerance is float
rounding only. The tokens are cut as real tokenizers cut them: across quotes, in the middle of names, a marker in pieces.
"""

from __future__ import annotations

import math

import pytest

from joulebench.confidence.measures import (
    AttemptedCall,
    CallConfidence,
    TokenLogprob,
    find_attempted_calls,
    find_unreported_calls,
    tool_call_confidences,
)

MARK = "<\uff5c{}\uff5c>"
CALLS, CALL, SEPARATOR = (MARK.format(f"tool▁{name}") for name in ("calls▁begin", "call▁begin", "sep"))

WEATHER = ["get_weather", "get_time", "search"]


def row(token: str, p: float, **others: float) -> TokenLogprob:
    """A row with its own token and ``others`` (probability by text) as the listed alternatives."""
    top = ((token, math.log(p)), *((text.replace("__", " "), math.log(q)) for text, q in others.items()))
    return TokenLogprob(token, math.log(p), top)


def sure(*tokens: str) -> list[TokenLogprob]:
    return [row(token, 0.999) for token in tokens]


def one(rows: list[TokenLogprob], name: str, declared: list[str] = WEATHER) -> CallConfidence:
    (confidence,) = tool_call_confidences(rows, [name], declared)
    return confidence


HERMES = [
    *sure("<tool_call>", "\n", '{"', "name", '":', ' "'),
    row("get", 0.9, search=0.08),
    row("_", 0.99),
    row("weather", 0.6, time=0.3, date=0.05),
    *sure('",', ' "', "arguments", '":', ' {"', "city", '":', ' "'),
    row("Paris", 0.45, Rome=0.4),
    *sure('",', ' "', "days", '":', " "),
    row("3", 0.8),
    *sure("}}", "\n", "</tool_call>"),
]


def test_hermes_call_is_measured_on_its_deciding_tokens() -> None:
    found = one(HERMES, "get_weather")
    assert found.span_status == "ok"
    m = found.measures
    assert m["name_joint"] == pytest.approx(0.9 * 0.99 * 0.6)
    # "_" chooses nothing: both declared names that begin with "get" go on with it.
    assert m["name_branch"] == pytest.approx(0.9 * 0.6)
    assert m["name_margin"] == pytest.approx(math.log(0.9 / 0.08))
    assert m["name_choice"] == pytest.approx(0.9 / 0.98)
    assert m["args_min"] == pytest.approx(0.45)
    assert m["args_geo"] == pytest.approx(math.sqrt(0.45 * 0.8))
    assert found.score == pytest.approx(min(0.9 * 0.6, 0.45))
    assert m["call_decision"] == pytest.approx(0.999)
    keys = 2 * math.log(0.999)
    assert m["sem_nll"] == pytest.approx(-(math.log(0.9 * 0.99 * 0.6 * 0.45 * 0.8) + keys))
    paris = -(0.45 * math.log(0.45) + 0.4 * math.log(0.4) + 0.15 * math.log(0.15))
    assert m["entropy_max"] == pytest.approx(max(paris, -(0.6 * math.log(0.6) + 0.3 * math.log(0.3) + 2 * 0.05 * math.log(0.05))))
    assert m["naive_mean"] == pytest.approx(sum(math.exp(r.logprob) for r in HERMES) / len(HERMES))
    # The baseline looks certain where the call was a guess.
    assert m["naive_mean"] > 0.9


def test_marker_in_pieces_counts_as_a_whole() -> None:
    pieces = [row("<", 0.5), row("tool", 0.9), row("_", 0.9), row("call", 0.9), row(">", 0.9)]
    assert one([*pieces, *HERMES[1:]], "get_weather").measures["call_decision"] == pytest.approx(0.5 * 0.9**4)


@pytest.mark.parametrize(
    ("opening", "between", "end"),
    [
        ('{"name": "', '", "parameters": {"q": "', '"}}'),
        ('<|python_tag|>{"name": "', '", "parameters": {"q": "', '"}}'),
        ('[TOOL_CALLS] [{"name": "', '", "arguments": {"q": "', '"}}]'),
        ("[TOOL_CALLS]", '[ARGS]{"q": "', '"}'),
        ('{"type": "function", "function": {"name": "', '", "arguments": {"q": "', '"}}}'),
        ('{"tool_calls": [{"name": "', '", "arguments": {"q": "', '"}}]}'),
        ('```json\n{"tool_name": "', '", "args": {"q": "', '"}}\n```'),
        ("<tool_call>\n<function=", ">\n<parameter=q>\n", "\n</parameter>\n</function>\n</tool_call>"),
        ("<tool_call>", "\n<arg_key>q</arg_key>\n<arg_value>", "</arg_value>\n</tool_call>"),
        ("<|channel|>commentary to=functions.", ' <|constrain|>json<|message|>{"q": "', '"}'),
        ("<|channel|>analysis<|message|>to=functions.get_time<|end|>to=functions.", '<|message|>{"q": "', '"}'),
        ("<|tool_call>call:", '{q:<|"|>', '<|"|>}<tool_call|>'),
        ("<start_function_call>call:", "{q:<escape>", "<escape>}<end_function_call>"),
        (f"{CALLS}{CALL}", f'{SEPARATOR}{{"q": "', f'"}}{MARK.format("tool▁call▁end")}'),
        (f"{CALLS}{CALL}function{SEPARATOR}", '\n```json\n{"q": "', f'"}}\n```{MARK.format("tool▁call▁end")}'),
        ('<|START_ACTION|>[\n {"tool_call_id": "0", "tool_name": "', '", "parameters": {"q": "', '"}}\n]<|END_ACTION|>'),
        ("<|tool_call_start|>[", '(q="', '")]<|tool_call_end|>'),
        ("<function_calls>\n", "(q='", "')\n</function_calls>"),
        ("[", '(q="', '")]'),
        ("<|python_start|>[", '(q="', '")]<|python_end|>'),
    ],
)
def test_every_format_gives_the_same_measures(opening: str, between: str, end: str) -> None:
    rows = [*sure(opening), row("search", 0.7, get=0.2), *sure(between), row("cats", 0.55), *sure(end)]
    found = one(rows, "search")
    assert found.span_status == "ok", found
    assert found.measures["name_branch"] == pytest.approx(0.7)
    assert found.measures["args_min"] == pytest.approx(0.55)
    assert found.measures["name_choice"] == pytest.approx(0.7 / 0.9)
    assert found.score == pytest.approx(0.55)


def test_thinking_about_a_call_is_no_call() -> None:
    thought = [row("<think>", 0.9), row('{"name": "search", "arguments": {"q": "dogs"}}', 0.01), row("</think>", 0.9)]
    rows = [*thought, *sure('{"name": "'), row("search", 0.7), *sure('", "arguments": {"q": "'), row("cats", 0.6), *sure('"}}')]
    found = one(rows, "search")
    assert found.measures["args_min"] == pytest.approx(0.6)
    assert [call.outcome for call in find_attempted_calls(rows, WEATHER)] == ["ok"]


def test_thinking_that_never_ends_holds_no_call() -> None:
    rows = sure("<think>", '{"name": "search", "arguments": {}}')
    assert one(rows, "search").span_status == "not_found"
    assert find_attempted_calls(rows, WEATHER) == []


def test_several_calls_are_told_apart_by_order() -> None:
    def call(p: float) -> list[TokenLogprob]:
        return [*sure('<tool_call>{"name": "search", "arguments": {"q": "'), row("x", p), *sure('"}}</tool_call>\n')]

    found = tool_call_confidences([*call(0.3), *HERMES, *call(0.7)], ["search", "get_weather", "search"], WEATHER)
    assert [c.measures["args_min"] for c in found] == pytest.approx([0.3, 0.45, 0.7])
    assert [c.span_status for c in found] == ["ok"] * 3


def test_a_swallowed_call_is_passed_over_and_counted() -> None:
    rows = [
        *sure('<tool_call>{"name": "get_wether", "arguments": {}}</tool_call>'),
        *sure('<tool_call>{"name": "search", "arguments": {"q": </tool_call>'),
        *HERMES,
    ]
    assert one(rows, "get_weather").span_status == "ok"
    attempts = find_attempted_calls(rows, WEATHER)
    assert [(a.name, a.outcome) for a in attempts] == [
        ("get_wether", "undeclared"),
        ("search", "malformed"),
        ("get_weather", "ok"),
    ]
    undeclared, malformed, _ = attempts
    assert undeclared.confidence.span_status == "ok"
    assert undeclared.confidence.score is not None
    assert malformed.confidence.span_status == "partial"
    assert malformed.confidence.score is None


LEFT_OUT = '<tool_call>{"name": "get_wether", "arguments": {}}</tool_call>'
BROKEN = '<tool_call>{"name": "search", "arguments": {"q": </tool_call>'
GIVEN = '<tool_call>{"name": "search", "arguments": {}}</tool_call>'


@pytest.mark.parametrize(
    ("texts", "names", "expected"),
    [
        ([GIVEN, LEFT_OUT], ["search"], [(1, "get_wether", "undeclared")]),
        ([BROKEN, GIVEN, LEFT_OUT, GIVEN], ["search", "search"], [(0, "search", "malformed"), (1, "get_wether", "undeclared")]),
        ([GIVEN, GIVEN], ["search", "search"], []),
        # A server may give the first call only, and means to.
        ([GIVEN, GIVEN], ["search"], []),
        # It read a call from what looks broken here: then nobody knows what it left out.
        ([BROKEN, LEFT_OUT], ["search"], []),
        ([LEFT_OUT], ["get_weather"], []),
        ([GIVEN, ' for example {"name": "nope", "arguments": {}}'], ["search"], []),
        ([], ["search"], []),
    ],
)
def test_calls_left_out_beside_given_ones_are_found_in_their_places(
    texts: list[str], names: list[str], expected: list[tuple[int, str, str]]
) -> None:
    found = find_unreported_calls(sure(*texts), names, WEATHER)
    assert [(place, attempt.name, attempt.outcome) for place, attempt in found] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The sum is 5.", []),
        ('Here is one: {"name": "Bob", "age": 3}', []),
        ('{"name": "Bob", "age": ', []),
        ('{"name": "search", "age": ', [("search", "malformed")]),
        ("<tool_call>", [(None, "malformed")]),
        ('<tool_call>{"nam', [(None, "malformed")]),
        ('<tool_call>{"name": "search", "arguments": {"q": "a\nb"}}</tool_call>', [("search", "malformed")]),
        (
            '[TOOL_CALLS] [{"name": "search", "arguments": {}}, {"name": "nope", "arguments": {}}]',
            [("search", "ok"), ("nope", "undeclared")],
        ),
        ('{"name": "nope", "arguments": {"a": 1}}', [("nope", "undeclared")]),
    ],
)
def test_attempts_in_a_text_alone(text: str, expected: list[tuple[str | None, str]]) -> None:
    attempts = find_attempted_calls(text, WEATHER)
    assert [(attempt.name, attempt.outcome) for attempt in attempts] == expected
    assert {attempt.confidence.span_status for attempt in attempts} <= {"no_logprobs"}


def test_tokens_accepted_from_a_draft_are_no_certainty() -> None:
    fake = [TokenLogprob(r.token, 0.0) if r.token == "Paris" else r for r in HERMES]
    found = one(fake, "get_weather")
    assert (found.span_status, found.score, dict(found.measures)) == ("speculative", None, {})
    outside = [*HERMES, TokenLogprob("\n", 0.0)]
    found = one(outside, "get_weather")
    assert found.span_status == "ok"
    assert "naive_mean" not in found.measures


def test_missing_rows_leave_no_score() -> None:
    without = [r for r in HERMES if r.token != '":']
    found = one(without, "get_weather")
    assert (found.span_status, found.score) == ("partial", None)
    assert found.measures["name_branch"] == pytest.approx(0.9 * 0.6)
    assert one([r for r in HERMES if r.token != "get"], "get_weather").span_status == "not_found"
    assert one([], "get_weather").span_status == "no_logprobs"


def test_the_end_of_a_name_is_a_choice_where_another_goes_on() -> None:
    rows = [*sure('{"name": "'), row("get", 0.9), row('"', 0.4, _all=0.5), *sure(', "arguments": {}}')]
    found = one(rows, "get", ["get", "get_all"])
    assert found.measures["name_branch"] == pytest.approx(0.4)
    assert found.measures["name_margin"] == pytest.approx(math.log(0.4 / 0.5))
    assert found.measures["name_choice"] == pytest.approx(0.4 / 0.9)
    assert found.score == pytest.approx(0.4), "a call without arguments is as sure as its name"
    assert "args_min" not in found.measures


def test_a_token_that_straddles_the_quote_belongs_to_the_name() -> None:
    rows = [
        *sure('{"name":'),
        row(' "get', 0.5, **{'__"search': 0.4}),
        *sure("_"),
        row('time",', 0.8),
        *sure(' "arguments": {}}'),
    ]
    found = one(rows, "get_time")
    assert found.measures["name_branch"] == pytest.approx(0.5 * 0.8)
    assert found.measures["name_choice"] == pytest.approx(0.5 / 0.9)


def test_other_spellings_of_the_same_choice_are_no_rivals() -> None:
    rows = [*sure('{"name": "'), row("get", 0.5, ge=0.2, search=0.1, The=0.05), *sure('_time", "arguments": {}}')]
    measures = one(rows, "get_time").measures
    assert measures["name_margin"] == pytest.approx(math.log(0.5 / 0.1))
    assert measures["name_choice"] == pytest.approx(0.7 / 0.8)


def test_argument_values_are_found_at_any_depth_and_need_not_match_the_servers_json() -> None:
    rows = [
        *sure('{"name": "search", "arguments": {"a": {"b": [1, '),
        row("2", 0.5),
        *sure(', "'),
        row("\\u00e9t", 0.6),
        row("\\u00e9", 0.7),
        *sure('"], "c": '),
        row("true", 0.8),
        *sure(', "d": '),
        row('""', 0.4),
        *sure(', "e": '),
        row("{}", 0.9),
        *sure("}}}"),
    ]
    found = one(rows, "search")
    assert found.span_status == "ok"
    assert found.measures["args_min"] == pytest.approx(0.4)
    first = 0.999  # the row that holds the literal 1
    assert found.measures["args_geo"] == pytest.approx((first * 0.5 * 0.6 * 0.7 * 0.8 * 0.4 * 0.9) ** (1 / 7))


def test_characters_split_over_tokens_keep_their_rows() -> None:
    """Servers give an undecodable piece as U+FFFD, or as nothing, with the whole character in the next row."""
    rows = [*sure('{"name": "search", "arguments": {"q": "'), row("\ufffd", 0.7), row("\ufffd", 0.3), row("", 0.2), *sure('"}}')]
    assert one(rows, "search").measures["args_min"] == pytest.approx(0.3)


def test_an_argument_has_a_floor_and_bad_numbers_no_effect() -> None:
    top = (("y", -0.1),)
    rows = [*sure('{"name": "search", "arguments": {"q": "'), TokenLogprob("x", -math.inf, top), *sure('"}}')]
    found = one(rows, "search")
    assert found.score == pytest.approx(math.exp(-10))
    assert all(math.isfinite(value) for value in found.measures.values())
    rows = [TokenLogprob("x", math.nan, top) if r.token == "x" else r for r in rows]
    assert one(rows, "search").score is None


def test_harmony_renames_are_recognised() -> None:
    rows = [*sure("<|channel|>commentary to=functions."), row("my_tool", 0.6), *sure('<|constrain|>json<|message|>{"a": 1}')]
    found = one(rows, "my-tool", ["my-tool", "other"])
    assert found.span_status == "ok"
    assert found.measures["name_branch"] == pytest.approx(0.6)


def test_one_declared_tool_leaves_nothing_to_choose() -> None:
    rows = [*sure('{"name": "'), row("search", 0.2), *sure('", "arguments": {"q": "'), row("x", 0.5), *sure('"}}')]
    assert one(rows, "search", ["search"]).measures["name_branch"] == pytest.approx(1.0)
    assert one(rows, "search", []).measures["name_branch"] == pytest.approx(0.2), "unknown tools: every name token counts"


def test_deep_or_long_garbage_is_survived() -> None:
    for text in ("{" * 2000, "[TOOL_CALLS]" + "[" * 500, '{"a":' * 200, "<tool_call>" * 300, '"' * 5000):
        assert all(isinstance(attempt, AttemptedCall) for attempt in find_attempted_calls(text, WEATHER))


def test_tokens_that_a_grammar_forced_have_no_confidence() -> None:
    """vLLM with tool_choice=required: forced tokens are exactly 0.0 and every alternative -9999."""
    forced = (("x", -9999.0), ("y", -9999.0))
    texts = ['{"', "name", '":"', "get", '","', "arguments", '":{"', "city", '":"', "Oslo", '"}}']
    masked = [TokenLogprob(text, 0.0, ((text, 0.0), *forced)) for text in texts]
    (confidence,) = tool_call_confidences(masked, ["get"], ["get", "put"])
    assert (confidence.span_status, confidence.score, dict(confidence.measures)) == ("masked", None, {})
    # One forced token of the name is enough: what is left is not the model's choice of a tool.
    partly = [row if row.token == "get" else TokenLogprob(row.token, -0.1, ((row.token, -0.1), ("z", -2.4))) for row in masked]
    (confidence,) = tool_call_confidences(partly, ["get"], ["get", "put"])
    assert (confidence.span_status, confidence.score) == ("masked", None)


def test_certainty_with_real_alternatives_is_not_taken_for_a_forced_token() -> None:
    texts = ['{"name":"', "get", '","arguments":{}}']
    certain = [TokenLogprob(text, 0.0, ((text, 0.0), ("x", -31.5))) for text in texts]
    (confidence,) = tool_call_confidences(certain, ["get"], ["get", "put"])
    assert (confidence.span_status, confidence.score) == ("ok", 1.0)
