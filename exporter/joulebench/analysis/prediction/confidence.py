"""The confidence report of each model: every measure at every level, with the number of failures behind it, and the joules that
giving up at low confidence would save.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from joulebench.analysis.prediction import regression
from joulebench.analysis.prediction.calibration import (
    Bools,
    ReliabilityBin,
    aurc,
    auroc,
    auroc_interval,
    brier,
    calibration_noise_floor,
    expected_calibration_error,
    reliability_bins,
)
from joulebench.analysis.prediction.records import (
    KNOW_THE_DECLARED,
    LEVELS,
    NO_PROBABILITY,
    SCORE,
    WELL_FORMED,
    CallRecord,
    Sample,
    TaskRecord,
    confidence_order,
    measures_of,
    samples,
)
from joulebench.analysis.statistics import Floats

LEAST_FAILURES = 50
LEAST_SUCCESSES = 10
REGRESSION = "regression"
KNOWS = "worked out against the declared names, so it knows this outcome"
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Scores at which giving a task up is tried out."""

NULL, ABOVE, BELOW = "no better than chance", "above chance", "below chance"


@dataclass(frozen=True, slots=True)
class MeasureResult:
    """One measure at one level. Numbers are None where ``refused`` says why; Brier and ECE also for what is no probability.

    ``base_rate``: share of successes among the ``n`` that have the measure. ``finding``: by the 95 % interval of the AUROC.
    ``ece_noise``: mean ECE of a perfectly calibrated measure with as many samples.
    """

    measure: str
    n: int
    failures: int
    base_rate: float | None
    refused: str = ""
    auroc: float | None = None
    auroc_low: float | None = None
    auroc_high: float | None = None
    finding: str = ""
    brier: float | None = None
    ece: float | None = None
    ece_noise: float | None = None
    aurc: float | None = None
    bins: tuple[ReliabilityBin, ...] = ()


@dataclass(frozen=True, slots=True)
class LevelResult:
    level: str
    n: int
    failures: int
    base_rate: float | None
    refused: str
    measures: tuple[MeasureResult, ...]


@dataclass(frozen=True, slots=True)
class Saving:
    """``saved_joules`` is of the failures given up; None where it is not known of one of them. ``all_joules``: of all tasks."""

    threshold: float
    given_up: int
    failures: int
    lost_successes: int
    saved_joules: float | None
    all_joules: float | None


@dataclass(frozen=True, slots=True)
class ConfidenceReport:
    """``without_call``: tasks in which the model called no tool, about which no confidence says anything."""

    model: str
    runs: tuple[str, ...]
    tasks: int
    without_call: int
    calls: int
    scored_calls: int
    simulated: bool
    levels: tuple[LevelResult, ...]
    savings: tuple[Saving, ...]

    @property
    def refused(self) -> bool:
        """Whether no level had enough failures and successes."""
        return all(level.refused for level in self.levels)


def confidence_reports(tasks: Sequence[TaskRecord]) -> list[ConfidenceReport]:
    models = sorted({task.model for task in tasks})
    return [_model_report(model, [task for task in tasks if task.model == model]) for model in models]


def _model_report(model: str, tasks: Sequence[TaskRecord]) -> ConfidenceReport:
    calls = [call for task in tasks for call in task.calls]
    return ConfidenceReport(
        model=model,
        runs=tuple(sorted({task.run for task in tasks})),
        tasks=len(tasks),
        without_call=sum(not task.calls for task in tasks),
        calls=len(calls),
        scored_calls=sum(SCORE in call.measures for call in calls),
        simulated=any(task.simulated for task in tasks),
        levels=tuple(_level_result(name, samples(tasks, name)) for name in LEVELS),
        savings=tuple(savings_by_threshold(tasks)),
    )


def _level_result(name: str, of_level: Sequence[Sample]) -> LevelResult:
    failures = sum(not sample.good for sample in of_level)
    refused = refusal_reason(len(of_level), failures)
    hidden = KNOW_THE_DECLARED if name == WELL_FORMED else ()
    measures: list[MeasureResult] = []
    if not refused:
        measures = [*(_measure_result(measure, of_level, hidden) for measure in measures_of(name)), _regression(of_level, hidden)]
    return LevelResult(
        name, len(of_level), failures, 1 - failures / len(of_level) if of_level else None, refused, tuple(measures)
    )


