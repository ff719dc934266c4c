"""Declared metric -> prometheus_client family: the only place where a metric becomes exposition.

A family is built anew for every scrape or push from readings that are known; ``None`` adds no sample, so an unknown value is
absent and never 0. ``_created`` series are off for the whole process: they would double every push.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from prometheus_client import disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, SummaryMetricFamily

from joulebench.metrics import Kind, Metric

disable_created_metrics()  # type: ignore[no-untyped-call]

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily | SummaryMetricFamily


def family(metric: Metric) -> Family:
    """An empty family of the metric's kind."""
    match metric.kind:
        case Kind.GAUGE:
            return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        case Kind.COUNTER:
            return CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
        case Kind.SUMMARY:
            return SummaryMetricFamily(metric.name, metric.help, labels=metric.labels)
        case Kind.HISTOGRAM:
            return HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)


class Sheet:
    """The families of one scrape or one push, filled reading by reading, given out in the order of first use."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def value(self, metric: Metric, value: float | None, labels: Sequence[str] = ()) -> None:
        """One gauge or counter sample; ``None`` leaves the series absent."""
        if value is None:
            return
        target = self._family(metric, labels)
        assert isinstance(target, CounterMetricFamily | GaugeMetricFamily), metric.name
        target.add_metric(list(labels), value)

    def summary(self, metric: Metric, count: int, total: float, labels: Sequence[str] = ()) -> None:
        target = self._family(metric, labels)
        assert isinstance(target, SummaryMetricFamily), metric.name
        target.add_metric(list(labels), count_value=count, sum_value=total)

    def histogram(self, metric: Metric, counts: Sequence[int], total: float, labels: Sequence[str] = ()) -> None:
        """``counts``: observations per declared bucket, not cumulative, with one more for those above the last bound."""
        if len(counts) != len(metric.buckets) + 1:
            raise ValueError(f"{metric.name}: {len(counts)} counts for {len(metric.buckets)} buckets and +Inf")
        target = self._family(metric, labels)
        assert isinstance(target, HistogramMetricFamily), metric.name
        running = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip([*map(str, metric.buckets), "+Inf"], counts, strict=True):
            running += count
            buckets.append((bound, running))
        target.add_metric(list(labels), buckets=[*buckets], sum_value=total)

    def families(self) -> list[Family]:
        return list(self._families.values())

    def _family(self, metric: Metric, labels: Sequence[str]) -> Family:
        if len(labels) != len(metric.labels):
            raise ValueError(f"{metric.name} has labels {metric.labels}, got {tuple(labels)}")
        found = self._families.get(metric.name)
        if found is None:
            found = self._families[metric.name] = family(metric)
        return found
