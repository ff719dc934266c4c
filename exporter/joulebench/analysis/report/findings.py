"""What limits the runs, as ``joulebench analyze`` finds it, for the report: each with evidence, estimated gain and next step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from joulebench.analysis.bottlenecks import balance, bottlenecks, kv_cache, observed, throttling
from joulebench.analysis.bottlenecks.observed import Finding


def read(directories: Iterable[Path]) -> list[dict[str, Any]]:
    """Of all of them together; one finding that two searches make is told once."""
    tasks = observed.read(directories)
    found: dict[tuple[str, str], Finding] = {}
    for one in (
        *(finding for limits in bottlenecks.limits(tasks) for finding in limits.findings),
        *(finding for slowed in throttling.throttling(tasks) for finding in slowed.findings),
        *(finding for cards in balance.balance(tasks) for finding in cards.findings),
        *(finding for cache in kv_cache.kv_cache(tasks) for finding in cache.findings),
    ):
        found.setdefault((one.scope, one.kind), one)
    return [{**asdict(one), "tasks": list(one.tasks)} for one in found.values()]
