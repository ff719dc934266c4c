"""What "it went well" means, level by level, and the samples of each level: one per call, or one per task.

A task's measure is that of its least sure call: one wrong call is enough to fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from joulebench.analysis.records import SCORE, TaskRecord

MEASURES = (
    SCORE,
    "call_decision",
    "name_joint",
    "name_branch",
    "name_margin",
    "name_choice",
    "args_min",
    "args_geo",
    "sem_nll",
    "entropy_max",
    "naive_mean",
)
UNSURE_WHEN_HIGH = ("sem_nll", "entropy_max")
NO_PROBABILITY = ("name_margin", *UNSURE_WHEN_HIGH)
"""Nats: they order calls, and neither Brier nor ECE can be said of them."""

WELL_FORMED, SCHEMA_VALID, TOOL_OK, TASK_SUCCESS = "well-formed", "schema-valid", "tool ok", "task success"
LEVELS = (WELL_FORMED, SCHEMA_VALID, TOOL_OK, TASK_SUCCESS)
_FAILED_AT: dict[str, tuple[str, ...]] = {
    WELL_FORMED: ("malformed", "undeclared"),
    SCHEMA_VALID: ("malformed", "undeclared", "schema_invalid"),
    TOOL_OK: ("malformed", "undeclared", "schema_invalid", "tool_error"),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """``group``: the task's name. Repetitions of a task are no independent evidence, so they stay together."""

    group: str
    good: bool
    measures: Mapping[str, float]


def samples(tasks: Sequence[TaskRecord], level: str) -> list[Sample]:
    """Calls whose tokens were not found are samples without measures."""
    if level == TASK_SUCCESS:
        known = [(task, task.success) for task in tasks if task.success is not None and task.calls]
        return [Sample(task.name, success, _least_sure(call.measures for call in task.calls)) for task, success in known]
    failed = _FAILED_AT[level]
    return [Sample(task.name, call.outcome not in failed, call.measures) for task in tasks for call in task.calls]


def sureness(measure: str, value: float) -> float:
    """Such that more is surer."""
    return -value if measure in UNSURE_WHEN_HIGH else value


def _least_sure(measures: Iterable[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in measures:
        for name, value in one.items():
            if name not in found or sureness(name, value) < sureness(name, found[name]):
                found[name] = value
    return found
