"""Who was there and who had work in flight: the span of an analysis cut into bins, once for all GPUs.

A bin never crosses the start or end of a task, so the set of tasks in it is constant. Where one task or none is there, the bin
is the whole stretch; where several are, it is also cut where work begins or ends, but not into pieces below ``min_bin``: work
is summed inside a bin, so a coarser bin loses only resolution.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from joulebench.energy.calls import UNSPLIT, LlmCall, Piece, pieces

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class TaskWork:
    """A task's window and its LLM calls, seconds. ``calls`` None: not known, its window counts as one call in flight."""

    key: str
    start: float
    end: float
    calls: Sequence[LlmCall] | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """The server works for a task. Tokens are spread evenly over it; None: not known, which is not 0."""

    start: float
    end: float
    prefill_tokens: float | None = None
    decode_tokens: float | None = None


@dataclass(slots=True)
class Work:
    """What one task had in flight in one bin. ``call_seconds``: summed over its calls. ``known``: all tokens are known."""

    call_seconds: float = 0.0
    prefill_tokens: float = 0.0
    decode_tokens: float = 0.0
    known: bool = True


@dataclass(slots=True)
class Bin:
    """``tasks``: indices of those whose window covers it. ``work``: of those with a call in flight."""

    start: float
    end: float
    tasks: tuple[int, ...]
    work: dict[int, Work] = field(default_factory=dict)


def activities(tasks: Sequence[TaskWork], *, serialized: bool = False) -> list[list[Activity]]:
    """The stretches in which the server works for each task, clipped to its window.

    Time in the queue is left out where the server's durations show it. ``serialized``: the server runs one call at a time, so a
    call whose own times leave open when it ran did not run while another one surely did.
    """
    work = [[(call, piece) for call in task.calls or () for piece in pieces(call)] for task in tasks]
    busy = _union((p.start, p.end) for some in work for _, p in some if p.certain) if serialized else []
    found = []
    for task, some in zip(tasks, work, strict=True):
        if task.calls is None:
            found.append([Activity(task.start, task.end)])
            continue
        own: list[Activity] = []
        for call, piece in some:
            free = [(piece.start, piece.end)] if piece.certain else _without((piece.start, piece.end), busy)
            own += _activities(call, piece, [(max(a, task.start), min(b, task.end)) for a, b in free])
        found.append(own)
    return found


def bins(tasks: Sequence[TaskWork], work: Sequence[Sequence[Activity]], span: Interval, min_bin: float) -> list[Bin]:
    """Adjacent bins over the whole span, which holds every window."""
    flat = [(index, activity) for index, some in enumerate(work) for activity in some]
    marks = [(end, "span", 0) for end in span]
    marks += [(time, edge, i) for i, task in enumerate(tasks) for time, edge in ((task.start, "enter"), (task.end, "leave"))]
    marks += [(time, edge, i) for i, (_, a) in enumerate(flat) for time, edge in ((a.start, "begin"), (a.end, "finish"))]
    marks.sort(key=lambda mark: mark[0])
    found: list[Bin] = []
    present: dict[int, None] = {}
    flying: dict[int, float] = {}
    current = Bin(span[0], span[0], ())
    for time, same in groupby(marks, key=lambda mark: mark[0]):
        here = list(same)
        border = any(edge in ("enter", "leave", "span") for _, edge, _ in here)
        if time > current.start and (border or (len(present) > 1 and time - current.start >= min_bin)):
            for number, since in flying.items():
                _add(current.work, *flat[number], since, time)
                flying[number] = time
            current.end = time
            _close(found, current, min_bin)
            current = Bin(time, time, ())
        for _, edge, number in here:
            if edge == "enter":
                present[number] = None
            elif edge == "begin":
                flying[number] = time
        for _, edge, number in here:
            if edge == "leave":
                present.pop(number)
            elif edge == "finish":
                _add(current.work, *flat[number], flying.pop(number), time)
        current.tasks = tuple(present)
    return found


def _close(found: list[Bin], current: Bin, min_bin: float) -> None:
    last = found[-1] if found else None
    # What is left before a border may be too short to stand alone.
    if last is None or last.tasks != current.tasks or len(last.tasks) < 2 or current.end - current.start >= min_bin:
        found.append(current)
        return
    last.end = current.end
    for index, work in current.work.items():
        into = last.work.setdefault(index, Work())
        into.call_seconds += work.call_seconds
        into.prefill_tokens += work.prefill_tokens
        into.decode_tokens += work.decode_tokens
        into.known = into.known and work.known


def _add(work: dict[int, Work], index: int, activity: Activity, start: float, end: float) -> None:
    if end <= start:
        return
    into = work.setdefault(index, Work())
    into.call_seconds += end - start
    share = (end - start) / (activity.end - activity.start)
    if activity.prefill_tokens is None or activity.decode_tokens is None:
        into.known = False
    else:
        into.prefill_tokens += share * activity.prefill_tokens
        into.decode_tokens += share * activity.decode_tokens


def _activities(call: LlmCall, piece: Piece, inside: Sequence[Interval]) -> list[Activity]:
    """The piece as activities, with its tokens spread over what is left of it."""
    kept = [(start, end) for start, end in inside if start < end]
    seconds = sum(end - start for start, end in kept)
    prefill, decode = _tokens(call, piece)
    return [
        Activity(start, end, _times(prefill, (end - start) / seconds), _times(decode, (end - start) / seconds))
        for start, end in kept
    ]


def _tokens(call: LlmCall, piece: Piece) -> tuple[float | None, float | None]:
    if piece.phase == "load":
        # Work without tokens: to call it none would hand the joules of a load to the neighbours.
        return None, None
    decodes = piece.phase == "decode" or (piece.phase == UNSPLIT and piece.end == call.end)
    return 0.0 if piece.phase == "decode" else call.prefill_tokens, call.decode_tokens if decodes else 0.0


def _times(tokens: float | None, share: float) -> float | None:
    return None if tokens is None else tokens * share


def _union(intervals: Iterable[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _without(interval: Interval, busy: Sequence[Interval]) -> list[Interval]:
    """What is left of an interval outside the disjoint, sorted ``busy``."""
    start, end = interval
    free: list[Interval] = []
    for a, b in busy[max(bisect_right(busy, (start, start)) - 1, 0) :]:
        if a >= end:
            break
        if a > start:
            free.append((start, a))
        start = max(start, b)
    return [*free, (start, end)] if start < end else free
