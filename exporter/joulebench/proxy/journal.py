"""The journals of proxied runs: the events of a benchmark's own journal, a task for each name and a call for each request.

    RUNS_DIR/RUN/journal-proxy-HOST-PID.jsonl

A request that names a run gets a ticket when it begins; what became of it is written by a thread of its own, so that neither a
slow nor a full disk delays or stops a request. Runs, tasks and what waits to be written are bounded, since clients choose the
names. A task ends with its last request: TASK_END is written whenever no request of it runs, and the last one counts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from joulebench import __version__
from joulebench.clients.exporter import EnergyAnswer
from joulebench.clock import Clock
from joulebench.confidence.measures import CallConfidence
from joulebench.errors import UserError
from joulebench.llm.events import parse_object
from joulebench.llm.reply import Reply
from joulebench.parsing import as_unix_time
from joulebench.proxy.accounting import FinishedRequest, ToolCallOutcome
from joulebench.proxy.energy import EnergyAllocator, RequestEnergy, WindowQuestion
from joulebench.proxy.metrics import ProxyMetrics
from joulebench.proxy.request import ProxiedTask, RequestTicket
from joulebench.push import ids
from joulebench.push.call import ServerStats, query_end_fields, tool_start_fields
from joulebench.push.journal import Journal
from joulebench.schema import events
from joulebench.supervise import BackgroundLoop, BoundedQueue
from joulebench.units import Seconds

log = logging.getLogger(__name__)

PROXY_JOURNALS = f"journal-{events.PROXY}-*.jsonl"
MAX_RUNS = 200
MAX_TASKS = 20_000
"""Of all runs together."""
MAX_OPEN = 16
"""Journals that are open at a time."""
MAX_QUEUED = 5000
IDLE_WAIT = 0.25
IDLE_SECONDS = 1.0
"""Seconds without a request after which a task's energy is asked for."""
END_EVERY = 5.0
"""Seconds after which the end so far of a task is written while its requests go on."""
SYNC_EVERY = 5.0
MAX_EARLIER_BYTES = 64 << 20
"""Of the journals of earlier proxies that are read when a run is opened."""
CLOSE_SECONDS = 0.5
"""To close the journals after what waited was written."""
RETRY_AFTER = 5.0
"""Seconds until a journal that could not be opened is tried again."""

_TASK_START = f'"{events.TASK_START}"'.encode()
_ERRORS = {
    "broken": "the reply broke off",
    "client_gone": "the client closed the connection before the reply was complete",
    "unreachable": "no connection to the model server",
    "refused": "the model server refused the request",
}


@dataclass(frozen=True, slots=True)
class RecordedTool:
    outcome: str
    confidence: CallConfidence
    arguments: object


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """What the journal keeps of a request: replies, which may be large, do not wait for the disk. Durations in seconds."""

    ticket: RequestTicket
    model: str
    duration: float
    ttft: float | None
    status: str
    error: str | None
    stats: ServerStats
    tools: tuple[RecordedTool, ...]


@dataclass(frozen=True, slots=True)
class TaskEnergy:
    """The exporter's answer for the window of a task until ``end``."""

    task: ProxiedTask
    start: Seconds
    end: Seconds
    answer: EnergyAnswer


Entry: TypeAlias = RecordedRequest | RequestEnergy | TaskEnergy


@dataclass(slots=True)
class _OpenTask:
    """Of the writing thread. ``written_end`` and ``asked_end``: ends that were written, and until which energy was asked for."""

    task: ProxiedTask
    written_end: Seconds | None = None
    written_at: float = 0.0
    asked_end: Seconds | None = None


@dataclass(slots=True)
class _OpenRun:
    """Of the writing thread. ``earlier_starts``: by task, of proxies that recorded the run before this one."""

    journal: Journal
    earlier_starts: Mapping[str, Seconds] = field(default_factory=dict)
    tasks: dict[str, _OpenTask] = field(default_factory=dict)


