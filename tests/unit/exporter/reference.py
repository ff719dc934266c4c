"""The same collectors through prometheus_client alone: what the exposition has to look like, byte for byte."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from joulebench.exporter.collector import Collector
from joulebench.metrics.families import Family, Sheet, family


class Observed:
    """A collector as prometheus_client wants it."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def describe(self) -> list[Family]:
        return [family(metric) for metric in self._collector.metrics]

    def collect(self) -> list[Family]:
        sheet = Sheet()
        self._collector.collect(sheet)
        return sheet.families()


def reference(collectors: Sequence[Collector], names: Collection[str] | None = None, *, openmetrics: bool = False) -> bytes:
    made = CollectorRegistry(auto_describe=True)
    for collector in collectors:
        made.register(Observed(collector))
    source = made if names is None else made.restricted_registry(names)
    if openmetrics:
        made_of: bytes = generate_openmetrics(source)  # type: ignore[no-untyped-call]
        return made_of
    return generate_latest(source)
