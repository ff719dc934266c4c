"""The text of metric families, written straight from readings: what prometheus_client would print of them, byte for byte.

Nearly all series of a scrape were in the scrape before, most of them with the same value. So what stands before a value is
rendered once per series, and a line once per value; prometheus_client builds and sorts and escapes all of it every time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import cast

from prometheus_client import utils

from joulebench.metrics import Kind, Metric

_number = cast(Callable[[float], str], utils.floatToGoString)

MOST_SERIES = 4096
"""Of one metric to be remembered; names that come and go, such as those of models, must not add up for ever."""


class _Rendered:
    """One metric's heads, and for each series the text before its value, its last value and the line with it."""

    __slots__ = ("heads", "lines", "metric")

    def __init__(self, metric: Metric) -> None:
        if metric.kind not in (Kind.GAUGE, Kind.COUNTER):
            raise ValueError(f"{metric.name}: a page holds gauges and counters, no {metric.kind.value}")
        self.metric = metric
        escaped = metric.help.replace("\\", r"\\").replace("\n", r"\n")
        plain = _head(metric.name, escaped, metric.kind)
        # OpenMetrics names a counter without the suffix of its series.
        self.heads = (plain, _head(metric.name.removesuffix("_total"), escaped.replace('"', r"\""), metric.kind))
        self.lines: dict[tuple[str, ...], tuple[str, float, str]] = {}

    def prefix(self, labels: tuple[str, ...]) -> str:
        if len(labels) != len(self.metric.labels):
            raise ValueError(f"{self.metric.name} has labels {self.metric.labels}, got {labels}")
        if len(self.lines) >= MOST_SERIES:
            self.lines.clear()
        pairs = sorted(zip(self.metric.labels, labels, strict=True))
        shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)
        return f"{self.metric.name}{{{shown}}} " if shown else f"{self.metric.name} "


class Memory:
    """What was rendered so far, shared by all pages of one exporter."""

    def __init__(self) -> None:
        self.rendered: dict[str, _Rendered] = {}


class Page:
    """One collector's part of one scrape; families in the order of first use. ``names``: the only series to be shown."""

    def __init__(self, memory: Memory, names: Collection[str] | None = None) -> None:
        self._rendered = memory.rendered
        self._names = names
        self._families: dict[str, list[str]] = {}

    def value(self, metric: Metric, value: float | None, labels: Sequence[str] = ()) -> None:
        """One gauge or counter sample; ``None`` leaves the series absent."""
        if value is None:
            return
        name = metric.name
        family = self._families.get(name)
        if family is None:
            if self._names is not None and name not in self._names:
                return
            family = self._families[name] = []
        rendered = self._rendered.get(name)
        if rendered is None:
            rendered = self._rendered[name] = _Rendered(metric)
        key = tuple(labels)
        known = rendered.lines.get(key)
        # A zero may have changed its sign.
        if known is not None and known[1] == value != 0:
            family.append(known[2])
            return
        prefix = rendered.prefix(key) if known is None else known[0]
        line = f"{prefix}{_number(value)}\n"
        rendered.lines[key] = (prefix, value, line)
        family.append(line)

    def text(self, *, openmetrics: bool) -> str:
        return "".join(
            [part for name, lines in self._families.items() for part in (self._rendered[name].heads[openmetrics], *lines)]
        )


def _head(name: str, help_: str, kind: Kind) -> str:
    return f"# HELP {name} {help_}\n# TYPE {name} {kind.value}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
