"""Published ranges that a result should lie in: joules for a token by model size, and board power by card.

Sources: ML.ENERGY leaderboard v3 (H100, B200; batch 8 to 1024), measurements of A100, RTX 3090, 3080 and 6000 Ada, extrapolated
to batch 1, which nobody publishes. The ranges are wide on purpose: they catch wrong units, wrong GPUs and lost time, and no slow
kernels.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from joulebench.units import Watts

_SIZE = re.compile(r"(?<![\w.])(?:\d+x)?e?(\d+(?:\.\d+)?)\s*([bm])(?![a-z0-9])", re.IGNORECASE)
_ACTIVE = re.compile(r"(?<![a-z0-9])a(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)

BEST_JOULES = 0.005
"""For each billion active parameters and token, at the highest batches of the newest cards."""
WORST_JOULES = 3.7
"""For each billion parameters and token: ten times what one sequence alone costs on an H100 in bf16."""
IDLE_JOULES = 20.0
"""For a token of a small model, which pays more for the card's idle power than for its own work."""
FASTEST_BYTES = 8e12
"""Memory bandwidth of the fastest card, bytes/s; a sequence alone reads all weights for each token."""
SMALLEST_WEIGHT = 0.4e9
"""Bytes of a billion parameters at about 3 bits."""
SLOWEST_RATE, FASTEST_RATE = 0.05, 5000.0


class Size(NamedTuple):
    """Billions of parameters. ``active``: those that a token passes, fewer in a mixture of experts."""

    whole: float
    active: float


def size_of(model: str) -> Size | None:
    """From names such as ``qwen3-vl:8b``, ``Llama-3.1-70B-Instruct``, ``qwen3:30b-a3b``, ``smollm2-135m``; None without one."""
    name = model.replace("_", "-")
    active = _ACTIVE.search(name)
    for found in _SIZE.finditer(_ACTIVE.sub("", name)):
        billions = float(found[1]) / (1000 if found[2].lower() == "m" else 1)
        if 0.01 <= billions <= 5000:
            return Size(billions, float(active[1]) if active else billions)
    return None


def joules_per_token(size: Size) -> tuple[float, float]:
    return BEST_JOULES * size.active, WORST_JOULES * size.whole + IDLE_JOULES


def tokens_per_second(size: Size | None) -> tuple[float, float]:
    """Of one sequence."""
    fastest = FASTEST_RATE if size is None else min(FASTEST_BYTES / (SMALLEST_WEIGHT * size.active), FASTEST_RATE)
    return SLOWEST_RATE, fastest


BOARD_POWER: tuple[tuple[str, float], ...] = (
    ("B200", 1000.0),
    ("H200", 700.0),
    ("H100 PCIe", 350.0),
    ("H100", 700.0),
    ("A100-PCIE", 300.0),
    ("A100", 400.0),
    ("L40S", 350.0),
    ("RTX 6000 Ada", 300.0),
    ("RTX 5090", 575.0),
    ("RTX 4090", 450.0),
    ("RTX 4080", 320.0),
    ("RTX 3090 Ti", 450.0),
    ("RTX 3090", 350.0),
    ("RTX 3080", 320.0),
    ("Tesla T4", 70.0),
    ("V100", 300.0),
)
"""Watts by a part of the card's name, the more exact name first."""


def board_power(name: str) -> Watts | None:
    return next((Watts(watts) for part, watts in BOARD_POWER if part.lower() in name.lower()), None)
