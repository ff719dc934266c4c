"""Sections of a result file on what surrounded its task: the model server, the links of each card, a card at its power limit."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

from joulebench import metrics
from joulebench.metrics import DIRECTIONS, LINKS, recorded
from joulebench.results.circumstances import Circumstances
from joulebench.results.gauge_stats import increase, stats
from joulebench.results.points import Columns, Points, inside

NEAR_SECONDS = 5.0
"""Memory of a loaded model does not change from second to second: a sample this far beside a short task still tells of it."""
LATE_SECONDS = 2.0
"""By which a counter that is read once a second lies behind what is scraped."""

Record = dict[str, Any]


def model_server(around: Circumstances, model: str | None, start: float, end: float) -> Record:
    """Bytes, tokens and ratios as the server told them; null where it did not, or where several serve this model.

    ``offload_ratio``: share of the model in GPU memory, mean over the task. ``running_requests`` and ``waiting_requests``: means
    over the task of what the server works on and of its queue, whoever sent them. ``samples``: behind either group.
    """
    size, vram, ratio, context, cache = (
        around.server(metric.name, model)
        for metric in (
            metrics.OLLAMA_MODEL_SIZE,
            metrics.OLLAMA_MODEL_VRAM,
            metrics.OLLAMA_MODEL_OFFLOAD,
            metrics.OLLAMA_MODEL_CONTEXT,
            metrics.OLLAMA_MODEL_KV_CACHE,
        )
    )
    shares = _near(ratio, start, end)
    waiting = stats(around.server(recorded.SERVER_WAITING, model), start, end)
    used = stats(around.server(recorded.SERVER_KV_CACHE, model), start, end)
    running = stats(around.server(recorded.SERVER_RUNNING, model), start, end)
    return {
        "size_bytes": _last(_near(size, start, end)),
        "vram_bytes": _last(_near(vram, start, end)),
        "offload_ratio": sum(shares) / len(shares) if shares else None,
        "context_tokens": _last(_near(context, start, end)),
        "kv_cache_bytes": _last(_near(cache, start, end)),
        "loads": increase(around.server(metrics.OLLAMA_MODEL_LOADS.name, model), start, end),
        "kv_cache_ratio_max": used.high if used else None,
        "running_requests": running.mean if running else None,
        "running_requests_max": running.high if running else None,
        "waiting_requests": waiting.mean if waiting else None,
        "samples": {"memory": len(shares), "queue": waiting.samples if waiting else 0},
    }


def of_call(around: Circumstances, model: str | None, start: float, end: float | None) -> Record:
    """Highest use of the KV cache while a call ran, and how many requests shared it; null where no sample fell into the call."""
    names = {"kv_cache_ratio": recorded.SERVER_KV_CACHE, "running_requests": recorded.SERVER_RUNNING}
    if end is None:
        return dict.fromkeys(names)
    found = {key: [value for _, value in inside(around.server(name, model), start, end)] for key, name in names.items()}
    return {key: max(values, default=None) for key, values in found.items()}


def link_bytes(around: Circumstances, uuid: str, start: float, end: float) -> Record:
    """By link and direction; a link that the card does not count is not there.

    ``low`` and ``high`` bound the bytes, whatever moved between two samples.
    """
    found: Record = {}
    for link in LINKS:
        for direction in DIRECTIONS:
            points = Columns.of(around.links.get((uuid, link, direction), ()))
            if (moved := increase(points, start, end)) is not None:
                found.setdefault(link, {})[direction] = {"bytes": moved, **_bounds(points, start, end)}
    return found


def link_totals(gpus: Sequence[Record]) -> dict[str, float | None]:
    """Of all GPUs of a task by column of the table; null where one of them does not count."""
    found = {}
    for link in LINKS:
        for direction in DIRECTIONS:
            told = [gpu["link_bytes"].get(link, {}).get(direction, {}).get("bytes") for gpu in gpus]
            found[f"{link}_{direction}_bytes"] = sum(told) if told and None not in told else None
    return found


def capped_clock(around: Circumstances, uuid: str, cap: Points, start: float, end: float) -> Record | None:
    """SM clock while the power limit held it down, in hertz: its mean by the seconds that ``cap``, cumulative, grew around each
    sample. None where it never did or no clock is known."""
    clock, held = inside(around.clocks.get(uuid, ()), start, end), Columns.of(cap)
    total = weighted = 0.0
    lowest: list[float] = []
    for at, hertz in clock:
        grew = increase(held, at - 0.5, at + 0.5)
        if grew:
            total += grew
            weighted += grew * hertz
            lowest.append(hertz)
    if not total:
        return None
    return {
        "capped_hz": weighted / total,
        "capped_low_hz": min(lowest),
        "max_hz": around.clocks_max.get(uuid),
        "samples": len(lowest),
    }


def _bounds(points: Columns, start: float, end: float) -> Record:
    at, value = points.at, points.value
    first, last = bisect_left(at, start + LATE_SECONDS), bisect_right(at, end) - 1
    before, after = bisect_right(at, start) - 1, bisect_left(at, end + LATE_SECONDS)
    low = max(value[last] - value[first], 0.0) if first <= last else 0.0
    high = value[after] - value[before] if before >= 0 and after < len(at) else None
    return {"low": low, "high": None if high is None or high < 0 else high}


def _near(points: Points, start: float, end: float) -> list[float]:
    """Values inside the window, else that of the nearest sample beside it."""
    found = [value for _, value in inside(points, start, end)]
    if found:
        return found
    beside = inside(points, start - NEAR_SECONDS, end + NEAR_SECONDS)
    nearest = min(beside, key=lambda one: max(start - one[0], one[0] - end), default=None)
    return [] if nearest is None else [nearest[1]]


def _last(values: Sequence[float]) -> float | None:
    return values[-1] if values else None
