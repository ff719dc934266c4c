"""A background loop outlives any error, says so once, and stops when asked; a full queue says what it dropped."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from joulebench.clock import SystemClock, wait_until
from joulebench.supervise import BackgroundLoop, BoundedQueue, LoopErrors, error_pause, import_in_background, run_in_asyncio


class Failing:
    """A step that raises what ``errors`` holds, then works."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0
        self.worked = threading.Event()

    def step(self) -> float | None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        self.worked.set()
        return 60.0


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [ValueError("odd\x1b[31m \ud800"), AssertionError(), SystemExit(3), UnprintableError()])
def test_a_loop_goes_on_after_any_error(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    errors, failing = LoopErrors(), Failing(error)
    loop = BackgroundLoop("odd", failing.step, errors=errors)
    assert errors.counts() == {"odd": 0}, "a counter starts at 0"
    with caplog.at_level(logging.ERROR):
        loop.start()
        assert failing.worked.wait(5.0)
        assert loop.stop(2.0)
    assert errors.counts() == {"odd": 1}
    assert errors.last()["odd"].startswith(type(error).__name__)
    assert "\x1b" not in errors.last()["odd"]
    (record,) = caplog.records
    assert record.exc_info is not None, "with its traceback"


def test_the_same_error_is_logged_once_and_counted_each_time(caplog: pytest.LogCaptureFixture) -> None:
    errors = LoopErrors()
    failing = Failing(*(KeyError(n) for n in range(5)))
    loop = BackgroundLoop("odd", failing.step, errors=errors, max_error_pause=0.01)
    with caplog.at_level(logging.ERROR):
        loop.start()
        assert failing.worked.wait(5.0)
        loop.stop(2.0)
    assert (errors.counts(), len(caplog.records)) == ({"odd": 5}, 1)
    assert errors.last() == {"odd": "KeyError: 4"}


def test_a_failing_loop_does_not_spin_and_still_stops_at_once() -> None:
    failing = Failing(*(ValueError(n) for n in range(1000)))
    loop = BackgroundLoop("odd", failing.step, errors=LoopErrors())
    loop.start()
    for _ in range(200):
        loop.wake()
        threading.Event().wait(0.001)
    clock = SystemClock()
    start = clock.monotonic()
    assert loop.stop(2.0)
    assert clock.monotonic() - start < 1.0
    assert failing.calls < 10
    assert [error_pause(n) for n in (1, 2, 3, 100)] == [0.1, 0.2, 0.4, 5.0]


def test_a_wake_during_a_step_is_not_lost() -> None:
    inside, go_on, done = threading.Event(), threading.Event(), threading.Event()
    calls = []

    def step() -> float | None:
        calls.append(1)
        if len(calls) == 1:
            inside.set()
            go_on.wait(5.0)
            return 60.0
        done.set()
        return 60.0

    loop = BackgroundLoop("w", step, errors=LoopErrors())
    loop.start()
    assert inside.wait(5.0)
    loop.wake()
    go_on.set()
    assert done.wait(5.0)
    assert loop.stop(2.0)


def test_none_ends_a_loop_and_its_last_act_is_supervised_too() -> None:
    def fail() -> None:
        raise ValueError("at the end")

    errors = LoopErrors()
    loop = BackgroundLoop("w", lambda: None, errors=errors, at_end=fail)
    loop.start()
    assert loop.join(5.0)
    assert errors.last() == {"w": "ValueError: at the end"}


def test_a_step_that_hangs_is_not_waited_for_longer_than_asked() -> None:
    release = threading.Event()

    def hang() -> float | None:
        release.wait(30.0)
        return None

    loop = BackgroundLoop("w", hang, errors=LoopErrors())
    loop.start()
    assert loop.stop(0.05) is False
    assert (loop.stopping, loop.is_alive) == (True, True)
    release.set()
    assert loop.join(5.0)


def test_a_loop_that_never_started_stops() -> None:
    assert BackgroundLoop("w", lambda: None, errors=LoopErrors()).stop(0.1)


def test_an_asyncio_loop_goes_on_and_ends_by_cancelling(caplog: pytest.LogCaptureFixture) -> None:
    errors, failing = LoopErrors(), Failing(ValueError("odd"), ValueError("odd"))

    async def step() -> float | None:
        return failing.step()

    async def scenario() -> None:
        task = asyncio.create_task(run_in_asyncio("a", step, errors=errors, max_error_pause=0.01))
        while not failing.worked.is_set():
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    assert (errors.counts(), len(caplog.records)) == ({"a": 2}, 1)


def test_a_fork_waits_for_an_import_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that was half loaded at the fork could never be loaded in the forked process: its thread is not there."""
    (tmp_path / "slow_module.py").write_text(
        "import threading\nbegun = threading.Event()\nthreading.current_thread().begun.set()\nbegun.wait(0.2)\nis_done = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    thread = threading.Thread(target=import_in_background, args=("slow_module",))
    begun = threading.Event()
    vars(thread)["begun"] = begun
    thread.start()
    assert begun.wait(5.0)
    child = os.fork()
    if child == 0:
        os._exit(0 if import_in_background("slow_module").is_done else 1)
    thread.join()
    assert wait_until(lambda: os.waitpid(child, os.WNOHANG) == (child, 0), 5.0)


def test_a_full_queue_drops_the_oldest_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    lost: list[int] = []
    queue = BoundedQueue[int]("calls", 3, lost.append)
    with caplog.at_level(logging.WARNING):
        taken = [queue.put(n) for n in range(5)]
    assert taken == [True, True, True, False, False]
    assert (queue.dropped, lost, len(queue)) == (2, [0, 1], 3)
    assert [record.message for record in caplog.records] == [
        "queue calls is full with 3 entries; the oldest are dropped and counted"
    ]
    assert (queue.get(), queue.drain(), queue.get(0.01)) == (2, [3, 4], None)


def test_nothing_is_lost_or_doubled_between_many_threads() -> None:
    queue = BoundedQueue[int]("n", 10_000)
    taken: list[int] = []
    lock = threading.Lock()

    def worker(work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def put(base: int) -> None:
        for n in range(1000):
            queue.put(base + n)

    def take() -> None:
        while (entry := queue.get(0.2)) is not None:
            with lock:
                taken.append(entry)

    threads = [worker(lambda base=base: put(base)) for base in range(0, 4000, 1000)]  # type: ignore[misc]
    threads += [worker(take) for _ in range(3)]
    for thread in threads:
        thread.join(10.0)
    assert wait_until(lambda: len(queue) == 0, 1.0)
    assert sorted(taken) == list(range(4000))
