"""What throttling cost: the decode rate of calls inside throttled spans against that of calls outside, by model.

A call is inside where the clocks were throttled for at least half of it, outside where they were not at all; calls between the
two count on neither side. Intervals resample whole tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from joulebench.analysis.bottlenecks.tasks import Finding, TaskRun, group_by_model
from joulebench.analysis.statistics import LEAST_TASKS, Estimate, Floats, Interval, TaskResampler, TaskSums
from joulebench.schema.result import CallResult

INSIDE_SHARE = 0.5
LEAST_CALLS = 5


@dataclass(frozen=True, slots=True)
class Throttling:
    """Rates in tokens/s. ``slowdown``: rate inside / rate outside. Lost seconds and tokens are those of the calls inside.

    ``onset_c``: the hottest temperature in the first call of a throttled stretch, the lowest of all stretches. ``suspect``: tasks
    that a comparison excludes for it. ``refused``: why there is no slowdown.
    """

    model: str
    simulated: bool
    tasks: int
    suspect: tuple[str, ...]
    calls_inside: int
    calls_outside: int
    rate_inside: float | None
    rate_outside: float | None
    slowdown: Estimate
    seconds_lost: Estimate
    tokens_lost: Estimate
    onset_c: float | None
    refused: str
    findings: tuple[Finding, ...]

    def data(self) -> dict[str, Any]:
        return asdict(self)


def throttling_of_tasks(tasks: Sequence[TaskRun]) -> list[Throttling]:
    return [_of_model(model, own) for model, own in group_by_model(tasks).items()]


def is_inside(call: CallResult) -> bool | None:
    """None for a call that is neither fully outside nor mostly inside, or where it is not known."""
    if call.throttled_seconds is None or not call.duration_seconds:
        return None
    if call.throttled_seconds <= 0:
        return False
    return True if call.throttled_seconds >= INSIDE_SHARE * call.duration_seconds else None


def _of_model(model: str, tasks: Sequence[TaskRun]) -> Throttling:
    # By task: tokens and seconds inside, tokens and seconds outside.
    sums, calls = np.zeros((4, len(tasks))), [0, 0]
    for number, task in enumerate(tasks):
        for call in task.calls:
            where = is_inside(call)
            if where is not None and call.decode_tokens and call.decode_seconds:
                calls[where] += 1
                sums[2 - 2 * where, number] += call.decode_tokens
                sums[3 - 2 * where, number] += call.decode_seconds
    outside, inside = calls
    refused = _refusal(inside, outside)
    slowdown = Estimate(None) if refused else _slowdown(sums)
    seconds = float(sums[1].sum())
    rates = [
        float(tokens / took) if took else None
        for tokens, took in ((sums[0].sum(), sums[1].sum()), (sums[2].sum(), sums[3].sum()))
    ]
    rate_inside, rate_outside = rates
    lost = _lost(slowdown, seconds)
    return Throttling(
        model=model,
        simulated=any(task.attempt.simulated for task in tasks),
        tasks=len(tasks),
        suspect=tuple(task.attempt.task_id for task in tasks if "throttled" in task.attempt.exclusions),
        calls_inside=inside,
        calls_outside=outside,
        rate_inside=rate_inside,
        rate_outside=rate_outside,
        slowdown=slowdown,
        seconds_lost=lost,
        tokens_lost=_lost(slowdown, seconds * (rate_outside or 0.0)),
        onset_c=_onset(tasks),
        refused=refused,
        findings=tuple(_findings(model, slowdown, lost, inside)),
    )


def _refusal(inside: int, outside: int) -> str:
    if not inside:
        return "no call was throttled for half of its time"
    few = [f"{number} calls {where}" for number, where in ((inside, "inside"), (outside, "outside")) if number < LEAST_CALLS]
    return f"{' and '.join(few)} throttled spans; a rate needs {LEAST_CALLS}" if few else ""


def _slowdown(sums: Floats) -> Estimate:
    both = sums[:, sums.any(axis=0)]
    estimate = TaskResampler(both.shape[1]).quotient(TaskSums(both[0], both[1]), TaskSums(both[2], both[3]))
    # A resample of few throttled tasks says little about throttling, however many others there are.
    enough = min((both[1] > 0).sum(), (both[3] > 0).sum()) >= LEAST_TASKS
    return estimate if enough else Estimate(estimate.value)


def _lost(slowdown: Estimate, of: float) -> Estimate:
    """What ``of`` would have been less, had the rate been that outside."""
    if slowdown.value is None:
        return Estimate(None)
    low, high = (slowdown.interval.low, slowdown.interval.high) if slowdown.interval else (None, None)
    bounds = None if slowdown.interval is None else Interval(*(None if each is None else of * (1 - each) for each in (high, low)))
    return Estimate(of * (1 - slowdown.value), bounds)


def _onset(tasks: Sequence[TaskRun]) -> float | None:
    found = []
    for task in tasks:
        before: bool | None = False
        for call in task.calls:
            where = is_inside(call)
            if where and not before and call.max_temp_c is not None:
                found.append(call.max_temp_c)
            before = where
    return min(found, default=None)


def _findings(model: str, slowdown: Estimate, lost: Estimate, calls: int) -> Iterator[Finding]:
    interval = slowdown.interval
    if slowdown.value is None or interval is None or interval.high is None or interval.high >= 1:
        return
    yield Finding(
        kind="throttling slows decode down",
        scope=model,
        evidence=f"inside throttled spans decode runs at {100 * slowdown.value:.0f} % of the rate outside"
        f" (95 %: {format_bounds(interval, 100)} %), over {calls} calls",
        gain=f"{lost.value:.1f} s of decode" if lost.value is not None else "",
        next_step="cool the card or lower its power limit, then run these tasks again; they are excluded from comparisons",
    )


def format_bounds(interval: Interval | None, scale: float = 1.0) -> str:
    if interval is None:
        return "not known"
    low, high = ("?" if each is None else f"{scale * each:.1f}" for each in (interval.low, interval.high))
    return f"{low} to {high}"
