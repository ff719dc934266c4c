"""What each GPU is and does, printed from the monitor's last snapshot; the scrape never calls the driver.

A lost GPU keeps its identity, ``gpu_up 0`` and the count of failed reads, and nothing that would look like a reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from joulebench import catalogue
from joulebench.scrape.collector import Values
from joulebench.sensors.process_watch import ForeignUse
from joulebench.sensors.reading import GpuState, SlowReading


class StateProvider(Protocol):
    def snapshot(self) -> Sequence[GpuState]:
        """What is known of every GPU at one moment, without touching the hardware."""
        ...


class ForeignUseProvider(Protocol):
    def state(self, index: int) -> ForeignUse:
        """Of the GPU with this index in the source, without touching the hardware."""
        ...


def gpu_labels(state: GpuState) -> tuple[str, str]:
    """Values of ``catalogue.GPU``."""
    return (str(state.identity.index), state.identity.uuid)


class GpuCollector:
    """``source``: ``nvml`` or ``simulated``, for the label that keeps an invented card from passing for a measured one.
    ``processes``: None where nobody looks at who else uses the cards. Names of programs are no labels: they stay in the log."""

    name = "gpu"
    metrics = (
        catalogue.GPU_INFO,
        catalogue.GPU_UP,
        catalogue.GPU_UTILIZATION,
        catalogue.GPU_MEMORY_USED,
        catalogue.GPU_MEMORY_TOTAL,
        catalogue.GPU_TEMPERATURE,
        catalogue.GPU_TEMPERATURE_MARGIN,
        catalogue.GPU_POWER,
        catalogue.GPU_POWER_LIMIT,
        catalogue.GPU_CLOCK,
        catalogue.GPU_CLOCK_MAX,
        catalogue.GPU_THROTTLE_ACTIVE,
        catalogue.GPU_THROTTLE_SECONDS,
        catalogue.GPU_LINK_BYTES,
        catalogue.GPU_READ_ERRORS,
        catalogue.GPU_FOREIGN_PROCESSES,
        catalogue.GPU_UNNAMED_PROCESSES,
        catalogue.GPU_FOREIGN_SM,
        catalogue.GPU_FOREIGN_USE,
        catalogue.GPU_FOREIGN_USE_START,
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
            sheet.value(catalogue.GPU_INFO, 1.0, info)
            sheet.value(catalogue.GPU_UP, float(state.up), labels)
            for group, errors in state.read_errors.items():
                sheet.value(catalogue.GPU_READ_ERRORS, errors, (*labels, group))
            if not state.up:
                continue
            sheet.value(catalogue.GPU_POWER, state.power, labels)
            for reason, seconds in state.throttle.items():
                sheet.value(catalogue.GPU_THROTTLE_SECONDS, seconds, (*labels, reason))
            if self._processes is not None:
                _foreign(sheet, self._processes.state(card.index), labels)
            if state.slow is not None:
                _slow(sheet, state.slow, labels)


def _foreign(sheet: Values, seen: ForeignUse, labels: tuple[str, str]) -> None:
    sheet.value(catalogue.GPU_FOREIGN_PROCESSES, seen.processes, labels)
    sheet.value(catalogue.GPU_UNNAMED_PROCESSES, seen.unnamed, labels)
    sheet.value(catalogue.GPU_FOREIGN_SM, seen.sm, labels)
    sheet.value(catalogue.GPU_FOREIGN_USE, seen.used_at, labels)
    sheet.value(catalogue.GPU_FOREIGN_USE_START, seen.used_from, labels)


def _slow(sheet: Values, slow: SlowReading, labels: tuple[str, str]) -> None:
    sheet.value(catalogue.GPU_UTILIZATION, slow.utilization, labels)
    sheet.value(catalogue.GPU_MEMORY_USED, slow.memory_used, labels)
    sheet.value(catalogue.GPU_MEMORY_TOTAL, slow.memory_total, labels)
    sheet.value(catalogue.GPU_TEMPERATURE, slow.temperature, labels)
    sheet.value(catalogue.GPU_TEMPERATURE_MARGIN, slow.temperature_margin, labels)
    sheet.value(catalogue.GPU_POWER_LIMIT, slow.power_limit, labels)
    for domain, hertz in slow.clocks.items():
        sheet.value(catalogue.GPU_CLOCK, hertz, (*labels, domain))
    for domain, hertz in slow.clocks_max.items():
        sheet.value(catalogue.GPU_CLOCK_MAX, hertz, (*labels, domain))
    for reason, active in slow.throttle_active.items():
        sheet.value(catalogue.GPU_THROTTLE_ACTIVE, float(active), (*labels, reason))
    for (link, direction), moved in slow.traffic.items():
        sheet.value(catalogue.GPU_LINK_BYTES, moved, (*labels, link, direction))
