"""Ratios of sums over tasks with 95 % intervals, and tests of two arms that did the same tasks.

Whole tasks are resampled, with all attempts at them in all arms: attempts at one task are alike, so they are no independent
evidence, and what makes a task hard makes it hard for both arms.

- Intervals of ratios: bias-corrected and accelerated bootstrap (Efron 1987), widened by Student's t and by a smaller tail,
  because joules are skewed: without that, intervals of 20 to 100 tasks contain the truth in 90 % of suites instead of 95.
- p-values: exact or Monte Carlo permutation of the two arms within each task; of success rates this is McNemar's exact test.
  They are valid for any distribution and any number of tasks, which bootstrap p-values of few flaky tasks are not.
- Success rates: Wilson's interval with an effective sample size; differences by Newcombe's method for paired proportions.

``python -m tests.benchmarks --only intervals`` measures coverage and false findings: intervals of mean joules
contain the truth in 91 (20 tasks, joules with a log deviation of 1.2) to 97 %, those of an AUROC in 96 to 97 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from joulebench.errors import UserError

try:
    from scipy import special, stats
except ImportError as error:  # pragma: no cover
    raise UserError("the analysis needs scipy; install it with: pip install 'joulebench[analysis]'") from error

Floats = NDArray[np.float64]

RESAMPLES = 2000
PERMUTATIONS = 9999
SEED = 20
LEAST_TASKS = 5
"""Of fewer tasks there is no interval: resampling four tasks shows how they were drawn, not how the next will be."""
LEAST_TESTED = 6
"""Of fewer tasks no two-sided permutation test can reach 5 %: 2 of the 2**5 ways to swap five tasks are as extreme as any."""
_BATCH_VALUES = 2_500_000
"""Resampled tasks that are summed together: 20 MB."""
_MOST_ENUMERATED = 13
"""Tasks of which all 2**n swaps are counted instead of drawn."""
_MOST_CACHED = 200
"""Tasks of which the drawn swaps are kept for the next ratio: 16 MB."""
_TAIL = 0.025
_WIDER_TAIL = 0.0125
"""Of resampled ratios; see above."""
_Z = -float(special.ndtri(_TAIL))


@dataclass(frozen=True, slots=True)
class Interval:
    """95 %. A bound is None where the data give none, as in joules per success when a resample has no success."""

    low: float | None
    high: float | None

    def contains(self, value: float) -> bool:
        return (self.low is None or self.low <= value) and (self.high is None or value <= self.high)


@dataclass(frozen=True, slots=True)
class Estimate:
    """``value`` is None where the denominator is zero; ``interval`` is None for fewer than LEAST_TASKS tasks."""

    value: float | None
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class TaskSums:
    """Numerator and denominator of a ratio, one of each for every task, in the same order of tasks for both arms."""

    numerator: Floats
    denominator: Floats


class TaskResampler:
    """The same bootstrap resamples of ``tasks`` for every ratio, so that differences between arms are paired.

    ``scipy.stats.bootstrap`` gives the same intervals (a test compares them) but draws anew for each ratio and
    leaves out tasks in n x n arrays: 'resampling 2,000 tasks' in tests/benchmarks/intervals.py has the times of both.
    """

    def __init__(self, tasks: int, resamples: int = RESAMPLES, seed: int = SEED) -> None:
        self.tasks = tasks
        self._resamples = resamples if tasks >= LEAST_TASKS else 0
        random = np.random.default_rng(seed)
        self._counts = np.empty((self._resamples, tasks), dtype=np.uint16)
        for row in self._counts:
            row[:] = np.bincount(random.integers(0, tasks, tasks), minlength=tasks)

    def ratio(self, sums: TaskSums) -> Estimate:
        """Sum of numerators / sum of denominators."""
        return self._estimate((sums.numerator, sums.denominator), lambda totals: _divide(totals[0], totals[1]))

    def difference(self, arm: TaskSums, base: TaskSums) -> Estimate:
        """The ratio of ``arm`` minus that of ``base``."""
        return self._estimate(
            (arm.numerator, arm.denominator, base.numerator, base.denominator),
            lambda totals: _subtract(_divide(totals[0], totals[1]), _divide(totals[2], totals[3])),
        )

    def quotient(self, arm: TaskSums, base: TaskSums) -> Estimate:
        """The ratio of ``arm`` divided by that of ``base``."""
        return self._estimate(
            (arm.numerator, arm.denominator, base.numerator, base.denominator),
            lambda totals: _divide(totals[0] * totals[3], totals[1] * totals[2]),
        )

    def _estimate(self, columns: tuple[Floats, ...], statistic: Callable[[Floats], Floats]) -> Estimate:
        by_task = np.vstack(columns)
        totals = by_task.sum(axis=1)
        value = float(statistic(totals[:, None])[0])
        if not math.isfinite(value):
            return Estimate(None)
        if not self._resamples:
            return Estimate(value)
        resampled = statistic(self._resampled_totals(by_task))
        defined = resampled[~np.isnan(resampled)]
        if len(defined) < len(resampled) / 2:
            return Estimate(value, Interval(None, None))
        return Estimate(value, self._bca_interval(value, defined, statistic(totals[:, None] - by_task)))

    def _resampled_totals(self, by_task: Floats) -> Floats:
        batch = _batch_size(self.tasks)
        starts = range(0, self._resamples, batch)
        return np.hstack([by_task @ self._counts[at : at + batch].T.astype(np.float64) for at in starts])

    def _bca_interval(self, value: float, resampled: Floats, left_out: Floats) -> Interval:
        below = (np.sum(resampled < value) + 0.5 * np.sum(resampled == value)) / len(resampled)
        bias = float(special.ndtri(np.clip(below, 1 / len(resampled), 1 - 1 / len(resampled))))
        acceleration = _acceleration(left_out)
        reach = normal_reach(self.tasks)
        shares = []
        for z in (bias - reach, bias + reach):
            slowed = 1 - acceleration * z
            shares.append(float(special.ndtr(bias + z / slowed)) if slowed > 0.05 else float(z > 0))
        ordered = np.sort(resampled)
        low, high = (float(ordered[min(int(share * len(ordered)), len(ordered) - 1)]) for share in shares)
        return Interval(low if math.isfinite(low) else None, high if math.isfinite(high) else None)


def normal_reach(tasks: int) -> float:
    """Deviations from the value to the ends of a calibrated 95 % bootstrap interval of ``tasks`` tasks."""
    return math.sqrt(tasks / (tasks - 1)) * student_quantile(_WIDER_TAIL, tasks - 1)


def _batch_size(tasks: int) -> int:
    return max(1, _BATCH_VALUES // max(1, tasks))


def student_quantile(tail: float, freedom: int) -> float:
    """Upper quantile of Student's t."""
    return -float(special.stdtrit(freedom, tail))


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    """x/0 is inf, 0/0 is nan."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(numerator / denominator, dtype=np.float64)


def _subtract(left: Floats, right: Floats) -> Floats:
    """inf - inf is nan."""
    with np.errstate(invalid="ignore"):
        return np.asarray(left - right, dtype=np.float64)


def _acceleration(left_out: Floats) -> float:
    """From leaving out each task in turn; 0 where one task has all of the sum."""
    if not np.all(np.isfinite(left_out)):
        return 0.0
    away = left_out.mean() - left_out
    squares = float(np.sum(away**2))
    return float(np.sum(away**3) / (6 * squares**1.5)) if squares > 0 else 0.0


def permutation_p_value(arm: TaskSums, base: TaskSums) -> float:
    """Two-sided p-value of equal ratios, from swapping both arms within tasks.

    Exact up to 13 tasks that differ; above, from PERMUTATIONS draws (the observed one counted among them).
    """
    differ = (arm.numerator != base.numerator) | (arm.denominator != base.denominator)
    tasks = int(differ.sum())
    if not tasks:
        return 1.0
    middle = np.array([(arm.numerator + base.numerator).sum(), (arm.denominator + base.denominator).sum()]) / 2
    half = np.vstack([arm.numerator - base.numerator, arm.denominator - base.denominator])[:, differ] / 2

    def statistic(signs: Floats) -> Floats:
        numerators, denominators = half @ signs.T
        each = _divide(middle[0] + numerators, middle[1] + denominators)
        other = _divide(middle[0] - numerators, middle[1] - denominators)
        return np.abs(_subtract(each, other))

    observed = float(statistic(np.ones((1, tasks)))[0])
    if math.isnan(observed):
        return 1.0
    least = observed * (1 - 1e-9)
    # A swap that leaves an arm without a success has no ratio; it counts as extreme, which only makes a finding harder.
    extreme = drawn = 0
    for signs in _cached_signs(tasks) if tasks <= _MOST_CACHED else _sign_batches(tasks):
        values = statistic(signs)
        extreme += int(np.sum((values >= least) | np.isnan(values)))
        drawn += len(values)
    return extreme / drawn if tasks <= _MOST_ENUMERATED else (extreme + 1) / (drawn + 1)


@lru_cache(maxsize=8)
def _cached_signs(tasks: int) -> tuple[Floats, ...]:
    return tuple(_sign_batches(tasks))


def _sign_batches(tasks: int) -> Iterator[Floats]:
    if tasks <= _MOST_ENUMERATED:
        yield np.array(list(product((1.0, -1.0), repeat=tasks)))
        return
    random = np.random.default_rng(SEED)
    batch = _batch_size(tasks)
    for start in range(0, PERMUTATIONS, batch):
        count = min(batch, PERMUTATIONS - start)
        yield 2.0 * random.integers(0, 2, (count, tasks)).astype(np.float64) - 1.0


def success_p_value(arm: TaskSums, base: TaskSums) -> float:
    """Two-sided p-value of equal success rates: McNemar's exact test, or with repetitions a permutation of whole tasks."""
    differences = arm.numerator / arm.denominator - base.numerator / base.denominator
    nonzero = differences[differences != 0]
    if len(nonzero) and np.allclose(np.abs(nonzero), abs(nonzero[0])) and np.array_equal(arm.denominator, base.denominator):
        return float(stats.binomtest(int(np.sum(nonzero > 0)), len(nonzero)).pvalue)
    return permutation_p_value(arm, base)


