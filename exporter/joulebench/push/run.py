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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from joulebench import __version__, settings
from joulebench.clock import Clock, SystemClock
from joulebench.errors import UserError
from joulebench.metrics.label_text import label_text
from joulebench.push import ids
from joulebench.push.call import in_words
from joulebench.push.connections import Connections
from joulebench.push.groups import Group
from joulebench.push.idle import GpuIdle, IdleMeter
from joulebench.push.journal import Journal
from joulebench.push.recorder import Recorder, TaskRecorder
from joulebench.push.sheets import run_families, task_families
from joulebench.push.state import RunTotals, State, TaskTotals
from joulebench.push.task import Task
from joulebench.units import Seconds


class Run:
    """One worker of one run. Several workers share a run by its ``run_id``; each has its own journal and its own tasks.

    ``model``: default of the tasks. ``worker``: host and process unless given. ``planned_tasks``: how many this worker means
    to run. ``configuration``: what the results depend on beside the model, such as temperature or tool mode; anything that is
    JSON, for the journal and the result files. Addresses not given come from the environment (``JOULEBENCH_GATEWAY_URL``,
    ``JOULEBENCH_PROMETHEUS_URL``, ``JOULEBENCH_EXPORTER_URL``), else are the usual ports of this machine; ``none`` says that
    there is no Prometheus (finished groups then stay on the gateway), no Pushgateway (the journal alone has the run) or no
    exporter (no window energies are asked for).
    ``drain_seconds``: how long the end of the run waits for pushes and acknowledgements. Raises UserError on a value that
    cannot be used.
    """

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
        configuration: Mapping[str, object] | None = None,
        drain_seconds: float = 15.0,
    ) -> None:
        self._clock = clock or SystemClock()
        self._start = self._clock.unix()
        self.run_id = ids.path_part(run_id, "run_id") if run_id is not None else ids.new_run_id(self._start)
        self.worker = ids.path_part(worker, "worker") if worker is not None else ids.default_worker()
        self.model = label_text(model or "") or "unknown"
        self.suite = label_text(suite)
        self.directory = Path(runs_dir or settings.from_env(settings.ENV_RUNS_DIR, settings.DEFAULT_RUNS_DIR)) / self.run_id
        self._identity = {"job": "joulebench", "run_id": self.run_id, "worker": self.worker}
        self._connections = Connections.from_settings(gateway_url, prometheus_url, exporter_url)
        self._planned_tasks = planned_tasks
        self._configuration: dict[str, Any] = {"configuration": dict(configuration)} if configuration else {}
        self._drain_seconds = drain_seconds
        self._lock = threading.Lock()
        self._task_ids: set[str] = set()
        self._recorder: Recorder | None = None
        self._idle: IdleMeter | None = None
        self._closed = False

    def __enter__(self) -> Run:
        if self._recorder is not None:
            raise UserError(f"run {self.run_id!r} was already opened; make a new Run")
        journal = Journal(self.directory / f"journal-{self.worker}.jsonl", self.run_id, self.worker)
        self._task_ids = journal.task_ids()
        state = State(RunTotals(self.suite, __version__, self._planned_tasks))
        group = Group(self._identity, lambda sent: run_families(state.snapshot(), sent))
        pushes, energy = self._connections.open(self._clock, self._identity, journal, state)
        self._recorder = Recorder(self._clock, journal, state, group, pushes, energy)
        self._idle = self._connections.idle_meter(self._clock, journal)
        self._start = self._clock.unix()
        journal.write(
            "RUN_START",
            self._start,
            model_name=self.model,
            suite=self.suite,
            version=__version__,
            planned_tasks=self._planned_tasks,
            **self._configuration,
        )
        self._recorder.run_changed()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        recorder = self._open()
        self._closed = True
        recorder.journal.write("RUN_END", self._clock.unix())
        with recorder.run as totals:
            totals.live = False
        try:
            state = self._connections.close(recorder, self._drain_seconds)
            recorder.journal.write("PUSH_STATE", self._clock.unix(), None, **state, events_lost=recorder.journal.lost)
        finally:
            recorder.journal.close()

    def task(self, name: str, task_id: str | None = None, model: str | None = None) -> Task:
        """A task, to be used in ``with``. ``task_id`` (else the name) becomes ``id#2`` where this run has it already."""
        recorder = self._open()
        with self._lock:
            unique_id = ids.unique(label_text(task_id or name) or "task", self._task_ids)
            self._task_ids.add(unique_id)
        state = State(
            TaskTotals(
                task_name=label_text(name),
                task_key=ids.task_key(unique_id),
                model=label_text(model or "") or self.model,
                suite=self.suite,
                epoch=Seconds(math.floor(self._start)),
                start=self._clock.unix(),
            )
        )
        group = Group({**self._identity, "task_id": unique_id}, lambda sent: task_families(state.snapshot(), sent))
        return Task(TaskRecorder(recorder, unique_id, state, group))

    def declare_tools(self, names: Iterable[str]) -> None:
        """The tools that there are, for confidences by tool on the dashboards; may be called again with more.

        The first ``tool_names.MAX_TOOLS`` of a run are told apart; calls of all others, invented ones too, count as ``other``.
        """
        with self._open().run as totals:
            totals.declare_tools(names)

    def exporter_answers(self) -> bool:
        """Whether energy, and so idle power, can be measured now."""
        self._open()
        return self._idle is not None and self._idle.ready()

    @contextmanager
    def warm_up(self, model: str | None = None) -> Iterator[None]:
        """Around a call that belongs to no task: it loads the model, and is told as WARM_UP."""
        recorder = self._open()
        start, began, error = self._clock.unix(), self._clock.monotonic(), None
        try:
            yield
        except BaseException as raised:
            error = in_words(raised)
            raise
        finally:
            duration = self._clock.monotonic() - began
            end = self._clock.unix()
            recorder.journal.write(
                "WARM_UP", end, None, model_name=model or self.model, start=start, duration_seconds=duration, error=error
            )

    def measure_idle(self, seconds: float = 3.0, label: str = "before") -> tuple[GpuIdle, ...]:
        """Idle power of each GPU; blocks for ``seconds`` and a second before them. Load the model first: see ``warm_up``.

        ``label``: ``before`` or ``after`` the tasks. Call it while nothing else uses the GPUs: of several measurements the
        lowest counts. Empty where no exporter answers. Raises UserError while calls are under way or for no length of time.
        """
        recorder = self._open()
        if not 0 < seconds < float("inf"):
            raise UserError(f"measure_idle: {seconds!r} is not a number of seconds above 0; give one such as 3.0")
        if any(recorder.run.snapshot().active.values()):
            raise UserError("measure_idle: calls or tools are under way; measure idle power before or after the tasks")
        if self._idle is None:
            return ()
        gpus = self._idle.measure(seconds, label)
        with recorder.run as totals:
            totals.add_idle_power({(gpu.gpu, gpu.uuid): gpu.watts for gpu in gpus if gpu.watts is not None})
        recorder.run_changed()
        return gpus

    def _open(self) -> Recorder:
        if self._recorder is None or self._closed:
            raise UserError("this Run is not open; write 'with Run(...) as run:' and begin tasks inside that block")
        return self._recorder
