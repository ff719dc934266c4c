"""The C compiler that builds the fake libraries: the machine's own, else the one that the package ``ziglang`` holds."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys

from tests.needs import missing

NAMES = ("cc", "gcc", "clang")


def find_c_compiler() -> list[str] | None:
    """Return the command, ``CC`` first. None where there is no compiler."""
    if given := os.environ.get("CC"):
        return shlex.split(given)
    for name in NAMES:
        if path := shutil.which(name):
            return [path]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    return None


def need_c_compiler() -> list[str]:
    """Return the command. Where there is none the test is skipped with the reason; on CI it fails."""
    command = find_c_compiler()
    if command is None:
        missing(f"no C compiler ({', '.join(NAMES)}); 'pip install ziglang' brings one without root")
    return command
