"""A power limit that holds the clocks down, and the bound of what a higher one could bring.

How much a model gains from a faster clock is not in the files: prefill follows the clock, decode waits for memory and hardly
does. So there is an upper bound, by work that follows the clock wholly, and the lower one is nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from joulebench.analysis.bottlenecks.observed import Finding, Observed

REASON = "sw_power_cap"
LEAST_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class PowerLimit:
    """``share`` of the time of ``tasks`` at the limit. ``clock_ratio``: SM clock meanwhile / highest clock, ``most_seconds``: of
    a task, that a higher limit could save at most; both None where no clock is known."""

    tasks: int
    share: float
    clock_ratio: float | None
    most_seconds: float | None


def power_limit(tasks: Sequence[Observed]) -> PowerLimit | None:
    """None where nobody told of throttling."""
    told = [task for task in tasks if REASON in task.throttled_by_reason and task.row.seconds]
    whole = sum(task.row.seconds or 0.0 for task in told)
    if not whole:
        return None
    held = [(task.throttled_by_reason[REASON], _clock_ratio(task)) for task in told]
    seconds = sum(one for one, _ in held)
    known = [(one, ratio) for one, ratio in held if ratio is not None and one > 0]
    ratio = sum(one * ratio for one, ratio in known) / sum(one for one, _ in known) if known else None
    return PowerLimit(
        tasks=len(told),
        share=seconds / whole,
        clock_ratio=ratio,
        most_seconds=None if ratio is None else seconds * (1 - ratio) / len(told),
    )


def findings(model: str, found: PowerLimit) -> Iterator[Finding]:
    if found.share < LEAST_SHARE:
        return
    clock = "" if found.clock_ratio is None else f", the SM clock at {100 * found.clock_ratio:.0f} % of its highest meanwhile"
    gain = "not known: no clock was read at the limit"
    if found.most_seconds is not None:
        gain = (
            f"0 to {found.most_seconds:.2f} s of a task by a higher limit, for more energy: the most where all work follows the"
            " clock, as prefill does, nothing where it waits for memory, as decode mostly does"
        )
    yield Finding(
        kind="the power limit holds the clocks down",
        scope=model,
        evidence=f"{REASON} for {100 * found.share:.0f} % of the time of {found.tasks} tasks{clock}",
        gain=gain,
        next_step="compare runs at two power limits: the lower one often costs little time and saves energy",
    )


def _clock_ratio(task: Observed) -> float | None:
    """Of the card that was held down most: the others wait for it."""
    ratios = [gpu.capped_hz / gpu.max_hz for gpu in task.gpus if gpu.capped_hz is not None and gpu.max_hz]
    return min(1.0, *ratios) if ratios else None
