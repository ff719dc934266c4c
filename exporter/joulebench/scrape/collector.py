"""The frame around every collector: its duration, its success, and a registry in which one failure stops nothing else.

A collector declares its metrics, so registering it reads nothing and a scrape filtered by ``name[]`` runs only the collectors
that own one of the wanted names. A collection is whole or absent: what a failing collector had filled in is thrown away.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from joulebench import catalogue
from joulebench.catalogue import Metric
from joulebench.clock import Clock
from joulebench.families import Family, Sheet, family
from joulebench.units import Seconds

log = logging.getLogger(__name__)


class Collector(Protocol):
    @property
    def name(self) -> str:
        """Value of the ``collector`` label."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Every metric that ``collect`` may fill in; no other collector of the registry has one of them."""
        ...

    def collect(self, sheet: Sheet) -> None:
        """Fills in what is known. Any exception counts as a failed collection."""
        ...


class Health:
    """How the last collection of each collector went; itself the last collector of a scrape."""

    metrics = (catalogue.COLLECTOR_SUCCESS, catalogue.COLLECTOR_DURATION)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, tuple[bool, Seconds]] = {}

    def record(self, name: str, duration: Seconds, error: Exception | None) -> None:
        """Logs a change between working and failing, never the same state twice in a row."""
        with self._lock:
            was_fine = self._last.get(name, (True, 0.0))[0]
            self._last[name] = (error is None, duration)
        if error is not None and was_fine:
            log.error("collector %s fails: %s: %s", name, type(error).__name__, error, exc_info=error)
        elif error is None and not was_fine:
            log.info("collector %s works again", name)

    def describe(self) -> list[Family]:
        return [family(metric) for metric in self.metrics]

    def collect(self) -> list[Family]:
        with self._lock:
            last = dict(self._last)
        sheet = Sheet()
        for name, (fine, duration) in last.items():
            sheet.value(catalogue.COLLECTOR_SUCCESS, float(fine), (name,))
            sheet.value(catalogue.COLLECTOR_DURATION, duration, (name,))
        return sheet.families()


class Observed:
    """One collector as prometheus_client wants it: described without reading, measured, and never raising."""

    def __init__(self, collector: Collector, health: Health, clock: Clock) -> None:
        self._collector = collector
        self._health = health
        self._clock = clock

    def describe(self) -> list[Family]:
        return [family(metric) for metric in self._collector.metrics]

    def collect(self) -> list[Family]:
        sheet = Sheet()
        begin = self._clock.monotonic()
        failure: Exception | None = None
        try:
            self._collector.collect(sheet)
        except Exception as error:
            failure = error
        self._health.record(self._collector.name, Seconds(self._clock.monotonic() - begin), failure)
        return [] if failure is not None else sheet.families()


def registry(collectors: Sequence[Collector], clock: Clock, process: bool = True) -> CollectorRegistry:
    """A private registry, in the order given; ``process`` adds this process's CPU, memory and Python version."""
    made = CollectorRegistry(auto_describe=True)
    health = Health()
    for collector in collectors:
        made.register(Observed(collector, health, clock))
    made.register(health)
    if process:
        ProcessCollector(registry=made)
        PlatformCollector(registry=made)
    return made


def declared(collectors: Iterable[Collector]) -> tuple[Metric, ...]:
    """Every metric that a scrape of these collectors may show."""
    return (*(metric for collector in collectors for metric in collector.metrics), *Health.metrics)
