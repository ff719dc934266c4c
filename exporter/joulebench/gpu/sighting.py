"""What one poll of a GPU saw, put down to be taken in later."""

from __future__ import annotations

from joulebench.gpu.reading import FastReading


class Sighting:
    """One fast reading and the times before and after it. ``again``: the time before the last poll that read the very same;
    ``since``: that of the last poll which read something else. Filled in by hand, for a call costs more than all of it."""

    __slots__ = ("after", "again", "before", "reading", "since")

    before: float
    after: float
    reading: FastReading
    again: float
    since: float


NO_READING = FastReading(None, None)


def nothing() -> Sighting:
    """What was seen before the first reading, and after one that failed."""
    sighting = Sighting()
    sighting.before = sighting.after = sighting.again = sighting.since = 0.0
    sighting.reading = NO_READING
    return sighting
