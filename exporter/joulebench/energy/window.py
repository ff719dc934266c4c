"""The energy of a time window.

A window's energy is E(end) - E(start) of one cumulative curve, so every joule is counted once and adjacent windows add up to the
window around them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from joulebench.energy.trace import EnergySource, energy_curve

if TYPE_CHECKING:
    from joulebench.energy.curve import Floats

SHORT_WIDTH = 0.2
"""A window whose bounds lie further apart than this share of its joules is too short for its counter."""
QUALITIES = ("ok", "short", "suspect", "missing")


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """Energy of one GPU over one window.

    ``joules``: best estimate of all of the window, None when unknown, also where the counter reaches over a part only: then
    ``low`` is what that part took at least. ``low``/``high``: bounds that the monotone counter guarantees; None where it cannot.
    ``samples``: counter changes inside the window. ``longest_gap``: longest time between two neighbouring changes that touch
    the window. ``coverage``: share of the window between the first and last known counter value, 0 to 1, less the
    time between two epochs. ``quality``: ok, short, suspect or missing; ``reasons`` says why it is not ok. ``end_joules``: the
    cumulative curve at the end of the window, of which only differences mean anything; None where the window is not known.
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
    end_joules: float | None = None


def window_energy(source: EnergySource, start: float, end: float, *, method: str = "counter", lag: float = 0.0) -> WindowEnergy:
    """Joules between two times (seconds, same clock as the source); see ``window_energies``.

    ``lag``: seconds by which the source shows energy late, which is corrected, widens the bounds and is a reason.

    ValueError when the window ends before it starts.
    """
    if end < start:
        raise ValueError(f"the window ends at {end}, before its start {start}")
    # The estimator brings numpy, 20 MB that an exporter takes only once it is asked for a window.
    from joulebench.energy.estimator import window_energies

    curve = energy_curve(source, start, end + 2 * lag)
    if not lag:
        return window_energies(curve, [(start, end)], method=method)[0]
    energy = window_energies(curve.shifted(lag, lag), [(start, end)], method=method)[0]
    if energy.high is None and energy.quality == "ok":
        # The counter has not passed the end by as much as it may be late.
        energy = replace(energy, quality="short", reasons=("short",))
    return replace(energy, reasons=(*energy.reasons, "sensor_lag"))


def adjacent_energies(
    source: EnergySource,
    edges: Sequence[float],
    *,
    changes: Sequence[float] = (),
    method: str = "counter",
    lag: float = 0.0,
    uncertainty: float = 0.0,
) -> list[WindowEnergy]:
    """Joules between each two neighbouring times, which add up to those of the window from the first to the last.

    ``changes``: further times, rising, at which power may change; see ``joules_at_changes``. ``lag``: as of ``window_energy``.
    ``uncertainty``: seconds by which any edge may be off; the bounds hold for all of it.
    """
    import numpy as np

    from joulebench.energy.changes import joules_at_changes
    from joulebench.energy.estimator import window_energies

    curve = energy_curve(source, edges[0] - uncertainty, edges[-1] + 2 * lag + uncertainty)
    if lag or uncertainty:
        curve = curve.shifted(lag, lag + uncertainty)
    windows = list(pairwise(edges))
    if method != "counter":
        return window_energies(curve, windows, method=method)
    times = np.union1d(np.array(edges, np.float64), np.array(changes, np.float64))
    joules = joules_at_changes(curve, times)
    # The window as a whole is what it is without the times in it.
    first, last = curve.joules_at([edges[0], edges[-1]]).tolist()
    joules = np.where(times >= edges[-1], last, np.where(times <= edges[0], first, np.clip(joules, first, last)))

    def joules_at_edges(edges: Floats) -> Floats:
        found: Floats = joules[np.searchsorted(times, edges)]
        return found

    return window_energies(curve, windows, method=method, joules_at=joules_at_edges)


def total(windows: Iterable[WindowEnergy]) -> WindowEnergy:
    """The GPUs of one window together: sums where every GPU is known, the worst coverage, gap and quality of them."""
    parts = list(windows)
    if not parts:
        return missing("none", ("no_gpu",))
    methods = {part.method for part in parts}
    gaps = [part.longest_gap for part in parts if part.longest_gap is not None]
    coverages = [part.coverage for part in parts if part.coverage is not None]
    joules, low, high = _sum([p.joules for p in parts]), _sum([p.low for p in parts]), _sum([p.high for p in parts])
    reasons = tuple(dict.fromkeys(reason for part in parts for reason in part.reasons))
    quality = max((part.quality for part in parts), key=QUALITIES.index)
    # A GPU that hardly takes part may be short alone; what counts is how sure the sum is.
    if all(part.samples >= 2 for part in parts) and joules is not None and _narrow(joules, low, high):
        reasons = tuple(reason for reason in reasons if reason != "short")
        quality = "ok" if quality == "short" else quality
    return WindowEnergy(
        joules=joules,
        low=low,
        high=high,
        method=methods.pop() if len(methods) == 1 else "mixed",
        samples=sum(part.samples for part in parts),
        longest_gap=max(gaps, default=None),
        coverage=min(coverages) if len(coverages) == len(parts) else None,
        resets=sum(part.resets for part in parts),
        quality=quality,
        reasons=reasons,
    )


def _narrow(joules: float, low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and high - low <= SHORT_WIDTH * joules


def with_bounds(energy: WindowEnergy, low: float | None, high: float | None) -> WindowEnergy:
    """The same estimate with these bounds; ``short`` where they lie too far apart for it."""
    bounded = replace(energy, low=low, high=high)
    if energy.joules is None or energy.quality != "ok" or _narrow(energy.joules, low, high):
        return bounded
    return replace(bounded, quality="short", reasons=(*energy.reasons, "short"))


def missing(method: str, reasons: tuple[str, ...]) -> WindowEnergy:
    """A window of which nothing is known."""
    return WindowEnergy(None, None, None, method, 0, None, 0.0, 0, "missing", reasons)


def _sum(values: Sequence[float | None]) -> float | None:
    known = 0.0
    for value in values:
        if value is None:
            return None
        known += value
    return known
