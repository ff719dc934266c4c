"""What a scrape shows: one page per collector, the health of each, and this process; in the format that was asked for.

A scrape limited by ``name[]`` runs only the collectors that own one of the wanted names. A collection is whole or absent: what a
failing collector had filled in is thrown away, and its neighbours are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import cast

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics import exposition as openmetrics_exposition

from joulebench.clock import Clock
from joulebench.exporter.collector import Collector, Health
from joulebench.exporter.page import Memory, Page
from joulebench.units import Seconds

OPENMETRICS = "application/openmetrics-text"
_END = "# EOF\n"
_openmetrics = cast(Callable[..., bytes], openmetrics_exposition.generate_latest)


@lru_cache(maxsize=64)
def content_type(accept: str) -> str:
    """What an answer to this Accept header is called."""
    return choose_encoder(accept)[1]


class Exposition:
    """Of these collectors, in the order given; ``process`` adds this process's CPU, memory and Python version."""

    def __init__(self, collectors: Sequence[Collector], clock: Clock, process: bool = True) -> None:
        self._clock = clock
        self._health = Health()
        self._memory = Memory()
        self._collectors = [(one, frozenset(metric.name for metric in one.metrics)) for one in collectors]
        self._health_names = frozenset(metric.name for metric in Health.metrics)
        self._process = _Process() if process else None

    def text(self, names: Collection[str] | None = None, *, openmetrics: bool = False) -> bytes:
        """``names``: the only series to be shown, by the name before the ``{``."""
        parts = [
            self._collect(collector, names).text(openmetrics=openmetrics)
            for collector, own in self._collectors
            if names is None or not own.isdisjoint(names)
        ]
        if names is None or not self._health_names.isdisjoint(names):
            page = Page(self._memory, names)
            self._health.collect(page)
            parts.append(page.text(openmetrics=openmetrics))
        if self._process is not None:
            parts.append(self._process.text(names, openmetrics=openmetrics))
        if openmetrics:
            parts.append(_END)
        return "".join(parts).encode()

    def _collect(self, collector: Collector, names: Collection[str] | None) -> Page:
        page = Page(self._memory, names)
        begin = self._clock.monotonic()
        failure: Exception | None = None
        try:
            collector.collect(page)
        except Exception as error:
            failure = error
        self._health.record(collector.name, Seconds(self._clock.monotonic() - begin), failure)
        return page if failure is None else Page(self._memory)


class _Process:
    """prometheus_client's own families, as it prints them; the platform stays what it is and is printed once."""

    _PREFIXES = ("process_", "python_")

    def __init__(self) -> None:
        self._changing, fixed = CollectorRegistry(), CollectorRegistry()
        ProcessCollector(registry=self._changing)
        PlatformCollector(registry=fixed)
        self._fixed = {openmetrics: _printed(fixed, openmetrics=openmetrics) for openmetrics in (False, True)}

    def text(self, names: Collection[str] | None, *, openmetrics: bool) -> str:
        if names is None:
            return _printed(self._changing, openmetrics=openmetrics) + self._fixed[openmetrics]
        if not any(name.startswith(self._PREFIXES) for name in names):
            return ""
        both = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=both)
        PlatformCollector(registry=both)
        return _printed(both, names, openmetrics=openmetrics)


def _printed(registry: CollectorRegistry, names: Collection[str] | None = None, *, openmetrics: bool) -> str:
    source = registry if names is None else registry.restricted_registry(names)
    if not openmetrics:
        return generate_latest(source).decode()
    return _openmetrics(source).decode().removesuffix(_END)
