"""A clock that can be told when an event happened, for benchmarks that report events after the fact.

Only the thread that reports sees the time of its event; the threads that push and ask for energy keep the real time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from joulebench.clock import Clock, SystemClock
from joulebench.units import Seconds


class EventClock:
    """A ``Clock``."""

    def __init__(self, real: Clock | None = None) -> None:
        self.real = real or SystemClock()
        self._now = threading.local()

    def unix(self) -> Seconds:
        at: Seconds | None = getattr(self._now, "unix", None)
        return self.real.unix() if at is None else at

    def monotonic(self) -> Seconds:
        at: Seconds | None = getattr(self._now, "monotonic", None)
        return self.real.monotonic() if at is None else at

    @contextmanager
    def at(self, unix: float) -> Iterator[None]:
        """In this thread it is ``unix`` (unix seconds) until the end of the block."""
        monotonic = self.real.monotonic() - (self.real.unix() - unix)
        self._now.unix, self._now.monotonic = Seconds(unix), Seconds(monotonic)
        try:
            yield
        finally:
            self._now.unix = self._now.monotonic = None
