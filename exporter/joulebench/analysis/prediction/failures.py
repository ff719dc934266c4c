"""Predicts whether a task fails from the confidence of its calls: a risk for each task, and how good these risks are.

The risk of a task comes from a regression that was fitted to, and calibrated on, tasks of other names. Below the needed failures
nothing is predicted. Where the risks are no better than the base rate, that is the finding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from joulebench.analysis.prediction import regression
from joulebench.analysis.prediction.calibration import (
    BINS,
    Bools,
    auroc,
    auroc_interval,
    brier,
    calibration_noise_floor,
    expected_calibration_error,
    reliability_bins,
)
from joulebench.analysis.prediction.confidence import LEAST_FAILURES, LEAST_SUCCESSES, auroc_finding, refusal_reason
from joulebench.analysis.prediction.records import SCORE, Sample, TaskRecord, task_sample
from joulebench.analysis.statistics import Estimate, Floats, Interval, TaskResampler, TaskSums, wilson

LEAST_IN_BIN = 30
"""Tasks in a bin of the reliability curve: of fewer, the share that failed is mostly chance."""
NO_CALL, NO_TOKENS, REFUSED = "no tool call", "tokens of a call not located", "refused"
FEW_TASKS = f"fewer than {regression.FOLDS} tasks with a failure or with a success; none can be left out for a test"


@dataclass(frozen=True, slots=True)
class Risk:
    """``risk`` is P(failure), None where ``why`` says why not; ``success`` is None for an unknown outcome."""

    run: str
    task_id: str
    worker: str
    name: str
    model: str
    success: bool | None
    calls: int
    least_confidence: float | None
    risk: float | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class RiskBin:
    """One of the bins of about equal size: mean ``risk``, and the share of ``n`` that ``failed`` with its 95 % interval."""

    n: int
    risk: float
    failed: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """``tasks`` with a known outcome and a usable confidence, ``failures`` of them; numbers are None where ``refused`` says why.

    ``more_tasks``: how many more tasks would, at this rate, bring the failures that are missing. ``skill``: 1 - Brier / Brier of
    the base rate: 0 is no better than the base rate, 1 is perfect; its interval resamples whole tasks. ``ece_noise``: mean ECE of
    perfectly calibrated risks of as many tasks.
    """

    model: str
    runs: tuple[str, ...]
    tasks: int
    failures: int
    refused: str = ""
    more_tasks: int | None = None
    auroc: float | None = None
    auroc_low: float | None = None
    auroc_high: float | None = None
    finding: str = ""
    brier: float | None = None
    brier_base: float | None = None
    skill: Estimate = field(default_factory=lambda: Estimate(None))
    ece: float | None = None
    ece_noise: float | None = None
    bins: tuple[RiskBin, ...] = ()
    risks: tuple[Risk, ...] = ()

    @property
    def beats_base_rate(self) -> bool | None:
        """Whether the risks are significantly better than the base rate; None where there are none."""
        if self.skill.value is None:
            return None
        interval = self.skill.interval
        return interval is not None and interval.low is not None and interval.low > 0

    @property
    def summary(self) -> str:
        """The finding in words: whether risks order the tasks, and whether they are better than the base rate."""
        worth = {True: "; better than the base rate", False: "; not shown to be better than the base rate", None: ""}
        return self.refused or f"{self.finding}{worth[self.beats_base_rate]}"


def predict_failures(tasks: Sequence[TaskRecord]) -> list[Prediction]:
    """A prediction for each model."""
    return [
        _prediction(model, [task for task in tasks if task.model == model]) for model in sorted({task.model for task in tasks})
    ]


def _prediction(model: str, tasks: Sequence[TaskRecord]) -> Prediction:
    runs = tuple(sorted({task.run for task in tasks}))
    usable = [(task, sample) for task in tasks if (sample := task_sample(task)) is not None and SCORE in sample.measures]
    known = [sample for task, sample in usable if task.success is not None]
    failures = sum(not sample.good for sample in known)
    refused = refusal_reason(len(known), failures)
    predicted = None if refused else regression.predict(known, [sample for task, sample in usable if task.success is None])
    if predicted is None:
        why = refused or FEW_TASKS
        risks = tuple(_risk(task, None, _unusable(task) or REFUSED) for task in tasks)
        return Prediction(
            model, runs, len(known), failures, why, _more_tasks(len(known), failures) if refused else None, risks=risks
        )
    of_known, of_others = map(iter, predicted)
    by_task = {id(task): 1 - float(next(of_others if task.success is None else of_known)) for task, _ in usable}
    risks = tuple(_risk(task, by_task.get(id(task)), _unusable(task)) for task in tasks)
    return _evaluate(model, runs, known, predicted[0], risks)


def _evaluate(model: str, runs: tuple[str, ...], known: Sequence[Sample], scores: Floats, risks: tuple[Risk, ...]) -> Prediction:
    good: Bools = np.array([sample.good for sample in known], dtype=np.bool_)
    groups = [sample.group for sample in known]
    low, high = auroc_interval(scores, good, groups) or (None, None)
    base = np.full(len(known), good.mean())
    bins = reliability_bins(scores, good, max(2, min(BINS, len(known) // LEAST_IN_BIN)))
    return Prediction(
        model=model,
        runs=runs,
        tasks=len(known),
        failures=int((~good).sum()),
        auroc=auroc(scores, good),
        auroc_low=low,
        auroc_high=high,
        finding=auroc_finding(low, high),
        brier=brier(scores, good),
        brier_base=brier(base, good),
        skill=_skill((scores - good) ** 2, (base - good) ** 2, groups),
        ece=expected_calibration_error(reliability_bins(scores, good)),
        ece_noise=calibration_noise_floor(scores),
        bins=tuple(
            RiskBin(each.n, 1 - each.predicted, 1 - each.observed, *wilson(1 - each.observed, each.n)) for each in reversed(bins)
        ),
        risks=risks,
    )


def _skill(errors: Floats, of_base: Floats, groups: Sequence[str]) -> Estimate:
    _, place = np.unique(np.array(groups), return_inverse=True)
    errors_by_task, base_by_task = (np.bincount(place, each).astype(np.float64) for each in (errors, of_base))
    ratio = TaskResampler(len(errors_by_task)).ratio(TaskSums(errors_by_task, base_by_task))
    if ratio.value is None or ratio.interval is None:
        return Estimate(None if ratio.value is None else 1 - ratio.value)
    ends = [None if end is None else 1 - end for end in (ratio.interval.high, ratio.interval.low)]
    return Estimate(1 - ratio.value, Interval(*ends))


def _more_tasks(n: int, failures: int) -> int | None:
    """Tasks until there are enough failures and successes, at the rate of these; None where there were none of one kind."""
    rate = failures / n if n else 0.0
    if not 0 < rate < 1:
        return None
    return max(math.ceil(LEAST_FAILURES / rate), math.ceil(LEAST_SUCCESSES / (1 - rate))) - n


def _unusable(task: TaskRecord) -> str:
    if not task.calls:
        return NO_CALL
    return "" if any(SCORE in call.measures for call in task.calls) else NO_TOKENS


def _risk(task: TaskRecord, risk: float | None, why: str) -> Risk:
    scores = [call.measures[SCORE] for call in task.calls if SCORE in call.measures]
    return Risk(
        run=task.run,
        task_id=task.task_id,
        worker=task.worker,
        name=task.name,
        model=task.model,
        success=task.success,
        calls=len(task.calls),
        least_confidence=min(scores, default=None),
        risk=risk,
        why="" if risk is not None else why,
    )
