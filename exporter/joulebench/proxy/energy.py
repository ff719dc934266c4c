"""Energy of requests: the exporter's window energy, allocated so that it adds up.

Time is cut wherever a request begins or ends. The energy of each interval is asked for once and divided evenly among the requests
that ran in it, so the shares of all tasks add up to what the GPUs used while any request ran. An exporter that does not answer
leaves that time without energy, which a counter shows; it never delays a request. A model that another host runs (Ollama cloud)
uses no energy here and gets none.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import Protocol

from joulebench.clients.exporter import EnergyAnswer
from joulebench.clock import Clock
from joulebench.errors import EnergyApiError
from joulebench.proxy.metrics import GpuShare, ProxyMetrics, TaskKey
from joulebench.supervise import BackgroundLoop
from joulebench.units import Seconds

log = logging.getLogger(__name__)

ASK_AFTER = 0.15
"""Seconds after an interval; the energy counter of a GPU changes about ten times a second."""
COUNTER_WAIT = 0.5
PAUSE_AFTER_FAILURE = 2.0
MAX_WAITING = 5000
CUT_EVERY = 5.0
"""Seconds after which an interval ends anyway, so that the counters of a long request grow while it runs."""
MAX_MODELS = 1000
MAX_UNDECIDED = 20_000


class EnergyApi(Protocol):
    def energy(self, start: Seconds, end: Seconds, wait: float = 0.0) -> EnergyAnswer: ...


@dataclass(frozen=True, slots=True)
class RequestInterval:
    """Unix times, and the requests that ran from start to end, by task."""

    start: Seconds
    end: Seconds
    running: Counter[TaskKey]


class EnergyAllocator:
    """``begin``, ``end`` and ``cut`` are for the thread of the requests, ``set_remote`` for any."""

    def __init__(self, api: EnergyApi, metrics: ProxyMetrics, clock: Clock) -> None:
        self._api = api
        self._metrics = metrics
        self._clock = clock
        self._running: Counter[TaskKey] = Counter()
        self._since = clock.unix()
        self._lock = threading.Lock()
        self._waiting: deque[RequestInterval] = deque()
        self._remote: dict[str, bool] = {}
        """Whether another host runs a model, by its name; models of which no reply has said are not in it."""
        self._undecided: deque[tuple[TaskKey, GpuShare]] = deque()
        """Energy of models of which it is not known where they run."""
        self._was_reachable = True
        self._paused_until = 0.0
        self._loop = BackgroundLoop("proxy-energy", self._step)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        """Gives up what the exporter has not answered by now."""
        self._loop.stop(timeout=0.5)
        with self._lock:
            undecided = list(self._undecided)
            self._undecided.clear()
        self._metrics.add_energy(undecided)

    def begin(self, key: TaskKey, *, may_be_remote: bool) -> None:
        """``may_be_remote``: False for an API through which no model of another host is served."""
        if not may_be_remote:
            self.set_remote(key.model, False)
        self.cut()
        if not self._remote.get(key.model, False):
            self._running[key] += 1

    def end(self, key: TaskKey) -> None:
        self.cut()
        # A model that turned out to be remote meanwhile was counted when it began; one known before was not.
        if self._running[key] > 0:
            self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]

    def cut(self) -> None:
        """Ends the interval now and begins the next."""
        now = self._clock.unix()
        start, self._since = self._since, now
        # A wall clock that was set back leaves an interval that never was.
        if not self._running or now <= start:
            return
        dropped = None
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                dropped = self._waiting.popleft()
            self._waiting.append(RequestInterval(start, now, self._running.copy()))
        if dropped is not None:
            self._count_unknown(dropped)
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

    def _step(self) -> float:
        """Asks for the energy of the next interval that is due. Returns the seconds until one may be."""
        if (pause := self._paused_until - self._clock.monotonic()) > 0:
            return pause
        with self._lock:
            if not self._waiting:
                return CUT_EVERY
            left = self._waiting[0].end + ASK_AFTER - self._clock.unix()
            if left > 0:
                # At most as long as it can be: a wall clock that is set back must not make it hours.
                return min(left, ASK_AFTER)
            interval = self._waiting.popleft()
        try:
            answer = self._api.energy(interval.start, interval.end, COUNTER_WAIT)
        except EnergyApiError as error:
            self._give_up(interval, error)
            return PAUSE_AFTER_FAILURE
        self._was_reachable = True
        self._allocate(interval, answer)
        return 0.0

    def _give_up(self, interval: RequestInterval, error: EnergyApiError) -> None:
        if self._was_reachable:
            log.warning("no energy from the exporter: %s", error)
        self._was_reachable = False
        self._paused_until = self._clock.monotonic() + PAUSE_AFTER_FAILURE
        with self._lock:
            # They would only wait for the same failure.
            waiting = list(self._waiting)
            self._waiting.clear()
        for unanswered in (interval, *waiting):
            self._count_unknown(unanswered)

    def _allocate(self, interval: RequestInterval, answer: EnergyAnswer) -> None:
        gpus = [(gpu, gpu.joules) for gpu in answer.gpus if gpu.joules is not None]
        if not gpus:
            self._count_unknown(interval)
            return
        requests = interval.running.total()
        shares = [
            (key, GpuShare(gpu.gpu, gpu.uuid, joules * count / requests, joules))
            for gpu, joules in gpus
            for key, count in interval.running.items()
        ]
        with self._lock:
            undecided = [(key, share) for key, share in shares if key.model not in self._remote]
            self._undecided += undecided
            overdue = [self._undecided.popleft() for _ in range(len(self._undecided) - MAX_UNDECIDED)]
            local = [(key, share) for key, share in shares if self._remote.get(key.model) is False]
        self._metrics.add_energy(local + overdue)

    def _count_unknown(self, interval: RequestInterval) -> None:
        self._metrics.count_energy_unknown(interval.end - interval.start)
