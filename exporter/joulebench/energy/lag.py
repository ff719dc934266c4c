"""Learns how much later a sensor shows power than it is used, from windows of work that begin and end where power jumps.

A GPU begins to work no sooner than its client sent the request and ends no later than the client has the answer. So where power
was low before a window, it rises in the counter no sooner than the lag after the start, and falls no later than the lag after the
end. Medians over windows bound the lag from both sides; where both exceed ``LEAST_LAG``, the counter's times are corrected.
A delay at either end only (a slow network, power that decays after work) is no lag.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from joulebench.energy.curve import EnergyCurve, Flags, Floats, Indices

HORIZON = 0.5
"""Longest lag that can be learned, in seconds."""
STRETCH = 0.2
"""Seconds over which power has to be steady beyond the horizon."""
SHORTEST_WINDOW = HORIZON + STRETCH
LEAST_RISE, STEADY_SHARE = 30.0, 0.15
"""Watts by which power has to change at an edge, and the share of that by which it may differ before it."""
MIN_EDGES = 6
"""Least number of rises, and of falls, that a lag is learned from."""
LEAST_LAG = 0.08
"""Seconds; a shorter lag cannot be distinguished from network time and the decay of power."""
MOST_SPREAD = 0.075
"""Seconds by which half of the delays may differ from their median at most: a lag is constant, while windows that were not cut at
the edges of work have any delay."""
SAME_MOMENT = 0.03
"""Seconds between edges that are of one moment, as the starts of a task and of its first call."""
LONGEST_STEP = 0.3
"""Seconds between two counter values; with fewer values an edge is not known well enough."""


class EdgeDelays(NamedTuple):
    """Seconds from the starts of windows to the rises of power, and from their ends to the falls, of those that show one."""

    rises: list[float]
    falls: list[float]


def edge_delays(
    curve: EnergyCurve, windows: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]] = ()
) -> EdgeDelays:
    """Returns the delays of windows; the curve has to reach ``SHORTEST_WINDOW`` beyond each.

    ``others``: further windows of work. Where another window begins or ends near an edge, power changes with that one, too, and
    the delay is unknown.
    """
    if not windows or not curve.is_known:
        return EdgeDelays([], [])
    starts, ends = np.array(windows, np.float64).T
    all_edges = np.sort(np.array([*windows, *others], np.float64).ravel())
    is_known = (starts - HORIZON >= curve.at[0]) & (ends + SHORTEST_WINDOW <= curve.at[-1])
    is_known &= ends - starts >= SHORTEST_WINDOW
    is_known &= curve.usual_steps(curve.step_at(starts)) <= LONGEST_STEP
    rises, has_rise = _delays(curve, starts, -1.0)
    falls, has_fall = _delays(curve, ends, 1.0)
    has_rise &= is_known & _is_alone(starts, all_edges)
    has_fall &= is_known & _is_alone(ends, all_edges)
    return EdgeDelays(rises[has_rise].tolist(), falls[has_fall].tolist())


def _is_alone(edges: Floats, all_edges: Floats) -> Flags:
    """Whether no other edge lies near each, but for those of the same moment."""

    def count(before: float, after: float) -> Indices:
        counts: Indices = np.searchsorted(all_edges, edges + after, "right") - np.searchsorted(all_edges, edges - before)
        return counts

    alone: Flags = count(HORIZON, SHORTEST_WINDOW) == count(SAME_MOMENT, SAME_MOMENT)
    return alone


def _delays(curve: EnergyCurve, edges: Floats, quiet_side: float) -> tuple[Floats, Flags]:
    """Returns the delays of the jump of power after each edge, and whether power was low and steady on its quiet side.

    Between the edge and the horizon power has two levels, so the energy says when it changed from one to the other.
    """
    half = STRETCH / 2
    before = _watts(curve, edges - STRETCH, edges)
    after = _watts(curve, edges + HORIZON, edges + HORIZON + STRETCH)
    jump = after - before
    spent = _joules(curve, edges, edges + HORIZON)
    with np.errstate(invalid="ignore", divide="ignore"):
        delays: Floats = HORIZON - (spent - before * HORIZON) / jump
    quiet = edges - HORIZON if quiet_side < 0 else edges + HORIZON
    unsteady = np.abs(_watts(curve, quiet, quiet + half) - _watts(curve, quiet + half, quiet + STRETCH))
    if quiet_side < 0:
        unsteady = np.maximum(unsteady, np.abs(_watts(curve, edges - HORIZON, edges - STRETCH) - before))
    is_clear: Flags = (-quiet_side * jump >= LEAST_RISE) & (unsteady <= STEADY_SHARE * np.abs(jump)) & np.isfinite(delays)
    return delays, is_clear


def _joules(curve: EnergyCurve, starts: Floats, ends: Floats) -> Floats:
    spent: Floats = curve.joules_at(ends) - curve.joules_at(starts)
    return spent


def _watts(curve: EnergyCurve, starts: Floats, ends: Floats) -> Floats:
    watts: Floats = _joules(curve, starts, ends) / (ends - starts)
    return watts


def learn_sensor_lag(rises: Collection[float], falls: Collection[float]) -> float:
    """Returns the lag of a sensor in seconds by delays of rises and falls; 0 where they show none, or are too few."""
    rise, fall = _common_delay(rises), _common_delay(falls)
    return (rise + fall) / 2 if min(rise, fall) >= LEAST_LAG else 0.0


def _common_delay(delays: Collection[float]) -> float:
    """Returns the median; 0 where there are too few delays or half of them differ too much from it."""
    if len(delays) < MIN_EDGES:
        return 0.0
    middle = median(delays)
    return middle if median(abs(delay - middle) for delay in delays) <= MOST_SPREAD else 0.0
