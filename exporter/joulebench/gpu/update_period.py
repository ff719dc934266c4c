"""Estimates the period at which a counter updates, and where between two polls it changed.

A GPU updates its counter on a timer of its own. A poll that reads a new value says that at least one update came since the poll
before, so a counter that is slower than the polls is counted by its changes, while one about as fast as the polls hides updates:
there the joules of a change say how many updates it holds, since in steady power each holds as many. A poll that reads the old
value says that no update came, so the period is no shorter than the longest time without a change between two changes.

Once the period is known, the interval in which the latest update can be, by all polls so far, is carried from update to update,
a little wider each time for the timer's jitter and for the error of the period. The time returned always lies between the two
polls; a counter without a period gets their middle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import ceil, cos, floor, pi
from statistics import fmean, median
from typing import NamedTuple

LEARNED = 16
"""Changes before the period is used."""
REMEMBERED, LEARNED_AGAIN = 256, 8192
"""Changes that the period is learned from, and after how many more it is learned again at the latest."""
LONGEST_SKIP = 10
"""Updates that may go unseen before the interval of the latest is lost."""
SPAN = 512
"""Updates that the period is averaged over, so that a timer that warms up is followed."""
LEAST_JITTER, JITTER_GROWTH, JITTER_DECAY = 5e-5, 1.5, 0.98
"""Seconds that an update is early or late at least, and how fast that allowance grows when one is further off, or shrinks."""
MANY_MISFITS, MISFIT_MEMORY = 0.25, 64
"""Share of the last updates that lay outside of their intervals, from which the period is learned anew."""
SAME_PERIOD = 0.01
"""Share by which a period may differ from that of the remembered changes alone."""
HIDDEN_BELOW = 1.4
"""A counter whose changes are less than this many polls apart may hide updates."""
BLOCK = 12
"""Changes over which power has to be steady for their joules to count updates."""
SHORTEST_PERIOD, PERIOD_GRID = 0.006, 1.015
STEADY = 2.4
"""Highest by lowest joules of the changes of such a block: each may hold two updates where another holds one."""
FOLDED, FOLD_RANGE, BINS = 128, 0.02, 24
"""Changes that are folded, by periods that differ from the coarse one by up to this share, into bins of the phase."""
FEW_HIDDEN = 0.01
"""Share of hidden updates below which changes count updates better than joules do."""
ODD_SHARE, NEAR = 0.03, 0.2
"""A period holds unless this share of changes lies as near to half a period more."""


class CounterChange(NamedTuple):
    """A change that had not happened at ``since`` and had at ``after``, and the counter's new value."""

    since: float
    after: float
    joules: float


class ChangeTime(NamedTuple):
    """``is_certain``: whether it is known which of several updates between the polls was the last."""

    at: float
    is_certain: bool


