"""What "it went well" means, level by level, and the samples of each level: one per call, or one per task.

Each level of calls looks at those that passed the level before. A task's measure is that of its least sure call: one wrong call
is enough to fail. Beside the measures a task has what anyone sees without them: whether all of its calls went through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from joulebench.analysis.prediction.records import SCORE, TaskRecord

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
NO_ERROR_SEEN = "no_error_seen"
"""The baseline of task success. What does not beat it is not worth its logprobs."""
NO_PROBABILITY = ("name_margin", *UNSURE_WHEN_HIGH, NO_ERROR_SEEN)
"""Nats, and yes or no: they order calls, and neither Brier nor ECE can be said of them."""
KNOW_THE_DECLARED = (SCORE, "name_branch", "name_margin", "name_choice")
"""Worked out against the declared names (with one tool there is no choice, and all is 1), so they know whether a call's name is
declared. At the level that asks just this they would be graded on their own answer."""

WELL_FORMED, SCHEMA_VALID, TOOL_OK, TASK_SUCCESS = "well-formed", "schema-valid", "tool ok", "task success"
LEVELS = (WELL_FORMED, SCHEMA_VALID, TOOL_OK, TASK_SUCCESS)
_FAILED_AT: dict[str, tuple[str, ...]] = {
    WELL_FORMED: ("malformed", "undeclared"),
    SCHEMA_VALID: ("schema_invalid",),
    TOOL_OK: ("tool_error",),
}
"""Outcomes of metrics.TOOL_OUTCOMES that fail at each level of calls; a call that failed is not seen by the levels below."""


@dataclass(frozen=True, slots=True)
class Sample:
    """``group``: the task's name. Repetitions of a task are no independent evidence, so they stay together."""

    group: str
    good: bool
    measures: Mapping[str, float]


def samples(tasks: Sequence[TaskRecord], level: str) -> list[Sample]:
    """Calls whose tokens were not found are samples without measures."""
    if level == TASK_SUCCESS:
        return [sample for task in tasks if task.success is not None and (sample := task_sample(task)) is not None]
    before = [outcome for name in LEVELS[: LEVELS.index(level)] for outcome in _FAILED_AT[name]]
    calls = [(task.name, call) for task in tasks for call in task.calls if call.outcome not in before]
    return [Sample(name, call.outcome not in _FAILED_AT[level], call.measures) for name, call in calls]


def task_sample(task: TaskRecord) -> Sample | None:
    """None without a call. One whose outcome nobody knows is not good, and is for predicting only."""
    return Sample(task.name, task.success is True, _of_task(task)) if task.calls else None


def measures_of(level: str) -> tuple[str, ...]:
    return (*MEASURES, NO_ERROR_SEEN) if level == TASK_SUCCESS else MEASURES


def sureness(measure: str, value: float) -> float:
    """Such that more is surer."""
    return -value if measure in UNSURE_WHEN_HIGH else value


def _of_task(task: TaskRecord) -> dict[str, float]:
    return {
        **_least_sure(call.measures for call in task.calls),
        NO_ERROR_SEEN: float(all(call.outcome == "ok" for call in task.calls)),
    }


def _least_sure(measures: Iterable[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in measures:
        for name, value in one.items():
            if name not in found or sureness(name, value) < sureness(name, found[name]):
                found[name] = value
    return found
