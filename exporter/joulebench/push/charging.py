"""Charges tasks for energy and machine time, shared evenly while several tasks of this worker run at once.

The time of the worker is cut wherever one of its tasks starts or ends. Between two cuts the same tasks run, and the energy and
the length of such an interval are divided evenly among them, so that charges add up to what was used. A task that ran alone is
charged its own window. Tasks of other workers are not known here; the export shares among all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from joulebench.clients.exporter import GpuWindow
from joulebench.push.recorder import Pushes, TaskRecorder
from joulebench.push.totals import GpuCharge
from joulebench.units import Seconds

GpuKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Interval:
    """A time in which the same tasks ran, in unix seconds."""

    start: Seconds
    end: Seconds
    tasks: tuple[TaskRecorder, ...]


@dataclass(slots=True)
class _Charge:
    """What is known so far. ``unanswered``: intervals whose energy has been asked for. ``joules`` None: not known on this GPU.

    ``known``: False once the energy of an interval could not be had. ``alone``: the task's window is its only interval.
    """

    recorder: TaskRecorder
    seconds: float = 0.0
    unanswered: int = 0
    intervals: int = 0
    ended: bool = False
    alone: bool = False
    known: bool = True
    joules: dict[GpuKey, float | None] = field(default_factory=dict)
    throttled: dict[tuple[str, str, str], float] = field(default_factory=dict)

    def add(self, gpus: Sequence[GpuWindow] | None, share: float) -> None:
        self.unanswered -= 1
        if gpus is None:
            self.known = False
            return
        for gpu in gpus:
            key = (gpu.gpu, gpu.uuid)
            sum_so_far = self.joules.get(key, 0.0)
            self.joules[key] = None if gpu.joules is None or sum_so_far is None else sum_so_far + gpu.joules * share
            for reason, seconds in gpu.throttled.items():
                series = (*key, reason)
                self.throttled[series] = self.throttled.get(series, 0.0) + seconds * share

    @property
    def gpus(self) -> tuple[GpuCharge, ...]:
        """Only GPUs on which the energy of every interval is known."""
        if not self.known:
            return ()
        return tuple(GpuCharge(gpu, uuid, joules) for (gpu, uuid), joules in self.joules.items() if joules is not None)

    @property
    def is_complete(self) -> bool:
        return self.known and bool(self.joules) and all(joules is not None for joules in self.joules.values())


class Charging:
    """Charges of one worker's tasks; safe to call from any thread.

    ``task_started`` and ``task_ended`` return the interval that this moment closes, whose energy is to be given to
    ``interval_answered``; None where there is none to ask for.
    """

    def __init__(self, pushes: Pushes) -> None:
        self._pushes = pushes
        self._lock = threading.Lock()
        self._charges: dict[str, _Charge] = {}
        self._running: dict[str, TaskRecorder] = {}
        self._since = Seconds(0.0)

    def task_started(self, task: TaskRecorder, at: Seconds) -> Interval | None:
        with self._lock:
            closed = self._close_interval(at)
            self._running[task.task_id] = task
            self._charges[task.task_id] = _Charge(task)
        return closed

    def task_ended(self, task: TaskRecorder, at: Seconds) -> Interval | None:
        """Returns None, too, for a task that ran alone: ``window_answered`` brings its energy."""
        with self._lock:
            charge = self._charges.get(task.task_id)
            if charge is None:
                return None
            charge.ended = True
            if len(self._running) == 1 and not charge.intervals:
                charge.alone = True
                charge.unanswered = 1
                charge.seconds = max(0.0, at - self._since)
                closed = None
            else:
                closed = self._close_interval(at)
            self._running.pop(task.task_id, None)
            self._since = at
            settled = self._pop_settled((task,))
        self._settle(settled)
        return closed

    def interval_answered(self, interval: Interval, gpus: Sequence[GpuWindow] | None) -> None:
        """``gpus`` None: the energy of the interval is not known and will not be."""
        with self._lock:
            for task in interval.tasks:
                self._charges[task.task_id].add(gpus, 1 / len(interval.tasks))
            settled = self._pop_settled(interval.tasks)
        self._settle(settled)

    def window_answered(self, task: TaskRecorder, gpus: Sequence[GpuWindow] | None) -> None:
        """Energy of the task's window, None where it will not be known; only of use for a task that ran alone."""
        with self._lock:
            charge = self._charges.get(task.task_id)
            if charge is None or not charge.alone:
                return
            charge.add(gpus, 1.0)
            settled = self._pop_settled((task,))
        self._settle(settled)

    def _close_interval(self, at: Seconds) -> Interval | None:
        """The running tasks since the last cut; None where no task ran or no time passed (a clock that was set back)."""
        start, self._since = self._since, at
        if not self._running or at <= start:
            return None
        interval = Interval(start, at, tuple(self._running.values()))
        for task in interval.tasks:
            charge = self._charges[task.task_id]
            charge.seconds += (at - start) / len(interval.tasks)
            charge.intervals += 1
            charge.unanswered += 1
        return interval

    def _pop_settled(self, tasks: Sequence[TaskRecorder]) -> list[_Charge]:
        charges = [self._charges[task.task_id] for task in tasks]
        settled = [charge for charge in charges if charge.ended and not charge.unanswered]
        for charge in settled:
            del self._charges[charge.recorder.task_id]
        return settled

    def _settle(self, charges: Sequence[_Charge]) -> None:
        for charge in charges:
            recorder = charge.recorder
            with recorder.state as task:
                task.charged = charge.gpus
                task.charged_seconds = Seconds(charge.seconds)
                model = task.model
            throttled: Mapping[tuple[str, str, str], float] = charge.throttled if charge.known else {}
            with recorder.run as run:
                run.add_charge(model, charge.gpus, charge.seconds, throttled, complete=charge.is_complete)
            self._pushes.finished(recorder.group)
            recorder.run_changed()
