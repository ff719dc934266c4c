"""Ratios of sums over tasks with their 95 % intervals, and the difference of two arms that did the same tasks.

Whole tasks are drawn, with all attempts at them in all arms: attempts at one task are alike, so they are no independent
evidence, and what makes a task hard makes it hard for both arms. Intervals are bias-corrected and accelerated, and widened by
what Student's t has over the normal distribution and by a smaller tail: joules are skewed, and without that the intervals of
twenty to a hundred tasks hold the truth for 90 % of suites, not 95. ``python -m tests.benchmarks --only intervals`` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000
SEED = 20
LEAST_TASKS = 5
"""Below this no interval is told: resampling four tasks says how they were drawn, not how the next will be."""
AT_ONCE = 250
"""Resamples that are summed together; of ten thousand tasks these are 20 MB."""
_NORMAL = NormalDist()
_TAIL = 0.025
_WIDER_TAIL = 0.0125
"""Of resampled ratios; see above."""
_LEAST_BEYOND = 5


@dataclass(frozen=True, slots=True)
class Interval:
    """95 %. A bound is None where the data do not give one, as in joules per success when a resample has no success."""

    low: float | None
    high: float | None

    def holds(self, value: float) -> bool:
        return (self.low is None or self.low <= value) and (self.high is None or value <= self.high)


@dataclass(frozen=True, slots=True)
class Estimate:
    """``value`` is None where there is nothing to divide by; ``interval`` None where there are fewer than LEAST_TASKS tasks.

    ``p``, of differences: two-sided, of there being none; below 0.05 where the interval does not hold zero.
    """

    value: float | None
    interval: Interval | None = None
    p: float | None = None


class Draws:
    """The same resamples of ``tasks`` for every number that is told of them, so that their differences are paired."""

    def __init__(self, tasks: int, resamples: int = RESAMPLES, seed: int = SEED) -> None:
        self.tasks = tasks
        self._picks = resamples if tasks >= LEAST_TASKS else 0
        random = np.random.default_rng(seed)
        self._counts = np.empty((self._picks, tasks), dtype=np.uint16)
        for row in self._counts:
            row[:] = np.bincount(random.integers(0, tasks, tasks), minlength=tasks)

    def ratio(self, top: Floats, bottom: Floats) -> Estimate:
        """sum of ``top`` / sum of ``bottom``, both by task."""
        return self._estimate((top, bottom), lambda sums: _divided(sums[0], sums[1]))

    def difference(self, top: Floats, bottom: Floats, base_top: Floats, base_bottom: Floats) -> Estimate:
        """The ratio of one arm less that of the base."""
        return self._estimate(
            (top, bottom, base_top, base_bottom),
            lambda sums: _less(_divided(sums[0], sums[1]), _divided(sums[2], sums[3])),
            zero=True,
        )

    def quotient(self, top: Floats, bottom: Floats, base_top: Floats, base_bottom: Floats) -> Estimate:
        """The ratio of one arm over that of the base."""
        return self._estimate((top, bottom, base_top, base_bottom), lambda sums: _divided(sums[0] * sums[3], sums[1] * sums[2]))

    def _estimate(self, columns: tuple[Floats, ...], statistic: Callable[[Floats], Floats], *, zero: bool = False) -> Estimate:
        by_task = np.vstack(columns)
        whole = by_task.sum(axis=1)
        value = float(statistic(whole[:, None])[0])
        told = value if math.isfinite(value) else None
        if not self._picks or told is None:
            return Estimate(told)
        drawn = statistic(self._sums(by_task))
        left_out = statistic(whole[:, None] - by_task)
        known = drawn[~np.isnan(drawn)]
        if len(known) < len(drawn) / 2:
            return Estimate(told, Interval(None, None))
        shape = _Shape.of(told, known, left_out, self.tasks)
        interval = shape.interval(known)
        return Estimate(told, interval, shape.p(told, known, interval) if zero else None)

    def _sums(self, by_task: Floats) -> Floats:
        starts = range(0, self._picks, AT_ONCE)
        return np.hstack([by_task @ self._counts[at : at + AT_ONCE].T.astype(np.float64) for at in starts])


def _divided(top: Floats, bottom: Floats) -> Floats:
    """Something for nothing is without bound; nothing for nothing is not known."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(top / bottom, dtype=np.float64)


