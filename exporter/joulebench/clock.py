"""The two clocks, behind one Protocol so that a test can own time.

Wall time (``unix``) is for anything that meets Prometheus or another machine. Monotonic time is for durations, and on one
host it is shared by every process, so a wall clock that steps never changes how long something took.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Protocol, cast

from joulebench.units import Seconds


class Clock(Protocol):
    def unix(self) -> Seconds:
        """Seconds since 1970 by the wall clock; may step."""
        ...

    def monotonic(self) -> Seconds:
        """Seconds by CLOCK_MONOTONIC; never steps, has no meaning across reboots."""
        ...


class SystemClock:
    """The machine's clocks, bare: they are read hundreds of times a second, and a call around the call costs more than it."""

    unix = staticmethod(cast(Callable[[], Seconds], time.time))
    monotonic = staticmethod(cast(Callable[[], Seconds], time.monotonic))


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """Another machine's wall clock minus this machine's, in seconds; the true offset lies within ``uncertainty`` of it."""

    seconds: float
    uncertainty: float

    @classmethod
    def of_exchange(cls, sent: float, elapsed: float, received: float, answered: float) -> ClockOffset | None:
        """By one request and its answer, as NTP does it (RFC 5905, section 8).

        ``sent``: unix time here; ``elapsed``: monotonic seconds until the answer was there; ``received`` and ``answered``: unix
        times there. Returns None where the other clock was set meanwhile.
        """
        delay = elapsed - (answered - received)
        if answered < received or delay < 0:
            return None
        return cls(((received - sent) + (answered - sent - elapsed)) / 2, delay / 2)

    def agrees_with(self, other: ClockOffset) -> bool:
        """Whether both can be measurements of one offset."""
        return abs(self.seconds - other.seconds) <= self.uncertainty + other.uncertainty

    @property
    def is_certain(self) -> bool:
        """Whether the two clocks cannot be the same."""
        return abs(self.seconds) > self.uncertainty


def parse_iso_time(text: str) -> datetime | None:
    """An ISO 8601 time with its zone, None where it names none; None for what is no such time.

    dateutil reads fractions of any length and every form of an offset; ``datetime.fromisoformat`` does so from Python 3.11 only.
    """
    from dateutil.parser import isoparse

    try:
        return isoparse(text.strip())
    except ValueError:
        return None


def iso_seconds(text: str) -> Seconds | None:
    """The unix time of an ISO 8601 time, in UTC where it names no zone; None for what is no such time."""
    parsed = parse_iso_time(text)
    return None if parsed is None else Seconds(parsed.replace(tzinfo=parsed.tzinfo or timezone.utc).timestamp())


def sleep_briefly(seconds: float) -> None:
    """Waits without a way to be woken, which costs a third less than waiting for an event: for loops that poll at 50 Hz."""
    time.sleep(seconds)


def wait_until(condition: Callable[[], bool], seconds: float, clock: Clock | None = None, interval: float = 0.05) -> bool:
    """Whether ``condition`` came true within ``seconds``, looked at every ``interval`` and once at the end."""
    clock = clock or SystemClock()
    deadline = clock.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        if clock.monotonic() >= deadline:
            return False
        pause.wait(interval)
    return True
