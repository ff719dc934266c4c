"""A run id never leaves its directory, and a task id is data that reaches the journal and the label as the same text."""

from __future__ import annotations

import re

import pytest

from joulebench.errors import UserError
from joulebench.metrics.label_text import MAX_LABEL_LENGTH, label_text
from joulebench.push import ids
from joulebench.units import Seconds


@pytest.mark.parametrize("value", ["../etc", "a/b", "", ".", "..", ".hidden", "-x", "a b", "a\n", "é", "x" * 101, "a\\b"])
def test_what_could_leave_the_directory_is_refused(value: str) -> None:
    with pytest.raises(UserError, match="run_id"):
        ids.path_part(value, "run_id")


def test_new_run_ids_are_utc_unlike_and_valid() -> None:
    made = {ids.new_run_id(Seconds(1_700_000_000.9)) for _ in range(50)}
    assert len(made) == 50
    assert all(re.fullmatch(r"20231114-221320-[0-9a-f]{6}", ids.path_part(run_id, "run_id")) for run_id in made)
    assert ids.path_part(ids.default_worker(), "worker")


def test_labels_are_printable_valid_and_bounded() -> None:
    assert label_text("a\x00\n\x1bb\u2028 ") == "a b"
    assert label_text("bad \ud800 surrogate").encode()
    long = label_text("x" * 5000 + "1")
    assert len(long) == MAX_LABEL_LENGTH
    assert long != label_text("x" * 5000 + "2")


def test_repeated_ids_are_numbered() -> None:
    task_ids = ids.TaskIds({"u", "u#2"})
    assert [task_ids.claim("t") for _ in range(3)] == ["t", "t#2", "t#3"]
    assert [task_ids.claim(name) for name in ("u", "t#4", "t", "u")] == ["u#3", "t#4", "t#5", "u#4"]


@pytest.mark.parametrize(
    ("task_id", "start"),
    [
        ("read-missing#2", "read-missing-2-"),
        ("a&b=c?d", "a-b-c-d-"),
        ("größe/任务", "gr-e-"),
        ("###", ""),
        ("x" * 200, "x" * 60 + "-"),
    ],
)
def test_a_task_key_is_what_an_address_carries_unchanged(task_id: str, start: str) -> None:
    key = ids.task_key(task_id)
    assert key.startswith(start)
    assert re.fullmatch(r"[A-Za-z0-9_-]{10,80}", key)
    assert ids.task_key(task_id) == key


def test_task_keys_tell_apart_what_looks_alike_and_leave_simple_ids_as_they_are() -> None:
    alike = ["a#2", "a-2", "a 2", "a.2", "a&2", "a%2", "-a-2", "a_2", "A-2"]
    assert len({ids.task_key(task_id) for task_id in alike}) == len(alike)
    assert [ids.task_key(task_id) for task_id in ("a-2", "read_file", "A-2")] == ["a-2", "read_file", "A-2"]