def _less(one: Floats, other: Floats) -> Floats:
    """Two without bound differ by nobody knows what."""
    with np.errstate(invalid="ignore"):
        return np.asarray(one - other, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class _Shape:
    """How the resamples lie about the value; ``reach``: deviations to the ends of the 95 % interval, at tails of _WIDER_TAIL."""

    bias: float
    acceleration: float
    tasks: int

    @classmethod
    def of(cls, value: float, known: Floats, left_out: Floats, tasks: int) -> _Shape:
        below = (np.sum(known < value) + 0.5 * np.sum(known == value)) / len(known)
        bias = _NORMAL.inv_cdf(min(max(float(below), 1 / len(known)), 1 - 1 / len(known)))
        return cls(bias, _acceleration(left_out), tasks)

    def reach(self, tail: float = _WIDER_TAIL) -> float:
        return math.sqrt(self.tasks / (self.tasks - 1)) * _student(self.tasks - 1, tail)

    def interval(self, known: Floats) -> Interval:
        shares = []
        for z in (self.bias - self.reach(), self.bias + self.reach()):
            slowed = 1 - self.acceleration * z
            shares.append(_NORMAL.cdf(self.bias + z / slowed) if slowed > 0.05 else float(z > 0))
        ordered = np.sort(known)
        low, high = (float(ordered[min(int(share * len(ordered)), len(ordered) - 1)]) for share in shares)
        return Interval(low if math.isfinite(low) else None, high if math.isfinite(high) else None)

    def p(self, value: float, known: Floats, interval: Interval) -> float:
        """The level at which an interval would end at zero; where too few resamples lie beyond to tell, by its distance too."""
        bound = interval.low if value > 0 else interval.high
        if value == 0 or bound is None:
            return 1.0
        beyond = float(np.sum(known < 0) if value > 0 else np.sum(known > 0)) + 0.5 * float(np.sum(known == 0))
        share = max(beyond, 0.5) / len(known)
        away = _NORMAL.inv_cdf(share if value > 0 else 1 - share) - self.bias
        slowed = 1 + self.acceleration * away
        z = away / slowed if slowed > 0.05 else math.copysign(20.0, away)
        wanted = self.bias - z if value > 0 else z - self.bias
        if beyond < _LEAST_BEYOND:
            wanted = max(wanted, self.reach() * abs(value) / max(abs(value - bound), 1e-9 * abs(value)))
        return self._level(wanted)

    def _level(self, wanted: float) -> float:
        low, high = 1e-12, 0.25
        if wanted <= self.reach(high):
            return 1.0
        for _ in range(60):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if self.reach(middle) < wanted else (middle, high)
        return 2 * high * _TAIL / _WIDER_TAIL


def _acceleration(left_out: Floats) -> float:
    """From leaving out each task in turn; 0 where one task carries all."""
    if not np.all(np.isfinite(left_out)):
        return 0.0
    away = left_out.mean() - left_out
    squares = float(np.sum(away**2))
    return float(np.sum(away**3) / (6 * squares**1.5)) if squares > 0 else 0.0


def _student(freedom: int, tail: float) -> float:
    """Upper quantile of Student's t by its expansion around the normal one; within 1 % from 4 degrees of freedom on."""
    z = _NORMAL.inv_cdf(1 - tail)
    one = (z**3 + z) / 4
    two = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    three = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + one / freedom + two / freedom**2 + three / freedom**3


def share(good: Floats, tries: Floats) -> Estimate:
    """Share of good tries with Wilson's interval, its sample size as large as the scatter between tasks allows.

    A resample of tasks that all went well always went well; this interval still knows that the next task may not.
    """
    n, total = len(tries), float(tries.sum())
    if not total:
        return Estimate(None)
    p = float(good.sum()) / total
    if n < LEAST_TASKS:
        return Estimate(p)
    scatter = n / (n - 1) * float(np.sum((good - p * tries) ** 2)) / total**2
    size = min(total, max(1.0, p * (1 - p) / scatter)) if scatter > 0 else float(n)
    return Estimate(p, Interval(*wilson(p, size, _student(n - 1, _TAIL))))


def wilson(p: float, n: float, z: float = _NORMAL.inv_cdf(1 - _TAIL)) -> tuple[float, float]:
    """Bounds of a share ``p`` of ``n`` independent tries, within ``z`` deviations."""
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n**2)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def share_difference(one: Estimate, base: Estimate, paired: Estimate) -> Estimate:
    """The paired difference of two shares; where no task differed, as far apart as the two intervals allow."""
    interval = paired.interval
    if interval is None or interval.low != interval.high or one.interval is None or base.interval is None:
        return paired
    if one.value is None or base.value is None:
        return paired
    a, b = one.interval, base.interval
    down = math.hypot(one.value - (a.low or 0.0), (1.0 if b.high is None else b.high) - base.value)
    up = math.hypot((1.0 if a.high is None else a.high) - one.value, base.value - (b.low or 0.0))
    apart = one.value - base.value
    toward = down if apart > 0 else up
    deviations = _NORMAL.inv_cdf(1 - _TAIL) * abs(apart) / toward if toward else 0.0
    return Estimate(apart, Interval(apart - down, apart + up), 2 * _NORMAL.cdf(-deviations) if apart else 1.0)


def holm(levels: Sequence[float]) -> list[float]:
    """The same levels, each raised so that of all of them together fewer than one in twenty is below 0.05 by chance."""
    order = sorted(range(len(levels)), key=lambda place: levels[place])
    adjusted, least = [1.0] * len(levels), 0.0
    for rank, place in enumerate(order):
        least = adjusted[place] = max(least, min(1.0, (len(levels) - rank) * levels[place]))
    return adjusted
