"""Background loops that survive unforeseen errors, and bounded queues that count what they drop.

Every thread that Joulebench starts runs as a ``BackgroundLoop``: a function ``step`` is called again and again, and returns how
long to wait before the next call. A failing step never ends the loop. The error is logged with its traceback the first time it
occurs, counted in ``LoopErrors`` and the step is called again after a pause that grows while it keeps failing.

    loop = BackgroundLoop("ollama-poller", self.poll)          # def poll(self) -> float | None
    loop.start(); loop.wake(); loop.stop(timeout=2.0)

An asyncio loop is a task made of ``run_in_asyncio`` and is stopped by cancelling it:

    task = asyncio.create_task(run_in_asyncio("energy-cut", cut))    # async def cut() -> float | None

Each process publishes ``PROCESS_ERRORS.counts()`` as ``joulebench_loop_errors_total{loop}`` and shows ``PROCESS_ERRORS.last()``
on its health page. A ``Run`` has a ``LoopErrors`` of its own, which PUSH_STATE shows.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

from joulebench.errors import format_error

log = logging.getLogger(__name__)

FIRST_ERROR_PAUSE = 0.1
MAX_ERROR_PAUSE = 5.0
MAX_LOGGED_ERRORS = 50
"""Distinct errors of a process whose traceback is logged; further ones are counted only."""


class LoopErrors:
    """Counts of unforeseen errors by loop name. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._last: dict[str, str] = {}
        self._logged: set[tuple[str, str, str, int]] = set()

    def register(self, loop: str) -> None:
        """Makes the count of ``loop`` start at 0."""
        with self._lock:
            self._counts.setdefault(loop, 0)

    def record(self, loop: str, error: BaseException) -> None:
        """Counts ``error`` and logs its traceback unless the same line of code raised the same type before."""
        place = (loop, type(error).__name__, *_raising_line(error))
        with self._lock:
            self._counts[loop] = self._counts.get(loop, 0) + 1
            self._last[loop] = format_error(error)
            is_new = place not in self._logged and len(self._logged) < MAX_LOGGED_ERRORS
            if is_new:
                self._logged.add(place)
        if is_new:
            log.error("background loop %s: unforeseen error; the loop goes on", loop, exc_info=error)

    def counts(self) -> Mapping[str, int]:
        """Errors so far by loop name, 0 for a registered loop without errors."""
        with self._lock:
            return dict(self._counts)

    def last(self) -> Mapping[str, str]:
        """The latest error of each loop that had any, as ``Type: message``."""
        with self._lock:
            return dict(self._last)


PROCESS_ERRORS = LoopErrors()
"""Errors of this process, for its metrics and its health page."""


