"""Samples over time: pairs of unix seconds and value, as a sequence of pairs or, for many of them, as two columns."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import lt
from typing import Any, TypeAlias, overload

import numpy as np

Points: TypeAlias = Sequence[tuple[float, float]]
"""In rising order of time."""


JoinedTimes: TypeAlias = "dict[tuple[int, ...], array[float]]"
"""By the ids of the columns that were joined."""


class Columns(Sequence[tuple[float, float]]):
    """Points in two columns of equal length that are never changed; what is summed up of them is summed up once.

    ``known``: what was found of windows, by (start, end); see ``ahead``.
    """

    __slots__ = ("_areas", "at", "known", "value")

    def __init__(self, at: array[float], value: array[float]) -> None:
        self.at = at
        self.value = value
        self.known: dict[tuple[float, float], Any] = {}
        self._areas: array[float] | None = None

    @classmethod
    def of(cls, points: Iterable[tuple[float, float]]) -> Columns:
        if isinstance(points, cls):
            return points
        pairs = list(points)
        return cls(array("d", (at for at, _ in pairs)), array("d", (value for _, value in pairs)))

    @classmethod
    def joined(cls, parts: Sequence[Columns], times: JoinedTimes | None = None) -> Columns:
        """One after another; where parts overlap, or repeat a moment, the last value of a moment counts.

        ``times``, where given, lets series whose parts share their columns of time share the joined one too.
        """
        parts = [part for part in parts if len(part)]
        if len(parts) == 1:
            return parts[0]
        if any(map(lt, (part.at[0] for part in parts[1:]), (part.at[-1] for part in parts))):
            return cls.of(sorted(dict(chain.from_iterable(parts)).items()))
        at, value = array("d"), array("d")
        for part in parts:
            if at and at[-1] == part.at[0]:
                # Neighbouring chunks share the moment between them.
                del at[-1], value[-1]
            at.extend(part.at)
            value.extend(part.value)
        if times is not None:
            at = times.setdefault(tuple(id(part.at) for part in parts), at)
        return cls(at, value)

    @property
    def areas(self) -> array[float]:
        """By point, the integral from the first point to it, straight lines between them."""
        if self._areas is None:
            at, value = np.frombuffer(self.at), np.frombuffer(self.value)
            self._areas = array("d", [0.0][: len(at)])
            self._areas.frombytes(np.cumsum(np.diff(at) * (value[1:] + value[:-1]) / 2).tobytes())
        return self._areas

    def same_times(self, other: Columns) -> bool:
        return self.at is other.at or (len(self.at) == len(other.at) and self.at.tobytes() == other.at.tobytes())

    def __len__(self) -> int:
        return len(self.at)

    @overload
    def __getitem__(self, index: int) -> tuple[float, float]: ...

    @overload
    def __getitem__(self, index: slice) -> Columns: ...

    def __getitem__(self, index: int | slice) -> tuple[float, float] | Columns:
        if isinstance(index, slice):
            return Columns(self.at[index], self.value[index])
        return self.at[index], self.value[index]

    def __iter__(self) -> Iterator[tuple[float, float]]:
        return zip(self.at, self.value, strict=True)


EMPTY = Columns(array("d"), array("d"))


def inside(points: Points, start: float, end: float) -> Points:
    """The points within [start, end]."""
    if isinstance(points, Columns):
        return points[bisect_left(points.at, start) : bisect_right(points.at, end)]
    return points[bisect_left(points, (start, float("-inf"))) : bisect_right(points, (end, float("inf")))]
