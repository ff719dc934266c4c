"""Whether several devices can have served one task, judged by their power alone."""

from __future__ import annotations

from collections.abc import Sequence

UNEQUAL_POWER = 0.3
"""A device with less than this part of the highest mean power did hardly what the busiest did."""


def are_used_unequally(joules: Sequence[float | None], seconds: float) -> bool:
    """Whether the mean power of devices in one window differs so much that they hardly served one task.

    Unequal cards that share a model can look so, too: the answer is a reason to declare the devices, not a proof.
    """
    watts = [value / seconds for value in joules if value is not None and seconds > 0]
    return len(watts) > 1 and min(watts) < UNEQUAL_POWER * max(watts)
