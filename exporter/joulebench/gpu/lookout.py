"""When a counter has to be looked at: once shortly before each change that its beat announces, and then until the change is seen.

Two looks at a step are what its bounds need, and every look that is spared spares driver and processor. Invariant: where the beat
is not known, or a counter strays from it, it is looked at with every poll.
"""

from __future__ import annotations

from typing import NamedTuple

LONGEST_STEP = 0.115
"""Seconds; a card of longer steps is looked at with every poll, because throttle counters and the card itself are watched too."""
LEAST_GUARD, MOST_GUARD = 0.1, 1.0
WILDER, CALMER = 2.0, 0.98
"""Of a poll period: how much earlier to look than would do if no poll ever came late, which grows with each that did."""


class Beat(NamedTuple):
    """``at``: a change; ``period``: from one to the next; ``early``: how much earlier than that one may come. Seconds."""

    at: float
    period: float
    early: float


class Lookout:
    """Of one counter. ``poll_period``: seconds between two polls of a thread that may sleep through some of them."""

    def __init__(self, poll_period: float) -> None:
        self.beat: Beat | None = None
        self._poll_period = poll_period
        self._guard = LEAST_GUARD

    def note(self, since: float, after: float) -> None:
        """A change was found to lie between these two looks: whether the first was late, which makes the next ones earlier."""
        missed = after - since > 1.7 * self._poll_period
        self._guard = min(self._guard * WILDER, MOST_GUARD) if missed else max(self._guard * CALMER, LEAST_GUARD)

    def plan(self, since: float, after: float) -> tuple[float, float]:
        """(seconds by which to put off each next look, when to look after a change between these two); zeros for at once."""
        beat = self.beat
        if beat is None or beat.period > LONGEST_STEP:
            return 0.0, 0.0
        poll = self._poll_period
        # Of a change that lies somewhere in a long time, the end is as likely as the rest, and leads to the earlier look.
        seen = max((since + after) / 2, after - poll)
        coming = beat.at + (round((seen - beat.at) / beat.period) + 1) * beat.period - beat.early
        return beat.period, coming - (1 + self._guard) * poll
