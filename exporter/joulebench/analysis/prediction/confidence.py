"""The confidence report of each model: every measure at every level, together with how many failures stand behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from joulebench.analysis.prediction import combined
from joulebench.analysis.prediction.levels import (
    KNOW_THE_DECLARED,
    LEVELS,
    NO_PROBABILITY,
    WELL_FORMED,
    Sample,
    measures_of,
    samples,
    sureness,
)
from joulebench.analysis.prediction.records import TaskRecord
from joulebench.analysis.prediction.savings import Saving, savings
from joulebench.analysis.prediction.statistics import (
    Bin,
    Bools,
    Floats,
    aurc,
    auroc,
    auroc_interval,
    brier,
    expected_calibration_error,
    reliability,
)

LEAST_FAILURES = 50
LEAST_SUCCESSES = 10
REGRESSION = "regression"
KNOWS = "worked out against the declared names, so it knows this outcome"

NULL, ABOVE, BELOW = "no better than chance", "above chance", "below chance"


@dataclass(frozen=True, slots=True)
class Row:
    """One measure at one level. Numbers are None where ``refused`` says why; Brier and ECE also for what is no probability.

    ``base_rate``: share of good ones among the ``n`` that have the measure. ``finding``: by the 95 % interval of the AUROC.
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
    aurc: float | None = None
    bins: tuple[Bin, ...] = ()


@dataclass(frozen=True, slots=True)
class Level:
    level: str
    n: int
    failures: int
    base_rate: float | None
    refused: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """``without_call``: tasks in which the model called no tool, of which no confidence can say anything."""

    model: str
    runs: tuple[str, ...]
    tasks: int
    without_call: int
    calls: int
    scored_calls: int
    simulated: bool
    levels: tuple[Level, ...]
    savings: tuple[Saving, ...]

    @property
    def refused(self) -> bool:
        """Whether nothing at all could be reported."""
        return all(level.refused for level in self.levels)


def reports(tasks: Sequence[TaskRecord]) -> list[Report]:
    return [_report(model, [task for task in tasks if task.model == model]) for model in sorted({task.model for task in tasks})]


def _report(model: str, tasks: Sequence[TaskRecord]) -> Report:
    calls = [call for task in tasks for call in task.calls]
    return Report(
        model=model,
        runs=tuple(sorted({task.run for task in tasks})),
        tasks=len(tasks),
        without_call=sum(not task.calls for task in tasks),
        calls=len(calls),
        scored_calls=sum("score" in call.measures for call in calls),
        simulated=any(task.simulated for task in tasks),
        levels=tuple(_level(name, samples(tasks, name)) for name in LEVELS),
        savings=tuple(savings(tasks)),
    )


def _level(name: str, found: Sequence[Sample]) -> Level:
    failures = sum(not sample.good for sample in found)
    refused = refusal(len(found), failures)
    hidden = KNOW_THE_DECLARED if name == WELL_FORMED else ()
    rows = [] if refused else [_measure(measure, found, hidden) for measure in measures_of(name)] + [_regression(found, hidden)]
    return Level(name, len(found), failures, 1 - failures / len(found) if found else None, refused, tuple(rows))


def refusal(n: int, failures: int) -> str:
    """Why nothing can be said of so few; empty where something can."""
    if failures < LEAST_FAILURES:
        return f"{failures} failures of {n}; a claim needs {LEAST_FAILURES}, {LEAST_FAILURES - failures} more"
    if n - failures < LEAST_SUCCESSES:
        return f"{n - failures} successes of {n}; a claim needs {LEAST_SUCCESSES}, {LEAST_SUCCESSES - n + failures} more"
    return ""


def _measure(measure: str, found: Sequence[Sample], hidden: Sequence[str]) -> Row:
    known = [sample for sample in found if measure in sample.measures]
    if measure in hidden:
        failures = sum(not sample.good for sample in known)
        return Row(measure, len(known), failures, 1 - failures / len(known) if known else None, KNOWS)
    sure = np.array([sureness(measure, sample.measures[measure]) for sample in known])
    return _row(measure, known, sure, probability=measure not in NO_PROBABILITY)


def _regression(found: Sequence[Sample], hidden: Sequence[str]) -> Row:
    known = combined.usable(found)
    failures = sum(not sample.good for sample in known)
    predicted = combined.cross_validated(known, hidden) if not refusal(len(known), failures) else np.zeros(len(known))
    if predicted is None:
        too_few = f"fewer than {combined.FOLDS} tasks with a failure or with a success; none can be left out for a test"
        return Row(REGRESSION, len(known), failures, 1 - failures / len(known), too_few)
    return _row(REGRESSION, known, predicted, probability=True)


def _row(measure: str, known: Sequence[Sample], sure: Floats, *, probability: bool) -> Row:
    good: Bools = np.array([sample.good for sample in known], dtype=np.bool_)
    failures = int((~good).sum())
    base_rate = 1 - failures / len(known) if known else None
    refused = refusal(len(known), failures)
    if refused:
        return Row(measure, len(known), failures, base_rate, refused)
    value = auroc(sure, good)
    low, high = auroc_interval(sure, good, [sample.group for sample in known]) or (None, None)
    bins = reliability(sure, good) if probability else []
    return Row(
        measure=measure,
        n=len(known),
        failures=failures,
        base_rate=base_rate,
        auroc=value,
        auroc_low=low,
        auroc_high=high,
        finding=finding_of(low, high),
        brier=brier(sure, good) if probability else None,
        ece=expected_calibration_error(bins) if probability else None,
        aurc=aurc(sure, good),
        bins=tuple(bins),
    )


def finding_of(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "interval unknown"
    return ABOVE if low > 0.5 else BELOW if high < 0.5 else NULL