class RunJournals:
    """``begin`` and ``end`` are for the thread of the requests, ``record`` and ``record_energy`` for any; none of them waits.

    ``devices``: what the proxy says of the devices, for RUN_START.
    """

    def __init__(self, runs_dir: Path, metrics: ProxyMetrics, clock: Clock, devices: Mapping[str, object] | None = None) -> None:
        self._runs_dir = runs_dir
        self._metrics = metrics
        self._clock = clock
        self._devices = devices
        self._worker = f"{events.PROXY}-{ids.default_worker()}"[:100]
        self._lock = threading.Lock()
        self._tasks: dict[tuple[str, str], ProxiedTask] = {}
        self._runs: set[str] = set()
        self._open: dict[str, _OpenRun] = {}
        """Of the writing thread, the run that was written longest ago first."""
        self._retry_at: dict[str, float] = {}
        self._left_out: set[str] = set()
        """Causes that were logged."""
        self._began: set[str] = set()
        """Runs whose RUN_START was written."""
        self._earlier_starts: dict[str, Mapping[str, Seconds]] = {}
        self._synced_at = clock.monotonic()
        self._energy: EnergyAllocator | None = None
        self._is_closing = threading.Event()
        self.queue: BoundedQueue[Entry] = BoundedQueue("proxy_journal", MAX_QUEUED, self._count_dropped)
        self._unwritten = self._lost_of_closed = 0
        self._close_by = 0.0
        self._loop = BackgroundLoop("proxy-journal", self._step, at_end=self._close_all)

    def start(self, energy: EnergyAllocator | None) -> None:
        """``energy`` answers for the windows of tasks; None without an exporter."""
        self._energy = energy
        self._loop.start()

    def finish_tasks(self, timeout: float) -> None:
        """Writes what waits, and asks for the energy of every task whose last request has ended since it was asked for."""
        self._is_closing.set()
        self._loop.wake()
        end = self._clock.monotonic() + timeout
        while self._is_closing.is_set() and self._clock.monotonic() < end and self._loop.is_alive:
            self._loop.join(0.01)

    def stop(self, timeout: float) -> None:
        """Writes what waits for at most ``timeout`` seconds, and closes the journals."""
        self._close_by = self._clock.monotonic() + timeout
        if not self._loop.stop(timeout + CLOSE_SECONDS):
            # The thread waits for the disk; it is a daemon and ends with the process.
            log.error(
                "journals in %s: the disk does not answer; %d requests and energies that wait for it are lost",
                self._runs_dir,
                len(self.queue),
            )

    def unwritten_events(self) -> int:
        """Events that wait for a disk that is full, or are lost; as of the last time that the disk answered."""
        return self._unwritten

    def _close_all(self) -> None:
        """Runs in the writing thread, since only that may wait for the disk."""
        for entry in self.queue.drain():
            if self._clock.monotonic() > self._close_by:
                break
            self._write(entry)
        for run_id in list(self._open):
            self._close(run_id)

    def begin(self, run: str, task: str, now: Seconds) -> RequestTicket | None:
        """The ticket of a request that begins at the unix time ``now``; None for a request that is in no journal."""
        if not run:
            return None
        with self._lock:
            name = (run, task or events.UNNAMED_TASK)
            found = self._tasks.get(name)
            if found is None:
                cause = self._why_not(run)
                if cause is not None:
                    self._leave_out(cause)
                    return None
                self._runs.add(run)
                found = self._tasks[name] = ProxiedTask(*name, now)
            found.calls += 1
            found.in_flight += 1
            return RequestTicket(found, found.calls, now)

    def end(self, ticket: RequestTicket) -> None:
        with self._lock:
            ticket.task.in_flight -= 1

    def record(
        self, ticket: RequestTicket, finished: FinishedRequest, result: str, reply: Reply | None, outcomes: list[ToolCallOutcome]
    ) -> None:
        """``result`` is one of ``metrics.PROXY_RESULTS``; ``reply`` is None where there was none to read."""
        first = None if reply is None else reply.arrivals.first
        calls = () if reply is None else reply.tool_calls
        arguments = [call.arguments or call.raw_arguments for call in calls[: len(outcomes)]]
        arguments += [None] * (len(outcomes) - len(arguments))
        self.queue.put(
            RecordedRequest(
                ticket,
                finished.request.model,
                duration=max(0.0, finished.ended - finished.began),
                ttft=None if first is None else max(0.0, first - finished.began),
                status={"ok": "success", "client_gone": "cancelled"}.get(result, "error"),
                error=_error_text(result, finished.status, reply),
                stats=ServerStats() if reply is None else ServerStats.of_reply(reply),
                tools=tuple(
                    RecordedTool(outcome.outcome, outcome.confidence, of_call)
                    for outcome, of_call in zip(outcomes, arguments, strict=True)
                ),
            )
        )

    def record_energy(self, request: RequestEnergy) -> None:
        self.queue.put(request)

    def _why_not(self, run: str) -> str | None:
        """Why a run or a further task of it cannot be recorded; None where it can."""
        if not ids.is_path_part(run):
            return "a run's name has to be 1 to 100 of A-Z a-z 0-9 . _ - and begin with a letter or digit"
        if len(self._tasks) >= MAX_TASKS or (run not in self._runs and len(self._runs) >= MAX_RUNS):
            return f"this proxy records at most {MAX_RUNS} runs and {MAX_TASKS} tasks; start it anew for more"
        return None

    def _leave_out(self, cause: str) -> None:
        self._metrics.count_unrecorded()
        if cause not in self._left_out:
            self._left_out.add(cause)
            log.warning("a request is not in the journal of its run: %s; further such requests are counted only", cause)

    def _count_dropped(self, entry: Entry) -> None:
        if isinstance(entry, RecordedRequest):
            self._leave_out("the disk is too slow, and too many requests wait for it")

    def _step(self) -> float:
        entry = self.queue.get(IDLE_WAIT)
        if entry is not None:
            self._write(entry)
        now = self._clock.monotonic()
        if entry is None or now - self._synced_at > SYNC_EVERY:
            self._look_after_tasks(now)
        if entry is None and self._is_closing.is_set():
            self._is_closing.clear()
        return 0.0

    def _look_after_tasks(self, now: Seconds) -> None:
        """Writes ends, asks for energies of idle tasks, and has the disk keep what was written."""
        is_due = now - self._synced_at > SYNC_EVERY
        for run in self._open.values():
            for name, task in list(run.tasks.items()):
                if self._finish(run, task):
                    del run.tasks[name]
            if is_due:
                run.journal.sync()
        if is_due:
            self._synced_at = now
        self._unwritten = self._lost_of_closed + sum(run.journal.lost for run in self._open.values())

    def _finish(self, run: _OpenRun, task: _OpenTask) -> bool:
        """Returns whether nothing is left to be written or asked for until the next request of the task."""
        end = task.task.end
        if task.task.in_flight or end is None:
            return False
        self._write_end(run.journal, task)
        if self._energy is None or task.asked_end == end:
            return True
        if self._clock.unix() - end < IDLE_SECONDS and not self._is_closing.is_set():
            return False
        task.asked_end = end
        start = min(task.task.start, run.earlier_starts.get(task.task.task_id, task.task.start))
        self._energy.ask(WindowQuestion(start, end, self._deliver(task.task, start, end)))
        return True

    def _deliver(self, task: ProxiedTask, start: Seconds, end: Seconds) -> Callable[[EnergyAnswer | None], None]:
        def deliver(answer: EnergyAnswer | None) -> None:
            if answer is not None:
                self.queue.put(TaskEnergy(task, start, end, answer))

        return deliver

    def _write(self, entry: Entry) -> None:
        task = _task_of(entry)
        if task is None:
            return
        run = self._opened(task.run_id)
        if run is None:
            if isinstance(entry, RecordedRequest):
                self._leave_out("its journal cannot be written")
            return
        match entry:
            case RecordedRequest():
                self._write_request(run, entry)
            case RequestEnergy():
                _write_call_energy(run.journal, entry, self._clock.unix())
            case TaskEnergy():
                fields = entry.answer.event_fields(entry.start, entry.end)
                run.journal.write(events.TASK_ENERGY, self._clock.unix(), task.task_id, **fields)

    def _opened(self, run_id: str) -> _OpenRun | None:
        run = self._open.pop(run_id, None)
        if run is None:
            if self._clock.monotonic() < self._retry_at.get(run_id, 0.0):
                return None
            while len(self._open) >= MAX_OPEN:
                self._close(next(iter(self._open)))
            try:
                path = self._runs_dir / run_id / f"journal-{self._worker}.jsonl"
                if run_id not in self._earlier_starts:
                    self._earlier_starts[run_id] = _read_earlier_starts(path.parent)
                run = _OpenRun(Journal(path, run_id, self._worker), self._earlier_starts[run_id])
            except (UserError, OSError) as error:
                if run_id not in self._retry_at:
                    log.error("run %s has no journal: %s; its requests are measured by the metrics only", run_id, error)
                self._retry_at[run_id] = self._clock.monotonic() + RETRY_AFTER
                return None
            if run_id not in self._began:
                self._began.add(run_id)
                devices = {} if self._devices is None else {"devices": dict(self._devices)}
                run.journal.write(
                    events.RUN_START, self._clock.unix(), None, version=__version__, recorded_by=events.PROXY, **devices
                )
        self._open[run_id] = run
        return run

    def _close(self, run_id: str) -> None:
        run = self._open.pop(run_id)
        for task in run.tasks.values():
            self._write_end(run.journal, task)
        now, problem = self._clock.unix(), run.journal.problem
        run.journal.write(events.RUN_END, now)
        reasons = [] if problem is None else [f"journal: {problem}"]
        run.journal.write(events.PUSH_STATE, now, None, events_lost=run.journal.lost, reasons=reasons)
        run.journal.close()
        self._lost_of_closed += run.journal.lost

    def _write_request(self, run: _OpenRun, entry: RecordedRequest) -> None:
        ticket, journal = entry.ticket, run.journal
        task, model = ticket.task, entry.model or None
        end = Seconds(ticket.start + entry.duration)
        open_task = run.tasks.get(task.task_id)
        if open_task is None:
            open_task = run.tasks[task.task_id] = _OpenTask(task)
            if task.end is None:
                journal.write(events.TASK_START, task.start, task.task_id, task_name=task.task_id, model_name=model, suite="")
        if task.end is None or end > task.end:
            task.end = end
        journal.write(events.LLM_QUERY_START, ticket.start, task.task_id, call=ticket.call, model_name=model)
        ttft = None if entry.ttft is None else Seconds(entry.ttft)
        if ttft is not None:
            journal.write(events.LLM_FIRST_TOKEN_RECEIVED, Seconds(ticket.start + ttft), task.task_id, call=ticket.call)
        fields = query_end_fields(entry.status, entry.error, entry.duration, ttft, entry.stats)
        journal.write(events.LLM_QUERY_END, end, task.task_id, call=ticket.call, **fields)
        for tool in entry.tools:
            task.tools += 1
            name = tool.confidence.name
            start_fields = tool_start_fields(task.tools, ticket.call, name, tool.arguments, tool.confidence)
            journal.write(events.TOOL_CALL_START, end, task.task_id, **start_fields)
            ended = {"outcome": tool.outcome, "success": tool.outcome == "ok"}
            journal.write(events.TOOL_CALL_END, end, task.task_id, tool_call=task.tools, tool_name=name, **ended)
        if not task.in_flight or self._clock.monotonic() - open_task.written_at > END_EVERY:
            self._write_end(journal, open_task)

    def _write_end(self, journal: Journal, task: _OpenTask) -> None:
        """Writes TASK_END where the task has a later end than the one that was written."""
        end = task.task.end
        if end is None or end == task.written_end:
            return
        task.written_end, task.written_at = end, self._clock.monotonic()
        journal.write(
            events.TASK_END,
            end,
            task.task.task_id,
            status="unknown",
            success=None,
            reason="",
            duration_seconds=end - task.task.start,
        )


