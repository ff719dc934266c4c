"""What the README, pyproject.toml and the tests of installations say about a new machine is the same."""

from __future__ import annotations

import re
import sys

import pytest

from tests.contract.sources import ROOT
from tests.fresh_machine.machine import PACKAGES

if sys.version_info >= (3, 11):
    import tomllib
else:
    pytest.skip("tomllib came with Python 3.11", allow_module_level=True)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCRIPT = (ROOT / "scripts/test_python_versions.sh").read_text(encoding="utf-8")


def script_versions() -> list[str]:
    listed = re.search(r"^versions=\((.*)\)$", SCRIPT, re.MULTILINE)
    assert listed is not None
    return listed[1].split()


def test_the_readme_asks_for_what_the_fresh_machine_has() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"`{' '.join(sorted(PACKAGES))}` are all that must be there" in readme


def test_each_python_that_is_promised_is_tested_and_no_other_one_is_promised() -> None:
    versions = script_versions()
    first, last = versions[0], versions[-1]
    major, minor = last.split(".")
    assert PROJECT["requires-python"] == f">={first},<{major}.{int(minor) + 1}"
    prefix = "Programming Language :: Python :: 3."
    assert [f"3.{name.removeprefix(prefix)}" for name in PROJECT["classifiers"] if name.startswith(prefix)] == versions
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Python {first} to {last}" in readme
    assert f"({first.replace('.', ', ')}) <= sys.version_info[:2] < (3, {int(minor) + 1})" in (ROOT / "Makefile").read_text()
