"""The numbers of a document by their place, and what the truth says about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isclose
from typing import Any

Number = float | int | None

_NAMES = ("run", "label", "base", "arm", "model", "task_id", "task", "worker", "gpu", "name", "turn", "number", "kind", "scope")
"""Fields that tell the items of a list apart."""


def leaves(document: object, place: str = "") -> Iterator[tuple[str, Number]]:
    """Numbers and nulls. Items of a list are named by what tells them apart, else by their place in it."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from leaves(value, f"{place}.{key}" if place else key)
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from leaves(value, f"{place}[{_named(value) or index}]")
    elif document is None or (isinstance(document, int | float) and not isinstance(document, bool)):
        yield place, document


def _named(item: object) -> str:
    if not isinstance(item, dict):
        return ""
    return "/".join(str(item[key]) for key in _NAMES if isinstance(item.get(key), str | int))


@dataclass(frozen=True)
class Is:
    """Equal to the truth, to within ``rel`` of it or ``off``, for figures that are measured and not told."""

    truth: float
    rel: float = 1e-6
    off: float = 1e-9

    def holds(self, value: Number) -> bool:
        return value is not None and isclose(value, self.truth, rel_tol=self.rel, abs_tol=self.off)


@dataclass(frozen=True)
class AtMost:
    """The lower bound of an interval that holds the truth; a bound that is not known bounds nothing."""

    truth: float

    def holds(self, value: Number) -> bool:
        return value is None or value <= self.truth + 1e-9 * max(1.0, abs(self.truth))


@dataclass(frozen=True)
class AtLeast:
    truth: float

    def holds(self, value: Number) -> bool:
        return value is None or value >= self.truth - 1e-9 * max(1.0, abs(self.truth))


@dataclass(frozen=True)
class Within:
    """A level or a statistic without a truth of its own: what it cannot be is known."""

    low: float
    high: float

    def holds(self, value: Number) -> bool:
        return value is not None and self.low <= value <= self.high


@dataclass(frozen=True)
class Unknown:
    """Nobody could know it."""

    def holds(self, value: Number) -> bool:
        return value is None


Check = Is | AtMost | AtLeast | Within | Unknown
Truth = dict[str, Check]


def wrong(found: Mapping[str, Number], truth: Mapping[str, Check]) -> list[str]:
    """Numbers that differ from the truth or are missing; numbers without a truth are left to invariants."""
    differing = [(place, check) for place, check in truth.items() if place in found and not check.holds(found[place])]
    false = [f"{place} is {found[place]!r}, and should be {check}" for place, check in differing]
    return [*false, *(f"{place} is missing; the truth is {check}" for place, check in truth.items() if place not in found)]


def numbers(document: Any) -> dict[str, Number]:
    found: dict[str, Number] = {}
    for place, value in leaves(document):
        assert place not in found, f"two numbers are both called {place}"
        found[place] = value
    return found
