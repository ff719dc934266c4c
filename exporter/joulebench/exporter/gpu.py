"""What each GPU is and does, printed from the monitor's last snapshot; the scrape never calls the driver.

A lost GPU keeps its identity, ``gpu_up 0`` and the count of failed reads, and nothing that would look like a reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from joulebench import metrics
from joulebench.exporter.collector import Values
from joulebench.gpu.process_watch import ForeignUse
from joulebench.gpu.reading import GpuState, SlowReading


class StateProvider(Protocol):
    def snapshot(self) -> Sequence[GpuState]:
        """What is known of every GPU at one moment, without touching the hardware."""
        ...


class ForeignUseProvider(Protocol):
    def state(self, index: int) -> ForeignUse:
        """Of the GPU with this index in the source, without touching the hardware."""
        ...


def gpu_labels(state: GpuState) -> tuple[str, str]:
    """Values of ``metrics.GPU``."""
    return (str(state.identity.index), state.identity.uuid)


class GpuCollector:
    """``source``: ``nvml`` or ``simulated``, for the label that keeps an invented card from passing for a measured one.
    ``processes``: None where nobody looks at who else uses the cards. Names of programs are no labels: they stay in the log."""

    name = "gpu"
    metrics = (
        metrics.GPU_INFO,
        metrics.GPU_UP,
        metrics.GPU_UTILIZATION,
        metrics.GPU_MEMORY_USED,
        metrics.GPU_MEMORY_TOTAL,
        metrics.GPU_TEMPERATURE,
        metrics.GPU_TEMPERATURE_MARGIN,
        metrics.GPU_POWER,
        metrics.GPU_POWER_LIMIT,
        metrics.GPU_CLOCK,
        metrics.GPU_CLOCK_MAX,
        metrics.GPU_THROTTLE_ACTIVE,
        metrics.GPU_THROTTLE_SECONDS,
        metrics.GPU_LINK_BYTES,
        metrics.GPU_READ_ERRORS,
        metrics.GPU_FOREIGN_PROCESSES,
        metrics.GPU_UNNAMED_PROCESSES,
        metrics.GPU_FOREIGN_SM,
        metrics.GPU_FOREIGN_USE,
        metrics.GPU_FOREIGN_USE_START,
    )

    def __init__(self, provider: StateProvider, source: str, processes: ForeignUseProvider | None = None) -> None:
        self._provider = provider
        self._processes = processes
        self._source = source

    def collect(self, sheet: Values) -> None:
        for state in self._provider.snapshot():
            labels = gpu_labels(state)
            card = state.identity
            info = (*labels, card.name, card.architecture, card.driver_version, self._source, state.energy_method)
            sheet.value(metrics.GPU_INFO, 1.0, info)
            sheet.value(metrics.GPU_UP, float(state.up), labels)
            for group, errors in state.read_errors.items():
                sheet.value(metrics.GPU_READ_ERRORS, errors, (*labels, group))
            if not state.up:
                continue
            sheet.value(metrics.GPU_POWER, state.power, labels)
            for reason, seconds in state.throttle.items():
                sheet.value(metrics.GPU_THROTTLE_SECONDS, seconds, (*labels, reason))
            if self._processes is not None:
                _foreign(sheet, self._processes.state(card.index), labels)
            if state.slow is not None:
                _slow(sheet, state.slow, labels)


def _foreign(sheet: Values, seen: ForeignUse, labels: tuple[str, str]) -> None:
    sheet.value(metrics.GPU_FOREIGN_PROCESSES, seen.processes, labels)
    sheet.value(metrics.GPU_UNNAMED_PROCESSES, seen.unnamed, labels)
    sheet.value(metrics.GPU_FOREIGN_SM, seen.sm, labels)
    sheet.value(metrics.GPU_FOREIGN_USE, seen.used_at, labels)
    sheet.value(metrics.GPU_FOREIGN_USE_START, seen.used_from, labels)


def _slow(sheet: Values, slow: SlowReading, labels: tuple[str, str]) -> None:
    sheet.value(metrics.GPU_UTILIZATION, slow.utilization, labels)
    sheet.value(metrics.GPU_MEMORY_USED, slow.memory_used, labels)
    sheet.value(metrics.GPU_MEMORY_TOTAL, slow.memory_total, labels)
    sheet.value(metrics.GPU_TEMPERATURE, slow.temperature, labels)
    sheet.value(metrics.GPU_TEMPERATURE_MARGIN, slow.temperature_margin, labels)
    sheet.value(metrics.GPU_POWER_LIMIT, slow.power_limit, labels)
    for domain, hertz in slow.clocks.items():
        sheet.value(metrics.GPU_CLOCK, hertz, (*labels, domain))
    for domain, hertz in slow.clocks_max.items():
        sheet.value(metrics.GPU_CLOCK_MAX, hertz, (*labels, domain))
    for reason, active in slow.throttle_active.items():
        sheet.value(metrics.GPU_THROTTLE_ACTIVE, float(active), (*labels, reason))
    for (link, direction), moved in slow.traffic.items():
        sheet.value(metrics.GPU_LINK_BYTES, moved, (*labels, link, direction))
