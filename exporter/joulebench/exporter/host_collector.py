"""The RAPL counters of the host; a zone that cannot be read keeps ``host_energy_up 0`` and has no joules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from joulebench import metrics
from joulebench.host.monitor import ZoneState
from joulebench.metrics.families import Sheet


class ZoneProvider(Protocol):
    def snapshot(self) -> Sequence[ZoneState]:
        """The state of every zone at one moment, without reading a file."""
        ...


class HostCollector:
    name = "host"
    metrics = (metrics.HOST_ENERGY, metrics.HOST_ENERGY_UP, metrics.HOST_ENERGY_READ_ERRORS)

    def __init__(self, provider: ZoneProvider) -> None:
        self._provider = provider

    def collect(self, sheet: Sheet) -> None:
        for state in self._provider.snapshot():
            labels = (state.zone.kind, state.zone.package)
            sheet.value(metrics.HOST_ENERGY, state.joules, labels)
            sheet.value(metrics.HOST_ENERGY_UP, float(state.up), labels)
            sheet.value(metrics.HOST_ENERGY_READ_ERRORS, state.read_errors, labels)
