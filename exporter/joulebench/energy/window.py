"""The energy of a time window from the changes of a monotone counter. (interface first; the estimate follows)"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """Energy of one GPU over one window.

    ``joules``: best estimate, None when unknown. ``low``/``high``: bounds that the monotone counter guarantees; None where
    it cannot. ``samples``: counter changes inside the window. ``longest_gap``: longest time between two neighbouring changes
    that touch the window. ``coverage``: share of the window between the first and last known counter value, 0 to 1.
    ``quality``: ok, short, suspect or missing; ``reasons`` says why it is not ok.
    """

    joules: float | None
    low: float | None
    high: float | None
    method: str
    samples: int
    longest_gap: float | None
    coverage: float | None
    resets: int
    quality: str
    reasons: tuple[str, ...]
