"""The ways to give a window its joules. Each takes the same ``Taken`` windows and answers by window id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """``joules`` None: the method says that it does not know. ``low`` and ``high``: bounds, where it states any."""

    joules: float | None
    low: float | None = None
    high: float | None = None


Answers = Mapping[int, Estimate]

API, API_LATER, PROMETHEUS = "Joulebench, exporter", "same, asked after the run", "Joulebench, Prometheus only"
ZEUS, NAIVE, LINEAR = "Zeus", "naive: sum of 1 s power", "1 s scrape of counter, linear"
