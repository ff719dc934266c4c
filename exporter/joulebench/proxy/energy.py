"""The energy of requests, from the exporter's window energy, shared out so that it adds up.

Time is cut wherever a request begins or ends. The energy of each piece is asked for once and divided evenly among the requests
that ran in it, so the shares of all tasks add up to what the GPU used while any request ran. An exporter that does not answer
leaves that time without energy and says so; it never delays a request.
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
from joulebench.proxy.tally import Energy, Key, Tally
from joulebench.units import Seconds

log = logging.getLogger(__name__)

ASK_AFTER = 0.15
"""Seconds; the counter of a card changes about ten times a second."""
COUNTER_WAIT = 0.5
PAUSE_AFTER_FAILURE = 2.0
MAX_WAITING = 5000
CUT_EVERY = 5.0
"""Seconds after which a piece ends anyway, so that the counters of a long request grow while it runs."""


class EnergyApi(Protocol):
    def energy(self, start: Seconds, end: Seconds, wait: float = 0.0) -> EnergyAnswer: ...


@dataclass(frozen=True, slots=True)
class Stretch:
    """Unix times with the requests that ran from one to the other, by key."""

    start: Seconds
    end: Seconds
    running: Counter[Key]


class EnergySharer:
    """``begin``, ``end`` and ``cut`` are for one thread, that of the requests."""

    def __init__(self, api: EnergyApi, tally: Tally, clock: Clock) -> None:
        self._api = api
        self._tally = tally
        self._clock = clock
        self._running: Counter[Key] = Counter()
        self._since = clock.unix()
        self._waiting: deque[Stretch] = deque()
        self._change = threading.Condition()
        self._stopping = False
        self._was_fine = True
        self._thread = threading.Thread(target=self._loop, name="joulebench-proxy-energy", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What is not answered by now is given up."""
        with self._change:
            self._stopping = True
            self._change.notify()
        self._thread.join(timeout=3.0)

    def begin(self, key: Key) -> None:
        self.cut()
        self._running[key] += 1

    def end(self, key: Key) -> None:
        self.cut()
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]

    def cut(self) -> None:
        """Ends a stretch here and begins the next."""
        now = self._clock.unix()
        start, self._since = self._since, now
        # A wall clock that was set back leaves a stretch that never was.
        if self._running and now > start:
            self._put(Stretch(start, now, self._running.copy()))

    def _put(self, stretch: Stretch) -> None:
        with self._change:
            if len(self._waiting) >= MAX_WAITING:
                self._unknown(self._waiting.popleft())
            self._waiting.append(stretch)
            self._change.notify()

    def _loop(self) -> None:
        while (stretch := self._next()) is not None:
            try:
                answer = self._api.energy(stretch.start, stretch.end, COUNTER_WAIT)
            except EnergyApiError as error:
                if self._was_fine:
                    log.warning("no energy from the exporter: %s", error)
                self._was_fine = False
                self._unknown(stretch)
                self._pause()
                continue
            self._was_fine = True
            self._share(stretch, answer)

    def _next(self) -> Stretch | None:
        with self._change:
            while not self._stopping:
                left = self._waiting[0].end + ASK_AFTER - self._clock.unix() if self._waiting else None
                if left is not None and left <= 0:
                    return self._waiting.popleft()
                # At most as long as it can be: a wall clock that is set back must not make it hours.
                self._change.wait(None if left is None else min(left, ASK_AFTER))
            return None

    def _pause(self) -> None:
        with self._change:
            if not self._stopping:
                self._change.wait_for(lambda: self._stopping, PAUSE_AFTER_FAILURE)
            # What had piled up meanwhile would only wait for the same silence.
            while self._waiting:
                self._unknown(self._waiting.popleft())

    def _share(self, stretch: Stretch, answer: EnergyAnswer) -> None:
        known = [(gpu, gpu.joules) for gpu in answer.gpus if gpu.joules is not None]
        if not known:
            self._unknown(stretch)
            return
        everyone = stretch.running.total()
        self._tally.energy(
            (key, Energy(gpu.gpu, gpu.uuid, joules * requests / everyone, joules))
            for gpu, joules in known
            for key, requests in stretch.running.items()
        )

    def _unknown(self, stretch: Stretch) -> None:
        self._tally.energy_unknown(stretch.end - stretch.start)
