"""A shipped suite can be passed and failed, and an error in a user's suite is told with file, task and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulebench.bench import prompts, suites
from joulebench.bench.grading import grade
from joulebench.errors import UserError

TASK = """
name: mine
tasks:
  - id: first
    name: First
    instruction: Do it.
    files: {a.txt: hello}
    grade:
      - file_equals: {path: a.txt, text: hello}
"""


def suite_file(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_shipped_suite_is_whole() -> None:
    suite = suites.load("files")
    assert len(suite.tasks) >= 16
    examples = {message.text for message in prompts.EXAMPLES if message.role == "user"}
    assert not examples & {task.instruction for task in suite.tasks}


@pytest.mark.parametrize("task", suites.load("files").tasks, ids=lambda task: task.id)
def test_no_shipped_task_passes_by_doing_nothing(task: suites.TaskSpec) -> None:
    for answer in ("", "done", "ok", task.instruction):
        verdict = grade(task.grade, answer, task.files)
        if task.id in ECHOED and answer == task.instruction:
            continue
        assert not verdict.passed, answer


ECHOED = {"longest-file"}
"""Whoever repeats the question has said the word that is asked for."""


def test_defaults_and_overrides(tmp_path: Path) -> None:
    text = TASK.replace("name: mine\n", "name: mine\nmax_turns: 3\n") + "    timeout_seconds: 2.5\n"
    (task,) = suites.load(suite_file(tmp_path, text)).tasks
    assert (task.max_turns, task.timeout_seconds, task.files) == (3, 2.5, {"a.txt": "hello"})


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("id: first", "id: First!", "task 'First!': id:"),
        ("instruction: Do it.", "", "task 'first': 'instruction' is a required property"),
        ("file_equals", "file_same", "task 'first': grade[0]: "),
        ("text: hello}\n", "texts: hello}\n", "task 'first': grade[0].file_equals: "),
        ("{a.txt: hello}", "{../a.txt: hello}", "task 'first': files: '../a.txt': a path does not leave"),
        ("{a.txt: hello}", "{a.txt: 3}", "task 'first': files.a.txt: 3 is not of type 'string'"),
        ("path: a.txt,", "path: /a.txt,", "task 'first': grade[0].file_equals.path: '/a.txt': a path is relative"),
        ("file_equals: {path: a.txt, text: hello}", "answer_matches: {pattern: '('}", "is not a regular expression"),
        ("file_equals: {path: a.txt, text: hello}", "{}", "give exactly one check, one of file_equals"),
        ("name: mine", "name: mine\nmax_turn: 3", "'max_turn' was unexpected"),
        ("name: mine", "name: [", "cannot be read as YAML"),
    ],
)
def test_errors_are_told_by_place(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in TASK
    path = suite_file(tmp_path, TASK.replace(old, new))
    with pytest.raises(UserError) as error:
        suites.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert told in str(error.value)


@pytest.mark.parametrize("text", ["", "3", "[]", "name: x", "tasks: 3"])
def test_anything_but_a_suite_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"mine\.yaml: "):
        suites.load(suite_file(tmp_path, text))


def test_a_doubled_id_is_refused(tmp_path: Path) -> None:
    doubled = TASK + TASK.partition("tasks:\n")[2]
    with pytest.raises(UserError, match="task 'first': id: two tasks have it"):
        suites.load(suite_file(tmp_path, doubled))


def test_names_and_globs() -> None:
    with pytest.raises(UserError, match="neither a shipped suite"):
        suites.load("nothing")
    chosen = suites.load("files").only("csv-*")
    assert chosen.tasks
    assert all(task.id.startswith("csv-") for task in chosen.tasks)
    with pytest.raises(UserError, match=r"no task of suite files matches 'x\*'"):
        suites.load("files").only("x*")
