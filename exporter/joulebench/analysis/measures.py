"""What arms are compared by: each a ratio of two sums over attempts, with the direction that is better.

Joules per success holds the joules of the failures too: whoever needs two tries pays for both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from joulebench.analysis.bootstrap import Draws, Estimate, Floats, share
from joulebench.analysis.runs import Row

Number = Callable[[Row], float | None]


@dataclass(frozen=True, slots=True)
class Measure:
    """``top`` and ``bottom`` of one attempt; an attempt that does not know both counts in neither sum."""

    key: str
    label: str
    unit: str
    lower_is_better: bool
    top: Number
    bottom: Number


def _joules(row: Row) -> float | None:
    return row.joules


def _success(row: Row) -> float | None:
    """An outcome that nobody knows is no success."""
    return float(row.success is True)


def _one(_: Row) -> float | None:
    return 1.0


def _tokens(row: Row) -> float | None:
    return None if row.prompt_tokens is None or row.completion_tokens is None else row.prompt_tokens + row.completion_tokens


def _completion(row: Row) -> float | None:
    return row.completion_tokens


def _seconds(row: Row) -> float | None:
    return row.seconds


PER_SUCCESS = Measure("joules_per_success", "energy per successful task, failures counted", "J", True, _joules, _success)
SUCCESS_RATE = Measure("success_rate", "success rate", "", False, _success, _one)
MEASURES = (
    PER_SUCCESS,
    SUCCESS_RATE,
    Measure("success_per_joule", "successes per joule", "1/J", False, _success, _joules),
    Measure("tokens_per_joule", "tokens per joule", "tokens/J", False, _tokens, _joules),
    Measure("joules_per_completion_token", "energy per completion token", "J", True, _joules, _completion),
    Measure("seconds_per_task", "duration of a task", "s", True, _seconds, _one),
)

PRIMARY = (PER_SUCCESS, SUCCESS_RATE)
"""What a verdict stands on; the others explain it."""


def by_task(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.task].append(row)
    return dict(found)


def sums(measure: Measure, tasks: Sequence[Sequence[Row]], *, mean: bool = False) -> tuple[Floats, Floats]:
    """(tops, bottoms), one for each task; ``mean``: of its attempts rather than their sum."""
    tops, bottoms = np.zeros(len(tasks)), np.zeros(len(tasks))
    for place, rows in enumerate(tasks):
        for row in rows:
            top, bottom = measure.top(row), measure.bottom(row)
            if top is not None and bottom is not None:
                tops[place] += top
                bottoms[place] += bottom
        if mean and rows:
            tops[place] /= len(rows)
            bottoms[place] /= len(rows)
    return tops, bottoms


def estimate(measure: Measure, tasks: Sequence[Sequence[Row]], draws: Draws, *, mean: bool = False) -> Estimate:
    columns = sums(measure, tasks, mean=mean)
    return share(*columns) if measure is SUCCESS_RATE else draws.ratio(*columns)


def of_rows(rows: Sequence[Row]) -> Mapping[str, Estimate]:
    """Every measure of these attempts by its key; those that depend on joules are of attempts whose joules are known."""
    tasks = list(by_task(rows).values())
    draws = Draws(len(tasks))
    return {measure.key: estimate(measure, tasks, draws) for measure in MEASURES}
