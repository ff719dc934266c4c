"""Which monotonic moment a unix time was, even where the wall clock was set in between.

Measurements are kept in monotonic time; questions come in unix time. The offset between the two clocks is looked at with every
poll. A slow drift is followed; a jump is a step: it is counted, and windows that touch it can be told.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import inf
from threading import Lock

from joulebench.clock import Clock

STEP_SECONDS = 0.01
"""More than the fastest slewing clock drifts from one look to the next."""
DRIFT_SECONDS = 0.0005
"""A drift below this is not worth an entry, and a look that took longer than this is worth nothing."""
NOW_SECONDS = 0.25
"""Of two moments with one unix time, one that lies further ahead than this cannot be the one that is meant."""
TRIES = 3


@dataclass(frozen=True, slots=True)
class MonotonicWindow:
    """``touches_step``: the wall clock jumped inside the window, or its unix times are ambiguous because of a jump.

    ``skipped``: an edge is a time that the wall clock never showed, for a jump passed over it. Whoever names it goes by another
    clock, and stands for a moment that nobody here knows.
    """

    start: float
    end: float
    touches_step: bool
    skipped: bool = False


class WallClock:
    """``keep_seconds``: how long old offsets are remembered."""

    def __init__(self, clock: Clock, keep_seconds: float) -> None:
        self._clock = clock
        self._keep_seconds = keep_seconds
        self._lock = Lock()
        _, at, offset = self._look()
        # Guarded by _lock. Offset number i holds from _since[i] to _since[i + 1].
        self._since = [at]
        self._offsets = [offset]
        self._is_step = [False]
        self._steps = 0

    @property
    def steps(self) -> int:
        """Jumps seen so far."""
        return self._steps

    @property
    def entries(self) -> int:
        """Offsets remembered."""
        return len(self._since)

    def watch(self) -> None:
        """One look at both clocks; a closer one where they seem to have parted."""
        if abs(self._clock.unix() - self._clock.monotonic() - self._offsets[-1]) < DRIFT_SECONDS:
            return
        blur, at, offset = self._look()
        if blur > DRIFT_SECONDS or abs(offset - self._offsets[-1]) < DRIFT_SECONDS:
            return
        with self._lock:
            is_step = abs(offset - self._offsets[-1]) >= STEP_SECONDS
            self._steps += is_step
            self._since.append(at)
            self._offsets.append(offset)
            self._is_step.append(is_step)
            while len(self._since) > 1 and self._since[1] < at - self._keep_seconds:
                del self._since[0], self._offsets[0], self._is_step[0]

    def unix(self, monotonic: float) -> float:
        """What the wall clock showed at that moment."""
        with self._lock:
            return monotonic + self._offsets[max(bisect_right(self._since, monotonic) - 1, 0)]

    def window(self, start_unix: float, end_unix: float) -> MonotonicWindow:
        """The window as monotonic times; where a time was shown twice, the later one that fits is meant."""
        now = self._clock.monotonic()
        with self._lock:
            end, end_unsure, end_skipped = self._monotonic(end_unix, now + NOW_SECONDS)
            start, start_unsure, start_skipped = self._monotonic(start_unix, end)
            inside = any(start <= at <= end for at, is_step in zip(self._since, self._is_step, strict=True) if is_step)
        skipped = start_skipped or end_skipped
        return MonotonicWindow(min(start, end), end, inside or end_unsure or start_unsure or skipped, skipped)

    def _monotonic(self, unix: float, latest: float) -> tuple[float, bool, bool]:
        """The last moment not after ``latest`` at which the wall clock showed ``unix``, whether a jump makes that unsure, and
        whether one passed over it."""
        shown: list[float] = []
        skipped_at: float | None = None
        for index, offset in enumerate(self._offsets):
            at = unix - offset
            since = self._since[index] if index else -inf
            until = self._since[index + 1] if index + 1 < len(self._since) else inf
            if since <= at < until:
                shown.append(at)
            elif at < since and self._is_step[index]:
                skipped_at = since
        if not shown:
            # A jump forward passed over this time, or a drift did by less than a millisecond: the moment that is nearest.
            return (unix - self._offsets[-1], False, False) if skipped_at is None else (skipped_at, True, True)
        fitting = [at for at in shown if at <= latest]
        return (fitting[-1] if fitting else shown[0]), shown[-1] - shown[0] > STEP_SECONDS, False

    def _look(self) -> tuple[float, float, float]:
        """(blur, monotonic, wall minus monotonic), the sharpest of a few tries: another process may run in between."""
        best = (inf, 0.0, 0.0)
        for _ in range(TRIES):
            before = self._clock.monotonic()
            unix = self._clock.unix()
            after = self._clock.monotonic()
            middle = (before + after) / 2
            best = min(best, (after - before, middle, unix - middle))
            if best[0] < DRIFT_SECONDS / 10:
                break
        return best
