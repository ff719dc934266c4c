"""The golden switch itself: updating rewrites and fails, comparing shows the difference."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import goldens_support

TEST = 'def test_text(golden):\n    golden("room/text.txt", {text!r})\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "tests"
    folder.mkdir()
    shutil.copy(goldens_support.__file__, folder / "goldens_support.py")
    (folder / "__init__.py").touch()
    (folder / "conftest.py").write_text("from tests.goldens_support import *\n", encoding="utf-8")
    return tmp_path


def run(project: Path, text: str, *options: str) -> tuple[int, str]:
    (project / "tests" / "test_it.py").write_text(TEST.format(text=text), encoding="utf-8")
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", *options]
    ended = subprocess.run(argv, cwd=project, capture_output=True, text=True, check=False, timeout=60)
    return ended.returncode, ended.stdout


def test_updating_rewrites_and_fails_and_comparing_shows_the_difference(project: Path) -> None:
    kept = project / "tests" / "goldens" / "room" / "text.txt"
    code, told = run(project, "one\n")
    assert (code, kept.exists()) == (1, False)
    assert "run with --update-goldens" in told
    code, told = run(project, "one\n", "--update-goldens")
    assert (code, kept.read_text(encoding="utf-8")) == (1, "one\n")
    assert "is rewritten; look at its diff" in told
    assert run(project, "one\n")[0] == 0
    code, told = run(project, "two\n")
    assert (code, kept.read_text(encoding="utf-8")) == (1, "one\n")
    assert "-one" in told
    assert "+two" in told


def test_a_run_that_updates_fails_even_when_nothing_differed(project: Path) -> None:
    run(project, "one\n", "--update-goldens")
    assert run(project, "one\n", "--update-goldens")[0] == 1
