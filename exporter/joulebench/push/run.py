"""``Run``: what a benchmark opens once per worker process.

    with Run(model="qwen3:8b") as run, run.task("sort a list") as task:
        ...

Every event goes to the journal at once and to the Pushgateway soon; a caller never waits for the network, and a run without
any Pushgateway, Prometheus or exporter is a complete run, read from its journal. Tasks of one Run may run in several threads.
A process that is forked off inside the block becomes a worker of its own, with its own journal, when it opens its first task.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from joulebench import __version__
from joulebench.clients.exporter import ExporterGroup
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clients.pushgateway import Pushgateway
from joulebench.clock import Clock, SystemClock
from joulebench.devices import DeviceChoice
from joulebench.errors import UserError, format_error
from joulebench.push import current, ids
from joulebench.push.energy import ExporterEnergyRequests, GpuIdlePower, IdleMeter, NullEnergyRequests
from joulebench.push.groups import Group
from joulebench.push.ids import bounded_name
from joulebench.push.journal import Journal
from joulebench.push.pusher import Acknowledgements, InstantQuery, Pusher, PushReport
from joulebench.push.recorder import EnergyRequests, NullPushes, Pushes, RunRecorder, TaskRecorder
from joulebench.push.task import Task
from joulebench.push.task_metrics import run_families, task_families
from joulebench.push.totals import RunTotals, State, TaskTotals
from joulebench.schema import events
from joulebench.settings import Endpoints
from joulebench.supervise import LoopErrors
from joulebench.units import Seconds

log = logging.getLogger(__name__)

ENERGY_DRAIN = 3.0
QUERY_TIMEOUT = 5.0


class Run:
    """One worker of one run. Several workers share a run by its ``run_id``; each has its own journal and its own tasks.

    ``model``: default of the tasks. ``worker``: host and process unless given. ``planned_tasks``: how many this worker means
    to run. ``configuration``: what the results depend on beside the model, such as temperature or tool mode; anything that is
    JSON, for the journal and the result files. Addresses not given come from the environment (``JOULEBENCH_GATEWAY_URL``,
    ``JOULEBENCH_PROMETHEUS_URL``, ``JOULEBENCH_EXPORTER_URL``), else are the usual ports of this machine; ``none`` says that
    there is no Prometheus (finished groups then stay on the gateway), no Pushgateway (the journal alone has the run) or no
    exporter (no window energies are asked for). ``endpoints`` gives them all at once, in place of the four arguments.
    ``gpus``: the GPUs that serve the model, by index, UUID, beginning of a UUID or ``host:index`` (``JOULEBENCH_GPUS``).
    ``server``: address of the model server (``JOULEBENCH_SERVER_URL``), by which an exporter finds the GPUs that it uses.
    Without either, tasks are charged for all GPUs of the exporters. ``drain_seconds``: how long the end of the run waits for
    pushes and acknowledgements. Raises UserError on a value that cannot be used.
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
        exporter_url: str | Iterable[str] | None = None,
        runs_dir: str | os.PathLike[str] | None = None,
        endpoints: Endpoints | None = None,
        gpus: str | int | Iterable[str | int] | None = None,
        server: str | None = None,
        clock: Clock | None = None,
        planned_tasks: int | None = None,
        configuration: Mapping[str, object] | None = None,
        drain_seconds: float = 15.0,
    ) -> None:
        self._clock = clock or SystemClock()
        self.run_id = ids.path_part(run_id, "run_id") if run_id is not None else ids.new_run_id(self._clock.unix())
        self.worker = ids.path_part(worker, "worker") if worker is not None else ids.default_worker()
        self.model = bounded_name(model or "") or "unknown"
        self.suite = bounded_name(suite)
        self._endpoints = endpoints or Endpoints.from_settings(
            gateway_url=gateway_url, prometheus_url=prometheus_url, exporter_url=exporter_url, runs_dir=runs_dir
        )
        self.devices = DeviceChoice.from_settings(gpus, server)
        self.directory: Path = self._endpoints.runs_dir / self.run_id
        self._planned_tasks = planned_tasks
        self._configuration = dict(configuration) if configuration else None
        self._drain_seconds = drain_seconds
        self._lock = threading.Lock()
        self._lock_owner = os.getpid()
        self._worker: _Worker | None = None
        self._closed = False

    def __enter__(self) -> Run:
        if self._worker is not None:
            raise UserError(f"run {self.run_id!r} was already opened; make a new Run")
        self._worker = _Worker(self, self.worker)
        details: dict[str, object] = {"planned_tasks": self._planned_tasks}
        if self._configuration:
            details["configuration"] = self._configuration
        self._worker.start(self._planned_tasks, {**details, **self._chosen_devices()})
        current.run_opened(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        worker = self._worker
        current.run_closed(self)
        if worker is not None and worker.is_inherited:
            # A forked process that leaves the block without a task of its own has nothing to close.
            self._closed = True
            return
        worker = self._open()
        self._closed = True
        worker.close(self._drain_seconds)

    def __reduce__(self) -> str:
        raise UserError(
            f"a Run cannot be sent to another process; open one there with Run(run_id={self.run_id!r}): a worker of the same run"
        )

    def task(
        self,
        name: str,
        task_id: str | None = None,
        model: str | None = None,
        *,
        metadata: Mapping[str, object] | None = None,
    ) -> Task:
        """A task, to be used in ``with``. ``task_id`` (else the name) becomes ``id#2`` where this run has it already.

        ``metadata``: what is known of the task beside its name, for the journal and the result file; anything that is JSON.
        """
        worker = self._open()
        unique_id = worker.task_ids.claim(bounded_name(name if task_id is None else task_id) or bounded_name(name) or "task")
        state = State(
            TaskTotals(
                task_name=bounded_name(name),
                task_key=ids.task_key(unique_id),
                model=bounded_name(model or "") or self.model,
                suite=self.suite,
                epoch=Seconds(math.floor(worker.started_at)),
                start=self._clock.unix(),
            )
        )
        group = Group({**worker.identity, "task_id": unique_id}, lambda sent: task_families(state.snapshot(), sent))
        return Task(TaskRecorder(worker.recorder, unique_id, state, group), metadata)

    def declare_tools(self, names: Iterable[str]) -> None:
        """The tools that there are, for confidences by tool on the dashboards; may be called again with more.

        The first ``totals.MAX_TOOLS`` of a run have series of their own; calls of all others, invented ones too, count as
        ``other``.
        """
        with self._open().recorder.run as totals:
            totals.declare_tools(names)

    def exporter_answers(self) -> bool:
        """Whether energy, and so idle power, can be measured now."""
        return self._open().idle.is_ready()

    @contextmanager
    def warm_up(self, model: str | None = None) -> Iterator[None]:
        """Around a call that belongs to no task: it loads the model, and is recorded as WARM_UP."""
        journal = self._open().recorder.journal
        start, began, error = self._clock.unix(), self._clock.monotonic(), None
        current.enter_warm_up()
        try:
            yield
        except BaseException as raised:
            error = format_error(raised)
            raise
        finally:
            current.leave_warm_up()
            duration = self._clock.monotonic() - began
            model_name = bounded_name(model or "") or self.model
            journal.write(
                events.WARM_UP,
                self._clock.unix(),
                None,
                model_name=model_name,
                start=start,
                duration_seconds=duration,
                error=error,
            )

    def measure_idle(self, seconds: float = 3.0, label: str = "before") -> tuple[GpuIdlePower, ...]:
        """Idle power of each GPU; blocks for ``seconds`` and a second before them. Load the model first: see ``warm_up``.

        ``label``: ``before`` or ``after`` the tasks. Call it while nothing else uses the GPUs: of several measurements the
        lowest counts. Empty where no exporter answers. Raises UserError while calls are under way or for no length of time.
        """
        worker = self._open()
        if not 0 < seconds < float("inf"):
            raise UserError(f"measure_idle: {seconds!r} is not a number of seconds above 0; give one such as 3.0")
        if any(worker.recorder.run.snapshot().active.values()):
            raise UserError("measure_idle: calls or tools are under way; measure idle power before or after the tasks")
        gpus = worker.idle.measure(seconds, label)
        with worker.recorder.run as totals:
            totals.add_idle_power({(gpu.gpu, gpu.uuid): gpu.watts for gpu in gpus if gpu.watts is not None})
        worker.recorder.run_changed()
        return gpus

    @property
    def endpoints(self) -> Endpoints:
        """Where this run finds the Pushgateway, Prometheus, the exporter and its directory."""
        return self._endpoints

    @property
    def clock(self) -> Clock:
        return self._clock

    def _open(self) -> _Worker:
        worker = self._worker
        if worker is None or self._closed:
            raise UserError("this Run is not open; write 'with Run(...) as run:' and begin tasks inside that block")
        if worker.is_inherited:
            worker = self._open_forked(worker)
        return worker

    def _chosen_devices(self) -> dict[str, object]:
        """The field ``devices`` of RUN_START; empty where none were chosen."""
        return {} if self.devices == DeviceChoice() else {"devices": self.devices.as_json()}

    def _open_forked(self, parent: _Worker) -> _Worker:
        """Makes this forked process a worker of its own: the parent's threads and locks do not exist here."""
        # Another thread may have held the lock when the process was forked. The forked process starts with a single thread.
        if self._lock_owner != os.getpid():
            self._lock, self._lock_owner = threading.Lock(), os.getpid()
        with self._lock:
            worker = self._worker
            if worker is not None and not worker.is_inherited:
                return worker
            parent.recorder.journal.abandon()
            self.worker = ids.forked_worker(parent.name)
            worker = _Worker(self, self.worker)
            worker.start(None, {"forked_from": parent.name, **self._chosen_devices()})
            self._worker = worker
        log.info("process %d was forked from worker %s and is worker %s of the run", os.getpid(), parent.name, self.worker)
        # multiprocessing, which is loaded where it forked, ends its children without atexit before Python 3.13; others run only
        # atexit.
        multiprocessing_util = sys.modules.get("multiprocessing.util")
        if multiprocessing_util is not None:
            multiprocessing_util.Finalize(self, self._close_forked, args=(worker,), exitpriority=10)
        atexit.register(self._close_forked, worker)
        return worker

    def _close_forked(self, worker: _Worker) -> None:
        if not self._closed and not worker.is_inherited:
            self._closed = True
            worker.close(self._drain_seconds)


class _Worker:
    """The journal and the threads of one worker of a run, in the process that opened it."""

    def __init__(self, run: Run, name: str) -> None:
        self.name = name
        self.identity = {"job": "joulebench", "run_id": run.run_id, "worker": name}
        self._run = run
        self._clock = run.clock
        self._endpoints = run.endpoints
        self._errors = LoopErrors()
        self._pusher: Pusher | None = None
        self._requests: ExporterEnergyRequests | None = None
        self.started_at = self._clock.unix()

    @property
    def is_inherited(self) -> bool:
        return self.recorder.is_inherited

    def start(self, planned_tasks: int | None, details: Mapping[str, object]) -> None:
        """Opens the journal, starts the threads and records RUN_START."""
        run = self._run
        journal = Journal(run.directory / f"journal-{self.name}.jsonl", run.run_id, self.name)
        self.task_ids = ids.TaskIds(journal.task_ids())
        state = State(RunTotals(run.suite, __version__, run.devices, planned_tasks))
        group = Group(self.identity, lambda sent: run_families(state.snapshot(), sent, self._errors.counts(), self._dropped()))

        def count_failure() -> None:
            with state as totals:
                totals.push_failures += 1

        pushes = self._open_gateway(journal, count_failure)
        self.recorder = RunRecorder(self._clock, journal, state, group, pushes, self._open_exporter(journal, pushes))
        connect = self._connect_exporters if self._endpoints.exporters else None
        self.idle = IdleMeter(connect, self._clock, journal)
        self.started_at = self._clock.unix()
        journal.write(
            events.RUN_START, self.started_at, None, model_name=run.model, suite=run.suite, version=__version__, **details
        )
        self.recorder.run_changed()

    def _dropped(self) -> dict[str, int]:
        """Entries that full queues dropped, by queue."""
        return {} if self._requests is None else {"energy": self._requests.dropped}

    def close(self, drain: float) -> None:
        """Energies first, then pushes, then acknowledgements, for at most ``drain`` seconds; records RUN_END and PUSH_STATE."""
        recorder, journal = self.recorder, self.recorder.journal
        journal.write(events.RUN_END, self._clock.unix())
        with recorder.run as totals:
            totals.live = False
        try:
            state = self._drain(drain)
            journal.write(events.PUSH_STATE, self._clock.unix(), None, **state, events_lost=journal.lost)
        finally:
            journal.close()

    def _open_gateway(self, journal: Journal, count_failure: Callable[[], None]) -> Pushes:
        gateway, prometheus = self._endpoints.gateway, self._endpoints.prometheus
        if gateway is None:
            return NullPushes()
        acknowledgements = None
        if prometheus is not None:
            api = PrometheusApi(prometheus, timeout=QUERY_TIMEOUT, patience=0.0)
            acknowledgements = Acknowledgements(_instant_query(api), self.identity, self._errors, api.close)
        self._pusher = Pusher(
            Pushgateway(gateway),
            self._clock,
            self.identity,
            acknowledgements=acknowledgements,
            on_failure=count_failure,
            sync=journal.sync,
            errors=self._errors,
        )
        self._pusher.start()
        return self._pusher

    def _open_exporter(self, journal: Journal, pushes: Pushes) -> EnergyRequests:
        if not self._endpoints.exporters:
            return NullEnergyRequests(pushes)
        exporters = self._connect_exporters()
        exporters.check()
        self._requests = ExporterEnergyRequests(exporters, journal, pushes, self._errors)
        self._requests.start()
        return self._requests

    def _connect_exporters(self) -> ExporterGroup:
        return ExporterGroup(self._endpoints.exporters, self._run.devices, self._clock)

    def _drain(self, drain: float) -> dict[str, object]:
        """The fields of PUSH_STATE."""
        start = self._clock.monotonic()
        requests, recorder = self._requests, self.recorder
        if requests is not None:
            requests.close(min(drain, ENERGY_DRAIN))
        recorder.pushes.finished(recorder.run_group)
        unanswered = None if requests is None else requests.unanswered
        report = PushReport()
        if self._pusher is not None:
            report = self._pusher.close(max(0.0, drain - (self._clock.monotonic() - start)))
        errors = self._errors.last()
        reasons = [
            *report.reasons,
            *([f"exporter: {requests.error}"] if requests is not None and unanswered else []),
            *([f"idle power: {self.idle.reason}"] if self.idle.reason else []),
            *([f"journal: {recorder.journal.problem}"] if recorder.journal.problem else []),
            *(f"background loop {loop}: {error}" for loop, error in errors.items()),
        ]
        return {
            "pushes": report.pushes,
            "failures": report.failures,
            "groups_acknowledged": report.acknowledged,
            "groups_left": report.groups_left,
            "groups_unpushed": report.unpushed,
            "groups_dropped": report.dropped,
            "windows_without_energy": unanswered,
            "windows_dropped": None if requests is None else requests.dropped,
            "loop_errors": sum(self._errors.counts().values()),
            "reasons": reasons,
        }


def _instant_query(api: PrometheusApi) -> InstantQuery:
    def ask(expression: str) -> Iterator[tuple[Mapping[str, str], float]]:
        return ((series.labels, series.points[-1][1]) for series in api.query(expression) if series.points)

    return ask
