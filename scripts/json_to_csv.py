#!/usr/bin/env python3
"""Makes one table of all result files: the same as ``joulebench json-to-csv``, under the name that its users know."""

from __future__ import annotations

import sys

from joulebench.cli import main

if __name__ == "__main__":
    sys.exit(main(["json-to-csv", *sys.argv[1:]]))