class UpdatePeriodEstimator:
    """Of one counter. Times in seconds, rising. ``period``: seconds between two updates, None until it is known."""

    def __init__(self) -> None:
        self.period: float | None = None
        self._changes: deque[CounterChange] = deque(maxlen=REMEMBERED)
        self._learn_at = LEARNED
        self._seen = 0
        self._restart(CounterChange(0.0, 0.0, 0.0))

    def estimate(self, since: float, after: float, joules: float) -> ChangeTime:
        """Returns the likely time of a change to ``joules`` that had not happened at ``since`` and had at ``after``."""
        change = CounterChange(since, after, joules)
        self._changes.append(change)
        self._seen += 1
        if self._seen >= self._learn_at:
            self._learn_at = self._seen + min(self._seen, LEARNED_AGAIN)
            self._learn()
        elif self._misfits > MANY_MISFITS and self._seen % REMEMBERED == 0:
            self._learn()
        if self.period is None:
            return ChangeTime((since + after) / 2, is_certain=True)
        return self._track(change, self.period)

    def _learn(self) -> None:
        """Learns the period from the remembered changes. Where it is another, follows them again by it, but for the latest."""
        changes = list(self._changes)
        learned = learn_period(changes)
        if learned is None:
            self.period, self._misfits = None, 0.0
            return
        has_fitted = self.period is not None and len(changes) == REMEMBERED and self._misfits <= MANY_MISFITS
        if has_fitted and abs(learned.seconds / (self.period or 1.0) - 1) <= SAME_PERIOD:
            return
        self.period = learned.seconds
        self._restart(changes[0], learned.error)
        for change in changes[1:-1]:
            self._track(change, self.period)

    def _restart(self, change: CounterChange, error: float = 0.0) -> None:
        self._low, self._high, self._joules = change
        self._at = (self._low + self._high) / 2
        self._error = error
        self._misfits = 0.0
        self._jitter = LEAST_JITTER
        self._joules_per_update = 0.0
        # The update that the period is counted from, and the one that takes its place: (time, updates before the latest).
        self._updates = 0
        self._base: tuple[float, int] = (self._at, 0)
        self._next_base: tuple[float, int] = (self._at, 0)

    def _track(self, change: CounterChange, period: float) -> ChangeTime:
        since, after, joules = change
        blur = (after - self._at) / period * (self._jitter + self._error) + (self._high - self._low) / 2
        most = max(floor((after - self._at + blur) / period), 1)
        # An update that is later than it can be was late: it is no further update.
        least = max(floor((after - self._at - blur) / period), min(ceil((since - self._at - blur) / period), most), 1)
        if most > LONGEST_SKIP:
            self._restart(change, self._error)
            return ChangeTime(self._at, is_certain=True)
        updates, is_certain = least, True
        spent = joules - self._joules
        if least < most:
            by_joules = self._count_by_joules(spent, least, most)
            updates, is_certain = (least, False) if by_joules is None else (by_joules, True)
        low, high = self._predict(updates, period)
        if is_certain:
            low, high = self._narrow(low, high, max(since, after - period - self._jitter), after)
        self._low, self._high, self._at = low, high, (low + high) / 2
        self._joules, self._joules_per_update = joules, spent / updates
        self._updates += updates
        if is_certain:
            self._refine_period(after - since)
        if self._misfits > MANY_MISFITS:
            # Updates that keep to no period are as likely at one time as at the other.
            return ChangeTime((since + after) / 2, is_certain=True)
        return ChangeTime(min(max(self._at, since), after), is_certain)

    def _count_by_joules(self, spent: float, least: int, most: int) -> int | None:
        """Returns how many updates a change holds; None where power did not keep steady."""
        if self._joules_per_update <= 0:
            return None
        updates = spent / self._joules_per_update
        nearest = min(max(round(updates), least), most)
        return nearest if abs(updates - nearest) <= NEAR else None

    def _predict(self, updates: int, period: float) -> tuple[float, float]:
        blur = updates * (self._jitter + self._error)
        return self._low + updates * period - blur, self._high + updates * period + blur

    def _narrow(self, low: float, high: float, since: float, after: float) -> tuple[float, float]:
        if low <= after and since <= high:
            self._jitter = max(self._jitter * JITTER_DECAY, LEAST_JITTER)
            self._misfits *= 1 - 1 / MISFIT_MEMORY
            return max(low, since), min(high, after)
        # Further off than the jitter allows: the end of the interval that is nearest to where it was due.
        self._misfits += (1 - self._misfits) / MISFIT_MEMORY
        self._jitter = min(self._jitter * JITTER_GROWTH, (after - since) / 4)
        room = min(2 * self._jitter, after - since)
        return (after - room, after) if low > after else (since, since + room)

    def _refine_period(self, width: float) -> None:
        if self._updates >= SPAN:
            self._updates -= self._next_base[1]
            self._base, self._next_base = (self._next_base[0], 0), (self._at, self._updates)
        elif self._next_base[1] == 0 and self._updates >= SPAN // 2:
            self._next_base = (self._at, self._updates)
        error = width / 2 / self._updates
        if error <= self._error:
            self.period, self._error = (self._at - self._base[0]) / self._updates, error


class LearnedPeriod(NamedTuple):
    """``error``: seconds that one period may be off."""

    seconds: float
    error: float


