"""What one event of the push library costs its caller, with a real Pushgateway behind it."""

from __future__ import annotations

import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import ParamSpec, TypeVar

from joulebench.clock import Clock
from joulebench.confidence.measures import CallConfidence
from joulebench.push.run import Run
from joulebench.stack.native import NativeStack, Ports
from tests.benchmarks.report import Report, Target
from tests.benchmarks.statistics import percentile

TASKS = 150
PACED = 0.002
"""Seconds between two events; a benchmark that waits for a model has far more."""
LIMIT = 20.0
FLOOR = "for scale: one write() of 300 bytes"
LINE = b"x" * 299 + b"\n"
CONFIDENCE = CallConfidence("located", "search", 0.93, {"name_branch": 0.99, "args_min": 0.93})

P = ParamSpec("P")
T = TypeVar("T")


def run(report: Report, clock: Clock) -> None:
    with tempfile.TemporaryDirectory(prefix="joulebench-bench-") as name:
        directory = Path(name)
        stack = NativeStack(directory / "stack", Ports.free())
        gateway = stack.pushgateway()
        gateway.start()
        try:
            paced, rushed = (_Stopwatch(clock, pause) for pause in (PACED, 0.0))
            for run_id, watch in (("paced", paced), ("rushed", rushed)):
                with Run(model="model", gateway_url=stack.gateway_url, run_id=run_id, runs_dir=directory / "runs") as opened:
                    for number in range(TASKS):
                        _one_task(opened, number, watch)
                _floor(directory / "floor", watch)
        finally:
            gateway.stop()
    _tell(report, paced, rushed)


class _Stopwatch:
    """``seconds`` by event."""

    def __init__(self, clock: Clock, pause: float) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._clock = clock
        self._pause = pause
        self._between = threading.Event()

    def time(self, event: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._pause:
            self._between.wait(self._pause)
        began = self._clock.monotonic()
        answer = function(*args, **kwargs)
        self.seconds[event].append(self._clock.monotonic() - began)
        return answer

    @property
    def all(self) -> list[float]:
        return [one for event, many in self.seconds.items() if event != FLOOR for one in many]


def _one_task(opened: Run, number: int, watch: _Stopwatch) -> None:
    task = opened.task("a task", f"task-{number}")
    watch.time("task begins", task.__enter__)
    call = task.call()
    watch.time("call begins", call.__enter__)
    watch.time("first token", call.first_token)
    watch.time("call ends", call.finish, 512, 64)
    tool = task.tool("search", {"query": "the answer"}, CONFIDENCE)
    watch.time("tool begins", tool.__enter__)
    tool.result("a page of text " * 20)
    watch.time("tool ends", tool.__exit__, None, None, None)
    task.succeed()
    watch.time("task ends", task.__exit__, None, None, None)


def _floor(path: Path, watch: _Stopwatch) -> None:
    """What a caller pays on this machine at this moment for the least that a journal can do."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for _ in range(TASKS):
        watch.time(FLOOR, os.write, file, LINE)
    os.close(file)


def _tell(report: Report, paced: _Stopwatch, rushed: _Stopwatch) -> None:
    report.heading("Cost of an event to the benchmark that is measured")
    report.say(
        f"{TASKS} tasks with a journal on disk and a real Pushgateway; microseconds of the caller."
        f" Paced: {1000 * PACED:g} ms between two events; rushed: none."
    )
    rows = [(event, *_cells(paced.seconds[event]), *_cells(rushed.seconds[event])) for event in paced.seconds]
    rows.insert(-1, ("any event", *_cells(paced.all), *_cells(rushed.all)))
    report.table(("", "paced p50", "paced p99", "rushed p50", "rushed p99"), rows)
    report.targets.append(Target("cost of an event to its caller, p99, paced", LIMIT, 1e6 * percentile(paced.all, 99), "us"))
    report.targets.append(Target("cost of an event to its caller, p99, rushed", LIMIT, 1e6 * percentile(rushed.all, 99), "us"))


def _cells(seconds: list[float]) -> tuple[str, str]:
    return f"{1e6 * median(seconds):.1f}", f"{1e6 * percentile(seconds, 99):.1f}"
