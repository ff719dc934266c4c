"""What a scrape shows: the collectors, the health of each, and this process, printed by prometheus_client.

A scrape limited by ``name[]`` runs only the collectors that own one of the named metrics. A collection is complete or absent:
the samples of a collector that fails are dropped, and the other collectors are shown.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, cast

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client import Metric as MetricFamily
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.utils import floatToGoString

from joulebench import metrics
from joulebench.clock import Clock
from joulebench.metrics import Metric
from joulebench.metrics.families import Family, Sheet, Values
from joulebench.units import Seconds

log = logging.getLogger(__name__)

OPENMETRICS = "application/openmetrics-text"
format_number = cast(Callable[[float], str], floatToGoString)
ALLOWUTF8 = openmetrics.ALLOWUTF8
"""No name here needs escaping, so none is looked through for it."""


class Collector(Protocol):
    @property
    def name(self) -> str:
        """Value of the ``collector`` label."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Every metric that ``collect`` may fill in; no other collector of the exposition has any of them."""
        ...

    def collect(self, sheet: Sheet) -> None:
        """Fills in the known values. Any exception counts as a failed collection."""
        ...


class CollectorHealth:
    """How the last collection of each collector went; itself the last collector of a scrape."""

    name = "health"
    metrics = (metrics.COLLECTOR_SUCCESS, metrics.COLLECTOR_DURATION)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, tuple[bool, Seconds]] = {}

    def record(self, name: str, duration: Seconds, error: Exception | None) -> None:
        """Logs a change between working and failing, never the same state twice in a row."""
        with self._lock:
            was_ok = self._last.get(name, (True, 0.0))[0]
            self._last[name] = (error is None, duration)
        if error is not None and was_ok:
            log.error("collector %s fails: %s: %s", name, type(error).__name__, error, exc_info=error)
        elif error is None and not was_ok:
            log.info("collector %s works again", name)

    def collect(self, sheet: Sheet) -> None:
        with self._lock:
            last = dict(self._last)
        for name, (ok, duration) in last.items():
            sheet.value(metrics.COLLECTOR_SUCCESS, float(ok), (name,))
            sheet.value(metrics.COLLECTOR_DURATION, duration, (name,))


class Exposition:
    """Of these collectors, in the order given; ``process`` adds this process's CPU, memory and Python version.

    Raises ValueError where two collectors have a metric of the same name.
    """

    def __init__(self, collectors: Sequence[Collector], clock: Clock, process: bool = True) -> None:
        self._clock = clock
        self._collectors = [(collector, _series_names(collector)) for collector in collectors]
        self._health = CollectorHealth()
        names = [name for _, series in self._collectors for name in series]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two collectors show {', '.join(sorted(doubled))}")
        self._plain = _Printer(partial(generate_latest, escaping=ALLOWUTF8), b"")
        self._openmetrics = _Printer(partial(openmetrics.generate_latest, escaping=ALLOWUTF8), b"# EOF\n")
        self._process = CollectorRegistry(auto_describe=True)
        if process:
            ProcessCollector(registry=self._process)
            PlatformCollector(registry=self._process)

    def render(self, names: Collection[str] | None = None, accept: str = "") -> tuple[bytes, str]:
        """Returns the text and its content type. ``names``: the only series to be shown, by the name before the ``{``.

        ``accept``: the Accept header, by which Prometheus chooses OpenMetrics.
        """
        _, content_type = choose_encoder(accept)
        printer = self._openmetrics if content_type.startswith(OPENMETRICS) else self._plain
        wanted = None if names is None else frozenset(names)
        parts: list[bytes] = []
        for collector, series_names in self._collectors:
            if wanted is None or not wanted.isdisjoint(series_names):
                parts += map(printer.text, self._collect(collector, wanted))
        sheet = Sheet(wanted)
        self._health.collect(sheet)
        parts += map(printer.text, sheet.metrics())
        process = self._process if wanted is None else self._process.restricted_registry(wanted)
        parts += map(printer.family_text, process.collect())
        return b"".join(parts) + printer.end, content_type

    def _collect(self, collector: Collector, names: frozenset[str] | None) -> list[Values | Family]:
        """Returns what the collector shows now; nothing where it fails."""
        sheet = Sheet(names)
        started_at = self._clock.monotonic()
        failure: Exception | None = None
        try:
            collector.collect(sheet)
        except Exception as error:
            failure = error
        self._health.record(collector.name, Seconds(self._clock.monotonic() - started_at), failure)
        if failure is not None:
            return []
        for entry in sheet.metrics():
            if names is not None and not isinstance(entry, Values):
                entry.samples = [sample for sample in entry.samples if sample.name in names]
        return sheet.metrics()


def _series_names(collector: Collector) -> frozenset[str]:
    return frozenset(name for metric in collector.metrics for name in metric.series_names)


class _OneFamily:
    """A registry of one family, for prometheus_client's printers."""

    def __init__(self, metric: MetricFamily) -> None:
        self._metric = metric

    def collect(self) -> Iterable[MetricFamily]:
        return (self._metric,)


class _Printed(NamedTuple):
    """The text of a metric's samples. ``head``: its first lines; ``starts``: each sample's line without the value."""

    labels: Sequence[tuple[str, ...]]
    values: Sequence[float]
    head: str
    starts: Sequence[str]
    text: bytes


class _Printer:
    """Prints metrics by prometheus_client, and what did not change since the last scrape from memory.

    The library prints a metric when its label values are new. From then on only the values that changed are printed, by the
    library's function for numbers, behind the line's start as the library printed it. A full scrape of 8 GPUs takes a third of
    the time that way, and the scrapes of energy alone too (make bench, part cost).
    """

    def __init__(self, encode: Callable[[CollectorRegistry], bytes], end: bytes) -> None:
        self._encode = encode
        self.end = end
        self._printed: dict[str, _Printed] = {}

    def text(self, metric: Values | Family) -> bytes:
        """Returns the lines of a metric, its help and type included."""
        if not isinstance(metric, Values):
            return self.family_text(metric)
        name = metric.metric.name
        printed = self._printed.get(name)
        if printed is None or printed.labels != metric.labels:
            printed = self._printed[name] = self._print(metric)
        elif printed.values != metric.values:
            numbers = map(format_number, metric.values)
            lines = [start + number for start, number in zip(printed.starts, numbers, strict=True)]
            text = "\n".join([printed.head, *lines, ""]).encode()
            printed = self._printed[name] = printed._replace(values=metric.values, text=text)
        return printed.text

    def family_text(self, family: MetricFamily) -> bytes:
        """Returns the same of a family of prometheus_client."""
        return self._encode(cast(CollectorRegistry, _OneFamily(family))).removesuffix(self.end)

    def _print(self, metric: Values) -> _Printed:
        text = self.family_text(metric.family())
        lines = text.decode().split("\n")[:-1]
        first = len(lines) - len(metric.values)
        starts = [line[: line.rindex(" ") + 1] for line in lines[first:]]
        return _Printed(metric.labels, metric.values, "\n".join(lines[:first]), starts, text)


def declared_metrics(collectors: Iterable[Collector]) -> tuple[Metric, ...]:
    """Returns every metric that a scrape of these collectors may show."""
    return (*(metric for collector in collectors for metric in collector.metrics), *CollectorHealth.metrics)
