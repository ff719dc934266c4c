"""How a cumulative counter of seconds grew, kept as few straight lines: what held a GPU's clocks down, over hours.

A counter that rests costs nothing, and one that grows evenly costs two points however often it was read. No value of the line
is further than ``TOLERANCE`` from what was read, but for changes that follow each other faster than ``SPACING``: there the
line may be off by a quarter of that, for no second can have more than one second in it. What was not read is not known: a
window over such a time has no answer, and never a 0.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from threading import Lock

TOLERANCE = 0.005
SPACING = 0.1
MAX_BLUR = 0.1
"""Seconds that an edge of a window may be off by where it was not read for a while; beyond them there is no answer."""
MAX_GAPS = 256

Span = tuple[float, float]


class SecondsTrace:
    """``capacity`` in points; the oldest are forgotten. ``latest``: as it was read last. Times are those of one clock.

    One writer, any number of readers.
    """

    def __init__(self, at: float, seconds: float, capacity: int) -> None:
        self.latest = seconds
        self._capacity = max(capacity, 8)
        self._lock = Lock()
        # Guarded by _lock. The last point is the end of a line that still grows, unless _slopes is None.
        self._at = array("d", [at])
        self._seconds = array("d", [seconds])
        self._slopes: Span | None = None
        self._shift = 0.0
        self._known_from = at
        self._lost: list[Span] = []
        self._blurred: list[Span] = []

    def __len__(self) -> int:
        return len(self._at)

    def append(self, since: float, at: float, seconds: float) -> None:
        """The counter stood at ``seconds`` at ``at``, and until ``since`` where it had stood before.

        A fall begins anew: what came between the two is lost.
        """
        with self._lock:
            last_at, last = self._at[-1], self._seconds[-1]
            if at <= last_at:
                return
            self.latest = seconds
            since = min(max(since, last_at), at)
            if seconds + self._shift < last:
                self._shift = last - seconds
                self._add(self._lost, (since, at))
            grown, span = seconds + self._shift - last, at - since
            blurred = span > grown and grown * (span - grown) > MAX_BLUR * span
            if blurred:
                self._add(self._blurred, (since, at))
            if blurred or since - last_at >= SPACING:
                self._corner(since, last)
            self._line(at, seconds + self._shift)
            if blurred:
                self._slopes = None
            if len(self._at) > self._capacity + self._capacity // 4:
                self._forget(len(self._at) - self._capacity)

    def begin_anew(self, since: float, at: float, seconds: float) -> None:
        """The counter stands at ``seconds`` at ``at``, to which it cannot have grown: what came after ``since`` is lost."""
        with self._lock:
            self._shift = self._seconds[-1] - seconds
        self.lose(since, at)
        self.latest = seconds

    def lose(self, since: float, until: float) -> None:
        """Marks the growth between these two times as unknown."""
        with self._lock:
            self._add(self._lost, (since, until))

    def between(self, start: float, end: float) -> float | None:
        """Growth over a window; None where some of it is not known. After the last point the counter is taken to rest."""
        with self._lock:
            if start < self._known_from or any(since < end and start < until for since, until in self._lost):
                return None
            if any(since < edge < until for edge in (start, end) for since, until in self._blurred):
                return None
            return max(self._value(end) - self._value(start), 0.0)

    def _value(self, time: float) -> float:
        after = bisect_right(self._at, time)
        if after == len(self._at):
            return self._seconds[-1]
        t0, t1 = self._at[after - 1], self._at[after]
        v0, v1 = self._seconds[after - 1], self._seconds[after]
        return v0 + (v1 - v0) * (time - t0) / (t1 - t0)

    def _corner(self, at: float, seconds: float) -> None:
        """A point that a line begins from."""
        if at > self._at[-1]:
            self._at.append(at)
            self._seconds.append(seconds)
        self._slopes = None

    def _line(self, at: float, seconds: float) -> None:
        """The line that grows goes on to this point if it passes all points before closely enough, else a new one begins."""
        if self._slopes is not None:
            low, high = self._slopes
            from_at, from_seconds = self._at[-2], self._seconds[-2]
            slope = (seconds - from_seconds) / (at - from_at)
            if low <= slope <= high or at - from_at < SPACING:
                self._at[-1], self._seconds[-1] = at, seconds
                around = _around(from_at, from_seconds, at, seconds)
                kept = max(low, around[0]), min(high, around[1])
                self._slopes = kept if kept[0] <= kept[1] else around
                return
        self._slopes = _around(self._at[-1], self._seconds[-1], at, seconds)
        self._at.append(at)
        self._seconds.append(seconds)

    def _add(self, gaps: list[Span], gap: Span) -> None:
        gaps.append(gap)
        if len(gaps) > MAX_GAPS:
            self._known_from = max(self._known_from, gaps.pop(0)[1])

    def _forget(self, count: int) -> None:
        del self._at[:count], self._seconds[:count]
        self._known_from = max(self._known_from, self._at[0])


def _around(from_at: float, from_seconds: float, at: float, seconds: float) -> Span:
    """Slopes of the lines from one point that pass another within the tolerance."""
    span = at - from_at
    return (seconds - TOLERANCE - from_seconds) / span, (seconds + TOLERANCE - from_seconds) / span
