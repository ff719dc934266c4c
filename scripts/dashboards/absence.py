"""The three states in which a reading can be missing, told apart: the hardware lacks it, there is no GPU, nothing is collected.

A tile or a cell that shows a reading adds these to its query: where a GPU answers but lacks the reading it is "n/a", where the
exporter has no GPU it is "no GPU reported", and where neither is known the query finds nothing and the panel says "No data".
The numbers stand for words and lie below everything that is measured, temperature margins too.
"""

from __future__ import annotations

from scripts.dashboards.fields import Json, states
from scripts.dashboards.promql import select

from joulebench import metrics as m

NOT_AVAILABLE, NO_GPU, NO_RUN = -1000, -1001, -1002
GPU_KEYS = "instance, gpu, uuid"

ABSENCE: list[Json] = states({NOT_AVAILABLE: ("n/a", "text"), NO_GPU: ("no GPU reported", "text")})
NO_READING = "No reading: the tile “GPU source” says whether there is a GPU"
"""In place of a graph of the hardware; a graph cannot tell the states apart, the tile above it can."""
NO_CALLS = "No data: no such call of a run in this time range"
NO_COSTS = "No data: no task with a known energy in this time range, or no price list"
NO_TASKS = "No data: no task ran in this time range"
NO_RUN_STATE: dict[float, tuple[str, str]] = {NO_RUN: ("no live run", "text")}


def or_absence(expr: str) -> str:
    """For one number of all chosen GPUs, without labels."""
    lacks = f"0 * max({select(m.GPU_UP)} == 1) - {-NOT_AVAILABLE}"
    without = f"""0 * max({select(m.EXPORTER_INFO, 'gpu_source="none"')}) - {-NO_GPU}"""
    return f"{expr} or {lacks} or {without}"


def or_absence_by_gpu(expr: str) -> str:
    """For one number a GPU; a lost GPU keeps its empty cell."""
    return f"{expr} or on ({GPU_KEYS}) 0 * max by ({GPU_KEYS}) ({select(m.GPU_UP)} == 1) - {-NOT_AVAILABLE}"


def or_no_run(expr: str) -> str:
    """For what only a live run has: told apart from a collection that is dead."""
    return f"{expr} or on () 0 * max({select(m.EXPORTER_INFO)}) - {-NO_RUN}"


def or_unknown(expr: str, task: str) -> str:
    """For a number of the one task that ``task`` selects: told apart from a task of which nothing is found."""
    return f"{expr} or 0 * count({task}) - {-NOT_AVAILABLE}"
