#!/usr/bin/env python3
"""Writes GPU and container readings to a CSV: the same as ``joulebench monitor``, under the name that its users know."""

from __future__ import annotations

import sys

from joulebench.cli import main

if __name__ == "__main__":
    sys.exit(main(["monitor", *sys.argv[1:]]))
