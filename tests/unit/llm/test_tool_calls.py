"""Tool calls are kept apart, or put together, by what servers write: ids, names, indexes and complete arguments."""

from __future__ import annotations

import json

import pytest

from joulebench.llm.readers import Api, reader_for
from joulebench.parsing import Json

Part = tuple[int | None, str | None, str | None, object]
"""Index, id, name and arguments of one part; None leaves the member out."""


def calls_of(*deltas: list[Part]) -> list[tuple[str, object]]:
    reader = reader_for(Api.OPENAI_CHAT)
    for delta in deltas:
        calls = []
        for index, call_id, name, arguments in delta:
            function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
            part: Json = {"function": function}
            part |= {key: value for key, value in (("index", index), ("id", call_id)) if value is not None}
            calls.append(part)
        reader.read({"choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": None}]}, 1.0)
    return [(call.name, call.arguments) for call in reader.finish().tool_calls]


A, B = '{"x": 1}', '{"y": [2]}'
BOTH = [("f", {"x": 1}), ("g", {"y": [2]})]
CASES: dict[str, tuple[list[list[Part]], list[tuple[str, object]]]] = {
    "indexes": ([[(0, "1", "f", A)], [(1, "2", "g", B)]], BOTH),
    "parts by index": (
        [
            [(0, "1", "f", "")],
            [(1, "2", "g", "")],
            [(0, None, None, '{"x":')],
            [(1, None, None, '{"y":')],
            [(0, None, None, " 1}")],
            [(1, None, None, " [2]}")],
        ],
        BOTH,
    ),
    "all with index 0 and ids": ([[(0, "1", "f", A)], [(0, "2", "g", B)]], BOTH),
    "all with index 0, ids, in parts": (
        [[(0, "1", "f", "")], [(0, None, None, A[:4])], [(0, None, None, A[4:])], [(0, "2", "g", "")], [(0, None, None, B)]],
        BOTH,
    ),
    "all with index 0, no ids": ([[(0, None, "f", A)], [(0, None, "g", B)]], BOTH),
    "no index, no ids": ([[(None, None, "f", A)], [(None, None, "g", B)]], BOTH),
    "no index, ids": ([[(None, "1", "f", A)], [(None, "2", "g", B)]], BOTH),
    "no index, in one delta": ([[(None, None, "f", A), (None, None, "g", B)]], BOTH),
    "no index, in parts": ([[(None, "1", "f", A[:3])], [(None, None, None, A[3:])], [(None, "2", "g", B)]], BOTH),
    "the same tool twice, index 0": ([[(0, None, "f", A)], [(0, None, "f", A)]], [("f", {"x": 1})] * 2),
    "no arguments before": ([[(0, None, "f", "")], [(0, None, "g", B)]], [("f", {}), ("g", {"y": [2]})]),
    "the id in every part": ([[(0, "1", "f", A[:5])], [(0, "1", None, A[5:])]], [("f", {"x": 1})]),
    "id and name in every part": ([[(0, "1", "f", A[:5])], [(0, "1", "f", A[5:])]], [("f", {"x": 1})]),
    "one id for all calls": ([[(0, "1", "f", A)], [(0, "1", "g", B)]], BOTH),
    "an index for every part of one call": ([[(0, "1", "f", A[:5])], [(1, "1", None, A[5:])]], [("f", {"x": 1})]),
    "empty id in later parts": ([[(0, "1", "f", A[:5])], [(0, "", None, A[5:])]], [("f", {"x": 1})]),
    "name in parts": ([[(0, "1", "f", None)], [(0, None, "oo", None)], [(0, None, None, A)]], [("foo", {"x": 1})]),
    "arguments as object": ([[(0, "1", "f", {"x": 1})], [(0, "2", "g", {"y": [2]})]], BOTH),
    "objects, index 0, no ids": ([[(0, None, "f", {"x": 1})], [(0, None, "g", {"y": [2]})]], BOTH),
    "arguments null": ([[(0, "1", "f", None)]], [("f", {})]),
    "arguments 'null'": ([[(0, "1", "f", "null")]], [("f", {})]),
    "arguments empty": ([[(0, "1", "f", "")]], [("f", {})]),
    "arguments broken": ([[(0, "1", "f", '{"x":')]], [("f", None)]),
}


@pytest.mark.parametrize(("deltas", "expected"), CASES.values(), ids=CASES)
def test_parts_belong_to_the_calls_that_the_model_made(deltas: list[list[Part]], expected: list[tuple[str, object]]) -> None:
    assert calls_of(*deltas) == expected


@pytest.mark.parametrize("arguments", [{"x": 1}, '{"x": 1}'])
def test_a_whole_reply_and_an_ollama_reply_have_the_same_calls(arguments: object) -> None:
    function = {"name": "f", "arguments": arguments}
    openai, ollama = reader_for(Api.OPENAI_CHAT), reader_for(Api.OLLAMA_CHAT)
    openai.read({"choices": [{"message": {"tool_calls": [{"id": "1", "function": function}] * 2}}]}, None)
    ollama.read({"message": {"tool_calls": [{"function": function}] * 2}, "done": True}, 1.0)
    for reader in (openai, ollama):
        assert [(call.name, call.arguments) for call in reader.finish().tool_calls] == [("f", {"x": 1})] * 2


def test_only_the_first_choice_is_read() -> None:
    reader = reader_for(Api.OPENAI_CHAT)
    for index, content in ((0, "a"), (1, "b"), (0, "c"), (1, "d")):
        reader.read({"choices": [{"index": index, "delta": {"content": content}}]}, 1.0)
    assert reader.finish().text == "ac"


def test_arguments_that_never_end_are_bounded() -> None:
    reader = reader_for(Api.OPENAI_CHAT)
    part: Json = {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "[" * 100_000}}]}}]}
    for _ in range(30):
        reader.read(json.loads(json.dumps(part)), 1.0)
    (call,) = reader.finish().tool_calls
    assert "exceed" in call.problem
    assert len(call.raw_arguments) <= 1024 * 1024
