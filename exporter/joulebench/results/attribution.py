"""Shares of tasks that ran at the same time on the same GPUs.

The counter knows the card, not who used it. Every moment's energy is given out whole: to the tasks in proportion to their LLM
calls in flight, evenly where none has one. So the shares of all tasks add up to the counter over the time that any task ran.
``lower`` is the energy while the task was alone, ``upper`` all of its window. A task that shared nothing is ``exclusive``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from joulebench.energy.trace import CounterTrace
from joulebench.energy.window import energy_between
from joulebench.results.phases import calls_in_flight
from joulebench.results.task import Task, TaskKey

EXCLUSIVE = "exclusive"
SHARED = "calls_in_flight"


@dataclass(frozen=True, slots=True)
class Attribution:
    """Joules are None where no trace reaches over the window; ``overlap_fraction`` is by time, 0 to 1."""

    method: str
    overlap_fraction: float
    overlapping_tasks: int
    lower: float | None = None
    attributed: float | None = None
    upper: float | None = None


@dataclass
class _Share:
    alone: float = 0.0
    shared: float = 0.0
    whole: float = 0.0
    overlapped_seconds: float = 0.0
    known: bool = True


def attribute(tasks: Sequence[Task], traces: Sequence[CounterTrace]) -> dict[TaskKey, Attribution]:
    """For every task with a window. The window of an unfinished task is not known, so it shares nothing here."""
    windows = {task.key: task.window for task in tasks if task.window is not None}
    calls = {task.key: calls_in_flight(task.events, task.window[1]) for task in tasks if task.window is not None}
    found: dict[TaskKey, Attribution] = {}
    for cluster in clusters(windows):
        if len(cluster) == 1:
            found[cluster[0]] = Attribution(EXCLUSIVE, 0.0, 0)
            continue
        shares = _shares({key: windows[key] for key in cluster}, {key: calls[key] for key in cluster}, traces)
        for key, share in shares.items():
            start, end = windows[key]
            others = sum(other != key and _overlap(windows[key], windows[other]) for other in cluster)
            fraction = min(share.overlapped_seconds / (end - start), 1.0) if end > start else 0.0
            if not others:
                found[key] = Attribution(EXCLUSIVE, 0.0, 0)
            elif share.known and traces:
                found[key] = Attribution(SHARED, fraction, others, share.alone, share.shared, share.whole)
            else:
                found[key] = Attribution(SHARED, fraction, others)
    return found


def clusters(windows: Mapping[TaskKey, tuple[float, float]]) -> list[list[TaskKey]]:
    """Tasks that hang together by overlaps, in order of time."""
    found: list[list[TaskKey]] = []
    reach = float("-inf")
    for key, (start, end) in sorted(windows.items(), key=lambda item: item[1]):
        if start >= reach:
            found.append([])
        found[-1].append(key)
        reach = max(reach, end)
    return found


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return min(one[1], other[1]) > max(one[0], other[0])


def _shares(
    windows: Mapping[TaskKey, tuple[float, float]],
    calls: Mapping[TaskKey, Sequence[tuple[float, float]]],
    traces: Sequence[CounterTrace],
) -> dict[TaskKey, _Share]:
    shares = {key: _Share() for key in windows}
    changes: list[tuple[float, TaskKey, int, int]] = []
    for key, (start, end) in windows.items():
        changes += [(start, key, 1, 0), (end, key, -1, 0)]
        for call_start, call_end in calls[key]:
            if (a := max(call_start, start)) < (b := min(call_end, end)):
                changes += [(a, key, 0, 1), (b, key, 0, -1)]
    changes.sort(key=lambda change: change[0])
    active: dict[TaskKey, int] = {}
    flying = dict.fromkeys(windows, 0)
    before = changes[0][0]
    for at, key, task_change, call_change in changes:
        if at > before and active:
            _give_out(shares, list(active), flying, (before, at), traces)
        before = at
        flying[key] += call_change
        if task_change > 0:
            active[key] = 1
        elif task_change < 0:
            active.pop(key, None)
    return shares


def _give_out(
    shares: Mapping[TaskKey, _Share],
    active: Sequence[TaskKey],
    flying: Mapping[TaskKey, int],
    piece: tuple[float, float],
    traces: Sequence[CounterTrace],
) -> None:
    parts = [energy_between(trace, [piece]) for trace in traces]
    joules = sum(part for part in parts if part is not None)
    total = sum(flying[key] for key in active)
    for key in active:
        share = shares[key]
        share.known = share.known and None not in parts
        share.shared += joules * (flying[key] / total if total else 1 / len(active))
        share.whole += joules
        if len(active) == 1:
            share.alone += joules
        else:
            share.overlapped_seconds += piece[1] - piece[0]
