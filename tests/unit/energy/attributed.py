"""What tests of attribution share: a steady trace, two tasks that overlap, and results in short."""

from __future__ import annotations

from joulebench.energy.allocation import Share
from joulebench.energy.attribution import Attribution
from joulebench.energy.bins import TaskWork
from joulebench.energy.calls import LlmCall
from joulebench.energy.trace import CounterTrace


def steady(watts: float = 100.0, until: float = 40.0, step: float = 0.1) -> CounterTrace:
    trace = CounterTrace()
    for i in range(round(until / step) + 1):
        trace.append(i * step, 7.0 + watts * i * step)
    return trace


def columns(share: Share) -> tuple[float | None, ...]:
    found = (share.lower, share.attributed, share.fully_loaded, share.upper)
    return tuple(None if joules is None else round(joules, 6) for joules in found)


def shares(found: Attribution) -> dict[str, tuple[float | None, ...]]:
    return {task.key: columns(task.total) for task in found.tasks}


def methods(found: Attribution) -> dict[str, str]:
    return {task.key: task.method for task in found.tasks}


def timed(start: float, end: float, prefill: float, decode: float, tokens: tuple[float, float] | None = None) -> LlmCall:
    prefilled, decoded = tokens or (None, None)
    return LlmCall(start, end, None, prefill, decode, None, prefilled, decoded)


A = TaskWork("a", 0.0, 10.0, [LlmCall(2.0, 8.0)])
B = TaskWork("b", 6.0, 16.0, [LlmCall(7.0, 15.0)])
