"""Energy of requests: the exporter's window energy, allocated so that it adds up.

Time is cut wherever a request begins or ends. The energy of each interval is asked for once and divided evenly among the requests
that ran in it, so the shares of all requests and tasks add up to what the GPUs used while any request ran. An exporter that does
not answer leaves that time without energy, which a counter shows; it never delays a request. A model that another host runs
(Ollama cloud) uses no energy here and gets none.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from joulebench.clients.exporter import EnergyAnswer
from joulebench.clock import Clock
from joulebench.errors import EnergyApiError
from joulebench.parsing import as_float
from joulebench.proxy.metrics import GpuShare, ProxyMetrics, TaskKey
from joulebench.proxy.request import RequestTicket
from joulebench.push.energy import COUNTER_WAIT
from joulebench.supervise import BackgroundLoop
from joulebench.units import Seconds

log = logging.getLogger(__name__)

ASK_AFTER = 0.15
"""Seconds after an interval; the energy counter of a GPU changes about ten times a second."""
PAUSE_AFTER_FAILURE = 2.0
MAX_WAITING = 5000
CUT_EVERY = 5.0
"""Seconds after which an interval ends anyway, so that the counters of a long request grow while it runs."""
MAX_MODELS = 1000
MAX_UNDECIDED = 20_000
DRAIN_SECONDS = 1.5
"""Time that the last intervals have when the proxy is stopped."""


class EnergyApi(Protocol):
    def energy(self, start: Seconds, end: Seconds, wait: float = 0.0) -> EnergyAnswer: ...


class IntervalEnergy(NamedTuple):
    """Joules of all GPUs in one interval; bounds are None where the counter guarantees none."""

    joules: float
    low: float | None
    high: float | None

    @classmethod
    def of_answer(cls, answer: EnergyAnswer) -> IntervalEnergy | None:
        """Returns None where the energy of one of the GPUs is not known."""
        if not answer.gpus or answer.missing_hosts or any(gpu.joules is None for gpu in answer.gpus):
            return None
        joules = sum(gpu.joules or 0.0 for gpu in answer.gpus)
        return cls(joules, as_float(answer.raw_total.get("low")), as_float(answer.raw_total.get("high")))


@dataclass(slots=True, eq=False)
class RequestEnergy:
    """Energy of one request over all GPUs, as its intervals are answered. ``ticket``: of the request in a journal, else None.

    ``share``: an even part of each interval; ``alone``: of the intervals without another request, at least; ``most``: all of
    them, at most. Joules, None as soon as those of an interval are not known. ``answer``: of the exporter for the last interval,
    or for all of the request's window where it was asked for that.
    """

    key: TaskKey
    start: Seconds
    ticket: RequestTicket | None = None
    end: Seconds | None = None
    share: float | None = 0.0
    alone: float | None = 0.0
    most: float | None = 0.0
    was_shared: bool = False
    waiting: int = 0
    """Intervals that were not answered yet."""
    intervals: int = 0
    answer: EnergyAnswer | None = None

    @property
    def has_window_answer(self) -> bool:
        return self.intervals == 1 and self.answer is not None

    def add(self, energy: IntervalEnergy | None, requests: int) -> None:
        """Adds one interval, in which ``requests`` ran; ``energy`` is None where it is not known."""
        self.was_shared |= requests > 1
        if energy is None:
            self.share = self.alone = self.most = None
            return
        self.share = _sum(self.share, energy.joules / requests)
        self.most = _sum(self.most, energy.high)
        if requests == 1:
            self.alone = _sum(self.alone, energy.low)


@dataclass(frozen=True, slots=True)
class RequestInterval:
    """Unix times, and the requests that ran from start to end."""

    start: Seconds
    end: Seconds
    running: tuple[RequestEnergy, ...]


@dataclass(frozen=True, slots=True)
class WindowQuestion:
    """A window beside the intervals. ``deliver`` gets the exporter's answer, or None where there is none."""

    start: Seconds
    end: Seconds
    deliver: Callable[[EnergyAnswer | None], None]


@dataclass(slots=True)
class _Questions:
    """What the exporter is still to be asked, the oldest first."""

    intervals: deque[RequestInterval] = field(default_factory=deque)
    windows: deque[WindowQuestion] = field(default_factory=deque)