def refusal_reason(n: int, failures: int) -> str:
    """Why no claim can rest on so few failures or successes; empty where it can."""
    if failures < LEAST_FAILURES:
        return f"{failures} failures of {n}; a claim needs {LEAST_FAILURES}, {LEAST_FAILURES - failures} more"
    if n - failures < LEAST_SUCCESSES:
        return f"{n - failures} successes of {n}; a claim needs {LEAST_SUCCESSES}, {LEAST_SUCCESSES - n + failures} more"
    return ""


def _measure_result(measure: str, of_level: Sequence[Sample], hidden: Sequence[str]) -> MeasureResult:
    known = [sample for sample in of_level if measure in sample.measures]
    if measure in hidden:
        failures = sum(not sample.good for sample in known)
        return MeasureResult(measure, len(known), failures, 1 - failures / len(known) if known else None, KNOWS)
    scores = np.array([confidence_order(measure, sample.measures[measure]) for sample in known])
    return _evaluate(measure, known, scores, probability=measure not in NO_PROBABILITY)


def _regression(of_level: Sequence[Sample], hidden: Sequence[str]) -> MeasureResult:
    known = regression.usable(of_level)
    failures = sum(not sample.good for sample in known)
    refused = refusal_reason(len(known), failures)
    predicted = np.zeros(len(known)) if refused else regression.cross_validated(known, hidden)
    if predicted is None:
        too_few = f"fewer than {regression.FOLDS} tasks with a failure or with a success; none can be left out for a test"
        return MeasureResult(REGRESSION, len(known), failures, 1 - failures / len(known), too_few)
    return _evaluate(REGRESSION, known, predicted, probability=True)


def _evaluate(measure: str, known: Sequence[Sample], scores: Floats, *, probability: bool) -> MeasureResult:
    good: Bools = np.array([sample.good for sample in known], dtype=np.bool_)
    failures = int((~good).sum())
    base_rate = 1 - failures / len(known) if known else None
    refused = refusal_reason(len(known), failures)
    if refused:
        return MeasureResult(measure, len(known), failures, base_rate, refused)
    low, high = auroc_interval(scores, good, [sample.group for sample in known]) or (None, None)
    bins = reliability_bins(scores, good) if probability else []
    return MeasureResult(
        measure=measure,
        n=len(known),
        failures=failures,
        base_rate=base_rate,
        auroc=auroc(scores, good),
        auroc_low=low,
        auroc_high=high,
        finding=auroc_finding(low, high),
        brier=brier(scores, good) if probability else None,
        ece=expected_calibration_error(bins) if probability else None,
        ece_noise=calibration_noise_floor(scores) if probability else None,
        aurc=aurc(scores, good),
        bins=tuple(bins),
    )


def auroc_finding(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "interval unknown"
    return ABOVE if low > 0.5 else BELOW if high < 0.5 else NULL


def savings_by_threshold(tasks: Sequence[TaskRecord]) -> list[Saving]:
    known = [task for task in tasks if task.success is not None]
    return [_saving(threshold, known) for threshold in THRESHOLDS]


def _saving(threshold: float, tasks: Sequence[TaskRecord]) -> Saving:
    stopped = [(task, call) for task in tasks if (call := _first_below(task, threshold)) is not None]
    failures = [(task, call) for task, call in stopped if not task.success]
    return Saving(
        threshold=threshold,
        given_up=len(stopped),
        failures=len(failures),
        lost_successes=len(stopped) - len(failures),
        saved_joules=_sum_if_all_known([joules_after(task, call) for task, call in failures]),
        all_joules=_sum_if_all_known([task.joules for task in tasks]),
    )


def joules_after(task: TaskRecord, call: CallRecord) -> float | None:
    """From the joules of the LLM calls up to this one; where one is not known, from the share of the task's time after it."""
    if task.joules is None:
        return None
    if call.llm_call is not None:
        until = [task.call_joules.get(number) for number in range(1, call.llm_call + 1)]
        spent = _sum_if_all_known(until)
        if spent is not None:
            return max(0.0, task.joules - spent)
    if task.start is None or task.end is None or task.end <= task.start:
        return None
    return task.joules * min(1.0, max(0.0, (task.end - call.at) / (task.end - task.start)))


def _first_below(task: TaskRecord, threshold: float) -> CallRecord | None:
    return next((call for call in task.calls if SCORE in call.measures and call.measures[SCORE] < threshold), None)


def _sum_if_all_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
