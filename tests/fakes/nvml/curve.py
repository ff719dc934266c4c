"""Piecewise constant curves and their exact integrals: the truth that a measurement is held against."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import floor

Points = Sequence[tuple[float, float]]


def value_at(points: Points, t: float) -> float:
    return points[max(0, bisect_right([at for at, _ in points], t) - 1)][1]


def integral(points: Points, start: float, end: float, loop: float | None = None) -> float:
    """Integral over [start, end]; before its first point a curve has that point's value, after ``loop`` it begins again."""
    if loop:
        return _from_origin(points, end, loop) - _from_origin(points, start, loop)
    total = 0.0
    for index, (at, value) in enumerate(points):
        begin = start if index == 0 else max(start, at)
        stop = min(end, points[index + 1][0]) if index + 1 < len(points) else end
        if stop > begin:
            total += value * (stop - begin)
    return total


def _from_origin(points: Points, t: float, loop: float) -> float:
    rounds = floor(t / loop)
    return rounds * integral(points, 0.0, loop) + integral(points, 0.0, t - rounds * loop)
