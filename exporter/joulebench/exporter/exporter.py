"""What the exporter says of itself: version, GPU source, wall clock and the steps it saw the clock make."""

from __future__ import annotations

from typing import Protocol

from joulebench import __version__, metrics
from joulebench.clock import Clock
from joulebench.exporter.collector import Values


class ClockSteps(Protocol):
    @property
    def clock_steps(self) -> int:
        """Jumps of the wall clock against the monotonic clock since the start."""
        ...


class ExporterCollector:
    """``steps`` is None where no monitor watches the clock: the count is then unknown, not 0."""

    name = "exporter"
    metrics = (metrics.EXPORTER_INFO, metrics.EXPORTER_CLOCK, metrics.EXPORTER_CLOCK_STEPS)

    def __init__(self, gpu_source: str, clock: Clock, steps: ClockSteps | None = None) -> None:
        self._gpu_source = gpu_source
        self._clock = clock
        self._steps = steps

    def collect(self, sheet: Values) -> None:
        sheet.value(metrics.EXPORTER_INFO, 1.0, (__version__, self._gpu_source))
        sheet.value(metrics.EXPORTER_CLOCK, self._clock.unix())
        sheet.value(metrics.EXPORTER_CLOCK_STEPS, None if self._steps is None else self._steps.clock_steps)
