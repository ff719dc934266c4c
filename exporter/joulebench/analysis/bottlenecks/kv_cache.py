"""The KV cache over a conversation: tokens in the context after each turn, their bytes, and VRAM that grows where tokens do not.

A server that reports how full its cache is comes first: the share after each turn, seen while no other request ran. Bytes are
tokens times the size of one, as the server or the user has it from the model's shape; without it there is only what VRAM shows:
the slope of VRAM over tokens, with its interval. A server that allocates its cache at the start has a slope of zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from scipy import stats

from joulebench.analysis.bottlenecks.tasks import (
    Finding,
    TaskRun,
    cache_token_bytes,
    context_tokens,
    group_by_model,
    total_peak_vram_mib,
)
from joulebench.schema.result import CallResult
from joulebench.units import BYTES_PER_MIB

LEAST_POINTS = 8
LEAK_MIB = 64.0
LEAK_SHARE = 0.01
RISING = 0.8
"""Rank correlation with the order of the tasks from which VRAM counts as rising."""
STEADY = 0.4
"""Below it, tokens do not rise with the order of the tasks."""


@dataclass(frozen=True, slots=True)
class Slope:
    """Bytes of VRAM for one more token of context, with the 95 % interval; a cache that grows has one above 0."""

    value: float
    low: float
    high: float
    points: int


@dataclass(frozen=True, slots=True)
class Turn:
    """Means over all tasks that have this turn. ``growth``: tokens more than after the turn before.

    ``bytes_low`` and ``bytes_high``: by the interval of the slope. ``ratio``: share of the server's cache in use, mean over
    the ``seen`` tasks with a sample of it during this turn, between ``ratio_low`` and ``ratio_high``;
    ``ratio_growth``: more than in the turn before, in tasks with samples in both.
    """

    turn: int
    tasks: int
    tokens: float
    growth: float
    bytes: float | None
    bytes_low: float | None = None
    bytes_high: float | None = None
    seen: int = 0
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    ratio_growth: float | None = None


@dataclass(frozen=True, slots=True)
class KvCache:
    """``method``: where the growth comes from: server (its own metrics), shape, vram, or none. ``token_bytes``: of one
    token by the model's shape, for the bytes beside it. ``slope`` is None where VRAM or tokens are not known."""

    model: str
    simulated: bool
    method: str
    token_bytes: float | None
    turns: tuple[Turn, ...]
    slope: Slope | None
    findings: tuple[Finding, ...]

    def data(self) -> dict[str, Any]:
        return asdict(self)


def kv_cache_of_tasks(tasks: Sequence[TaskRun], token_bytes: Mapping[str, float] | None = None) -> list[KvCache]:
    sizes = token_bytes or {}
    return [_of_model(model, own, sizes.get(model)) for model, own in group_by_model(tasks).items()]


def _of_model(model: str, tasks: Sequence[TaskRun], given: float | None) -> KvCache:
    slope = _slope(tasks)
    sizes = [size for task in tasks if (size := cache_token_bytes(task.server)) is not None]
    shape = given if given is not None else sizes[-1] if sizes else None
    by_vram = slope if slope is not None and slope.low > 0 else None
    turns = tuple(_turns(tasks, shape, by_vram))
    by_server = any(turn.ratio is not None for turn in turns)
    method = "server" if by_server else "shape" if shape is not None else "vram" if by_vram is not None else "none"
    return KvCache(
        model=model,
        simulated=any(task.attempt.simulated for task in tasks),
        method=method,
        token_bytes=shape,
        turns=turns,
        slope=slope,
        findings=tuple(_leaks(model, tasks)),
    )


def _turns(tasks: Sequence[TaskRun], shape: float | None, slope: Slope | None) -> Iterator[Turn]:
    conversations = [task.calls for task in tasks]
    for turn in range(max(map(len, conversations), default=0)):
        here = [(calls[turn], calls[turn - 1] if turn else None) for calls in conversations if len(calls) > turn]
        contexts = [(context_tokens(now), 0 if before is None else context_tokens(before)) for now, before in here]
        known = [(now, before) for now, before in contexts if now is not None and before is not None]
        if not known:
            continue
        tokens = sum(now for now, _ in known) / len(known)
        size = shape if shape is not None else None if slope is None else slope.value
        bounds = slope if shape is None else None
        yield Turn(
            turn=turn + 1,
            tasks=len(known),
            tokens=tokens,
            growth=sum(now - before for now, before in known) / len(known),
            bytes=None if size is None else size * tokens,
            bytes_low=None if bounds is None else bounds.low * tokens,
            bytes_high=None if bounds is None else bounds.high * tokens,
            **_ratios(here),
        )


