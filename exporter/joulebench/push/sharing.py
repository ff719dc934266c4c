"""Shares the energy of LLM calls of one worker that run at the same time, each moment evenly among those that run.

Time is cut wherever a call starts or ends while another one runs. The energy of each interval between two cuts is asked for once.
A call that ran alone needs no interval: its own window is all.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from joulebench.clients.exporter import EnergyAnswer
from joulebench.parsing import as_float, sum_or_none
from joulebench.push.recorder import TaskRecorder
from joulebench.units import Seconds


@dataclass(slots=True, eq=False)
class CallShare:
    """The share of one call, in joules; None as soon as the energy of an interval is not known. ``low``: while it was alone, at
    least; ``high``: of all its intervals, at most. ``window``: the event of the call's own window, once it was answered.
    """

    task: TaskRecorder
    call: int
    joules: float | None = 0.0
    low: float | None = 0.0
    high: float | None = 0.0
    was_shared: bool = False
    intervals: int = 0
    waiting: int = 0
    ended: bool = False
    window: Mapping[str, object] | None = None

    @property
    def is_settled(self) -> bool:
        return self.ended and not self.waiting and self.window is not None

    @property
    def fields(self) -> dict[str, float | None]:
        return {"joules": self.joules, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class CallInterval:
    """A time in which the same calls ran, in unix seconds."""

    start: Seconds
    end: Seconds
    calls: tuple[CallShare, ...]


class CallSharing:
    """Safe to use from several threads. ``call_started`` and ``call_ended`` return the interval that this moment closes, whose
    energy is to be given to ``interval_answered``; None where there is none to ask for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], CallShare] = {}
        self._ended: dict[tuple[str, int], CallShare] = {}
        self._since = Seconds(0.0)

    def call_started(self, task: TaskRecorder, call: int, at: Seconds) -> CallInterval | None:
        with self._lock:
            closed = self._close_interval(at)
            self._running[task.task_id, call] = CallShare(task, call)
        return closed

    def call_ended(self, task: TaskRecorder, call: int, at: Seconds) -> CallInterval | None:
        """Returns None, too, for a call that ran alone, of which nothing is kept."""
        key = (task.task_id, call)
        with self._lock:
            share = self._running.get(key)
            if share is None:
                return None
            share.ended = True
            if len(self._running) == 1 and not share.intervals:
                del self._running[key]
                return None
            closed = self._close_interval(at)
            del self._running[key]
            if share.was_shared:
                self._ended[key] = share
        return closed

    def interval_answered(self, interval: CallInterval, answer: EnergyAnswer | None) -> list[CallShare]:
        """Adds the energy of an interval, None where it is not known. Returns the calls whose share is settled with it."""
        joules, low, high = _energy(answer)
        with self._lock:
            for share in interval.calls:
                share.waiting -= 1
                alone = len(interval.calls) == 1
                share.joules = None if joules is None or share.joules is None else share.joules + joules / len(interval.calls)
                share.high = None if high is None or share.high is None else share.high + high
                if alone:
                    share.low = None if low is None or share.low is None else share.low + low
            return self._pop_settled(interval.calls)

    def window_answered(self, task: TaskRecorder, call: int, window: Mapping[str, object]) -> CallShare | None:
        """``window``: the fields of the call's event. Returns the share that has to settle before it is written, None without."""
        with self._lock:
            share = self._ended.get((task.task_id, call))
            if share is not None:
                share.window = window
            return share

    def pop(self, share: CallShare) -> bool:
        """Returns whether the share is settled, and then keeps it no longer."""
        with self._lock:
            return bool(self._pop_settled((share,)))

    def window_lost(self, task: TaskRecorder, call: int) -> None:
        """The window of the call will not be answered."""
        with self._lock:
            self._ended.pop((task.task_id, call), None)

    def _close_interval(self, at: Seconds) -> CallInterval | None:
        start, self._since = self._since, at
        if not self._running or at <= start:
            return None
        interval = CallInterval(start, at, tuple(self._running.values()))
        for share in interval.calls:
            share.was_shared |= len(interval.calls) > 1
            share.intervals += 1
            share.waiting += 1
        return interval

    def _pop_settled(self, shares: tuple[CallShare, ...]) -> list[CallShare]:
        settled = [share for share in shares if share.is_settled and (share.task.task_id, share.call) in self._ended]
        for share in settled:
            del self._ended[share.task.task_id, share.call]
        return settled


def _energy(answer: EnergyAnswer | None) -> tuple[float | None, float | None, float | None]:
    """Joules of all GPUs, with their bounds."""
    if answer is None:
        return None, None, None
    total = answer.raw_total
    return sum_or_none(gpu.joules for gpu in answer.gpus), as_float(total.get("low")), as_float(total.get("high"))
