"""The energy of one GPU allocated to tasks, bin after bin, so that all parts add up to the counter.

sum(attributed) + shared_idle + unattributed + withheld + other_servers = E(end) - E(start)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import fsum

import numpy as np

from joulebench.energy.bins import Bin, TaskWork
from joulebench.energy.curve import EnergyCurve, Flags, Floats, Indices
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
    """Joules of one GPU over the span. ``joules``: the counter's own difference, None where it has no value.

    ``unattributed``: while no task was there. ``shared_idle``: idle part of the time with several tasks; 0 where idle power is
    unknown (reason ``idle_unknown``). ``withheld``: of tasks whose share is None. ``residual``: what the sum of all misses,
    rounding only. ``coverage``: share of the span that the counter reaches over. ``weights``: as given or fitted, None if unused.
    ``other_servers``: what other servers, or other MIG instances, used of the GPU while tasks ran.
    """

    joules: float | None
    unattributed: float | None
    shared_idle: float | None
    withheld: float | None
    residual: float | None
    coverage: float
    weights: TokenWeights | None
    reasons: tuple[str, ...]
    other_servers: float | None = 0.0


class BinTable:
    """Bins as columns, once for all GPUs: who is there (``member_bin``, ``member_task``) and who works (``work_bin`` ...)."""

    def __init__(self, bins: Sequence[Bin], count: int) -> None:
        self.count = count
        self.starts, self.ends = np.array([(one.start, one.end) for one in bins], np.float64).reshape(-1, 2).T
        self.tasks = np.array([len(one.tasks) for one in bins], np.int64)
        self.workers = np.array([len(one.work) if len(one.tasks) > 1 else 0 for one in bins], np.int64)
        self.known = np.array([all(work.known for work in one.work.values()) for one in bins], np.bool_)
        self.member_bin = np.repeat(np.arange(len(bins)), self.tasks)
        self.member_task = np.array([task for one in bins for task in one.tasks], np.int64)
        working = [(i, t, work) for i, one in enumerate(bins) if len(one.tasks) > 1 for t, work in one.work.items()]
        self.work_bin = np.array([i for i, _, _ in working], np.int64)
        self.work_task = np.array([task for _, task, _ in working], np.int64)
        self.call_seconds = np.array([work.call_seconds for _, _, work in working], np.float64)
        self.prefill_tokens = np.array([work.prefill_tokens for _, _, work in working], np.float64)
        self.decode_tokens = np.array([work.decode_tokens for _, _, work in working], np.float64)

    def by_task(self, tasks: Indices, joules: Floats) -> Floats:
        """Joules added up by task."""
        found: Floats = np.bincount(tasks, joules, self.count).astype(np.float64)
        return found


class EnergyAllocation:
    """Joules of one GPU by task."""

    def __init__(self, curve: EnergyCurve, table: BinTable, idle_watts: float | None, weights: TokenWeights | None) -> None:
        self._curve = curve
        self._idle_watts = idle_watts
        self._weights = weights
        used = np.maximum(curve.joules_at(table.ends) - curve.joules_at(table.starts), 0.0)
        several = table.tasks > 1
        idle = np.where(several, np.minimum((idle_watts or 0.0) * curve.covered(table.starts, table.ends), used), 0.0)
        members, there = table.member_task, table.member_bin
        alone = table.tasks[there] == 1
        answered = np.where(curve.answered(table.starts, table.ends), table.ends - table.starts, 0.0)
        self._answered: list[float] = table.by_task(members, answered[there]).tolist()
        self._unattributed = fsum(used[table.tasks == 0].tolist())
        self._shared_idle = fsum(idle.tolist())
        self._upper: list[float] = table.by_task(members, used[there]).tolist()
        self._lower: list[float] = table.by_task(members[alone], used[there[alone]]).tolist()
        self._idle: list[float] = table.by_task(members, (idle / np.maximum(table.tasks, 1))[there]).tolist()
        work, by_tokens, by_calls = self._split_work(table, used - idle, several)
        self._work: list[float] = work.tolist()
        self._by_tokens: list[float] = by_tokens.tolist()
        self._by_calls: list[float] = by_calls.tolist()

    def _split_work(self, table: BinTable, rest: Floats, several: Flags) -> tuple[Floats, Floats, Floats]:
        """Energy above idle of shared bins, by task: all, and what was split by tokens and by calls in flight."""
        bins, tasks, count = table.work_bin, table.work_task, len(table.tasks)
        tokens = np.zeros(len(bins))
        if self._weights is not None:
            tokens = self._weights.prefill * table.prefill_tokens + self._weights.decode * table.decode_tokens
        use_tokens = (table.known & (np.bincount(bins, tokens, count) > 0))[bins] if len(bins) else np.zeros(0, np.bool_)
        loads = np.where(use_tokens, tokens, table.call_seconds)
        parts = rest[bins] * loads / np.bincount(bins, loads, count)[bins] if len(bins) else np.zeros(0)
        # A single worker has all of it, whatever the loads: nothing is assumed there.
        split = table.workers[bins] > 1
        # Where no task has a call, all who are there share evenly.
        even = (several & (table.workers == 0))[table.member_bin]
        members, there = table.member_task[even], table.member_bin[even]
        evenly = table.by_task(members, rest[there] / table.tasks[there])
        by_tokens = table.by_task(tasks[split & use_tokens], parts[split & use_tokens])
        by_calls = table.by_task(tasks[split & ~use_tokens], parts[split & ~use_tokens]) + evenly
        return table.by_task(tasks, parts) + evenly, by_tokens, by_calls

    def method(self, i: int) -> str:
        """The weakest of ``METHODS`` behind a task that was not alone all the time."""
        minor = MINOR_SHARE * (self._lower[i] + self._work[i])
        if self._by_calls[i] > minor:
            return "equal_share"
        return "by_tokens" if self._by_tokens[i] + self._by_calls[i] > minor else "by_execution"

    def answered_seconds(self, i: int) -> float:
        """Seconds of the window of a task, bin by bin, whose joules are the exporter's answers."""
        return self._answered[i]

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
            return GpuBalance(None, None, None, None, None, 0.0, None, reasons, other_servers=None)
        before, after = self._curve.joules_at([start, end]).tolist()
        joules = after - before
        given = [share.attributed for share in shares if share.attributed is not None]
        unknown = [i for i, share in enumerate(shares) if share.attributed is None]
        withheld = fsum(self._lower[i] + self._work[i] for i in unknown)
        residual = joules - fsum((*given, withheld, self._shared_idle, self._unattributed))
        return GpuBalance(joules, self._unattributed, self._shared_idle, withheld, residual, coverage, self._weights, reasons)


def part_of_share(share: Share, part: float | None) -> Share:
    """The share of a task whose server used only ``part``, 0 to 1, of the energy of the GPU while it ran: an estimate between
    nothing and all; None where the part is unknown."""
    lower = None if share.lower is None else 0.0
    if part is None or share.attributed is None or share.fully_loaded is None:
        return Share(lower, None, None, share.upper, share.reasons)
    return Share(lower, share.attributed * part, share.fully_loaded * part, share.upper, share.reasons)


def balance_of_parts(balance: GpuBalance, shares: Sequence[Share], parts: Sequence[float | None]) -> GpuBalance:
    """The balance after these shares became parts. The rest of a share is of other servers; without a part all is withheld."""
    if balance.withheld is None:
        return balance
    given = [(share.attributed, part) for share, part in zip(shares, parts, strict=True) if share.attributed is not None]
    others = fsum(joules * (1.0 - part) for joules, part in given if part is not None)
    withheld = fsum((balance.withheld, *(joules for joules, part in given if part is None)))
    return replace(balance, withheld=withheld, other_servers=others)


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
