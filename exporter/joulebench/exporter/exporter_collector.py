"""The exporter's own metrics: version, GPU source, wall clock, failed background loops; and the price list as metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from joulebench import __version__, metrics
from joulebench.clock import Clock
from joulebench.metrics.families import Sheet
from joulebench.prices import PriceList
from joulebench.supervise import PROCESS_ERRORS, LoopErrors


class MonitorHealth(Protocol):
    @property
    def expected_gpus(self) -> int | None:
        """GPUs that are there or were there before, readable or not; None before there was any."""
        ...

    @property
    def clock_steps(self) -> int:
        """Jumps of the wall clock against the monotonic clock since the start."""
        ...


class ExporterCollector:
    """``monitor`` None: no monitor compares the clocks, so the count is unknown, not 0."""

    name = "exporter"
    metrics = (
        metrics.EXPORTER_INFO,
        metrics.EXPORTER_CLOCK,
        metrics.EXPORTER_CLOCK_STEPS,
        metrics.GPUS_EXPECTED,
        metrics.LOOP_ERRORS,
    )

    def __init__(
        self,
        gpu_source: Callable[[], str],
        clock: Clock,
        monitor: MonitorHealth | None = None,
        errors: LoopErrors = PROCESS_ERRORS,
    ) -> None:
        self._errors = errors
        self._gpu_source = gpu_source
        self._clock = clock
        self._monitor = monitor

    def collect(self, sheet: Sheet) -> None:
        sheet.value(metrics.EXPORTER_INFO, 1.0, (__version__, self._gpu_source()))
        sheet.value(metrics.EXPORTER_CLOCK, self._clock.unix())
        sheet.value(metrics.EXPORTER_CLOCK_STEPS, None if self._monitor is None else self._monitor.clock_steps)
        sheet.value(metrics.GPUS_EXPECTED, None if self._monitor is None else self._monitor.expected_gpus)
        for loop, count in self._errors.counts().items():
            sheet.value(metrics.LOOP_ERRORS, count, (loop,))


class PricesCollector:
    """``--prices.file`` as metrics, so that no dashboard has a price in its queries."""

    name = "prices"
    metrics = (metrics.PRICE_ELECTRICITY, metrics.PRICE_PUE, metrics.PRICE_HARDWARE, metrics.PRICE_API, metrics.PRICE_AS_OF)

    def __init__(self, prices: PriceList) -> None:
        self._prices = prices

    def collect(self, sheet: Sheet) -> None:
        prices = self._prices
        for item, metric, price in (
            ("electricity", metrics.PRICE_ELECTRICITY, prices.electricity),
            ("hardware", metrics.PRICE_HARDWARE, prices.hardware),
        ):
            if price is not None:
                sheet.value(metric, price.per_unit, (prices.currency,))
                sheet.value(metrics.PRICE_AS_OF, price.as_of, (item,))
        sheet.value(metrics.PRICE_PUE, prices.pue)
        for api in prices.api:
            for token, value in api.per_token.items():
                sheet.value(metrics.PRICE_API, value, (api.model, token, prices.currency))
            sheet.value(metrics.PRICE_AS_OF, api.as_of, (api.model,))
