"""Which readings of an energy counter are possible: between two of them a GPU cannot use more than its highest power times the
time, nor less than nothing.

A reading outside that is not taken in until those after it agree with it: then the counter began anew, and what was used in
between is unknown. Where they go on from the readings before it, it was a glitch and nothing happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from joulebench.energy.curve import EnergyCurve, Floats
from joulebench.energy.trace import CounterTrace

MOST_WATTS = 3000.0
"""Above what any single GPU draws (data sheets of 2026: up to 1,400 W), for cards whose power limit is not known."""
LIMIT_FACTOR = 2.0
"""Short peaks lie above the enforced power limit, on no known card by this factor."""
STAYS_SECONDS, STAYS_POINTS = 5.0, 3
"""Readings that agree with each other for so long are a new epoch, not a glitch."""
MOST_STEP_SECONDS = 1.0


class CheckedCounter(NamedTuple):
    """``kept``: indices of the readings that passed; ``epochs``: those of them that begin a new epoch; ``glitches``: times of
    the readings that did not pass."""

    kept: list[int]
    epochs: list[int]
    glitches: list[float]


def ceiling_watts(power_limit: float | None) -> float:
    """The highest power to believe, by the enforced limit in watts where it is known and can be true."""
    if power_limit is None or not 1.0 <= power_limit <= MOST_WATTS:
        return MOST_WATTS
    return LIMIT_FACTOR * power_limit


def check_counter(at: Floats, joules: Floats, uncertainty: Floats, watts: float) -> CheckedCounter | None:
    """Readings in rising order of time, against a ceiling in watts; None where all of them are possible."""
    if len(at) < 2:
        return None
    spans = np.diff(at)
    step = min(float(np.median(spans)), MOST_STEP_SECONDS)
    rises = np.diff(joules)
    if ((rises >= 0) & (rises <= watts * (spans + uncertainty[1:] + uncertainty[:-1] + step))).all():
        return None
    return _Checker(at.tolist(), joules.tolist(), uncertainty.tolist(), watts, step).check()


def checked_curve(at: Floats, joules: Floats, uncertainty: Floats, watts: float, anew: Sequence[int] = ()) -> EnergyCurve:
    """The energy curve of the readings that passed ``check_counter``; it has the times of those that did not.

    ``anew``: indices of readings, rising, before which the counter may have begun anew whatever it shows.
    """
    trace = CounterTrace()
    for first, last in pairwise((0, *anew, len(at))):
        _add_readings(trace, at[first:last], joules[first:last], uncertainty[first:last], watts)
    return trace.curve()


def _add_readings(trace: CounterTrace, at: Floats, joules: Floats, uncertainty: Floats, watts: float) -> None:
    """Adds readings to a trace as an epoch of their own."""
    checked = check_counter(at, joules, uncertainty, watts)
    if checked is None and not len(trace):
        trace.extend(at, joules, uncertainty)
        return
    kept = checked.kept if checked is not None else range(len(at))
    epochs = set(checked.epochs if checked is not None else ())
    for place, index in enumerate(kept):
        is_new = index in epochs or (place == 0 and len(trace) > 0)
        trace.append(float(at[index]), float(joules[index]), float(uncertainty[index]), new_epoch=is_new)
    for moment in checked.glitches if checked is not None else ():
        trace.note_glitch(moment)


class _Checker:
    def __init__(self, at: Sequence[float], joules: Sequence[float], slack: Sequence[float], watts: float, step: float) -> None:
        self._at, self._joules, self._slack = at, joules, slack
        self._watts, self._step = watts, step
        self._kept: list[int] = []
        self._epochs: list[int] = []
        self._glitches: list[float] = []
        self._pending: list[int] = []

    def check(self) -> CheckedCounter:
        for index in range(len(self._at)):
            if not self._kept or (self._follows(self._kept[-1], index) and not self._has_grown_back(index)):
                self._drop(self._pending)
                self._pending = []
                self._kept.append(index)
            elif self._pending and self._follows(self._pending[-1], index):
                self._pending.append(index)
                if self._has_stayed(self._pending):
                    self._begin_epoch()
            else:
                self._drop(self._pending)
                self._pending = [index]
        self._drop(self._pending)
        return CheckedCounter(self._kept, self._epochs, sorted(self._glitches))

    def _follows(self, before: int, after: int) -> bool:
        rise = self._joules[after] - self._joules[before]
        seconds = self._at[after] - self._at[before] + self._slack[after] + self._slack[before] + self._step
        return 0 <= rise <= self._watts * seconds

    def _has_grown_back(self, index: int) -> bool:
        """Whether a counter that fell reaches its old height by rising as a counter does: a sum that began at 0 and began again
        soon. A glitch is over from one reading to the next; a single reading that is a little too low is one, too."""
        if not self._pending or not self._follows(self._pending[-1], index):
            return False
        return len(self._pending) > 1 or self._joules[self._pending[0]] < self._joules[self._kept[-1]] / 2

    def _has_stayed(self, indices: Sequence[int]) -> bool:
        return len(indices) >= STAYS_POINTS and self._at[indices[-1]] - self._at[indices[0]] >= STAYS_SECONDS

    def _begin_epoch(self) -> None:
        if len(self._kept) >= STAYS_POINTS:
            self._epochs.append(self._pending[0])
        else:
            # So few readings at the very beginning were the glitch themselves.
            self._drop(self._kept)
            self._kept = []
        self._kept += self._pending
        self._pending = []

    def _drop(self, indices: Sequence[int]) -> None:
        self._glitches += [self._at[index] for index in indices]
