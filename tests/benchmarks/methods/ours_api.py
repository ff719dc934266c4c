"""Ours, live: the exporter is asked for each window a moment after its end, as the benchmark library does it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from itertools import pairwise

from joulebench.clients.exporter import ExporterApi
from joulebench.clock import Clock
from joulebench.errors import EnergyApiError
from joulebench.push.energy import ASK_AFTER, COUNTER_WAIT
from joulebench.units import Seconds
from tests.benchmarks.methods import Estimate
from tests.benchmarks.windows import Taken

ASKERS = 4
"""At once: as many workers as an ordinary benchmark has."""


class LiveAsker:
    """Threads that ask for windows as they come in; ``answers`` is complete after ``close``."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.answers: dict[int, Estimate] = {}
        self.errors: list[str] = []
        self._url = url
        self._clock = clock
        self._windows: queue.SimpleQueue[Taken | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._loop, daemon=True) for _ in range(ASKERS)]
        for thread in self._threads:
            thread.start()

    def ask(self, window: Taken) -> None:
        self._windows.put(window)

    def close(self) -> None:
        for _ in self._threads:
            self._windows.put(None)
        for thread in self._threads:
            thread.join()

    def _loop(self) -> None:
        api, pause = ExporterApi(self._url), threading.Event()
        while (window := self._windows.get()) is not None:
            pause.wait(max(0.0, window.end + ASK_AFTER - self._clock.monotonic()))
            try:
                self.answers[window.plan.id] = ask(api, window.plan.gpu, window.start_unix, window.end_unix)
            except EnergyApiError as error:
                self.errors.append(str(error))
                self.answers[window.plan.id] = Estimate(None)
        api.close()


def ask(api: ExporterApi, gpu: int, start_unix: float, end_unix: float) -> Estimate:
    """Raises EnergyApiError."""
    answer = api.energy(Seconds(start_unix), Seconds(end_unix), COUNTER_WAIT)
    mine = next(one for one in answer.gpus if one.gpu == str(gpu))
    return Estimate(mine.joules, mine.low, mine.high)


def additive(api: ExporterApi, gpu: int, edges: Sequence[float]) -> float | None:
    """Joules by which adjacent windows miss the window around them, for each edge between two of them; None where unknown."""
    parts = [ask(api, gpu, start, end).joules for start, end in pairwise(edges)]
    whole = ask(api, gpu, edges[0], edges[-1]).joules
    known = [part for part in parts if part is not None]
    if whole is None or len(known) < len(parts):
        return None
    return abs(sum(known) - whole) / (len(parts) - 1)