def discordant_tasks(arm: TaskSums, base: TaskSums) -> int:
    """Tasks at which the arms succeeded differently often. Fewer than LEAST_TESTED of them can never reach 5 %."""
    return int(np.sum(arm.numerator * base.denominator != base.numerator * arm.denominator))


def success_rate(sums: TaskSums) -> Estimate:
    """Successes / attempts with Wilson's interval, whose sample size is as large as the scatter between tasks allows.

    A resample of tasks that all went well always went well; this interval still allows for a failure of the next task.
    """
    tasks, attempts = len(sums.denominator), float(sums.denominator.sum())
    if not attempts:
        return Estimate(None)
    rate = float(sums.numerator.sum()) / attempts
    if tasks < LEAST_TASKS:
        return Estimate(rate)
    scatter = tasks / (tasks - 1) * float(np.sum((sums.numerator - rate * sums.denominator) ** 2)) / attempts**2
    size = min(attempts, max(1.0, rate * (1 - rate) / scatter)) if scatter > 0 else float(tasks)
    return Estimate(rate, Interval(*wilson(rate, size, student_quantile(_TAIL, tasks - 1))))


def wilson(rate: float, size: float, z: float = _Z) -> tuple[float, float]:
    """Bounds of a rate of ``size`` independent trials (Wilson 1927), within ``z`` deviations; ``size`` need not be whole."""
    middle = (rate + z * z / (2 * size)) / (1 + z * z / size)
    half = z * math.sqrt(rate * (1 - rate) / size + z * z / (4 * size**2)) / (1 + z * z / size)
    return max(0.0, middle - half), min(1.0, middle + half)


