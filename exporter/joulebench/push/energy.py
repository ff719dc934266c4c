"""The background thread that asks the exporter for the energy of each task and each LLM call.

A moment after the end of a window (the card's counter changes about ten times a second), the exporter is asked for it, tasks
before calls. The answer goes to the journal, and a task's into its totals, with the seconds that its GPUs were throttled for.
A task's group is let go with or without an energy, after a bounded wait; an exporter that does not answer is asked again later
and never delays anyone.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from dataclasses import dataclass, replace
from typing import Protocol

from joulebench.clients.exporter import EnergyAnswer
from joulebench.clock import SystemClock
from joulebench.errors import EnergyApiError, EnergyRefused
from joulebench.push.charging import Charging, Interval
from joulebench.push.journal import Journal
from joulebench.push.recorder import Pushes, TaskRecorder
from joulebench.push.state import GpuEnergy
from joulebench.units import Seconds

log = logging.getLogger(__name__)

ASK_AFTER = 0.15
COUNTER_WAIT = 0.5
RETRY_AFTER = 2.0
MAX_TRIES = 3


class EnergyApi(Protocol):
    def energy(self, start: Seconds, end: Seconds, wait: float = 0.0) -> EnergyAnswer: ...


@dataclass(frozen=True, slots=True)
class Question:
    """``call`` is None for the window of the task. ``shared``: an interval of it, for what its tasks are charged."""

    task: TaskRecorder
    call: int | None
    start: Seconds
    end: Seconds
    tries: int = 0
    shared: Interval | None = None

    @property
    def is_task(self) -> bool:
        return self.call is None and self.shared is None


class EnergyAsker:
    """``unanswered`` counts windows that were given up; ``error`` says why the last one was."""

    def __init__(self, api: EnergyApi, journal: Journal, pushes: Pushes) -> None:
        self._api = api
        self._journal = journal
        self._pushes = pushes
        self._charging = Charging(pushes)
        self._pace = SystemClock()
        self._numbers = itertools.count()
        self._tasks: list[tuple[float, int, Question]] = []
        self._calls: list[tuple[float, int, Question]] = []
        self._ready = threading.Condition()
        self._stop_by: float | None = None
        self._down_until = 0.0
        self.unanswered = 0
        self.error: str | None = None
        self._thread = threading.Thread(target=self._loop, name="joulebench-energy", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def task_started(self, task: TaskRecorder, start: Seconds) -> None:
        self._ask_interval(task, self._charging.task_started(task, start))

    def task_ended(self, task: TaskRecorder, start: Seconds, end: Seconds) -> None:
        self._ask_interval(task, self._charging.task_ended(task, end))
        self._put(Question(task, None, start, end), ASK_AFTER)

    def _ask_interval(self, task: TaskRecorder, shared: Interval | None) -> None:
        if shared is not None:
            self._put(Question(task, None, shared.start, shared.end, shared=shared), ASK_AFTER)

    def call_ended(self, task: TaskRecorder, call: int, start: Seconds, end: Seconds) -> None:
        self._put(Question(task, call, start, end), ASK_AFTER)

    def close(self, drain: float) -> None:
        """Waits at most ``drain`` seconds for the answers that are still due; what is left then is unanswered."""
        with self._ready:
            self._stop_by = self._pace.monotonic() + drain
            self._ready.notify()
        self._thread.join(drain + 3.0)
        for _, _, question in (*self._tasks, *self._calls):
            self._give_up(question)

    def _put(self, question: Question, delay: float) -> None:
        entry = (self._pace.monotonic() + delay, next(self._numbers), question)
        with self._ready:
            heapq.heappush(self._tasks if question.call is None else self._calls, entry)
            self._ready.notify()

    def _loop(self) -> None:
        while (question := self._next()) is not None:
            self._ask(question)

    def _next(self) -> Question | None:
        """The next question once it is due, None at the end."""
        with self._ready:
            while True:
                now = self._pace.monotonic()
                for queue in (self._tasks, self._calls):
                    if queue and queue[0][0] <= now:
                        return heapq.heappop(queue)[2]
                if self._stop_by is not None and (now >= self._stop_by or not (self._tasks or self._calls)):
                    return None
                ends = [queue[0][0] for queue in (self._tasks, self._calls) if queue]
                if self._stop_by is not None:
                    ends.append(self._stop_by)
                self._ready.wait(min(ends) - now if ends else None)

    def _ask(self, question: Question) -> None:
        if self._pace.monotonic() < self._down_until:
            # Down a moment ago: a task's group shall not wait for the same timeout again.
            self._failed(question, self.error or "")
            return
        try:
            answer = self._api.energy(question.start, question.end, COUNTER_WAIT)
        except EnergyRefused as error:
            # An exporter to which the end of this window lies ahead goes by another clock. Later it would give the energy of
            # the time at which its own clock shows the same.
            self._failed(question, str(error), again=False)
            return
        except EnergyApiError as error:
            self._down_until = self._pace.monotonic() + RETRY_AFTER / 2
            self._failed(question, str(error))
            return
        self._down_until = 0.0
        self._record(question, answer)

    def _record(self, question: Question, answer: EnergyAnswer) -> None:
        if question.shared is not None:
            self._charging.interval_answered(question.shared, answer.gpus)
            return
        task = question.task
        which: dict[str, object] = {} if question.call is None else {"call": question.call}
        task.write(
            "TASK_ENERGY" if question.call is None else "CALL_ENERGY",
            task.clock.unix(),
            **which,
            start=question.start,
            end=question.end,
            source=answer.source,
            gpus=answer.raw_gpus,
            total=answer.raw_total,
        )
        if question.call is None:
            with task.state as totals:
                totals.energy = tuple(
                    GpuEnergy(gpu.gpu, gpu.uuid, gpu.joules, gpu.low, gpu.high, gpu.throttled) for gpu in answer.gpus
                )
            self._pushes.finished(task.group)
            self._charging.window_answered(task, answer.gpus)
        elif (joules := _over_all(answer)) is not None:
            with task.state as totals:
                totals.call_energy = totals.call_energy.plus(joules)
            self._pushes.changed(task.group)

    def _failed(self, question: Question, error: str, *, again: bool = True) -> None:
        if self.error is None:
            log.warning("no window energies from the exporter, the export will take them from Prometheus: %s", error)
            self._journal.write("ENERGY_UNAVAILABLE", question.task.clock.unix(), reason=error)
        self.error = error
        tries = question.tries + 1
        if question.is_task and tries == 1:
            self._pushes.finished(question.task.group)
        if again and tries < MAX_TRIES and self._stop_by is None:
            self._put(replace(question, tries=tries), RETRY_AFTER)
        else:
            self._count_unanswered(question)

    def _give_up(self, question: Question) -> None:
        if question.is_task and not question.tries:
            self._pushes.finished(question.task.group)
        self._count_unanswered(question)

    def _count_unanswered(self, question: Question) -> None:
        self.unanswered += 1
        if question.shared is not None:
            self._charging.interval_answered(question.shared, None)
        elif question.is_task:
            self._charging.window_answered(question.task, None)


class NoEnergyQuestions:
    """For a run without an exporter: the totals of a task are final at its end, and its energy is not known."""

    def __init__(self, pushes: Pushes) -> None:
        self._pushes = pushes
        self._charging = Charging(pushes)

    def task_started(self, task: TaskRecorder, start: Seconds) -> None:
        self._leave_unanswered(self._charging.task_started(task, start))

    def task_ended(self, task: TaskRecorder, start: Seconds, end: Seconds) -> None:  # noqa: ARG002
        self._leave_unanswered(self._charging.task_ended(task, end))
        self._charging.window_answered(task, None)
        self._pushes.finished(task.group)

    def call_ended(self, task: TaskRecorder, call: int, start: Seconds, end: Seconds) -> None: ...

    def _leave_unanswered(self, interval: Interval | None) -> None:
        if interval is not None:
            self._charging.interval_answered(interval, None)


def _over_all(answer: EnergyAnswer) -> float | None:
    """Joules of all GPUs together; None where one of them is not known, or there is none."""
    known = [gpu.joules for gpu in answer.gpus if gpu.joules is not None]
    return sum(known) if known and len(known) == len(answer.gpus) else None
