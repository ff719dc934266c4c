"""Goldens: texts that are the contract, kept in ``tests/goldens`` and compared byte for byte.

``pytest --update-goldens`` rewrites what differs and fails the run, so that a rewritten golden is always looked at (``git
diff tests/goldens``) and no pipeline can pass by updating.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

__all__ = ["Golden", "golden", "pytest_addoption", "pytest_sessionfinish"]

GOLDENS = Path(__file__).parent / "goldens"
OPTION = "--update-goldens"

Golden: TypeAlias = Callable[[str, str], None]
"""``golden("room/name.txt", text)`` fails with a diff when the text is not what the golden says."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, action="store_true", help="rewrite goldens that differ, and fail the run")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption(OPTION) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    update = bool(request.config.getoption(OPTION))

    def check(name: str, text: str) -> None:
        path = GOLDENS / name
        known = path.read_text(encoding="utf-8") if path.exists() else ""
        if path.exists() and known == text:
            return
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            pytest.fail(f"goldens/{name} is rewritten; look at its diff, then run again without {OPTION}")
        diff = difflib.unified_diff(known.splitlines(), text.splitlines(), f"goldens/{name}", "now", lineterm="", n=1)
        pytest.fail(f"goldens/{name} differs; if that is meant, run with {OPTION}\n" + "\n".join(diff))

    return check
