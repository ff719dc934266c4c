"""A result file as text: sections are put in, and everything around them keeps its bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from joulebench.mcpworld import document
from joulebench.schema import UnreadableResult


def written(path: Path, text: str) -> document.Document:
    path.write_bytes(text.encode())
    return document.read_document(path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"a": 1}', '{"a": 1, "new": {"x": null}}'),
        ('{\n  "a": 1.10\n}\n', '{\n  "a": 1.10,\n  "new": {\n    "x": null\n  }\n}\n'),
        ('{\n\t"a": [1, 2 ]\n}', '{\n\t"a": [1, 2 ],\n\t"new": {\n\t\t"x": null\n\t}\n}'),
        ('{"new": 5, "a": 1}', '{"new": {"x": null}, "a": 1}'),
        ('  {"a" : "}," , "new":{"x":9}}  ', '  {"a" : "}," , "new":{"x": null}}  '),
    ],
)
def test_a_section_is_put_in_or_replaced(tmp_path: Path, before: str, after: str) -> None:
    found = written(tmp_path / "result_1.json", before)
    new = found.with_sections({"new": {"x": None}})
    assert new == after
    assert json.loads(new)["new"] == {"x": None}
    (tmp_path / "again.json").write_text(new)
    assert document.read_document(tmp_path / "again.json").with_sections({"new": {"x": None}}) == new


def test_numbers_keep_their_spelling(tmp_path: Path) -> None:
    text = '{"a": 1e-7, "b": 1.50, "c": 123456789012345678901234567890, "d": NaN, "e": "\\u00fc", "a": 2}'
    assert written(tmp_path / "r.json", text).with_sections({"z": 1}) == text[:-1] + ', "z": 1}'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ("[1]", "no object"),
        ("{}", "holds nothing"),
        ('{"a": 1', "not valid JSON"),
        ('{"a": 1} x', "more after its end"),
        ('{"a" 1}', "was expected"),
        ('{"a": 1 "b": 2}', "was expected"),
    ],
)
def test_what_is_no_result_says_why(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UnreadableResult, match=why):
        written(tmp_path / "r.json", text)


def test_bytes_that_are_no_text_and_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UnreadableResult, match="UTF-8"):
        document.read_document(tmp_path / "r.json")
    with pytest.raises(UnreadableResult, match="cannot be read"):
        document.read_document(tmp_path / "none.json")


def test_a_section_that_is_text_reads_as_empty(tmp_path: Path) -> None:
    found = written(tmp_path / "r.json", '{"a": {"b": "ERROR_GETTING_VALUE: no"}}')
    assert found.section("a", "b") == {}
    assert found.section("a", "b", "c") == {}
    assert found.section("a") == {"b": "ERROR_GETTING_VALUE: no"}