def _ratios(here: Sequence[tuple[CallResult, CallResult | None]]) -> dict[str, Any]:
    seen = [ratio for now, _ in here if (ratio := _ratio(now)) is not None]
    both = [(_ratio(now), 0.0 if before is None else _ratio(before)) for now, before in here]
    grown = [now - before for now, before in both if now is not None and before is not None]
    return {
        "seen": len(seen),
        "ratio": sum(seen) / len(seen) if seen else None,
        "ratio_low": min(seen, default=None),
        "ratio_high": max(seen, default=None),
        "ratio_growth": sum(grown) / len(grown) if grown else None,
    }


def _ratio(call: CallResult) -> float | None:
    """None also where other requests filled the cache beside this one, or may have."""
    alone = call.running_requests is not None and call.running_requests <= 1
    return call.kv_cache_ratio if alone else None


def _points(tasks: Sequence[TaskRun]) -> list[tuple[float, float]]:
    """(largest context in tokens, peak MiB) of each task, in the order in which they ran."""
    points = []
    for task in sorted(tasks, key=lambda task: task.attempt.start or 0.0):
        tokens = max((held for call in task.calls if (held := context_tokens(call)) is not None), default=None)
        peak = total_peak_vram_mib(task)
        if tokens is not None and peak is not None:
            points.append((float(tokens), peak))
    return points


def _slope(tasks: Sequence[TaskRun]) -> Slope | None:
    """Least squares, with the interval of Student's t."""
    points = _points(tasks)
    if len(points) < LEAST_POINTS or len({tokens for tokens, _ in points}) < 2:
        return None
    fit = stats.linregress([tokens for tokens, _ in points], [mib * BYTES_PER_MIB for _, mib in points])
    reach = float(stats.t.isf(0.025, len(points) - 2) * fit.stderr)
    value = float(fit.slope)
    return Slope(value, value - reach, value + reach, len(points))


def _leaks(model: str, tasks: Sequence[TaskRun]) -> list[Finding]:
    """Memory that rises from task to task while contexts do not, and within a task while its context does not."""
    found, points = [], _points(tasks)
    if len(points) >= LEAST_POINTS:
        grown = points[-1][1] - points[0][1]
        tokens_rise = _rank_correlation([tokens for tokens, _ in points])
        vram_rises = _rank_correlation([mib for _, mib in points])
        if _large(grown, points[0][1]) and vram_rises >= RISING and tokens_rise < STEADY:
            found.append(
                Finding(
                    kind="VRAM grows from task to task, tokens do not",
                    scope=model,
                    evidence=f"{grown:.0f} MiB more after {len(points)} tasks (rank correlation with order {vram_rises:.2f},"
                    f" of the tokens in context {tokens_rise:.2f})",
                    gain="",
                    next_step="suspect a leak: watch the server over more tasks, and restart it to see whether it begins anew",
                )
            )
    within = [task for task in tasks if _grows_within(task)]
    if within:
        worst = max(within, key=_grown)
        found.append(
            Finding(
                kind="VRAM grows within a task, its context does not",
                scope=model,
                evidence=f"in {len(within)} of {len(tasks)} tasks, at most {_grown(worst):.0f} MiB from"
                " the first fifth to the last, rising all the time",
                gain="",
                next_step="see whether another program uses the card; if not, suspect a leak in the server",
                tasks=(worst.attempt.task_id,),
            )
        )
    return found


def _grows_within(task: TaskRun) -> bool:
    contexts = [held for call in task.calls if (held := context_tokens(call)) is not None]
    fifths = task.vram_fifths
    if len(contexts) < 2 or len(contexts) < len(task.calls) or len(fifths) < 2:
        return False
    rising = all(before < after for before, after in pairwise(fifths))
    return rising and _large(_grown(task), fifths[0]) and max(contexts) <= contexts[0]


def _grown(task: TaskRun) -> float:
    return task.vram_fifths[-1] - task.vram_fifths[0]


def _large(grown: float, of: float) -> bool:
    return grown > LEAK_MIB and grown > LEAK_SHARE * of


def _rank_correlation(values: Sequence[float]) -> float:
    """Spearman's, of the values with their order; 0 where they do not change."""
    return 0.0 if len(set(values)) < 2 else float(stats.spearmanr(range(len(values)), values).statistic)
