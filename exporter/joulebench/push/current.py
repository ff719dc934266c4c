"""Which task an LLM call belongs to that names none: that of its context, else the only one that is open in the process.

A task may begin and end in different contexts, as in the hooks of an asynchronous benchmark, so nothing is reset by a token:
what has ended is passed over.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from joulebench.push.call import Call
    from joulebench.push.run import Run
    from joulebench.push.task import Task

_task: ContextVar[Task | None] = ContextVar("joulebench_task", default=None)
_call: ContextVar[Call | None] = ContextVar("joulebench_call", default=None)
_warm_up: ContextVar[bool] = ContextVar("joulebench_warm_up", default=False)


class _OpenInProcess:
    """Runs and tasks that are open in this process, those of a parent that forked it included."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.runs: list[Run] = []
        self.tasks: list[Task] = []

    def add(self, run: Run | None = None, task: Task | None = None) -> None:
        with self.lock:
            self.runs += [] if run is None else [run]
            self.tasks += [] if task is None else [task]

    def remove(self, run: Run | None = None, task: Task | None = None) -> None:
        with self.lock:
            self.runs = [other for other in self.runs if other is not run]
            self.tasks = [other for other in self.tasks if other is not task]


_open = _OpenInProcess()


def run_opened(run: Run) -> None:
    _open.add(run=run)


def run_closed(run: Run) -> None:
    _open.remove(run=run)


def open_runs() -> list[Run]:
    return list(_open.runs)


def task_began(task: Task) -> Task | None:
    """Makes ``task`` that of this context. Returns the task that was, to be given to ``task_ended``."""
    outer = _task.get()
    _task.set(task)
    _open.add(task=task)
    return None if outer is None or outer.ended else outer


def task_ended(task: Task, outer: Task | None) -> None:
    if _task.get() is task:
        _task.set(outer)
    _open.remove(task=task)


def current_task() -> Task | None:
    """The open task of this context; in a context without any, as of a new thread, the only open task of the process."""
    task = _task.get()
    if task is not None and not task.ended:
        return task
    tasks = _open.tasks
    return tasks[0] if len(tasks) == 1 else None


def call_began(call: Call) -> None:
    """The block of a call that its caller records was entered in this context."""
    _call.set(call)


def call_ended(call: Call) -> None:
    if _call.get() is call:
        _call.set(None)


def enter_warm_up() -> None:
    _warm_up.set(True)


def leave_warm_up() -> None:
    _warm_up.set(False)


def records_itself() -> bool:
    """Whether the caller records what happens in this context itself: inside the block of a call or of a warm-up."""
    call = _call.get()
    return _warm_up.get() or (call is not None and not call.ended)
