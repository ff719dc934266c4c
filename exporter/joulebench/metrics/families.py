"""Declared metric -> prometheus_client family: the only place where a metric becomes exposition.

A family is built anew for every scrape or push from readings that are known; ``None`` adds no sample, so an unknown value is
absent and never 0. ``_created`` series are off for the whole process: they would double every push.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class Values:
    """The samples of one gauge or counter: ``values[i]`` has the label values ``labels[i]``."""

    metric: Metric
    labels: list[tuple[str, ...]] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def family(self) -> Family:
        """Returns the same as prometheus_client has it."""
        made = family(self.metric)
        assert isinstance(made, CounterMetricFamily | GaugeMetricFamily), self.metric.name
        for labels, value in zip(self.labels, self.values, strict=True):
            made.add_metric(labels, value)
        return made


class Sheet:
    """The metrics of one scrape or one push, filled reading by reading, given out in the order of first use.

    ``only``: names of the series that are wanted; None for all.
    """

    def __init__(self, only: Collection[str] | None = None) -> None:
        self._only = only
        self._metrics: dict[str, Values | Family] = {}

    def wants(self, metric: Metric) -> bool:
        """Whether any of the metric's series is wanted."""
        return self._only is None or any(name in self._only for name in metric.series_names)

    def value(self, metric: Metric, value: float | None, labels: Sequence[str] = ()) -> None:
        """One gauge or counter sample; ``None`` leaves the series absent."""
        if value is None:
            return
        target = self._metrics.get(metric.name)
        if target is None:
            if not self.wants(metric):
                return
            assert metric.kind in (Kind.GAUGE, Kind.COUNTER), metric.name
            target = self._metrics[metric.name] = Values(metric)
        assert isinstance(target, Values), metric.name
        if len(labels) != len(metric.labels):
            raise _wrong_labels(metric, labels)
        target.labels.append(tuple(labels))
        target.values.append(value)

    def summary(self, metric: Metric, count: int, total: float, labels: Sequence[str] = ()) -> None:
        if not self.wants(metric):
            return
        target = self._family(metric, labels)
        assert isinstance(target, SummaryMetricFamily), metric.name
        target.add_metric(list(labels), count_value=count, sum_value=total)

    def histogram(self, metric: Metric, counts: Sequence[int], total: float, labels: Sequence[str] = ()) -> None:
        """``counts``: observations per declared bucket, not cumulative, with one more for those above the last bound."""
        if len(counts) != len(metric.buckets) + 1:
            raise ValueError(f"{metric.name}: {len(counts)} counts for {len(metric.buckets)} buckets and +Inf")
        if not self.wants(metric):
            return
        target = self._family(metric, labels)
        assert isinstance(target, HistogramMetricFamily), metric.name
        running = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip([*map(str, metric.buckets), "+Inf"], counts, strict=True):
            running += count
            buckets.append((bound, running))
        target.add_metric(list(labels), buckets=[*buckets], sum_value=total)

    def metrics(self) -> list[Values | Family]:
        """Returns the metrics as they were filled in."""
        return list(self._metrics.values())

    def families(self) -> list[Family]:
        """Returns the metrics as prometheus_client has them."""
        return [entry.family() if isinstance(entry, Values) else entry for entry in self._metrics.values()]

    def _family(self, metric: Metric, labels: Sequence[str]) -> Family:
        if len(labels) != len(metric.labels):
            raise _wrong_labels(metric, labels)
        target = self._metrics.get(metric.name)
        if target is None:
            target = self._metrics[metric.name] = family(metric)
        assert not isinstance(target, Values), metric.name
        return target


def _wrong_labels(metric: Metric, labels: Sequence[str]) -> ValueError:
    return ValueError(f"{metric.name} has labels {metric.labels}, got {tuple(labels)}")
