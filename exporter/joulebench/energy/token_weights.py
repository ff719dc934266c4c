"""How much a prefill token and a decode token weigh, learnt from the stretches in which a task had the GPU to itself.

Only the ratio of the two matters: they split energy that is measured. Where the data cannot separate them there is no weight.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from joulebench.energy.bins import Activity, Bin
from joulebench.energy.curve import EnergyCurve

STRETCHES_NEEDED = 8
"""Fewer stretches than this fit noise."""
COLLINEAR = 1e-3
"""Below this, 1 minus the squared cosine between prefill and decode tokens, the two cannot be separated."""


@dataclass(frozen=True, slots=True)
class TokenWeights:
    """Joules of work per token; not negative, and not both 0."""

    prefill: float
    decode: float

    def __post_init__(self) -> None:
        if not (self.prefill >= 0 and self.decode >= 0 and self.prefill + self.decode > 0):
            raise ValueError(f"token weights {self.prefill} and {self.decode} must not be negative, nor both 0")


def exclusive_stretches(found: Sequence[Bin], work: Sequence[Sequence[Activity]]) -> list[Activity]:
    """Unbroken work of one task, all tokens known, while no other task was there."""
    alone: defaultdict[int, list[Bin]] = defaultdict(list)
    for one in found:
        if len(one.tasks) == 1:
            alone[one.tasks[0]].append(one)
    stretches = []
    for index, homes in alone.items():
        starts = [home.start for home in homes]
        for stretch in _unbroken(work[index]):
            place = bisect_right(starts, stretch.start) - 1
            known = stretch.prefill_tokens is not None and stretch.decode_tokens is not None
            if known and place >= 0 and stretch.end <= homes[place].end:
                stretches.append(stretch)
    return stretches


def fit(curve: EnergyCurve, stretches: Sequence[Activity], idle_watts: float | None) -> TokenWeights | None:
    """Non-negative least squares of joules above idle on prefill and decode tokens; None where it cannot separate the two."""
    pp = pd = dd = pe = de = 0.0
    count = 0
    starts, ends = [one.start for one in stretches], [one.end for one in stretches]
    energies = (curve.joules_at(ends) - curve.joules_at(starts)).tolist()
    for stretch, used, covered in zip(stretches, energies, curve.covered(starts, ends).tolist(), strict=True):
        seconds, prefill, decode = stretch.end - stretch.start, stretch.prefill_tokens, stretch.decode_tokens
        if prefill is None or decode is None or covered < seconds:
            continue
        joules = used - (idle_watts or 0.0) * seconds
        pp, pd, dd = pp + prefill * prefill, pd + prefill * decode, dd + decode * decode
        pe, de = pe + prefill * joules, de + decode * joules
        count += 1
    determinant = pp * dd - pd * pd
    if count < STRETCHES_NEEDED or determinant <= COLLINEAR * pp * dd:
        return None
    alpha, beta = (dd * pe - pd * de) / determinant, (pp * de - pd * pe) / determinant
    if alpha < 0:
        alpha, beta = 0.0, de / dd
    elif beta < 0:
        alpha, beta = pe / pp, 0.0
    return TokenWeights(alpha, beta) if alpha >= 0 and beta >= 0 and alpha + beta > 0 else None


def _unbroken(work: Sequence[Activity]) -> list[Activity]:
    merged: list[Activity] = []
    for one in sorted(work, key=lambda activity: activity.start):
        last = merged[-1] if merged else None
        if last is None or one.start > last.end:
            merged.append(one)
        else:
            prefill, decode = _plus(last.prefill_tokens, one.prefill_tokens), _plus(last.decode_tokens, one.decode_tokens)
            merged[-1] = Activity(last.start, max(last.end, one.end), prefill, decode)
    return merged


def _plus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
