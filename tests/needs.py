"""What a test needs beside Python packages. Where it is missing the test is skipped with the reason; with ``CI=true`` it fails:
a gate that skips itself gates nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from joulebench.bench.embedded import model_file
from joulebench.errors import UserError
from joulebench.stack import programs


def missing(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def need_program(name: str) -> Path:
    executable = programs.find(name)
    if executable is None:
        missing(f"{name} is not installed; 'joulebench stack fetch {name}' downloads it")
    return executable


def need_check_jsonschema() -> Path:
    """The program of the package of that name, which pyproject.toml asks for where its Python is new enough for it."""
    tool = Path(sys.executable).with_name("check-jsonschema")
    if not tool.exists():
        missing("check-jsonschema is not installed; it needs Python 3.11")
    return tool


def need_model() -> Path:
    """The file of the small model, where it can be served."""
    try:
        return model_file()
    except UserError as error:
        missing(str(error))
