"""What a collector is, and how its last collection went."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from typing import Protocol

from joulebench import metrics
from joulebench.metrics import Metric
from joulebench.units import Seconds

log = logging.getLogger(__name__)


class Values(Protocol):
    """Where a collector writes what it knows."""

    def value(self, metric: Metric, value: float | None, labels: Sequence[str] = ()) -> None:
        """One gauge or counter sample; ``None`` leaves the series absent."""
        ...


class Collector(Protocol):
    @property
    def name(self) -> str:
        """Value of the ``collector`` label."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Every metric that ``collect`` may fill in; no other collector of the exposition has one of them."""
        ...

    def collect(self, sheet: Values) -> None:
        """Fills in what is known. Any exception counts as a failed collection."""
        ...


class Health:
    """How the last collection of each collector went; itself the last collector of a scrape."""

    metrics = (metrics.COLLECTOR_SUCCESS, metrics.COLLECTOR_DURATION)

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

    def collect(self, sheet: Values) -> None:
        with self._lock:
            last = dict(self._last)
        for name, (fine, duration) in last.items():
            sheet.value(metrics.COLLECTOR_SUCCESS, float(fine), (name,))
            sheet.value(metrics.COLLECTOR_DURATION, duration, (name,))


def declared(collectors: Iterable[Collector]) -> tuple[Metric, ...]:
    """Every metric that a scrape of these collectors may show."""
    return (*(metric for collector in collectors for metric in collector.metrics), *Health.metrics)
