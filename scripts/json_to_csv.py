#!/usr/bin/env python3
"""Makes one table of all result files: the same as ``joulebench json-to-csv``, under the name that its users know."""

from __future__ import annotations

from clone_environment import run

if __name__ == "__main__":
    run("json-to-csv")
