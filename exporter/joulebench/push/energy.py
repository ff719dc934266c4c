"""Window energies from the exporter: of each task and each LLM call in the background, and idle power on request.

A moment after the end of a task (the card's counter changes about ten times a second), the exporter is asked in one request for
the task, its calls and what it shared with others; for calls of a task that goes on, after some seconds. The answer goes to the
journal, and a task's into its totals, with the seconds that its GPUs were throttled for. A task's group is let go with or without
an energy, after a bounded wait; an exporter that does not answer is asked again later and never delays anyone.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from joulebench.clients.exporter import CUT_DIGITS, EnergyAnswer, EnergyWindow
from joulebench.clock import Clock, SystemClock
from joulebench.errors import EnergyApiError, EnergyRefused
from joulebench.parsing import sum_or_none
from joulebench.push.charging import Charging, Interval
from joulebench.push.journal import Journal
from joulebench.push.recorder import MAX_RECENT_EDGES, Pushes, TaskRecorder
from joulebench.push.sharing import CallInterval, CallShare, CallSharing
from joulebench.schema import events
from joulebench.supervise import BackgroundLoop, LoopErrors
from joulebench.units import Seconds, Watts

log = logging.getLogger(__name__)

ASK_AFTER = 0.15
COUNTER_WAIT = 1.0
"""Seconds that the exporter may wait until its counters have passed the end of a window, and those that are late, too."""
RETRY_AFTER = 2.0
MAX_TRIES = 3
MAX_CUTS = 500
"""Changes of phase at which a task's window is cut, the most that an exporter takes. The phases of a task with more come from the
energy of its calls, and within these from stored samples. What cuts leave of it is for changes of other tasks."""
NEAR_SECONDS = 0.5
"""Changes of other tasks that are further from each cut say nothing of the energy at it."""
LEAST_PART = 1e-4
"""Seconds; changes of phase that are closer together are one cut."""
MAX_WAITING = 20_000
"""Windows that wait for an answer; beyond it windows of calls are given up."""
MAX_TOGETHER = 200
"""Windows of one request."""
COMPANY_SECONDS = 5.0
"""For which the windows of calls, and those that tasks share, wait for the end of a task, to be asked for in its request."""

SETTLE_SECONDS = 1.0
"""Left out after work: a card stays in a high performance state for a while."""
CLOCK_STEP_SECONDS = 0.05


class EnergyApi(Protocol):
    def energy(
        self, start: Seconds, end: Seconds, wait: float = 0.0, cuts: Sequence[float] = (), changes: Sequence[float] = ()
    ) -> EnergyAnswer: ...

    def fetch(self, windows: Sequence[EnergyWindow], wait: float = 0.0) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class EnergyRequest:
    """``call`` is None for the window of the task. ``shared``: an interval of it, for what its tasks are charged.

    ``cuts``: rising seconds after the start at which the phase of the task or call changes. ``changes``: those at which
    something else began or ended in this worker, as far as it is near a cut.
    """

    task: TaskRecorder
    call: int | None
    start: Seconds
    end: Seconds
    tries: int = 0
    shared: Interval | CallInterval | None = None
    cuts: tuple[float, ...] = ()
    changes: tuple[float, ...] = ()

    @property
    def is_task(self) -> bool:
        return self.call is None and self.shared is None


class ExporterEnergyRequests:
    """The background thread that asks the exporter, for many windows at once."""

    def __init__(self, api: EnergyApi, journal: Journal, pushes: Pushes, errors: LoopErrors | None = None) -> None:
        self._api = api
        self._journal = journal
        self._pushes = pushes
        self._charging = Charging(pushes)
        self._sharing = CallSharing()
        self._pace = SystemClock()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._tasks: list[tuple[float, int, EnergyRequest]] = []
        self._others: list[tuple[float, int, EnergyRequest]] = []
        self._fetched: deque[EnergyRequest] = deque()
        """Of the background thread: windows whose answers were fetched together."""
        self._stop_by: float | None = None
        self._down_until = 0.0
        self._unanswered = 0
        self._dropped = 0
        self._error: str | None = None
        self._loop = BackgroundLoop("energy", self._step, errors=errors, at_end=api.close)

    @property
    def unanswered(self) -> int:
        """Windows that were given up."""
        with self._lock:
            return self._unanswered

    @property
    def error(self) -> str | None:
        """Why the last window was not answered; None while all were."""
        with self._lock:
            return self._error

    @property
    def dropped(self) -> int:
        """Windows of calls that were given up because too many waited; they count as unanswered, too."""
        with self._lock:
            return self._dropped

    def start(self) -> None:
        self._loop.start()

    def task_started(self, task: TaskRecorder, start: Seconds) -> None:
        self._ask_for_interval(task, self._charging.task_started(task, start))

    def task_ended(self, task: TaskRecorder, start: Seconds, end: Seconds) -> None:
        self._ask_for_interval(task, self._charging.task_ended(task, end))
        self._put(EnergyRequest(task, None, start, end, cuts=_cuts(task.phase_edges, start, end)), ASK_AFTER)

    def call_started(self, task: TaskRecorder, call: int, start: Seconds) -> None:
        self._ask_for_interval(task, self._sharing.call_started(task, call, start))

    def call_ended(
        self, task: TaskRecorder, call: int, start: Seconds, end: Seconds, phase_edges: Sequence[Seconds] = ()
    ) -> None:
        self._ask_for_interval(task, self._sharing.call_ended(task, call, end))
        self._put(EnergyRequest(task, call, start, end, cuts=_cuts(phase_edges, start, end)), ASK_AFTER)

    def close(self, drain: float) -> None:
        """Waits at most ``drain`` seconds for the answers that are still due; what is left then is unanswered."""
        with self._lock:
            self._stop_by = self._pace.monotonic() + drain
        self._loop.wake()
        if not self._loop.join(drain + 3.0):
            self._loop.stop(0.0)
        with self._lock:
            left = [*self._fetched.copy(), *(request for _, _, request in (*self._tasks, *self._others))]
            self._tasks, self._others = [], []
        for request in left:
            self._give_up(request)

    def _ask_for_interval(self, task: TaskRecorder, shared: Interval | CallInterval | None) -> None:
        if shared is not None:
            self._put(EnergyRequest(task, None, shared.start, shared.end, shared=shared), ASK_AFTER)

    def _put(self, request: EnergyRequest, delay: float) -> None:
        """``delay``: seconds until the exporter can be asked."""
        ready = self._pace.monotonic() + delay
        dropped: EnergyRequest | None = None
        with self._lock:
            queue = self._tasks if request.is_task else self._others
            # An earlier wake than the one that is planned is needed only for the first entry.
            is_first = not queue or ready < queue[0][0]
            heapq.heappush(queue, (ready, next(self._numbers), request))
            if len(self._others) > MAX_WAITING:
                dropped = heapq.heappop(self._others)[2]
                self._dropped += 1
                if self._dropped == 1:
                    log.warning("%d calls wait for their energy; those that waited longest get none", MAX_WAITING)
        if is_first:
            self._loop.wake()
        if dropped is not None:
            self._count_unanswered(dropped)

    def _step(self) -> float | None:
        """Asks for a window that is due, or for many. Returns the seconds until the next are due, None at the end."""
        if self._fetched:
            request = self._fetched.popleft()
            try:
                self._ask(request)
            except Exception:
                # Whatever it was, the window is not answered, and its task is let go.
                self._give_up(request)
                raise
            return 0.0
        with self._lock:
            now = self._pace.monotonic()
            stop_by = self._stop_by
            company = COMPANY_SECONDS if stop_by is None else ASK_AFTER
            dues = [queue[0][0] + wait for queue, wait in ((self._tasks, 0.0), (self._others, company)) if queue]
            requests = self._pop_ready(now) if dues and min(dues) <= now else []
        if requests:
            self._fetch(requests)
            return 0.0
        if stop_by is not None:
            if now >= stop_by or not dues:
                return None
            dues.append(stop_by)
        return max(0.0, min(dues) - now) if dues else 60.0

    def _pop_ready(self, now: float) -> list[EnergyRequest]:
        """Takes out what the exporter can be asked for now, tasks first."""
        requests: list[EnergyRequest] = []
        for queue in (self._tasks, self._others):
            while queue and queue[0][0] <= now and len(requests) < MAX_TOGETHER:
                requests.append(heapq.heappop(queue)[2])
        return requests

    def _fetch(self, requests: Sequence[EnergyRequest]) -> None:
        """Fetches the answers of windows that come for the first time in one request; each is then taken one after the other."""
        requests = [request if request.shared or request.tries else _with_changes(request) for request in requests]
        self._fetched.extend(requests)
        first = [EnergyWindow(one.start, one.end, one.cuts, one.changes) for one in requests if not one.tries]
        if len(first) < 2 or self._pace.monotonic() < self._down_until:
            return
        try:
            self._api.fetch(first, COUNTER_WAIT)
        except EnergyApiError as error:
            # What takes no request for many windows may answer for each.
            log.debug("no answer for %d windows at once: %s", len(first), error)

    def _ask(self, request: EnergyRequest) -> None:
        if self._pace.monotonic() < self._down_until:
            # Down a moment ago: a task's group shall not wait for the same timeout again.
            self._fail(request, self.error or "")
            return
        try:
            answer = self._api.energy(request.start, request.end, COUNTER_WAIT, request.cuts, request.changes)
        except EnergyRefused as error:
            # An exporter to which the end of this window lies ahead goes by another clock. Later it would give the energy of
            # the time at which its own clock shows the same.
            self._fail(request, str(error), again=False)
            return
        except EnergyApiError as error:
            self._down_until = self._pace.monotonic() + RETRY_AFTER / 2
            self._fail(request, str(error))
            return
        self._down_until = 0.0
        self._record(request, answer)

    def _record(self, request: EnergyRequest, answer: EnergyAnswer) -> None:
        if isinstance(request.shared, CallInterval):
            for settled in self._sharing.interval_answered(request.shared, answer):
                self._write_call(settled.task, settled.call, settled.window or {}, settled.joules, settled)
            return
        if request.shared is not None:
            self._charging.interval_answered(request.shared, answer.gpus)
            return
        task = request.task
        fields = answer.event_fields(request.start, request.end)
        if request.cuts:
            fields["cuts"] = request.cuts
        if request.call is not None:
            share = self._sharing.window_answered(task, request.call, fields)
            if share is None or self._sharing.pop(share):
                joules = sum_or_none(gpu.joules for gpu in answer.gpus) if share is None else share.joules
                self._write_call(task, request.call, fields, joules, share)
            return
        task.write(events.TASK_ENERGY, task.clock.unix(), **fields)
        with task.state as totals:
            totals.energy = answer.gpus
        self._pushes.finished(task.group)
        self._charging.window_answered(task, answer.gpus)

    def _write_call(
        self, task: TaskRecorder, call: int, fields: Mapping[str, object], joules: float | None, share: CallShare | None
    ) -> None:
        """Writes CALL_ENERGY, and adds its ``joules`` to the task; ``share``: where other calls ran meanwhile."""
        shared: dict[str, object] = {} if share is None else {"share": share.fields}
        task.write(events.CALL_ENERGY, task.clock.unix(), call=call, **fields, **shared)
        if joules is not None:
            with task.state as totals:
                totals.call_energy = totals.call_energy.plus(joules)
            self._pushes.changed(task.group)

    def _fail(self, request: EnergyRequest, error: str, *, again: bool = True) -> None:
        with self._lock:
            is_new, self._error = self._error is None, error
            is_closing = self._stop_by is not None
        if is_new:
            log.warning("no window energies from the exporter, the export will take them from Prometheus: %s", error)
            self._journal.write(events.ENERGY_UNAVAILABLE, request.task.clock.unix(), reason=error)
        tries = request.tries + 1
        if request.is_task and tries == 1:
            self._pushes.finished(request.task.group)
        if again and tries < MAX_TRIES and not is_closing:
            self._put(replace(request, tries=tries), RETRY_AFTER)
        else:
            self._count_unanswered(request)

    def _give_up(self, request: EnergyRequest) -> None:
        if request.is_task and not request.tries:
            self._pushes.finished(request.task.group)
        self._count_unanswered(request)

    def _count_unanswered(self, request: EnergyRequest) -> None:
        with self._lock:
            self._unanswered += 1
        if isinstance(request.shared, CallInterval):
            for settled in self._sharing.interval_answered(request.shared, None):
                self._write_call(settled.task, settled.call, settled.window or {}, settled.joules, settled)
        elif request.shared is not None:
            self._charging.interval_answered(request.shared, None)
        elif request.call is not None:
            self._sharing.window_lost(request.task, request.call)
        elif request.is_task:
            self._charging.window_answered(request.task, None)


def _cuts(edges: Sequence[Seconds], start: Seconds, end: Seconds, most: int = MAX_CUTS) -> tuple[float, ...]:
    """Rising seconds after the start of a window at which to cut it; none where there are too many."""
    cuts: list[float] = []
    for edge in sorted(edges):
        cut = round(edge - start, CUT_DIGITS)
        if cut - (cuts[-1] if cuts else 0.0) >= LEAST_PART and cut <= end - start - LEAST_PART:
            cuts.append(cut)
    return tuple(cuts) if len(cuts) <= most else ()


def _with_changes(request: EnergyRequest) -> EnergyRequest:
    """The request with what else began and ended in its window, those nearest to its cuts if there are too many."""
    start, end, cuts = request.start, request.end, request.cuts
    if not cuts:
        return request
    edges = [0.0, *cuts, end - start]
    distances = {}
    for at in _cuts(
        [at for at in request.task.run_recorder.recent_edges.copy() if start < at < end], start, end, MAX_RECENT_EDGES
    ):
        place = bisect_left(edges, at)
        distance = min(edges[place] - at, at - edges[place - 1])
        if LEAST_PART <= distance <= NEAR_SECONDS:
            distances[at] = distance
    nearest = heapq.nsmallest(MAX_CUTS - len(cuts), distances, key=distances.__getitem__)
    return replace(request, changes=tuple(sorted(nearest)))


class NullEnergyRequests:
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

    def call_started(self, task: TaskRecorder, call: int, start: Seconds) -> None: ...

    def call_ended(
        self, task: TaskRecorder, call: int, start: Seconds, end: Seconds, phase_edges: Sequence[Seconds] = ()
    ) -> None: ...

    def _leave_unanswered(self, interval: Interval | None) -> None:
        if interval is not None:
            self._charging.interval_answered(interval, None)


@dataclass(frozen=True, slots=True)
class GpuIdlePower:
    """Mean watts over the quiet interval, with the bounds that the counter guarantees; None where not known."""

    gpu: str
    uuid: str
    watts: Watts | None
    low: Watts | None
    high: Watts | None
    quality: str


class IdleMeter:
    """Idle power of each GPU with the model loaded, measured while nothing is asked of the model.

    A loaded model and its CUDA context cost far more than a bare card, so idle power is measured before and after the tasks of a
    run and not looked up. It is the exporter's window energy over a quiet interval. ``connect`` is None where there is no
    exporter. ``reason``: why idle power could not be measured, None while it could.
    """

    def __init__(self, connect: Callable[[], EnergyApi] | None, clock: Clock, journal: Journal) -> None:
        self._connect = connect
        self._clock = clock
        self._journal = journal
        self.reason: str | None = None

    def is_ready(self) -> bool:
        """Whether an exporter answers now."""
        now = self._clock.unix()
        return self._ask(Seconds(now - 1.0), now, 0.0) is not None

    def measure(self, seconds: float, label: str) -> tuple[GpuIdlePower, ...]:
        """Waits, measures ``seconds`` and writes IDLE_POWER; returns at once and empty where no exporter answers."""
        if not self.is_ready():
            return ()
        pause = threading.Event()
        pause.wait(SETTLE_SECONDS)
        start, began = self._clock.unix(), self._clock.monotonic()
        pause.wait(seconds)
        end, length = self._clock.unix(), self._clock.monotonic() - began
        if length <= 0 or abs(end - start - length) > CLOCK_STEP_SECONDS:
            self._fail("the wall clock stepped while idle power was measured")
            return ()
        answer = self._ask(start, end, COUNTER_WAIT)
        if answer is None:
            return ()
        gpus = tuple(
            GpuIdlePower(g.gpu, g.uuid, _watts(g.joules, length), _watts(g.low, length), _watts(g.high, length), g.quality)
            for g in answer.gpus
        )
        self._journal.write(
            events.IDLE_POWER,
            end,
            None,
            label=label,
            start=start,
            end=end,
            source=answer.source,
            gpus=[asdict(gpu) for gpu in gpus],
        )
        return gpus

    def _ask(self, start: Seconds, end: Seconds, wait: float) -> EnergyAnswer | None:
        if self._connect is None:
            self._fail("no exporter_url")
            return None
        api = self._connect()
        try:
            return api.energy(start, end, wait)
        except EnergyApiError as error:
            self._fail(str(error))
            return None
        finally:
            api.close()

    def _fail(self, reason: str) -> None:
        if self.reason is None:
            log.warning("idle power is not measured: %s", reason)
        self.reason = reason


def _watts(joules: float | None, seconds: float) -> Watts | None:
    return None if joules is None else Watts(joules / seconds)
