"""Whose joules: the energy of GPUs shared by overlapping tasks, given out so that every joule is counted once.

In a bin with one task, all of its energy is that task's. In a bin with several, the part above idle goes to the tasks with LLM
calls in flight: whole to the only one, else by tokens worked on where all are known and can be weighed, else by seconds of calls
in flight, and evenly to all who are there if no task has a call. The idle part of such a bin belongs to no single task:
it stays ``shared_idle``, and only the column ``fully_loaded`` deals it out evenly. Without a known idle power it is 0, and
all of the bin counts as work. On every GPU

    sum(attributed) + shared_idle + unattributed + withheld + other_servers = E(end) - E(start)
    sum(fully_loaded) + unattributed = E(end) - E(start)      where nothing is withheld or of other servers

A task's joules still depend on its neighbours (a batch costs less than its parts), so shared numbers do not compare with
exclusive ones. ``lower`` and ``upper`` bound what the split decides; the error of the counter comes on top of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from joulebench.energy.allocation import (
    METHODS,
    BinTable,
    EnergyAllocation,
    GpuBalance,
    Share,
    balance_of_parts,
    part_of_share,
    total_share,
)
from joulebench.energy.bins import Interval, TaskWork, activities, bins
from joulebench.energy.token_weights import TokenWeights, exclusive_stretches, fit
from joulebench.energy.trace import EnergySource, energy_curve

MIN_BIN_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class TaskAttribution:
    """``overlap_fraction``: share of the window, 0 to 1, in which another task's window lies. ``method``: the weakest of
    ``METHODS`` that a share of its energy worth naming rests on. ``answered``: share of the window, 0 to 1, whose joules between
    all starts and ends of work are the exporter's answers, the least of the GPUs. ``total``: all GPUs; None where there is none.
    """

    key: str
    overlap_fraction: float
    method: str
    gpus: Mapping[str, Share]
    total: Share
    answered: float = 0.0


@dataclass(frozen=True, slots=True)
class Attribution:
    """``tasks`` in the order they came in; ``gpus`` by the name of their source."""

    tasks: tuple[TaskAttribution, ...]
    gpus: Mapping[str, GpuBalance]


def attribute(
    sources: Mapping[str, EnergySource],
    tasks: Sequence[TaskWork],
    *,
    span: Interval | None = None,
    idle_watts: Mapping[str, float | None] | None = None,
    weights: TokenWeights | None = None,
    serialized: bool = False,
    min_bin: float = MIN_BIN_SECONDS,
) -> Attribution:
    """Give out the energy of every GPU over ``span``, by default from the first start to the last end.

    ``tasks``: everything that used these GPUs, else its energy is given to the wrong ones; where a model sits on some GPUs only,
    pass only those. ``idle_watts``: by GPU, with the model loaded and no work. ``weights`` None: fitted for each GPU from the
    time of single tasks, and else tokens are not used. ``serialized``: see ``activities``. ValueError for a
    window that ends before its start or lies outside the span.
    """
    first, last = span or (min((t.start for t in tasks), default=0.0), max((t.end for t in tasks), default=0.0))
    for task in tasks:
        if not first <= task.start <= task.end <= last:
            raise ValueError(f"the window {task.start} to {task.end} of task {task.key} does not fit into {first} to {last}")
    work = activities(tasks, serialized=serialized)
    cut = bins(tasks, work, (first, last), min_bin)
    shared = any(len(one.tasks) > 1 for one in cut)
    stretches = exclusive_stretches(cut, work) if shared and weights is None else []
    table = BinTable(cut, len(tasks))
    allocations = {}
    for gpu, source in sources.items():
        curve = energy_curve(source, first, last)
        idle = (idle_watts or {}).get(gpu)
        token_weights = (weights or fit(curve, stretches, idle)) if shared else None
        allocations[gpu] = EnergyAllocation(curve, table, idle, token_weights)
    shares = {gpu: allocation.shares(tasks) for gpu, allocation in allocations.items()}
    overlaps = [0.0] * len(tasks)
    for one in cut:
        if len(one.tasks) > 1:
            for i in one.tasks:
                overlaps[i] += one.end - one.start
    found = []
    for i, task in enumerate(tasks):
        seconds = task.end - task.start
        own = {gpu: shares[gpu][i] for gpu in sources}
        fraction = min(overlaps[i] / seconds, 1.0) if seconds > 0 else 0.0
        methods = [allocation.method(i) for allocation in allocations.values()] if fraction > 0 else []
        method = max(methods, default=METHODS[0], key=METHODS.index)
        answered = min((allocation.answered_seconds(i) for allocation in allocations.values()), default=0.0)
        answered = min(answered / seconds, 1.0) if seconds > 0 else 0.0
        found.append(TaskAttribution(task.key, fraction, method, own, total_share(own.values()), answered))
    return Attribution(tuple(found), {gpu: one.balance(shares[gpu], first, last) for gpu, one in allocations.items()})


def attribute_parts(found: Attribution, parts: Sequence[Mapping[str, float | None]]) -> Attribution:
    """The attribution on GPUs that other servers used, too, or of which tasks had a MIG instance.

    ``parts``: of each task, in their order, the part of the energy of such a GPU that its server used in its window, 0 to 1; None
    where it is unknown. A GPU that is not named there was the server's alone.
    """
    if not any(parts):
        return found
    tasks = []
    for task, own in zip(found.tasks, parts, strict=True):
        gpus = {gpu: part_of_share(share, own[gpu]) if gpu in own else share for gpu, share in task.gpus.items()}
        tasks.append(replace(task, gpus=gpus, total=total_share(gpus.values())))
    balances = {}
    for gpu, balance in found.gpus.items():
        divided = [(task.gpus[gpu], own[gpu]) for task, own in zip(found.tasks, parts, strict=True) if gpu in own]
        balances[gpu] = balance_of_parts(balance, [share for share, _ in divided], [part for _, part in divided])
    return Attribution(tuple(tasks), balances)