def _task_of(entry: Entry) -> ProxiedTask | None:
    if isinstance(entry, RequestEnergy):
        return None if entry.ticket is None else entry.ticket.task
    return entry.ticket.task if isinstance(entry, RecordedRequest) else entry.task


def _read_earlier_starts(directory: Path) -> dict[str, Seconds]:
    """Start of each task that a proxy recorded in ``directory``; of large journals, those near their beginnings."""
    starts: dict[str, Seconds] = {}
    left = MAX_EARLIER_BYTES
    for path in sorted(directory.glob(PROXY_JOURNALS)):
        if not path.is_file():
            continue
        with path.open("rb") as lines:
            for line in lines:
                left -= len(line)
                if left < 0:
                    return starts
                if _TASK_START not in line:
                    continue
                event = parse_object(line)
                task_id, start = (None, None) if event is None else (event.get("task_id"), as_unix_time(event.get("timestamp")))
                if isinstance(task_id, str) and start is not None:
                    starts[task_id] = Seconds(min(start, starts.get(task_id, start)))
    return starts


def _error_text(result: str, status: int | None, reply: Reply | None) -> str | None:
    if result == "ok":
        return None
    text = _ERRORS.get(result, result)
    if status is not None and status >= 400:
        text = f"HTTP {status}"
    error = None if reply is None else reply.error
    return f"{text}: {error}" if error else text


def _write_call_energy(journal: Journal, request: RequestEnergy, now: Seconds) -> None:
    ticket, answer = request.ticket, request.answer
    if ticket is None or request.end is None or answer is None:
        return
    fields = answer.event_fields(request.start, request.end)
    if not request.has_window_answer:
        fields["gpus"] = []
        fields["total"] = {"joules": None, "low": request.alone, "high": request.most, "quality": "missing", "reasons": []}
    low = request.alone if request.was_shared or not request.has_window_answer else answer.raw_total.get("low")
    high = answer.raw_total.get("high") if request.has_window_answer else request.most
    fields["share"] = {"joules": request.share, "low": low, "high": high, "exclusive": not request.was_shared}
    journal.write(events.CALL_ENERGY, now, ticket.task.task_id, call=ticket.call, **fields)
