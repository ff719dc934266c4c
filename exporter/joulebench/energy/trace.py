"""The changes of one GPU's energy counter, kept lean enough for hours of them.

A point says: at time ``at``, true to within ``uncertainty``, the counter stood at ``joules``. Times only rise. A counter that
falls begins a new epoch, and what was spent between the two epochs stays unknown: the stored curve is flat there, so it never
falls and never invents energy.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import compress
from operator import gt, lt
from threading import Lock
from typing import Any

MARGIN = 16
"""Points that a view keeps on either side of its window: neighbours for the edge split, the usual step, safe bounds."""
ROUNDED_UP = 1 + 1e-6
"""Uncertainties are kept in single precision to stay small; a hair more, so that rounding never narrows a bound."""


@dataclass(frozen=True, slots=True)
class TraceView:
    """Points that no longer change. ``joules`` never falls; ``epoch_starts`` are indices of points after a reset.

    ``energies``, ``steps`` and ``windows`` remember what was computed of it: tasks, their halves and their calls share edges.
    """

    at: array[float]
    joules: array[float]
    uncertainty: array[float]
    epoch_starts: frozenset[int]
    energies: dict[float, float] = field(default_factory=dict, compare=False)
    steps: dict[int, float] = field(default_factory=dict, compare=False)
    windows: dict[tuple[float, float, str], Any] = field(default_factory=dict, compare=False)

    def is_plain(self, start: float, end: float) -> bool:
        """Whether the points reach over [start, end] and the counter never fell: nothing to look out for."""
        return not self.epoch_starts and self.at[0] <= start and end <= self.at[-1]

    def power(self, segment: int) -> float | None:
        """Mean watts between point ``segment`` and the next; None where there is no such pair in one epoch."""
        if not 0 <= segment < len(self.at) - 1 or segment + 1 in self.epoch_starts:
            return None
        return (self.joules[segment + 1] - self.joules[segment]) / (self.at[segment + 1] - self.at[segment])


class CounterTrace:
    """Append-only; with ``capacity`` (in points) a ring that forgets the oldest. One writer, any number of readers."""

    def __init__(self, capacity: int | None = None) -> None:
        if capacity is not None and capacity < 2:
            raise ValueError(f"a trace of {capacity} points cannot hold a step")
        self._capacity = capacity
        self._lock = Lock()
        # Guarded by _lock. Joules are stored as one curve over all epochs: raw counter plus _shift.
        self._at = array("d")
        self._joules = array("d")
        self._uncertainty = array("f")
        self._epoch_starts: list[float] = []
        self._shift = 0.0
        self._resets = 0
        self._refused = 0
        self._whole: TraceView | None = None

    def append(self, at: float, joules: float, uncertainty: float = 0.0) -> None:
        """A counter change: ``joules`` true at ``at`` (seconds) +- ``uncertainty``.

        A point that is not later than the last one (a clock that stepped back) cannot be placed: it is left out and counted in
        ``refused``, and windows over it see a longer gap.
        """
        with self._lock:
            if self._at and at <= self._at[-1]:
                self._refused += 1
                return
            if self._whole is not None:
                self._leave_to_readers()
            if self._joules and joules + self._shift < self._joules[-1]:
                self._shift = self._joules[-1] - joules
                self._epoch_starts.append(at)
                self._resets += 1
            self._at.append(at)
            # The max only undoes rounding of the shift: a curve that never falls is what every bound rests on.
            self._joules.append(max(joules + self._shift, self._joules[-1]) if self._joules else joules)
            self._uncertainty.append(uncertainty * ROUNDED_UP)
            if self._capacity is not None and len(self._at) > self._capacity + max(self._capacity // 4, 1):
                self._forget(len(self._at) - self._capacity)

    def extend(self, at: array[float], joules: array[float], uncertainty: array[float]) -> None:
        """``append`` of many: columns in which neither time nor counter falls are taken in one go."""
        with self._lock:
            if self._capacity is None and not self._resets and not any(map(lt, at[1:], at)):
                # A neighbouring column may repeat the last points of this one.
                known = bisect_right(at, self._at[-1]) if self._at else 0
                rest = joules[known:]
                if not any(map(lt, rest, (self._joules[-1:] or rest[:1]) + rest)):
                    self._take(at[known:], rest, uncertainty[known:])
                    self._refused += known
                    return
        for one in zip(at, joules, uncertainty, strict=True):
            self.append(*one)

    def _take(self, at: array[float], joules: array[float], uncertainty: array[float]) -> None:
        """Columns that go on from the last point and never fall; of points at one time the first counts."""
        if self._whole is not None:
            self._leave_to_readers()
        if not all(map(gt, at[1:], at)):
            later = [True, *map(gt, at[1:], at)]
            self._refused += len(at) - sum(later)
            at, joules, uncertainty = (array("d", compress(column, later)) for column in (at, joules, uncertainty))
        self._at.extend(at)
        self._joules.extend(joules)
        self._uncertainty.extend(map(ROUNDED_UP.__mul__, uncertainty))

    def _leave_to_readers(self) -> None:
        """Goes on with columns of its own; those that a view holds stay as they are."""
        self._whole = None
        self._at, self._joules, self._uncertainty = (column[:] for column in (self._at, self._joules, self._uncertainty))

    def _forget(self, count: int) -> None:
        for column in (self._at, self._joules, self._uncertainty):
            del column[:count]
        self._epoch_starts = [at for at in self._epoch_starts if at > self._at[0]]

    def __len__(self) -> int:
        return len(self._at)

    @property
    def resets(self) -> int:
        """Times the counter fell since the trace began."""
        return self._resets

    @property
    def refused(self) -> int:
        """Points left out because their time did not rise."""
        return self._refused

    @property
    def first_at(self) -> float | None:
        with self._lock:
            return self._at[0] if self._at else None

    @property
    def last_at(self) -> float | None:
        with self._lock:
            return self._at[-1] if self._at else None

    def around(self, start: float, end: float) -> TraceView:
        """At least the points of ``view``. Without a capacity it is one view of all points, shared by all who read it."""
        if self._capacity is not None:
            return self.view(start, end)
        with self._lock:
            if self._whole is None:
                starts = frozenset(bisect_left(self._at, s) for s in self._epoch_starts)
                self._whole = TraceView(self._at, self._joules, self._uncertainty, starts)
            return self._whole

    def view(self, start: float, end: float) -> TraceView:
        """The points within [start, end] and ``MARGIN`` more on either side."""
        with self._lock:
            first = max(bisect_right(self._at, start) - MARGIN, 0)
            last = bisect_left(self._at, end) + MARGIN
            at = self._at[first:last]
            starts = frozenset(index for index in (bisect_left(at, s) for s in self._epoch_starts) if 0 < index < len(at))
            return TraceView(at, self._joules[first:last], self._uncertainty[first:last], starts)
