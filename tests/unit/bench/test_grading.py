"""Each check holds for what it names and for nothing beside it."""

from __future__ import annotations

import pytest

from joulebench.bench.grading import CHECKS, Check, grade

FILES = {
    "out.txt": "hello \nworld\n",
    "s.json": '{"b": [1, 2], "a": true}',
    "bad.json": "{",
    "t.csv": "part,count\nnuts,40\nbolts, 90\n",
}

HOLDS: list[tuple[Check, str]] = [
    (Check("file_equals", {"path": "out.txt", "text": "hello\nworld"}), ""),
    (Check("file_contains", {"path": "out.txt", "text": "wor"}), ""),
    (Check("file_absent", {"path": "gone.txt"}), ""),
    (Check("json_equals", {"path": "s.json", "value": {"a": True, "b": [1, 2]}}), ""),
    (Check("csv_cell", {"path": "t.csv", "row": 2, "column": "count", "value": 90}), ""),
    (Check("answer_equals", {"text": "Green"}), " green\n"),
    (Check("answer_contains", {"text": "green"}), "The colour is GREEN."),
    (Check("answer_matches", {"pattern": r"\bfour\b"}), "there are Four lines"),
    (Check("answer_number", {"value": 1234.5}), "of 3 items: 1,234.5"),
    (Check("answer_number", {"value": 10, "tolerance": 0.5}), "10.4"),
]
FAILS: list[tuple[Check, str]] = [
    (Check("file_equals", {"path": "out.txt", "text": "hello"}), ""),
    (Check("file_equals", {"path": "gone.txt", "text": ""}), ""),
    (Check("file_contains", {"path": "gone.txt", "text": ""}), ""),
    (Check("file_contains", {"path": "out.txt", "text": "WOR"}), ""),
    (Check("file_absent", {"path": "out.txt"}), ""),
    (Check("json_equals", {"path": "s.json", "value": {"a": 1, "b": [1, 2]}}), ""),
    (Check("json_equals", {"path": "bad.json", "value": {}}), ""),
    (Check("json_equals", {"path": "gone.json", "value": {}}), ""),
    (Check("csv_cell", {"path": "t.csv", "row": 1, "column": "count", "value": 90}), ""),
    (Check("csv_cell", {"path": "t.csv", "row": 3, "column": "count", "value": 90}), ""),
    (Check("csv_cell", {"path": "t.csv", "row": 1, "column": "price", "value": 90}), ""),
    (Check("csv_cell", {"path": "gone.csv", "row": 1, "column": "price", "value": 90}), ""),
    (Check("answer_equals", {"text": "green"}), "light green"),
    (Check("answer_contains", {"text": "green"}), ""),
    (Check("answer_matches", {"pattern": "^4$"}), "14"),
    (Check("answer_number", {"value": 4}), "4 or 5"),
    (Check("answer_number", {"value": 4}), "four"),
]


@pytest.mark.parametrize(("check", "answer"), HOLDS, ids=str)
def test_holds(check: Check, answer: str) -> None:
    assert grade([check], answer, FILES).passed


@pytest.mark.parametrize(("check", "answer"), FAILS, ids=str)
def test_fails_with_a_reason(check: Check, answer: str) -> None:
    verdict = grade([check], answer, FILES)
    assert not verdict.passed
    assert verdict.reason.startswith(f"{check.kind}: ")


def test_every_check_must_hold_and_each_is_told() -> None:
    verdict = grade([HOLDS[0][0], FAILS[0][0], HOLDS[1][0]], "", FILES)
    assert (verdict.passed, verdict.held) == (False, (True, False, True))


def test_both_tables_cover_every_kind() -> None:
    assert {check.kind for check, _ in HOLDS} == {check.kind for check, _ in FAILS} == set(CHECKS)
