"""The KV cache over a conversation: tokens held after each turn, their bytes, and memory that grows where tokens do not.

A server that tells how full its cache is comes first: the share after each turn, seen while no other request ran. Bytes are
tokens times the size of one, as the server or the user has it from the model's shape; without it there is only what VRAM shows:
the slope of VRAM over tokens, with its interval. A server that sets its cache aside at the start has a slope of nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from joulebench.analysis.bottlenecks.observed import Call, Finding, Observed, by_model
from joulebench.units import BYTES_PER_MIB

LEAST_POINTS = 8
LEAK_MIB = 64.0
LEAK_SHARE = 0.01
RISING = 0.8
"""Rank correlation with the order of the tasks from which VRAM counts as rising."""
STEADY = 0.4
"""Below it, tokens do not rise with the order of the tasks."""
_T_95 = {6: 2.447, 8: 2.306, 10: 2.228, 15: 2.131, 20: 2.086, 30: 2.042, 60: 2.000}


@dataclass(frozen=True, slots=True)
class Slope:
    """Bytes of VRAM for one more token held, with its 95 % interval. Tells of a cache that grows only if above 0."""

    value: float
    low: float
    high: float
    points: int


@dataclass(frozen=True, slots=True)
class Turn:
    """Means over all tasks that have this turn. ``growth``: tokens more than after the turn before.

    ``bytes_low`` and ``bytes_high``: where VRAM told, by its interval. ``ratio``: share of the server's cache in use, mean over
    the ``seen`` tasks in which somebody looked at it during this turn, between ``ratio_low`` and ``ratio_high``;
    ``ratio_growth``: more than in the turn before, in those that were seen in both.
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
    """``method``: how the growth is told: server (its own metrics), shape, vram, or none. ``token_bytes``: of one token by the
    model's shape, for the bytes beside it. ``slope`` is None where VRAM or tokens are not known."""

    model: str
    simulated: bool
    method: str
    token_bytes: float | None
    turns: tuple[Turn, ...]
    slope: Slope | None
    findings: tuple[Finding, ...]

    def data(self) -> dict[str, Any]:
        return asdict(self)


def kv_cache(tasks: Sequence[Observed], token_bytes: Mapping[str, float] | None = None) -> list[KvCache]:
    sizes = token_bytes or {}
    return [_of_model(model, own, sizes.get(model)) for model, own in by_model(tasks).items()]


def _of_model(model: str, tasks: Sequence[Observed], given: float | None) -> KvCache:
    slope = _slope(tasks)
    told = [size for task in tasks if (size := task.server.token_bytes) is not None]
    shape = given if given is not None else told[-1] if told else None
    by_vram = slope if slope is not None and slope.low > 0 else None
    turns = tuple(_turns(tasks, shape, by_vram))
    by_server = any(turn.ratio is not None for turn in turns)
    method = "server" if by_server else "shape" if shape is not None else "vram" if by_vram is not None else "none"
    return KvCache(
        model=model,
        simulated=any(task.row.simulated for task in tasks),
        method=method,
        token_bytes=shape,
        turns=turns,
        slope=slope,
        findings=tuple(_leaks(model, tasks)),
    )


def _turns(tasks: Sequence[Observed], shape: float | None, slope: Slope | None) -> Iterator[Turn]:
    conversations = [task.calls for task in tasks]
    for turn in range(max(map(len, conversations), default=0)):
        here = [(calls[turn], calls[turn - 1] if turn else None) for calls in conversations if len(calls) > turn]
        known = [(now.held_tokens, _held(before)) for now, before in here]
        held = [(now, before) for now, before in known if now is not None and before is not None]
        if not held:
            continue
        tokens = sum(now for now, _ in held) / len(held)
        size = shape if shape is not None else None if slope is None else slope.value
        bounds = slope if shape is None else None
        yield Turn(
            turn=turn + 1,
            tasks=len(held),
            tokens=tokens,
            growth=sum(now - before for now, before in held) / len(held),
            bytes=None if size is None else size * tokens,
            bytes_low=None if bounds is None else bounds.low * tokens,
            bytes_high=None if bounds is None else bounds.high * tokens,
            **_ratios(here),
        )


