"""Converts unix times to monotonic times, even where the wall clock was set in between.

Measurements are kept in monotonic time; windows are asked in unix time. The offset between the two clocks is compared several
times a second. A slow drift is followed; a jump is a step: it is counted, and windows that touch it are marked.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import inf
from threading import Lock

from joulebench.clock import Clock

STEP_SECONDS = 0.01
"""More than the fastest slewing clock drifts from one comparison to the next."""
DRIFT_SECONDS = 0.0005
"""A drift below this needs no entry, and a comparison that took longer than this is discarded."""
NOW_SECONDS = 0.25
"""Of two moments with one unix time, a moment that lies further ahead than this is not meant."""
TRIES = 3


@dataclass(frozen=True, slots=True)
class MonotonicWindow:
    """``touches_step``: the wall clock jumped inside the window, or its unix times are ambiguous because of a jump.

    ``skipped``: an edge is a time that the wall clock never showed, because a jump passed over it: it belongs to another clock,
    and its moment is unknown here.
    """

    start: float
    end: float
    touches_step: bool
    skipped: bool = False


class WallClock:
    """``keep_seconds``: how long old offsets are kept."""

    def __init__(self, clock: Clock, keep_seconds: float) -> None:
        self._clock = clock
        self._keep_seconds = keep_seconds
        self._lock = Lock()
        _, at, offset = self._measure()
        # Guarded by _lock. Offset number i holds from _since[i] to _since[i + 1].
        self._since = [at]
        self._offsets = [offset]
        self._is_step = [False]
        self._steps = 0

    @property
    def steps(self) -> int:
        """Jumps so far."""
        return self._steps

    @property
    def entries(self) -> int:
        """Offsets kept."""
        return len(self._since)

    def compare(self) -> None:
        """Reads both clocks, and more closely where their offset seems to have changed."""
        if abs(self._clock.unix() - self._clock.monotonic() - self._offsets[-1]) < DRIFT_SECONDS:
            return
        blur, at, offset = self._measure()
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
        """Returns what the wall clock showed at that moment."""
        with self._lock:
            return monotonic + self._offsets[max(bisect_right(self._since, monotonic) - 1, 0)]

    def window(self, start_unix: float, end_unix: float) -> MonotonicWindow:
        """Returns the window in monotonic times; where a unix time occurred twice, the later fitting moment is meant."""
        now = self._clock.monotonic()
        with self._lock:
            end, end_ambiguous, end_skipped = self._monotonic(end_unix, now + NOW_SECONDS)
            start, start_ambiguous, start_skipped = self._monotonic(start_unix, end)
            inside = any(start <= at <= end for at, is_step in zip(self._since, self._is_step, strict=True) if is_step)
        skipped = start_skipped or end_skipped
        return MonotonicWindow(min(start, end), end, inside or end_ambiguous or start_ambiguous or skipped, skipped)

    def _monotonic(self, unix: float, latest: float) -> tuple[float, bool, bool]:
        """Returns the last moment not after ``latest`` at which the wall clock showed ``unix``, whether a jump makes that
        ambiguous, and whether a jump passed over it."""
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
            # A jump forward passed over this time, or a drift did by less than a millisecond: then the nearest moment.
            return (unix - self._offsets[-1], False, False) if skipped_at is None else (skipped_at, True, True)
        fitting = [at for at in shown if at <= latest]
        return (fitting[-1] if fitting else shown[0]), shown[-1] - shown[0] > STEP_SECONDS, False

    def _measure(self) -> tuple[float, float, float]:
        """Returns (blur, monotonic, wall minus monotonic), the sharpest of a few tries: another process may run in between."""
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
