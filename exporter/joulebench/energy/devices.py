"""Whether several devices can have served one task, by their power alone; what part of a GPU each of its MIG instances used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

UNEQUAL_POWER = 0.3
"""A device with less than this part of the highest mean power did hardly what the busiest did."""


def are_used_unequally(joules: Sequence[float | None], seconds: float) -> bool:
    """Whether the mean power of devices in one window differs so much that they hardly served one task.

    Unequal cards that share a model can look so, too: the answer is a reason to declare the devices, not a proof.
    """
    watts = [value / seconds for value in joules if value is not None and seconds > 0]
    return len(watts) > 1 and min(watts) < UNEQUAL_POWER * max(watts)


@dataclass(frozen=True, slots=True)
class InstanceWork:
    """What a MIG instance did in a window. ``compute``: its SMs, None where unknown; ``activity``: their mean busy share, None
    where the GPU does not say; ``is_used``: whether a process had memory on it, or is said to have had."""

    compute: int | None
    activity: float | None
    is_used: bool


def instance_shares(work: Mapping[str, InstanceWork]) -> Mapping[str, float | None]:
    """Returns the part of a GPU's energy that each of its MIG instances used, by UUID; they add up to 1, or are all None.

    Instances in use share it by SMs times activity. Where the activity of one of them is unknown, or all were idle, they share it
    by SMs alone. None: no instance was in use, or the SMs of one that was are unknown.
    """
    used = {uuid: one for uuid, one in work.items() if one.is_used}
    if not used or any(not one.compute for one in used.values()):
        return dict.fromkeys(work)
    weights = {uuid: (one.compute or 0) * (one.activity or 0.0) for uuid, one in used.items()}
    if any(one.activity is None for one in used.values()) or not any(weights.values()):
        weights = {uuid: float(one.compute or 0) for uuid, one in used.items()}
    whole = sum(weights.values())
    return {uuid: weights.get(uuid, 0.0) / whole for uuid in work}
