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
    ("GB300", 1400.0),
    ("GB200", 1200.0),
    ("B200", 1000.0),
    ("H200", 700.0),
    ("H100 PCIe", 350.0),
    ("H100", 700.0),
    ("A100-PCIE", 300.0),
    ("A100 80GB PCIe", 300.0),
    ("A100-SXM4-80GB", 500.0),
    ("A100", 400.0),
    ("A10G", 300.0),
    ("A10", 150.0),
    ("RTX A5000", 230.0),
    ("L40S", 350.0),
    ("RTX PRO 6000 Blackwell Max-Q", 325.0),
    ("RTX 6000 Ada", 300.0),
    ("RTX 4000 SFF Ada", 70.0),
    ("RTX 5090", 600.0),
    ("RTX 4090", 600.0),
    ("RTX 4080", 400.0),
    ("RTX 3090", 480.0),
    ("RTX 3080", 375.0),
    ("RTX 3060", 190.0),
    ("RTX 2080", 350.0),
    ("RTX 2070", 200.0),
    ("GTX 1080 Ti", 300.0),
    ("TITAN V", 300.0),
    ("Tesla T4", 70.0),
    ("P100", 250.0),
    ("V100", 300.0),
    ("Quadro P2000", 75.0),
)
"""Highest power limit in watts that the driver of such a card allows, by a part of its name, the more exact name first.

From NVML on real cards where one was recorded, else from the maker's data sheet. Laptop chips have limits of their own, that each
machine sets.
"""


def board_power(name: str) -> Watts | None:
    """None for a card that is not in the table, and for laptop chips."""
    if "laptop" in name.lower() or "max-q design" in name.lower():
        return None
    return next((Watts(watts) for part, watts in BOARD_POWER if part.lower() in name.lower()), None)
