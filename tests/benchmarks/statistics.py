"""How far the answers are from the truth: percentages of the true joules, by class of window length. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from tests.benchmarks.methods import Answers
from tests.benchmarks.windows import LengthClass, Taken

COUNTER_RESOLUTION = 0.001
"""The counter speaks in whole millijoules, so a bound that misses by less is kept."""


@dataclass(frozen=True, slots=True)
class Errors:
    """In % of the truth. ``unknown``: windows of which the method says that it does not know; they count nowhere else."""

    median: float
    p95: float
    bias: float
    windows: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """``share`` of windows whose truth lies within the stated bounds; ``width``: median distance of the two in % of the truth."""

    share: float
    width: float
    windows: int


def errors(answers: Answers, windows: Sequence[Taken], truth: Mapping[int, float], length: LengthClass) -> Errors | None:
    """None where the method knows no window of the class."""
    mine = [window.plan.id for window in windows if length.holds(window)]
    known = [(number, answers[number].joules) for number in mine if number in answers]
    signed = [100.0 * (joules / truth[number] - 1.0) for number, joules in known if joules is not None]
    if not signed:
        return None
    sizes = [abs(one) for one in signed]
    return Errors(median(sizes), percentile(sizes, 95), fmean(signed), len(signed), len(mine) - len(signed))


def coverage(answers: Answers, windows: Sequence[Taken], truth: Mapping[int, float], length: LengthClass) -> Coverage | None:
    kept, widths = 0, []
    for window in windows:
        answer = answers.get(window.plan.id)
        if not length.holds(window) or answer is None or answer.low is None or answer.high is None:
            continue
        true = truth[window.plan.id]
        kept += answer.low - COUNTER_RESOLUTION <= true <= answer.high + COUNTER_RESOLUTION
        widths.append(100.0 * (answer.high - answer.low) / true)
    return Coverage(kept / len(widths), median(widths), len(widths)) if widths else None


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` % of the values do not exceed."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]
