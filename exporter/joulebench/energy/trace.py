"""The changes of one GPU's energy counter, kept lean enough for hours of them.

A point says: at time ``at``, true to within ``uncertainty``, the counter stood at ``joules``. Times only rise. A counter that
falls begins a new epoch, and what was used between the two epochs stays unknown: the stored curve is flat there, so it never
falls and never invents energy. Appending needs no numpy, which the exporter does without until it is asked for a window.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias, Union

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from joulebench.energy.curve import EnergyCurve, Floats

MARGIN = 48
"""Points that a curve keeps on either side of its window: neighbours for the edge split, the usual step, safe bounds."""
MOST_GLITCHES = 1000
ROUNDED_UP = 1 + 1e-6
"""Uncertainties are kept in single precision to stay small; a hair more, so that rounding never narrows a bound."""


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
        self._glitches: list[float] = []
        self._shift = 0.0
        self._resets = 0
        self._refused = 0

    def append(self, at: float, joules: float, uncertainty: float = 0.0, *, new_epoch: bool = False) -> None:
        """A counter change: ``joules`` true at ``at`` (seconds) +- ``uncertainty``.

        A point that is not later than the last one (a clock that stepped back) cannot be placed: it is left out and counted in
        ``refused``, and windows over it see a longer gap. ``new_epoch``: the counter began anew, whatever it shows;
        one that falls did so too.
        """
        with self._lock:
            if self._at and at <= self._at[-1]:
                self._refused += 1
                return
            if self._joules and (new_epoch or joules + self._shift < self._joules[-1]):
                self._shift = self._joules[-1] - joules
                self._epoch_starts.append(at)
                self._resets += 1
            self._at.append(at)
            # The max only undoes rounding of the shift: a curve that never falls is what every bound rests on.
            self._joules.append(max(joules + self._shift, self._joules[-1]) if self._joules else joules)
            self._uncertainty.append(uncertainty * ROUNDED_UP)
            if self._capacity is not None and len(self._at) > self._capacity + max(self._capacity // 4, 1):
                self._forget(len(self._at) - self._capacity)

    def retract(self, after: float) -> None:
        """Takes back the points later than ``after``, which turned out to be no readings; never across an epoch."""
        with self._lock:
            epoch = bisect_left(self._at, self._epoch_starts[-1]) + 1 if self._epoch_starts else 0
            keep = max(bisect_right(self._at, after), epoch)
            for column in (self._at, self._joules, self._uncertainty):
                del column[keep:]

    def note_glitch(self, at: float) -> None:
        """A reading that was impossible and was left out; the windows that it touches say so."""
        with self._lock:
            insort(self._glitches, at)
            del self._glitches[:-MOST_GLITCHES]

    def extend(self, at: ArrayLike, joules: ArrayLike, uncertainty: ArrayLike) -> None:
        """``append`` of many, in their order; columns whose times and joules never fall are taken in one go."""
        import numpy as np

        columns = [np.asarray(column, np.float64) for column in (at, joules, uncertainty)]
        with self._lock:
            taken = self._capacity is None and not self._resets and self._append_columns(*columns)
        if not taken:
            for point in zip(*(column.tolist() for column in columns), strict=True):
                self.append(*point)

    def _append_columns(self, at: Floats, joules: Floats, uncertainty: Floats) -> bool:
        """Whether the columns go on from the last point without a fall and were taken; of points at one time the first counts."""
        import numpy as np

        if (np.diff(at) < 0).any():
            return False
        later = np.diff(at, prepend=self._at[-1] if self._at else -np.inf) > 0
        later &= at > (self._at[-1] if self._at else -np.inf)
        kept = joules[later]
        if (np.diff(kept, prepend=self._joules[-1] if self._joules else -np.inf) < 0).any():
            return False
        self._refused += int(len(at) - later.sum())
        self._at.frombytes(at[later].tobytes())
        self._joules.frombytes(kept.tobytes())
        self._uncertainty.frombytes((uncertainty[later] * ROUNDED_UP).astype(np.float32).tobytes())
        return True

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

    def curve(self, start: float = -inf, end: float = inf) -> EnergyCurve:
        """The energy curve of the points within [start, end] and ``MARGIN`` more on either side, as they are now."""
        import numpy as np

        from joulebench.energy.curve import EnergyCurve

        with self._lock:
            first = max(bisect_right(self._at, start) - MARGIN, 0)
            last = bisect_left(self._at, end) + MARGIN
            at, joules, uncertainty = (column[first:last] for column in (self._at, self._joules, self._uncertainty))
            glitches = list(self._glitches)
            starts = [bisect_left(at, s) for s in self._epoch_starts]
        return EnergyCurve(
            np.array(at, np.float64),
            np.array(joules, np.float64),
            np.array(uncertainty, np.float64),
            [index for index in starts if 0 < index < len(at)],
            glitches,
        )


EnergySource: TypeAlias = Union[CounterTrace, "EnergyCurve"]
"""The counter of one GPU, as it is recorded or as it was read back."""


def energy_curve(source: EnergySource, start: float, end: float) -> EnergyCurve:
    """The curve of a source, at least around [start, end]."""
    return source.curve(start, end) if isinstance(source, CounterTrace) else source
