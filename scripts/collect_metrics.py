#!/usr/bin/env python3
"""Puts a task into the tables of its suite: the same as ``joulebench collect-metrics``, under the name that its users know."""

from __future__ import annotations

import sys

from joulebench.cli import main

if __name__ == "__main__":
    sys.exit(main(["collect-metrics", *sys.argv[1:]]))
