"""``Run``: what a benchmark opens once per worker process.

    with Run(model="qwen3:8b") as run, run.task("sort a list") as task:
        ...

Every event goes to the journal at once and to the Pushgateway soon; a caller never waits for the network, and a run without
any Pushgateway, Prometheus or exporter is a whole run, read from its journal. Tasks of one Run may run in several threads.
"""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from types import TracebackType

from joulebench import __version__, settings
from joulebench.clock import Clock, SystemClock
from joulebench.errors import UserError
from joulebench.push import ids
from joulebench.push.journal import Journal
from joulebench.push.recorder import Recorder
from joulebench.push.state import RunTotals, State, TaskState, TaskTotals
from joulebench.push.task import Task
from joulebench.units import Seconds


class _NoPushes:
    def changed(self, task_id: str) -> None: ...

    def run_changed(self) -> None: ...


class _NoEnergy:
    def task_ended(self, task_id: str, state: TaskState, start: Seconds, end: Seconds) -> None: ...

    def call_ended(self, task_id: str, call: int, start: Seconds, end: Seconds) -> None: ...


class Run:
    """One worker of one run. Several workers share a run by its ``run_id``; each has its own journal and its own tasks."""

    def __init__(
        self,
        model: str | None = None,
        suite: str = "",
        *,
        run_id: str | None = None,
        worker: str | None = None,
        gateway_url: str | None = None,
        prometheus_url: str | None = None,
        exporter_url: str | None = None,
        runs_dir: str | os.PathLike[str] | None = None,
        clock: Clock | None = None,
        planned_tasks: int | None = None,
        drain_seconds: float = 15.0,
    ) -> None:
        self._clock = clock or SystemClock()
        self._start = self._clock.unix()
        self.run_id = ids.path_part(run_id, "run_id") if run_id is not None else ids.new_run_id(self._start)
        self.worker = ids.path_part(worker, "worker") if worker is not None else ids.default_worker()
        self.model = ids.label_text(model or "") or "unknown"
        self.suite = ids.label_text(suite)
        self.directory = Path(runs_dir or settings.from_env(settings.ENV_RUNS_DIR, settings.DEFAULT_RUNS_DIR)) / self.run_id
        self._planned_tasks = planned_tasks
        self._lock = threading.Lock()
        self._task_ids: set[str] = set()
        self._recorder: Recorder | None = None

    def __enter__(self) -> Run:
        if self._recorder is not None:
            raise UserError(f"run {self.run_id!r} is already open; make a new Run")
        journal = Journal(self.directory / f"journal-{self.worker}.jsonl", self.run_id, self.worker)
        self._task_ids = journal.task_ids()
        totals = RunTotals(self.suite, __version__, self._planned_tasks)
        self._recorder = Recorder(self._clock, journal, State(totals), _NoPushes(), _NoEnergy())
        self._start = self._clock.unix()
        journal.write(
            "RUN_START",
            self._start,
            model_name=self.model,
            suite=self.suite,
            version=__version__,
            planned_tasks=self._planned_tasks,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        recorder = self._open()
        recorder.journal.write("RUN_END", self._clock.unix())
        recorder.journal.close()

    def task(self, name: str, task_id: str | None = None, model: str | None = None) -> Task:
        """A task, to be used in ``with``. ``task_id`` (else the name) becomes ``id#2`` where this run has it already."""
        recorder = self._open()
        with self._lock:
            unique_id = ids.unique(ids.label_text(task_id or name) or "task", self._task_ids)
            self._task_ids.add(unique_id)
        totals = TaskTotals(
            task_name=ids.label_text(name),
            model=ids.label_text(model or "") or self.model,
            suite=self.suite,
            epoch=Seconds(math.floor(self._start)),
            start=self._clock.unix(),
        )
        return Task(recorder, totals, unique_id)

    def _open(self) -> Recorder:
        if self._recorder is None:
            raise UserError("this Run is not open; write 'with Run(...) as run:'")
        return self._recorder