def learn_period(changes: Sequence[CounterChange]) -> LearnedPeriod | None:
    """Learns the period from successive changes of one counter; None where they have none."""
    widths = [change.after - change.since for change in changes]
    poll = median(widths)
    middles = [(change.since + change.after) / 2 for change in changes]
    distances = [b - a for a, b in pairwise(middles)]
    most = 1.5 * median(distances) + poll
    usual = [distance for distance, width in zip(distances, widths[1:], strict=True) if distance <= most and width <= 1.5 * poll]
    if len(usual) < LEARNED // 2 or poll <= 0:
        return None
    seconds = fmean(usual)
    if seconds >= HIDDEN_BELOW * poll:
        return LearnedPeriod(seconds, poll / 2 / len(usual))
    # Of the times without a change few may be wrong, as where a counter stands still.
    gaps = sorted((b.since - a.after for a, b in pairwise(changes)), reverse=True)
    least = max(gaps[len(gaps) // 64 + 1], SHORTEST_PERIOD)
    by_joules = _update_seconds(changes)
    coarse = _period_by_joules([steady for steady in by_joules if steady is not None], least, 1.05 * seconds)
    if coarse is None:
        return LearnedPeriod(seconds, poll / 2 / len(usual))
    updates = [count for count in (_whole_periods(steady, coarse) for steady in by_joules) if count]
    if not updates or fmean(updates) <= 1 + FEW_HIDDEN:
        return _fold(changes[-FOLDED:], by_joules[-FOLDED:], seconds, FEW_HIDDEN / 2)
    return _fold(changes[-FOLDED:], by_joules[-FOLDED:], coarse, FOLD_RANGE)


def _update_seconds(changes: Sequence[CounterChange]) -> list[float | None]:
    """Returns the seconds of the updates that each change holds, by its joules; None where power was not steady around it."""
    seconds: list[float | None] = [None] * len(changes)
    for first in range(len(changes) - BLOCK - 1, -1, -BLOCK):
        block = changes[first : first + BLOCK + 1]
        spent = [b.joules - a.joules for a, b in pairwise(block)]
        if max(spent) <= STEADY * min(spent):
            scale = (block[-1].after - block[0].after) / sum(spent)
            seconds[first + 1 : first + BLOCK + 1] = [joules * scale for joules in spent]
    return seconds


def _period_by_joules(seconds: Sequence[float], least: float, most: float) -> float | None:
    """Returns the longest period that the seconds of updates are multiples of."""
    if len(seconds) < BLOCK:
        return None
    candidates = [least]
    while candidates[-1] < most:
        candidates.append(candidates[-1] * PERIOD_GRID)
    best = max(candidates, key=lambda period: sum(cos(2 * pi * s / period) for s in seconds))
    while 2 * best <= most and _odd_share(seconds, best) < ODD_SHARE:
        best *= 2
    while best / 2 >= least and _odd_share(seconds, best / 2) >= ODD_SHARE:
        best /= 2
    clear = [(s, updates) for s in seconds if (updates := _whole_periods(s, best))]
    if len(clear) < max(LEARNED, len(seconds) / 2):
        return None
    return sum(s for s, _ in clear) / sum(updates for _, updates in clear)


def _odd_share(seconds: Sequence[float], period: float) -> float:
    """Share of the times that are an odd multiple of the period."""
    ratios = [s / period for s in seconds]
    return sum(round(ratio) % 2 == 1 and abs(ratio - round(ratio)) <= NEAR for ratio in ratios) / len(ratios)


def _fold(changes: Sequence[CounterChange], by_joules: Sequence[float | None], about: float, share: float) -> LearnedPeriod:
    """Returns the period within a ``share`` of ``about`` by which most changes fit updates of one phase."""
    span = changes[-1].after - changes[0].after
    distance = about / (BINS / 2 * span)
    periods = [about * (1 + step * distance) for step in range(-ceil(share / distance), ceil(share / distance) + 1)]
    bounds = [
        (change.since, change.after, following.since, _whole_periods(seconds, about))
        for (change, following), seconds in zip(pairwise(changes), by_joules, strict=False)
    ]
    fitting = [_fitting(bounds, period) for period in periods]
    most = max(fitting)
    fitting_best = [period for period, count in zip(periods, fitting, strict=True) if count == most]
    return LearnedPeriod(median(fitting_best), about * distance)


def _whole_periods(seconds: float | None, period: float) -> int:
    """Returns the periods of these seconds; 0 where they are not known or no whole number."""
    updates = 0 if seconds is None else round(seconds / period)
    return updates if seconds is not None and abs(seconds / period - updates) <= NEAR else 0


def _fitting(bounds: Sequence[tuple[float, float, float, int]], period: float) -> int:
    """Returns how many of the changes can be updates of one phase.

    The latest update of a change lies after the last poll without it, less than a period before the last poll without the next,
    and as many periods before and after as the change holds updates.
    """
    rises = [0] * (2 * BINS + 2)
    scale = BINS / period
    origin = bounds[0][0]
    for since, after, unchanged, updates in bounds:
        low, high = max(since, unchanged - period), after
        if updates:
            low, high = max(low, since + (updates - 1) * period), min(high, since + updates * period)
        first = int((low - origin) * scale % BINS)
        rises[first] += 1
        rises[first + min(max(int((high - low) * scale), 0), BINS - 1) + 1] -= 1
    counts = list(accumulate(rises))
    return max(one + other for one, other in zip(counts[:BINS], counts[BINS : 2 * BINS], strict=True))