def _held(before: Call | None) -> int | None:
    return 0 if before is None else before.held_tokens


def _ratios(here: Sequence[tuple[Call, Call | None]]) -> dict[str, Any]:
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


def _ratio(call: Call) -> float | None:
    """None also where other requests filled the cache beside this one, or nobody knows whether they did."""
    alone = call.running_requests is not None and call.running_requests <= 1
    return call.kv_cache_ratio if alone else None


def _points(tasks: Sequence[Observed]) -> list[tuple[float, float]]:
    """(most tokens held at once, highest MiB) of each task, in the order in which they ran."""
    found = []
    for task in sorted(tasks, key=lambda one: one.row.start or 0.0):
        held = [call.held_tokens for call in task.calls]
        tokens = max((one for one in held if one is not None), default=None)
        peaks = [gpu.peak_vram_mib for gpu in task.gpus]
        if tokens is not None and peaks and None not in peaks:
            found.append((float(tokens), sum(peak for peak in peaks if peak is not None)))
    return found


def _slope(tasks: Sequence[Observed]) -> Slope | None:
    """Least squares, with the interval of Student's t."""
    points = _points(tasks)
    number = len(points)
    if number < LEAST_POINTS:
        return None
    mean_x, mean_y = (sum(point[axis] for point in points) / number for axis in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if spread == 0:
        return None
    value = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    left = sum((y - mean_y - value * (x - mean_x)) ** 2 for x, y in points)
    around = _t(number - 2) * math.sqrt(left / (number - 2) / spread)
    return Slope(value * BYTES_PER_MIB, (value - around) * BYTES_PER_MIB, (value + around) * BYTES_PER_MIB, number)


def _t(freedom: int) -> float:
    """Of the next lower row of the table, which is wider."""
    return _T_95[max(row for row in _T_95 if row <= freedom)]


def _leaks(model: str, tasks: Sequence[Observed]) -> list[Finding]:
    """Memory that rises from task to task while contexts do not, and within a task while its context does not."""
    found, points = [], _points(tasks)
    if len(points) >= LEAST_POINTS:
        order = [float(number) for number in range(len(points))]
        grown = points[-1][1] - points[0][1]
        tokens_rise = _rank_correlation(order, [tokens for tokens, _ in points])
        vram_rises = _rank_correlation(order, [mib for _, mib in points])
        if _large(grown, points[0][1]) and vram_rises >= RISING and tokens_rise < STEADY:
            found.append(
                Finding(
                    kind="VRAM grows from task to task, tokens do not",
                    scope=model,
                    evidence=f"{grown:.0f} MiB more after {len(points)} tasks (rank correlation with order {vram_rises:.2f},"
                    f" of the tokens held {tokens_rise:.2f})",
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
                tasks=(worst.row.task_id,),
            )
        )
    return found


def _grows_within(task: Observed) -> bool:
    held = [call.held_tokens for call in task.calls if call.held_tokens is not None]
    fifths = task.vram_fifths
    if len(held) < 2 or len(held) < len(task.calls) or len(fifths) < 2:
        return False
    rising = all(before < after for before, after in pairwise(fifths))
    return rising and _large(_grown(task), fifths[0]) and max(held) <= held[0]


def _grown(task: Observed) -> float:
    return task.vram_fifths[-1] - task.vram_fifths[0]


def _large(grown: float, of: float) -> bool:
    return grown > LEAK_MIB and grown > LEAK_SHARE * of


def _rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, ties sharing their rank; 0 where one of them does not change."""
    first, second = _ranks(one), _ranks(other)
    mean = (len(first) - 1) / 2
    top = sum((a - mean) * (b - mean) for a, b in zip(first, second, strict=True))
    bottom = math.sqrt(sum((a - mean) ** 2 for a in first) * sum((b - mean) ** 2 for b in second))
    return top / bottom if bottom else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    times, rank, below = Counter(values), {}, 0
    for value in sorted(times):
        rank[value] = below + (times[value] - 1) / 2
        below += times[value]
    return [rank[value] for value in values]
