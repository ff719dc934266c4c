"""Window energies from energy curves: the one estimator, for one window or ten thousand, in the exporter and in the export."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isnan
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from joulebench.energy.curve import COVERAGE_NEEDED, EnergyCurve, Floats, Indices
from joulebench.energy.window import SHORT_WIDTH, WindowEnergy, missing

Window: TypeAlias = tuple[float, float]


def window_energies(
    curve: EnergyCurve,
    windows: Sequence[Window],
    *,
    method: str = "counter",
    joules_at: Callable[[Floats], Floats] | None = None,
) -> list[WindowEnergy]:
    """Joules of each window, none of which ends before it starts.

    ``joules_at``: E(t) at the edges where it is known better than by the curve.

    ``method`` other than ``counter`` (integrated power) gives estimates without bounds, since no counter guarantees them, unless
    the curve has bounds of its own.
    Reasons: ``no_samples``, ``uncovered_start``, ``uncovered_end``, ``reset``, ``glitch``, ``gap``, ``short``.
    """
    if not windows:
        return []
    starts, ends = np.array(windows, np.float64).T
    if not curve.is_known:
        return [missing(method, _uncovered(curve, *window) or ("no_samples",)) for window in windows]
    at = curve.at
    span = np.minimum(ends, at[-1]) - np.maximum(starts, at[0])
    known = (span > 0) | ((span == 0) & (ends == starts))
    found = iter(_known_energies(curve, starts[known], ends[known], method, joules_at or curve.joules_at))
    return [
        next(found) if is_known else missing(method, _uncovered(curve, *window) or ("no_samples",))
        for window, is_known in zip(windows, known.tolist(), strict=True)
    ]


def _known_energies(
    curve: EnergyCurve, starts: Floats, ends: Floats, method: str, joules_at: Callable[[Floats], Floats]
) -> Iterator[WindowEnergy]:
    """Of windows that the counter values touch."""
    if not len(starts):
        return
    at = curve.at
    first, last = np.searchsorted(at, starts), np.searchsorted(at, ends, "right")
    before, after = np.maximum(first - 1, 0), np.minimum(last - 1, len(at) - 2)
    resets, _ = curve.resets(starts, ends)
    seconds = ends - starts
    coverage = np.where(seconds > 0, curve.covered(starts, ends) / np.where(seconds > 0, seconds, 1.0), 1.0)
    energies = joules_at(np.concatenate((starts, ends)))
    joules = energies[len(starts) :] - energies[: len(starts)]
    nothing = np.full(len(starts), np.nan)
    low, high = curve.bounds(starts, ends) if method == "counter" or curve.has_bounds else (nothing, nothing)
    high = np.where(resets > 0, np.nan, high)
    whole = (coverage >= COVERAGE_NEEDED) & curve.is_whole(starts, ends)
    early, late = starts < at[0], ends > at[-1]
    gap = curve.is_gap(before) | curve.is_gap(after)
    short = last - first < 2
    with np.errstate(invalid="ignore"):
        short |= high - low > SHORT_WIDTH * joules
    steps_end = at[np.minimum(after + 1, len(at) - 1)]
    glitch = curve.glitches.searchsorted(steps_end, "right") > curve.glitches.searchsorted(at[before])
    flags = np.stack((early, late, resets > 0, glitch, gap, short), axis=1)
    longest_gaps = reduce_stretches(np.maximum, curve.steps, before, after - before + 1)
    columns = (joules, low, high, coverage, longest_gaps, energies[len(starts) :])
    rows = zip(*(column.tolist() for column in columns), whole.tolist(), (last - first).tolist(), resets.tolist(), strict=True)
    for (energy, least, most, share, longest, at_end, is_whole, samples, falls), row in zip(rows, flags.tolist(), strict=True):
        reasons = tuple(name for name, flag in zip(_REASONS, row, strict=True) if flag) if any(row) else ()
        quality = "ok" if not reasons else "short" if reasons == ("short",) else "suspect"
        yield WindowEnergy(
            energy if is_whole else None,
            None if isnan(least) else least,
            None if isnan(most) else most,
            method,
            samples,
            longest,
            share,
            falls,
            quality if is_whole else "missing",
            reasons,
            at_end if is_whole else None,
        )


_REASONS = ("uncovered_start", "uncovered_end", "reset", "glitch", "gap", "short")


def _uncovered(curve: EnergyCurve, start: float, end: float) -> tuple[str, ...]:
    at = curve.at
    if not len(at):
        return ()
    return (*(("uncovered_start",) if start < at[0] else ()), *(("uncovered_end",) if end > at[-1] else ()))


def reduce_stretches(ufunc: np.ufunc, values: Floats, first: Indices, counts: Indices) -> Floats:
    """``ufunc`` over each stretch of ``values``, none of which is empty."""
    if not len(first):
        return np.empty(0)
    # reduceat wants a place after the last stretch too.
    places: NDArray[np.int64] = np.stack((first, first + counts), axis=1).ravel()
    found: Floats = ufunc.reduceat(np.append(values, 0.0), places)[::2]
    return found