class BackgroundLoop:
    """A daemon thread that calls ``step`` until ``stop`` is called or ``step`` returns None.

    ``step`` returns the seconds to wait before its next call (0: call again at once); ``wake`` ends that wait early. A step that
    waits by itself must look at ``stopping`` or return within a bounded time. ``at_end`` runs once in the thread when it ends.
    ``max_error_pause``: longest pause in seconds after a failed step.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], float | None],
        *,
        errors: LoopErrors | None = None,
        at_end: Callable[[], None] | None = None,
        max_error_pause: float = MAX_ERROR_PAUSE,
    ) -> None:
        self.name = name
        self._step = step
        self._errors = errors or PROCESS_ERRORS
        self._at_end = at_end
        self._max_error_pause = max_error_pause
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"joulebench-{name}", daemon=True)
        self._errors.register(name)

    @property
    def stopping(self) -> bool:
        return self._stopped.is_set()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        """Starts the thread; to be called once."""
        self._thread.start()

    def wake(self) -> None:
        """Makes the loop call ``step`` now instead of at the end of its wait; during a step, once more after it."""
        self._woken.set()

    def stop(self, timeout: float) -> bool:
        """Asks the loop to end and waits at most ``timeout`` seconds. Returns False when a step is still running then."""
        self._stopped.set()
        self._woken.set()
        return self.join(timeout)

    def join(self, timeout: float) -> bool:
        """Waits at most ``timeout`` seconds for the loop to end by itself. Returns whether it has."""
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            # Cleared before the step, so that a wake during the step is not lost.
            self._woken.clear()
            try:
                delay = self._step()
                failures = 0
            except BaseException as error:  # Nothing above a thread could handle it.
                self._errors.record(self.name, error)
                failures += 1
                # Not ended by wake: a loop that is woken often would spin.
                self._stopped.wait(error_pause(failures, self._max_error_pause))
                continue
            if delay is None:
                break
            if delay > 0 and not self._stopped.is_set():
                self._woken.wait(delay)
        if self._at_end is not None:
            try:
                self._at_end()
            except BaseException as error:
                self._errors.record(self.name, error)


_import_lock = threading.RLock()
os.register_at_fork(before=_import_lock.acquire, after_in_parent=_import_lock.release, after_in_child=_import_lock.release)


def import_in_background(module: str) -> Any:
    """Returns a module that is loaded when a thread first needs it, so that the start of a program need not wait for it.

    A fork waits until the import is done: in the forked process a half loaded module would wait for ever for its thread.
    """
    with _import_lock:
        return importlib.import_module(module)


async def run_in_asyncio(
    name: str,
    step: Callable[[], Awaitable[float | None]],
    *,
    errors: LoopErrors | None = None,
    max_error_pause: float = MAX_ERROR_PAUSE,
) -> None:
    """Awaits ``step`` again and again like ``BackgroundLoop``, until it returns None or the task is cancelled."""
    # Its callers have it loaded; a program that only pushes never needs it.
    import asyncio

    recorder = errors or PROCESS_ERRORS
    recorder.register(name)
    failures = 0
    while True:
        try:
            delay = await step()
            failures = 0
        except Exception as error:
            recorder.record(name, error)
            failures += 1
            delay = error_pause(failures, max_error_pause)
        if delay is None:
            return
        await asyncio.sleep(delay)


T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """A queue whose ``put`` never blocks: when ``limit`` entries wait, the oldest is dropped, counted and logged once.

    ``on_drop`` gets each dropped entry, outside of the queue's lock.
    """

    def __init__(self, name: str, limit: int, on_drop: Callable[[T], None] | None = None) -> None:
        self.name = name
        self.limit = limit
        self._on_drop = on_drop
        self._entries: deque[T] = deque()
        self._changed = threading.Condition()
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Entries dropped so far, for ``joulebench_queue_dropped_total{queue}``."""
        with self._changed:
            return self._dropped

    def __len__(self) -> int:
        with self._changed:
            return len(self._entries)

    def put(self, entry: T) -> bool:
        """Adds ``entry``. Returns False when the oldest entry was dropped for it."""
        lost: list[T] = []
        with self._changed:
            if len(self._entries) >= self.limit:
                lost.append(self._entries.popleft())
                self._dropped += 1
            is_first = self._dropped == 1 and bool(lost)
            self._entries.append(entry)
            self._changed.notify()
        if is_first:
            log.warning("queue %s is full with %d entries; the oldest are dropped and counted", self.name, self.limit)
        for old in lost:
            if self._on_drop is not None:
                self._on_drop(old)
        return not lost

    def get(self, timeout: float = 0.0) -> T | None:
        """Removes and returns the oldest entry, waiting at most ``timeout`` seconds; None when there is none."""
        with self._changed:
            if not self._entries and timeout > 0:
                self._changed.wait_for(lambda: bool(self._entries), timeout)
            return self._entries.popleft() if self._entries else None

    def drain(self) -> list[T]:
        """Removes and returns all entries, oldest first."""
        with self._changed:
            entries = list(self._entries)
            self._entries.clear()
            return entries


def error_pause(failures: int, longest: float = MAX_ERROR_PAUSE) -> float:
    """Seconds to pause after the ``failures``-th failure in a row: doubling from FIRST_ERROR_PAUSE up to ``longest``."""
    return min(longest, FIRST_ERROR_PAUSE * 2.0 ** min(failures - 1, 30))


def _raising_line(error: BaseException) -> tuple[str, int]:
    """File and line that raised ``error``; ("", 0) without a traceback."""
    trace = error.__traceback__
    if trace is None:
        return "", 0
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename, trace.tb_lineno
