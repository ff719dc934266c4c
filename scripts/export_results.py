#!/usr/bin/env python3
"""Writes result JSON and CSV of a finished run: the same as ``joulebench export``, under the name that its users know."""

from __future__ import annotations

from clone_environment import run

if __name__ == "__main__":
    run("export")
