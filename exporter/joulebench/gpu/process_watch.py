"""A thread of its own that looks every few seconds at who uses the GPUs, apart from everything that measures.

Process lists can take the driver milliseconds, so nothing waits for them: the scrape prints the last look, and a window is told
what was seen by then. What is not known is None, as is a look that is too old.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from joulebench.clock import Clock
from joulebench.gpu.processes import ProcessNames, ProcessUse, Users, users
from joulebench.units import Ratio, Seconds

log = logging.getLogger(__name__)

FRESH_PERIODS = 3.0
CONTINUOUS_PERIODS = 1.5
"""Foreign uses that were seen no further apart than this are taken for one."""


class ProcessSource(Protocol):
    def read_processes(self, index: int, since: Seconds) -> Sequence[ProcessUse] | None:
        """Uses of this GPU after the unix time ``since``; None where card or driver does not tell, for whatever reason."""
        ...


class ForeignUse(NamedTuple):
    """What a scrape shows of the last look. ``used_from``, ``used_at``: unix times of the last spell of foreign use ever seen."""

    processes: int | None
    unnamed: int | None
    sm: Ratio | None
    used_from: Seconds | None
    used_at: Seconds | None


UNSEEN = ForeignUse(None, None, None, None, None)


class _Gpu:
    def __init__(self) -> None:
        self.seen: tuple[float, Users] | None = None
        self.since: Seconds | None = None
        self.used: tuple[Seconds | None, Seconds | None] = (None, None)
        # Spans of foreign use in monotonic time, and who was told of.
        self.spans: deque[tuple[float, float]] = deque()
        self.told: set[int] = set()


class ProcessWatch:
    """``gpus``: indices of the source. ``period``: seconds between two looks; ``keep_seconds``: how long it is remembered when a
    foreign program ran."""

    def __init__(
        self, source: ProcessSource, gpus: Sequence[int], names: ProcessNames, clock: Clock, *, period: float, keep_seconds: float
    ) -> None:
        self._source = source
        self._names = names
        self._clock = clock
        self._period = period
        self._keep_seconds = keep_seconds
        self._gpus = {index: _Gpu() for index in gpus}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu-processes", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns after a moment even where a call into the driver hangs."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1.0)

    def look(self) -> None:
        """One look at every GPU, in the calling thread."""
        for index, gpu in self._gpus.items():
            now: float = self._clock.monotonic()
            ahead = self._clock.unix() - now
            since = gpu.since if gpu.since is not None else Seconds(ahead + now - self._period)
            uses = self._source.read_processes(index, since)
            if uses is None:
                gpu.seen = None
                continue
            gpu.since = max([since, *(use.at for use in uses if use.at is not None)])
            if gpu.since > ahead + now + self._period:
                gpu.since = None  # the clock was set back: nothing would ever be newer
            found = users(uses, self._names, os.getpid())
            self._keep(gpu, now, ahead, found)
            self._tell(index, gpu, found)

    def _keep(self, gpu: _Gpu, now: float, ahead: float, found: Users) -> None:
        with self._lock:
            if found.foreign:
                first, last = (now, now) if found.used is None else (found.used[0] - ahead, min(found.used[1] - ahead, now))
                if gpu.spans and first - gpu.spans[-1][1] <= CONTINUOUS_PERIODS * self._period:
                    first = gpu.spans.pop()[0]
                gpu.spans.append((first, last))
                gpu.used = Seconds(first + ahead), Seconds(last + ahead)
            while gpu.spans and gpu.spans[0][1] < now - self._keep_seconds:
                gpu.spans.popleft()
            gpu.seen = (now, found)

    def _tell(self, index: int, gpu: _Gpu, found: Users) -> None:
        for pid in found.foreign.keys() - gpu.told:
            log.warning(
                "GPU %d is used by %s (pid %d), which is no known model server: joules of its tasks are not theirs alone",
                index,
                found.foreign[pid],
                pid,
            )
        gpu.told = set(found.foreign)

    def state(self, index: int) -> ForeignUse:
        with self._lock:
            gpu = self._gpus[index]
            if gpu.seen is None or self._clock.monotonic() - gpu.seen[0] > FRESH_PERIODS * self._period:
                return UNSEEN
            found = gpu.seen[1]
            return ForeignUse(len(found.foreign), found.unnamed, found.sm, *gpu.used)

    def used_between(self, index: int, start: float, end: float) -> bool:
        """Whether a foreign program was seen to use the GPU between two monotonic times."""
        with self._lock:
            return any(first <= end and start <= last for first, last in self._gpus[index].spans)

    def _run(self) -> None:
        puzzled = False
        while not self._stop.is_set():
            try:
                self.look()
                puzzled = False
            except Exception:
                if not puzzled:
                    log.exception("a look at the processes on the GPUs failed")
                puzzled = True
            self._stop.wait(self._period)
