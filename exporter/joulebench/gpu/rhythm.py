"""Where between two polls a counter changed, from the beat that it keeps.

A card changes its counter on a timer of its own, so the polls that one change lies between also narrow down all later ones. The
interval in which a change can be, by all polls so far, is carried from beat to beat, a little wider each time for what the
timer may stray. The time given lies always between the two polls; a counter that keeps no beat gets about their middle.
"""

from __future__ import annotations

LEARNED = 16
"""Beats before the period is believed."""
LONGEST_REST = 10
"""Beats that may go unseen before the beat is found anew."""
SPAN = 512
"""Beats that the period is averaged over, so that a timer that warms up is followed."""
STEADY, WILDER, CALMER = 5e-5, 1.5, 0.98
"""Seconds that a beat strays at least, and how fast the allowance grows when a change comes where none was due, or shrinks."""


class Rhythm:
    """Of one counter. Times in seconds, rising."""

    def __init__(self) -> None:
        self._beats = -1
        self._begun_within = 0.0
        self._at = self._low = self._high = 0.0
        self._period = 0.0
        self._strays = STEADY
        # The beat that the period is counted from, and the one that takes its place: (time, beats before the latest).
        self._base: tuple[float, int] = (0.0, 0)
        self._next_base: tuple[float, int] = (0.0, 0)

    @property
    def beat(self) -> tuple[float, float, float] | None:
        """(time of the last change, seconds between two, how far the next may be off); None before the period is believed."""
        if self._beats < LEARNED:
            return None
        return self._at, self._period, (self._high - self._low) * (0.5 + 0.5 / self._beats) + self._strays

    def place(self, since: float, after: float) -> float:
        """The likely time of a change that was not there yet at ``since`` and was at ``after``."""
        middle = (since + after) / 2
        beats = round((middle - self._at) / self._period) if self._beats > 0 else 1
        if self._beats < 0 or not 1 <= beats <= (LONGEST_REST if self._beats >= LEARNED else 1):
            return self._begin(since, after)
        if self._beats < LEARNED and after - since < self._begun_within / 2:
            # The first was a guess in comparison, and a period counted from it would be as far off.
            return self._begin(since, after)
        low, high = (since, after) if self._beats < LEARNED else self._narrowed(since, after, beats)
        self._at, self._low, self._high = (low + high) / 2, low, high
        self._beats += beats
        self._learn_period()
        return self._at

    def _begin(self, since: float, after: float) -> float:
        self._at, self._low, self._high, self._beats = (since + after) / 2, since, after, 0
        self._begun_within = after - since
        self._base = self._next_base = (self._at, 0)
        return self._at

    def _narrowed(self, since: float, after: float, beats: int) -> tuple[float, float]:
        blur = beats * (self._strays + (after - since) / 2 / self._beats)
        low, high = self._low + beats * self._period - blur, self._high + beats * self._period + blur
        if low <= after and since <= high:
            self._strays = max(self._strays * CALMER, STEADY)
            return max(low, since), min(high, after)
        # It strayed further than thought: the end of the interval that is nearest to where it was due.
        self._strays = min(self._strays * WILDER, (after - since) / 4)
        room = min(2 * self._strays, after - since)
        return (after - room, after) if low > after else (since, since + room)

    def _learn_period(self) -> None:
        if self._beats >= SPAN:
            self._beats -= self._next_base[1]
            self._base, self._next_base = (self._next_base[0], 0), (self._at, self._beats)
        elif self._next_base[1] == 0 and self._beats >= SPAN // 2:
            self._next_base = (self._at, self._beats)
        self._period = (self._at - self._base[0]) / self._beats
