"""Runs ``joulebench`` as a module: ``python -m joulebench.cli``."""

from __future__ import annotations

import sys

from joulebench.cli import main

sys.exit(main())
