"""Runs a ``joulebench`` command for the scripts of this folder, whichever Python they were started with.

A Python without joulebench hands over to the environment of the clone (``.venv``, which ``make setup`` creates), or says how to
get it. This file must run on any Python 3.
"""

from __future__ import annotations

import importlib.util
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PYTHON = os.path.join(ROOT, ".venv", "bin", "python")


def run(command):  # type: ignore[no-untyped-def]
    """Runs ``joulebench COMMAND`` with the arguments of this process and exits with its code."""
    if importlib.util.find_spec("joulebench") is not None and importlib.util.find_spec("click") is not None:
        from joulebench.cli import main

        sys.exit(main([command, *sys.argv[1:]]))
    if os.access(PYTHON, os.X_OK) and os.path.realpath(sys.prefix) != os.path.join(ROOT, ".venv"):
        os.execv(PYTHON, [PYTHON, "-m", "joulebench.cli", command, *sys.argv[1:]])
    sys.exit(
        f"{sys.argv[0]}: joulebench is not installed for {sys.executable}, and there is no environment in {ROOT}/.venv."
        f" Create it with 'make -C {ROOT} setup', or install it here with '{sys.executable} -m pip install {ROOT}'"
    )
