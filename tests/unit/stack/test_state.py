"""Where ``joulebench down`` looks for a stack: only the process of this test stands for one, and it is never ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from joulebench import cli
from joulebench.stack import state


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "cache"


def started_in(directory: Path, *, alive: bool) -> Path:
    directory.mkdir(parents=True)
    born = state.birth(os.getpid()) or 0
    state.save(directory, [state.Started("exporter", os.getpid(), born if alive else born + 1, "http://127.0.0.1:1")])
    state.remember(directory)
    return directory


def test_no_stack_says_where_it_looked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = started_in(tmp_path / "gone", alive=False)
    assert cli.main(["stack", "down"]) == 0
    out = capsys.readouterr().out
    assert f"no stack runs in {tmp_path}/work/.joulebench or a directory above it; started elsewhere: {gone}" in out


def test_several_stacks_elsewhere_are_named_and_none_is_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = started_in(tmp_path / "one", alive=True), started_in(tmp_path / "other", alive=True)
    assert cli.main(["stack", "down"]) == 2
    assert f"--dir: several stacks run; name one of {one}, {other}" in capsys.readouterr().err
    assert all((directory / state.FILE_NAME).exists() for directory in (one, other))


def test_a_stack_that_was_forgotten_is_not_remembered(tmp_path: Path) -> None:
    one = started_in(tmp_path / "one", alive=True)
    state.forget(one)
    other = started_in(tmp_path / "other", alive=True)
    assert state.known_directories() == [other]
