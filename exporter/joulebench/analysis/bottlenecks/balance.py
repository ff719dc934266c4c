"""How evenly the GPUs of a task work. A model on several cards is as slow as the card that the others wait for.

Only means over a task are kept of each card, so idle-while-a-peer-works is a lower bound: a card that was busy for 30 % of a
task beside one that was busy for 80 % was idle while that one worked for at least half of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from joulebench.analysis.bottlenecks.observed import Bounded, Finding, Gpu, Observed, by_model

WAITING_SHARE = 0.2
"""Of the time of the tasks, from which a card that waits is worth a finding."""
BUSY = 5.0
"""Percent; a task in which no card was busier than this tells nothing of balance."""


@dataclass(frozen=True, slots=True)
class Card:
    """Of one GPU over all tasks: mean utilisation in percent and watts by time, highest MiB, all joules; None where not known.

    ``links``: bytes by ``pcie_tx``, ``nvlink_rx`` and so on, those that the card counted in every task.
    """

    gpu: str
    name: str
    util: float | None
    watts: float | None
    peak_vram_mib: float | None
    joules: float | None
    links: dict[str, Bounded]


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
    cards: tuple[Card, ...]
    imbalance: float | None
    tasks: tuple[TaskBalance, ...]
    findings: tuple[Finding, ...]

    def data(self) -> dict[str, Any]:
        return asdict(self)


def balance(tasks: Sequence[Observed]) -> list[Balance]:
    return [_of_model(model, own) for model, own in by_model(tasks).items()]


def _of_model(model: str, tasks: Sequence[Observed]) -> Balance:
    several = [task for task in tasks if task.row.seconds and len(task.gpus) > 1]
    found = [one for task in several if (one := _of_task(task)) is not None]
    told = {one.task for one in found}
    seconds = sum(task.row.seconds or 0.0 for task in several if task.row.task_id in told)
    cards = _cards(tasks)
    utils = [card.util for card in cards if card.util is not None]
    whole = _imbalance(utils) if len(utils) == len(cards) > 1 else None
    return Balance(
        model=model,
        simulated=any(task.row.simulated for task in tasks),
        seconds=seconds,
        cards=cards,
        imbalance=whole,
        tasks=tuple(found),
        findings=tuple(_findings(model, found, seconds, cards)),
    )


def _of_task(task: Observed) -> TaskBalance | None:
    utils = {gpu.gpu: gpu.util for gpu in task.gpus if gpu.util is not None}
    if len(utils) < len(task.gpus) or max(utils.values()) < BUSY:
        return None
    busiest, seconds = max(utils.values()), task.row.seconds or 0.0
    idle = {gpu: seconds * (busiest - util) / 100 for gpu, util in utils.items()}
    return TaskBalance(task.row.task_id, _imbalance(list(utils.values())) or 0.0, idle)


def _imbalance(values: Sequence[float]) -> float | None:
    mean = sum(values) / len(values)
    return max(values) / mean - 1 if mean > 0 else None


def _cards(tasks: Sequence[Observed]) -> tuple[Card, ...]:
    seen = {(gpu.gpu, gpu.name): gpu for task in tasks for gpu in task.gpus}
    found = []
    for index, name in sorted(seen):
        own = [(gpu, task.row.seconds or 0.0) for task in tasks for gpu in task.gpus if (gpu.gpu, gpu.name) == (index, name)]
        joules = [gpu.joules for gpu, _ in own]
        found.append(
            Card(
                gpu=index,
                name=name,
                util=_by_time(own, lambda gpu: gpu.util),
                watts=_by_time(own, lambda gpu: gpu.watts),
                peak_vram_mib=max((gpu.peak_vram_mib for gpu, _ in own if gpu.peak_vram_mib is not None), default=None),
                joules=None if None in joules else sum(one for one in joules if one is not None),
                links=_links([gpu for gpu, _ in own]),
            )
        )
    return tuple(found)


def _links(own: Sequence[Gpu]) -> dict[str, Bounded]:
    found = {}
    for link, direction in sorted(set.intersection(*({*gpu.links} for gpu in own))):
        told = [gpu.links[link, direction] for gpu in own]
        highs = [one.high for one in told if one.high is not None]
        found[f"{link}_{direction}"] = Bounded(
            sum(one.value for one in told),
            sum(one.low for one in told),
            sum(highs) if len(highs) == len(told) else None,
        )
    return found


def _by_time(own: Sequence[tuple[Gpu, float]], value: Callable[[Gpu], float | None]) -> float | None:
    known = [(one, seconds) for gpu, seconds in own if (one := value(gpu)) is not None]
    total = sum(seconds for _, seconds in known)
    return sum(one * seconds for one, seconds in known) / total if total else None


def _findings(model: str, tasks: Sequence[TaskBalance], seconds: float, cards: Sequence[Card]) -> Sequence[Finding]:
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


def _unused(model: str, card: Card) -> Finding:
    joules = "" if card.joules is None else f", and its {card.joules:.0f} J are in those of the tasks"
    return Finding(
        kind=f"GPU {card.gpu} has no work",
        scope=model,
        evidence=f"it was busy for {card.util:.0f} % of the time{joules}",
        gain="" if card.joules is None else f"{card.joules:.0f} J, if tasks are charged with the cards that they use",
        next_step="name the cards of the model to the benchmark, or give this one a share of the model or tasks of its own",
    )
