#!/usr/bin/env python3
"""Writes result JSON and CSV of a finished run: the same as ``joulebench export``, under the name that its users know."""

from __future__ import annotations

import sys

from joulebench.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
