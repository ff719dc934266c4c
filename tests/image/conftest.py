"""Says at the end which base the image was built on."""

from __future__ import annotations

import pytest

from tests.image.containers import SUMMARY


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SUMMARY:
        terminalreporter.section("image")
    for line in SUMMARY:
        terminalreporter.write_line(line)
