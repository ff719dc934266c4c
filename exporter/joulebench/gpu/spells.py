"""When a simulated GPU overheats: a timetable, so that whoever looks on knows how long its clocks really were held down.

Every five minutes one spell: the card heats up for a while, then software slows it down, in the middle half of the spell the
hardware too, and then it rests and cools. Seconds are counted from the timetable alone and not from when somebody looked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from joulebench.errors import UserError

PERIOD_SECONDS, HEATING_SECONDS, ONSET = 300.0, 25.0, 30.0
"""One spell each period; its heating ends at ``ONSET``, counted from the beginning of the period."""
SHORTEST, LONGEST = 1.0, 120.0


@dataclass(frozen=True, slots=True)
class Spells:
    """``length``: seconds that each spell lasts. ``begin``: unix time of the timetable's beginning, None for now."""

    length: float = 45.0
    begin: float | None = None

    def __post_init__(self) -> None:
        if not SHORTEST <= self.length <= LONGEST:
            raise UserError(f"--simulated.throttle-seconds: {self.length:g} is not between {SHORTEST:g} and {LONGEST:g} seconds")

    @property
    def spans(self) -> Mapping[str, tuple[float, float]]:
        """By reason: from when to when of a period."""
        return {
            "sw_thermal": (ONSET, ONSET + self.length),
            "hw_thermal": (ONSET + self.length / 4, ONSET + self.length * 3 / 4),
        }

    def seconds(self, reason: str, at: float) -> float:
        """For which ``reason`` held the clocks down until ``at``, in seconds after the beginning."""
        since, until = self.spans.get(reason, (0.0, 0.0))
        periods, rest = divmod(max(at, 0.0), PERIOD_SECONDS)
        return periods * (until - since) + min(max(rest - since, 0.0), until - since)

    def holds(self, reason: str, at: float) -> bool:
        since, until = self.spans.get(reason, (0.0, 0.0))
        return at >= 0 and since <= at % PERIOD_SECONDS < until

    def is_busy(self, at: float) -> bool:
        """Whether the card works: it heats up, or would if it were let."""
        return at >= 0 and ONSET - HEATING_SECONDS <= at % PERIOD_SECONDS < ONSET + self.length