class EnergyAllocator:
    """``begin``, ``end`` and ``cut`` are for the thread of the requests, the others for any.

    ``on_request`` gets each request with a ticket, once its energy is known or given up.
    """

    def __init__(
        self, api: EnergyApi, metrics: ProxyMetrics, clock: Clock, on_request: Callable[[RequestEnergy], None] | None = None
    ) -> None:
        self._api = api
        self._metrics = metrics
        self._clock = clock
        self._on_request = on_request
        self._running: dict[RequestEnergy, None] = {}
        self._since = clock.unix()
        self._lock = threading.Lock()
        self._questions = _Questions()
        self._remote: dict[str, bool] = {}
        """Whether another host runs a model, by its name; models of which no reply has said are not in it."""
        self._undecided: deque[tuple[TaskKey, GpuShare]] = deque()
        """Energy of models of which it is not known where they run."""
        self._was_reachable = True
        self._paused_until = 0.0
        self._stop_by: float | None = None
        self._loop = BackgroundLoop("proxy-energy", self._step)

    def start(self) -> None:
        self._loop.start()

    def stop(self, drain: float = 0.0) -> None:
        """Waits at most ``drain`` seconds for answers, and gives up what the exporter has not answered by then."""
        if drain > 0:
            self._stop_by = self._clock.monotonic() + drain
            self._loop.wake()
            self._loop.join(drain)
        self._loop.stop(timeout=0.5)
        with self._lock:
            undecided = list(self._undecided)
            self._undecided.clear()
        self._metrics.add_energy(undecided)
        self._give_up_waiting()

    def begin(self, key: TaskKey, *, may_be_remote: bool, ticket: RequestTicket | None = None) -> RequestEnergy:
        """``may_be_remote``: False for an API through which no model of another host is served."""
        if not may_be_remote:
            self.set_remote(key.model, False)
        self.cut()
        request = RequestEnergy(key, self._since, ticket)
        if not self._remote.get(key.model, False):
            self._running[request] = None
        return request

    def end(self, request: RequestEnergy) -> None:
        self.cut()
        # A model that turned out to be remote meanwhile was counted when it began; one known before was not.
        self._running.pop(request, None)
        with self._lock:
            request.end = self._since
            is_settled = not request.waiting
        if is_settled:
            self._settle(request)

    def cut(self) -> None:
        """Ends the interval now and begins the next."""
        now = self._clock.unix()
        start, self._since = self._since, now
        # A wall clock that was set back leaves an interval that never was.
        if not self._running or now <= start:
            return
        dropped = None
        running = tuple(self._running)
        with self._lock:
            if len(self._questions.intervals) >= MAX_WAITING:
                dropped = self._questions.intervals.popleft()
            for request in running:
                request.waiting += 1
                request.intervals += 1
            self._questions.intervals.append(RequestInterval(start, now, running))
        if dropped is not None:
            self._count_unknown(dropped)
        self._loop.wake()

    def ask(self, question: WindowQuestion) -> None:
        """Asks for a window beside those of the requests; after them, and never twice."""
        dropped = None
        with self._lock:
            if len(self._questions.windows) >= MAX_WAITING:
                dropped = self._questions.windows.popleft()
            self._questions.windows.append(question)
        if dropped is not None:
            dropped.deliver(None)
        self._loop.wake()

    def set_remote(self, model: str, remote: bool) -> None:
        """Says where a model runs, and settles the energy that waited for that."""
        if self._remote.get(model) is remote:
            return
        with self._lock:
            self._remote[model] = remote
            if len(self._remote) > MAX_MODELS:
                del self._remote[next(iter(self._remote))]
            decided = [(key, share) for key, share in self._undecided if key.model == model]
            self._undecided = deque((key, share) for key, share in self._undecided if key.model != model)
        if not remote:
            self._metrics.add_energy(decided)

    def _step(self) -> float | None:
        """Asks for the energy of the next window that is due. Returns the seconds until one may be."""
        now = self._clock.monotonic()
        if self._stop_by is not None and (now >= self._stop_by or not self._is_asking()):
            return None
        if (pause := self._paused_until - now) > 0:
            return pause
        with self._lock:
            question = self._next_question()
        if isinstance(question, float):
            return question
        try:
            answer = self._api.energy(question.start, question.end, COUNTER_WAIT)
        except EnergyApiError as error:
            self._give_up(question, error)
            return PAUSE_AFTER_FAILURE
        except Exception as error:
            # Whatever it was, the window is not answered, and its requests are let go.
            self._give_up(question, error)
            raise
        self._was_reachable = True
        if isinstance(question, RequestInterval):
            self._allocate(question, answer)
        else:
            question.deliver(answer)
        return 0.0

    def _is_asking(self) -> bool:
        with self._lock:
            return bool(self._questions.intervals or self._questions.windows)

    def _next_question(self) -> RequestInterval | WindowQuestion | float:
        """Takes out what is due, intervals first; returns the seconds until something is where nothing is."""
        # At most as long as it can be: a wall clock that is set back must not make it hours.
        waits = [CUT_EVERY]
        for queue in (self._questions.intervals, self._questions.windows):
            if queue:
                left = queue[0].end + ASK_AFTER - self._clock.unix()
                if left <= 0:
                    return queue.popleft()
                waits.append(min(left, ASK_AFTER))
        return min(waits)

    def _give_up(self, question: RequestInterval | WindowQuestion, error: Exception) -> None:
        if self._was_reachable:
            log.warning("no energy from the exporter: %s", error)
        self._was_reachable = False
        self._paused_until = self._clock.monotonic() + PAUSE_AFTER_FAILURE
        if isinstance(question, RequestInterval):
            self._count_unknown(question)
        else:
            question.deliver(None)
        # They would only wait for the same failure.
        self._give_up_waiting()

    def _give_up_waiting(self) -> None:
        with self._lock:
            waiting, self._questions = self._questions, _Questions()
        for interval in waiting.intervals:
            self._count_unknown(interval)
        for question in waiting.windows:
            question.deliver(None)

    def _allocate(self, interval: RequestInterval, answer: EnergyAnswer) -> None:
        gpus = [(gpu, gpu.joules) for gpu in answer.gpus if gpu.joules is not None]
        if not gpus:
            self._count_unknown(interval)
            return
        requests = len(interval.running)
        by_key = Counter(request.key for request in interval.running)
        shares = [
            (key, GpuShare(gpu.gpu, gpu.uuid, joules * count / requests, joules))
            for gpu, joules in gpus
            for key, count in by_key.items()
        ]
        with self._lock:
            undecided = [(key, share) for key, share in shares if key.model not in self._remote]
            self._undecided += undecided
            overdue = [self._undecided.popleft() for _ in range(len(self._undecided) - MAX_UNDECIDED)]
            local = [(key, share) for key, share in shares if self._remote.get(key.model) is False]
        self._metrics.add_energy(local + overdue)
        self._answer_requests(interval, answer)

    def _count_unknown(self, interval: RequestInterval) -> None:
        self._metrics.count_energy_unknown(interval.end - interval.start)
        self._answer_requests(interval, None)

    def _answer_requests(self, interval: RequestInterval, answer: EnergyAnswer | None) -> None:
        energy = None if answer is None else IntervalEnergy.of_answer(answer)
        settled = []
        with self._lock:
            for request in interval.running:
                request.add(energy, len(interval.running))
                request.answer = answer
                request.waiting -= 1
                if request.end is not None and not request.waiting:
                    settled.append(request)
        for request in settled:
            self._settle(request)

    def _settle(self, request: RequestEnergy) -> None:
        if self._on_request is None or request.ticket is None or not request.intervals or self._remote.get(request.key.model):
            return
        if request.intervals == 1 or request.share is None or request.end is None:
            self._on_request(request)
            return
        # The bounds of a window that is asked for as a whole are closer than those of its parts together.
        on_request = self._on_request

        def deliver(answer: EnergyAnswer | None) -> None:
            if answer is not None:
                request.answer, request.intervals = answer, 1
            on_request(request)

        self.ask(WindowQuestion(request.start, request.end, deliver))


def _sum(total: float | None, more: float | None) -> float | None:
    return None if total is None or more is None else total + more