def success_rate_difference(arm: TaskSums, base: TaskSums) -> Estimate:
    """Difference of two paired success rates with Newcombe's interval (1998, method 10) from the two Wilson intervals."""
    each, other = success_rate(arm), success_rate(base)
    if not each.interval or not other.interval:
        return Estimate(None if each.value is None or other.value is None else each.value - other.value)
    correlation = _correlation(arm.numerator / arm.denominator, base.numerator / base.denominator)
    return combined_difference(each, other, correlation)


def combined_difference(estimate: Estimate, other: Estimate, correlation: float = 0.0) -> Estimate:
    """``one`` minus ``other`` with an interval made of theirs (square and add), whose upper bounds may be missing."""
    if estimate.value is None or other.value is None:
        return Estimate(None)
    difference = estimate.value - other.value
    if estimate.interval is None or other.interval is None:
        return Estimate(difference)
    below = [_distance(each.value, each.interval.low) for each in (estimate, other) if each.interval and each.value is not None]
    above = [_distance(each.value, each.interval.high) for each in (estimate, other) if each.interval and each.value is not None]
    down, up = (_added(down, up, correlation) for down, up in ((below[0], above[1]), (above[0], below[1])))
    return Estimate(difference, Interval(_finite(difference - down), _finite(difference + up)))


def _distance(value: float, bound: float | None) -> float:
    return math.inf if bound is None else abs(value - bound)


def _added(each: float, other: float, correlation: float) -> float:
    if math.isinf(each) or math.isinf(other):
        return math.inf
    # In units of the longer one: squares of very small joules per success have no place in a float.
    most = max(each, other)
    if not most:
        return 0.0
    left, right = each / most, other / most
    return most * math.sqrt(max(0.0, left * left - 2 * correlation * left * right + right * right))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _correlation(left: Floats, other: Floats) -> float:
    """Pearson's, not below 0; 0 where one of them does not vary."""
    if np.ptp(left) == 0 or np.ptp(other) == 0:
        return 0.0
    return max(0.0, float(np.corrcoef(left, other)[0, 1]))


def without_success(cost: TaskSums) -> tuple[Estimate, Estimate]:
    """(cost per success, successes per cost) of an arm that never succeeded; ``cost``: numerator by task, denominator attempts.

    Zero successes in n tasks are an upper bound on the success rate, so the first has a lower bound and the second an upper one.
    """
    total, attempts = float(cost.numerator.sum()), float(cost.denominator.sum())
    rate = success_rate(TaskSums(np.zeros_like(cost.denominator), cost.denominator))
    if rate.interval is None or not rate.interval.high or not total:
        return Estimate(None), Estimate(0.0 if total else None)
    most = rate.interval.high * attempts / total
    return Estimate(None, Interval(1 / most, None)), Estimate(0.0, Interval(0.0, most))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values: below 0.05 by chance in fewer than one of twenty families."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, least = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        least = adjusted[place] = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
    return adjusted
