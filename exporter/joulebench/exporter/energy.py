"""The energy counters and the meter behind them, all from one snapshot per scrape.

Counter and change time of a GPU are one pair: read apart, a change between the two reads would date the joules wrongly. This
is the only collector that a scrape limited to the energy families runs, four times a second, so it does nothing else.
"""

from __future__ import annotations

from joulebench import metrics
from joulebench.exporter.collector import Values
from joulebench.exporter.gpu import StateProvider, gpu_labels


class EnergyCollector:
    name = "energy"
    metrics = (
        metrics.GPU_ENERGY,
        metrics.GPU_ENERGY_SAMPLE_TIMESTAMP,
        metrics.GPU_ENERGY_SAMPLE_UNCERTAINTY,
        metrics.GPU_ENERGY_STEP,
        metrics.GPU_ENERGY_RESETS,
        metrics.GPU_ENERGY_CROSSCHECK,
        metrics.METER_POLLS,
        metrics.METER_OVERRUNS,
    )

    def __init__(self, provider: StateProvider) -> None:
        self._provider = provider

    def collect(self, sheet: Values) -> None:
        for state in self._provider.snapshot():
            labels = gpu_labels(state)
            sheet.value(metrics.METER_POLLS, state.polls, labels)
            sheet.value(metrics.METER_OVERRUNS, state.overruns, labels)
            # A lost card's last counter would look like a card that draws nothing.
            if not state.up or state.energy is None:
                continue
            sheet.value(metrics.GPU_ENERGY, state.energy, labels)
            sheet.value(metrics.GPU_ENERGY_SAMPLE_TIMESTAMP, state.energy_at, labels)
            sheet.value(metrics.GPU_ENERGY_SAMPLE_UNCERTAINTY, state.energy_uncertainty, labels)
            sheet.value(metrics.GPU_ENERGY_STEP, state.energy_step, labels)
            sheet.value(metrics.GPU_ENERGY_RESETS, state.energy_resets, labels)
            sheet.value(metrics.GPU_ENERGY_CROSSCHECK, state.crosscheck, labels)
