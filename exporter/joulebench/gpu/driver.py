"""What is known of NVIDIA drivers and chips by version or name, and cannot be asked of NVML itself. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Stable in every driver. 75 is the total of both thermal reasons.
POLICY_FIELDS: Mapping[str, int] = {"sw_power_cap": 74, "sync_boost": 76}
THERMAL_FIELD = 75

_FINE_REASONS = ("sw_thermal", "hw_thermal", "hw_power_brake")
_PART_TIME = re.compile(r"\b(?:A100X?|A800|A30X?|H100|H200|H800|H20|GH200)\b")


def version_of(driver: str) -> tuple[int, ...]:
    """``580.65.06`` as (580, 65, 6); what is not a number ends it."""
    return tuple(int(part) for part in re.match(r"[\d.]*", driver).group().split(".") if part)  # type: ignore[union-attr]


def fine_throttle_fields(driver: str) -> Mapping[str, int]:
    """Field ids of the single throttle reasons' nanosecond counters in this driver.

    The ids moved: the same number is a power smoothing setting in the other numbering, and then a wrong number on cards that
    have it. So the driver's version decides, never the binding's constants, and between the last driver known to use the
    old ids and the first known to use the new ones there are none.
    """
    version = version_of(driver)
    if (575,) <= version < (580, 66):
        first = 251
    elif version >= (580, 82):
        first = 269
    else:
        return {}
    return {reason: first + offset for offset, reason in enumerate(_FINE_REASONS)}


def has_part_time_sensor(name: str) -> bool:
    """Whether this card's power sensor sees only a quarter of the time: GA100 and GH100 average 25 ms of every 100 ms."""
    return _PART_TIME.search(name) is not None
