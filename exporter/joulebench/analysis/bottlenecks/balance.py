"""How evenly the GPUs of a task work. A model on several cards is as slow as the card that the others wait for.

Only means over a task are kept of each card, so idle-while-a-peer-works is a lower bound: a card that was busy for 30 % of a
task beside one that was busy for 80 % was idle while that one worked for at least half of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from joulebench.analysis.bottlenecks.tasks import Finding, TaskRun, group_by_model, mean_utilization, mean_watts, peak_vram_mib
from joulebench.parsing import sum_or_none
from joulebench.schema.result import GpuResult

WAITING_SHARE = 0.2
"""Of the time of the tasks, from which a card that waits is worth a finding."""
BUSY = 5.0
"""Percent; a task in which no card was busier than this shows nothing about balance."""


@dataclass(frozen=True, slots=True)
class BytesMoved:
    """Bytes with bounds; ``high`` is None where no upper bound is known."""

    value: float
    low: float
    high: float | None


@dataclass(frozen=True, slots=True)
class GpuBalance:
    """Of one GPU over all tasks: mean utilization in percent and watts by time, highest MiB, all joules; None where not known.

    ``links``: bytes by ``pcie_tx``, ``nvlink_rx`` and so on, those that the card counted in every task.
    """

    gpu: str
    name: str
    util: float | None
    watts: float | None
    peak_vram_mib: float | None
    joules: float | None
    links: dict[str, BytesMoved]


@dataclass(frozen=True, slots=True)
class TaskBalance:
    """``imbalance``: busiest / mean - 1, 0 for even work. ``idle_seconds``: at least so long each GPU idled beside a busy one."""

    task: str
    imbalance: float
    idle_seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Balance:
    """Of one model. ``imbalance`` over all tasks, by time; None where fewer than two GPUs are known."""

    model: str
    simulated: bool
    seconds: float
    cards: tuple[GpuBalance, ...]
    imbalance: float | None
    tasks: tuple[TaskBalance, ...]
    findings: tuple[Finding, ...]

    def data(self) -> dict[str, Any]:
        return asdict(self)


def balance_of_tasks(tasks: Sequence[TaskRun]) -> list[Balance]:
    return [_of_model(model, own) for model, own in group_by_model(tasks).items()]


def _of_model(model: str, tasks: Sequence[TaskRun]) -> Balance:
    several = [task for task in tasks if task.attempt.seconds and len(task.gpus) > 1]
    balances = [each for task in several if (each := _of_task(task)) is not None]
    used = {each.task for each in balances}
    seconds = sum(task.attempt.seconds or 0.0 for task in several if task.attempt.task_id in used)
    cards = _cards(tasks)
    utils = [card.util for card in cards if card.util is not None]
    whole = _imbalance(utils) if len(utils) == len(cards) > 1 else None
    return Balance(
        model=model,
        simulated=any(task.attempt.simulated for task in tasks),
        seconds=seconds,
        cards=cards,
        imbalance=whole,
        tasks=tuple(balances),
        findings=tuple(_findings(model, balances, seconds, cards)),
    )


def _of_task(task: TaskRun) -> TaskBalance | None:
    utils = {gpu.gpu or "": util for gpu in task.gpus if (util := mean_utilization(gpu)) is not None}
    if len(utils) < len(task.gpus) or max(utils.values()) < BUSY:
        return None
    busiest, seconds = max(utils.values()), task.attempt.seconds or 0.0
    idle = {gpu: seconds * (busiest - util) / 100 for gpu, util in utils.items()}
    return TaskBalance(task.attempt.task_id, _imbalance(list(utils.values())) or 0.0, idle)


def _imbalance(values: Sequence[float]) -> float | None:
    mean = sum(values) / len(values)
    return max(values) / mean - 1 if mean > 0 else None


def _cards(tasks: Sequence[TaskRun]) -> tuple[GpuBalance, ...]:
    every = [(gpu, task.attempt.seconds or 0.0) for task in tasks for gpu in task.gpus]
    cards = []
    for index, name in sorted({_key(gpu) for gpu, _ in every}):
        own = [(gpu, seconds) for gpu, seconds in every if _key(gpu) == (index, name)]
        cards.append(
            GpuBalance(
                gpu=index,
                name=name,
                util=_mean_by_time(own, mean_utilization),
                watts=_mean_by_time(own, mean_watts),
                peak_vram_mib=max((peak for gpu, _ in own if (peak := peak_vram_mib(gpu)) is not None), default=None),
                joules=sum_or_none(gpu.energy.joules for gpu, _ in own),
                links=_links([gpu for gpu, _ in own]),
            )
        )
    return tuple(cards)


def _key(gpu: GpuResult) -> tuple[str, str]:
    return gpu.gpu or "", gpu.name or ""


def _links(own: Sequence[GpuResult]) -> dict[str, BytesMoved]:
    """By link and direction, those that the card counted in every task."""
    counted = [
        {
            f"{link}_{way}": moved
            for link, ways in gpu.link_bytes.items()
            for way, moved in ways.items()
            if moved.bytes is not None
        }
        for gpu in own
    ]
    links = {}
    for name in sorted(set.intersection(*map(set, counted))):
        of_link = [each[name] for each in counted]
        links[name] = BytesMoved(
            sum(moved.bytes or 0.0 for moved in of_link),
            sum(moved.low or 0.0 for moved in of_link),
            sum_or_none(moved.high for moved in of_link),
        )
    return links


def _mean_by_time(own: Sequence[tuple[GpuResult, float]], value: Callable[[GpuResult], float | None]) -> float | None:
    known = [(each, seconds) for gpu, seconds in own if (each := value(gpu)) is not None]
    total = sum(seconds for _, seconds in known)
    return sum(each * seconds for each, seconds in known) / total if total else None


def _findings(model: str, tasks: Sequence[TaskBalance], seconds: float, cards: Sequence[GpuBalance]) -> Sequence[Finding]:
    if not seconds:
        return []
    idle = {card.gpu: sum(task.idle_seconds.get(card.gpu, 0.0) for task in tasks) for card in cards}
    found = []
    for card in cards:
        gpu, waited = card.gpu, idle[card.gpu]
        if waited < WAITING_SHARE * seconds:
            continue
        if card.util is not None and card.util < BUSY:
            found.append(_unused(model, card))
            continue
        clearest = sorted(tasks, key=lambda task: task.idle_seconds.get(gpu, 0.0), reverse=True)[:3]
        found.append(
            Finding(
                kind=f"GPU {gpu} waits for the others",
                scope=model,
                evidence=f"idle beside a busy one for at least {waited:.1f} of {seconds:.1f} s ({100 * waited / seconds:.0f} %)",
                gain="no more than the time that the busiest card is busy beyond the mean of all",
                next_step="split the model more evenly (tensor split), or serve it from fewer cards if it fits",
                tasks=tuple(task.task for task in clearest),
            )
        )
    return found


def _unused(model: str, card: GpuBalance) -> Finding:
    joules = "" if card.joules is None else f", and its {card.joules:.0f} J are in those of the tasks"
    return Finding(
        kind=f"GPU {card.gpu} has no work",
        scope=model,
        evidence=f"it was busy for {card.util:.0f} % of the time{joules}",
        gain="" if card.joules is None else f"{card.joules:.0f} J, if tasks are charged with the cards that they use",
        next_step="name the cards of the model to the benchmark, or give this one a share of the model or tasks of its own",
    )
