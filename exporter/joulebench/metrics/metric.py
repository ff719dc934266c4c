"""What a metric is, and how the files beside this one declare theirs.

A summary here has no quantiles: it is the pair ``NAME_sum`` and ``NAME_count``, both cumulative, so that the next push repairs
one that was lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

PREFIX = "joulebench_"


class Kind(Enum):
    GAUGE = "gauge"
    COUNTER = "counter"
    SUMMARY = "summary"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family. ``unused_because`` says why no dashboard, rule or result column reads it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    unused_because: str = ""

    @property
    def series_names(self) -> tuple[str, ...]:
        """The names that stand in front of ``{`` on a scrape."""
        if self.kind is Kind.SUMMARY:
            return (f"{self.name}_count", f"{self.name}_sum")
        if self.kind is Kind.HISTOGRAM:
            return (f"{self.name}_bucket", f"{self.name}_count", f"{self.name}_sum")
        return (self.name,)


def gauge(name: str, help_: str, labels: tuple[str, ...] = (), unused_because: str = "") -> Metric:
    return Metric(PREFIX + name, Kind.GAUGE, help_, labels, unused_because=unused_because)


def counter(name: str, help_: str, labels: tuple[str, ...] = (), unused_because: str = "") -> Metric:
    return Metric(PREFIX + name, Kind.COUNTER, help_, labels, unused_because=unused_because)


def summary(name: str, help_: str, labels: tuple[str, ...] = ()) -> Metric:
    return Metric(PREFIX + name, Kind.SUMMARY, help_, labels)


def histogram(name: str, help_: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Metric:
    return Metric(PREFIX + name, Kind.HISTOGRAM, help_, labels, buckets)
