"""The energy of one GPU allocated to tasks, bin after bin, so that all parts add up to the counter.

sum(attributed) + shared_idle + unattributed + withheld = E(end) - E(start)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np

from joulebench.energy.bins import Bin, TaskWork
from joulebench.energy.curve import EnergyCurve
from joulebench.energy.token_weights import TokenWeights

METHODS = ("exclusive", "by_execution", "by_tokens", "equal_share")
"""From exact to assumed. ``by_execution``: windows overlapped but work did not, so its energy needed no split."""
MINOR_SHARE = 0.05
"""Split joules below this share of a task's own do not make its method: clocks differ a little, and waiting is not quite idle."""


@dataclass(frozen=True, slots=True)
class Share:
    """Joules of one task. ``lower``: while it was alone; ``upper``: all of its window; ``attributed`` lies between them, and so
    does ``fully_loaded``, which has a part of the idle energy of shared time. None where unknown, with the reasons of
    ``EnergyCurve.reasons``; ``lower`` stays as what is known at least.
    """

    lower: float | None
    attributed: float | None
    fully_loaded: float | None
    upper: float | None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GpuBalance:
    """Joules of one GPU over the span. ``joules``: the counter's own difference, None where it tells nothing.

    ``unattributed``: while no task was there. ``shared_idle``: idle part of the time with several tasks; 0 where idle power is
    unknown (reason ``idle_unknown``). ``withheld``: of tasks whose share is None. ``residual``: what the sum of all misses,
    rounding only. ``coverage``: share of the span that the counter reaches over. ``weights``: as given or fitted, None if unused.
    """

    joules: float | None
    unattributed: float | None
    shared_idle: float | None
    withheld: float | None
    residual: float | None
    coverage: float
    weights: TokenWeights | None
    reasons: tuple[str, ...]


class EnergyAllocation:
    """Joules of one GPU by task, bin after bin."""

    def __init__(self, curve: EnergyCurve, count: int, idle_watts: float | None, weights: TokenWeights | None) -> None:
        self._curve = curve
        self._idle_watts = idle_watts
        self._weights = weights
        self._lower = [0.0] * count
        self._work = [0.0] * count
        self._idle = [0.0] * count
        self._upper = [0.0] * count
        self._by_tokens = [0.0] * count
        self._by_calls = [0.0] * count
        self._unattributed = 0.0
        self._shared_idle = 0.0

    def allocate(self, bins: Sequence[Bin]) -> None:
        """Gives the energy of each bin to the tasks in it."""
        starts, ends = [one.start for one in bins], [one.end for one in bins]
        used = np.maximum(self._curve.joules_at(ends) - self._curve.joules_at(starts), 0.0)
        covered = self._curve.covered(starts, ends)
        for one, joules, seconds in zip(bins, used.tolist(), covered.tolist(), strict=True):
            self._allocate_bin(one, joules, seconds)

    def _allocate_bin(self, one: Bin, joules: float, covered: float) -> None:
        if not one.tasks:
            self._unattributed += joules
            return
        for i in one.tasks:
            self._upper[i] += joules
        if len(one.tasks) == 1:
            self._lower[one.tasks[0]] += joules
            return
        idle = min((self._idle_watts or 0.0) * covered, joules)
        self._shared_idle += idle
        for i in one.tasks:
            self._idle[i] += idle / len(one.tasks)
        loads, split = self._loads(one)
        total = sum(loads.values())
        for i, load in loads.items():
            part = (joules - idle) * (load / total)
            self._work[i] += part
            if split is not None:
                split[i] += part

    def _loads(self, one: Bin) -> tuple[dict[int, float], list[float] | None]:
        """By what the energy above idle of a shared bin is split, and the account of that kind; None where nothing is assumed."""
        if len(one.work) == 1:
            return dict.fromkeys(one.work, 1.0), None
        if not one.work:
            return dict.fromkeys(one.tasks, 1.0), self._by_calls
        loads = self._token_loads(one)
        if sum(loads.values()) > 0:
            return loads, self._by_tokens
        return {i: work.call_seconds for i, work in one.work.items()}, self._by_calls

    def _token_loads(self, one: Bin) -> dict[int, float]:
        weights = self._weights
        if weights is None or not all(work.known for work in one.work.values()):
            return {}
        return {i: weights.prefill * work.prefill_tokens + weights.decode * work.decode_tokens for i, work in one.work.items()}

    def method(self, i: int) -> str:
        """The weakest of ``METHODS`` behind a task that was not alone all the time."""
        minor = MINOR_SHARE * (self._lower[i] + self._work[i])
        if self._by_calls[i] > minor:
            return "equal_share"
        return "by_tokens" if self._by_tokens[i] + self._by_calls[i] > minor else "by_execution"

    def shares(self, tasks: Sequence[TaskWork]) -> list[Share]:
        """Of the tasks, in their order."""
        starts, ends = [task.start for task in tasks], [task.end for task in tasks]
        covered, whole = self._curve.covered(starts, ends).tolist(), self._curve.is_whole(starts, ends).tolist()
        return [self._share(i, task, covered[i], is_whole=whole[i]) for i, task in enumerate(tasks)]

    def _share(self, i: int, task: TaskWork, covered: float, *, is_whole: bool) -> Share:
        plain = self._curve.is_plain(task.start, task.end)
        reasons = () if plain else self._curve.reasons(task.start, task.end)
        if not self._curve.is_known or (covered <= 0 < task.end - task.start):
            return Share(None, None, None, None, reasons)
        if not is_whole:
            return Share(self._lower[i], None, None, None, reasons)
        attributed = self._lower[i] + self._work[i]
        return Share(self._lower[i], attributed, attributed + self._idle[i], self._upper[i], reasons)

    def balance(self, shares: Sequence[Share], start: float, end: float) -> GpuBalance:
        unknown_idle = ("idle_unknown",) if self._idle_watts is None else ()
        reasons = (*self._curve.reasons(start, end), *unknown_idle)
        covered = float(self._curve.covered([start], [end])[0])
        coverage = covered / (end - start) if end > start else float(self._curve.is_known)
        if not self._curve.is_known or covered <= 0 < end - start:
            return GpuBalance(None, None, None, None, None, 0.0, None, reasons)
        before, after = self._curve.joules_at([start, end]).tolist()
        joules = after - before
        given = [share.attributed for share in shares if share.attributed is not None]
        held = [i for i, share in enumerate(shares) if share.attributed is None]
        withheld = fsum(self._lower[i] + self._work[i] for i in held)
        residual = joules - fsum((*given, withheld, self._shared_idle, self._unattributed))
        return GpuBalance(joules, self._unattributed, self._shared_idle, withheld, residual, coverage, self._weights, reasons)


def total_share(shares: Iterable[Share]) -> Share:
    """All GPUs of one task together; a column is None where one of them is unknown, or where there is none."""
    parts = list(shares)
    if not parts:
        return Share(None, None, None, None, ("no_gpu",))
    columns = zip(*((part.lower, part.attributed, part.fully_loaded, part.upper) for part in parts), strict=True)
    lower, attributed, fully_loaded, upper = (_sum(column) for column in columns)
    reasons = tuple(dict.fromkeys(reason for part in parts for reason in part.reasons))
    return Share(lower, attributed, fully_loaded, upper, reasons)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fsum(known) if len(known) == len(values) else None
