"""Joules that would not have been spent, had a task been given up at its first call with a score below a threshold.

Saved is what the task took after the model's call that made the doubtful tool call. A success that would have been given up is
counted as lost: the joules saved there bought something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from joulebench.analysis.prediction.records import SCORE, CallRecord, TaskRecord

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Saving:
    """``saved_joules`` is of the failures given up; None where it is not known of one of them. ``all_joules``: of all tasks."""

    threshold: float
    given_up: int
    failures: int
    lost_successes: int
    saved_joules: float | None
    all_joules: float | None


def savings(tasks: Sequence[TaskRecord]) -> list[Saving]:
    known = [task for task in tasks if task.success is not None]
    return [_at(threshold, known) for threshold in THRESHOLDS]


def _at(threshold: float, tasks: Sequence[TaskRecord]) -> Saving:
    doubtful = [(task, call) for task in tasks if (call := _first_below(task, threshold)) is not None]
    failures = [(task, call) for task, call in doubtful if not task.success]
    return Saving(
        threshold=threshold,
        given_up=len(doubtful),
        failures=len(failures),
        lost_successes=len(doubtful) - len(failures),
        saved_joules=_sum([joules_after(task, call) for task, call in failures]),
        all_joules=_sum([task.joules for task in tasks]),
    )


def joules_after(task: TaskRecord, call: CallRecord) -> float | None:
    """By the joules of the model's calls up to this one; where one is not known, by the share of the task's time after it."""
    if task.joules is None:
        return None
    if call.llm_call is not None:
        until = [task.call_joules.get(number) for number in range(1, call.llm_call + 1)]
        spent = _sum(until)
        if spent is not None:
            return max(0.0, task.joules - spent)
    if task.start is None or task.end is None or task.end <= task.start:
        return None
    return task.joules * min(1.0, max(0.0, (task.end - call.at) / (task.end - task.start)))


def _first_below(task: TaskRecord, threshold: float) -> CallRecord | None:
    return next((call for call in task.calls if SCORE in call.measures and call.measures[SCORE] < threshold), None)


def _sum(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) if len(found) == len(values) else None
