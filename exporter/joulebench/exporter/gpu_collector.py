"""What each GPU is and does, printed from the monitor's last snapshot; a scrape never calls the driver.

One table says which value of ``GpuState`` each metric shows, and both ``metrics`` and ``collect`` follow from it. A GPU that is
down keeps its identity, ``gpu_up 0``, its polls and its failed reads, and nothing that would look like a reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from joulebench import metrics
from joulebench.gpu.reading import GpuState, MigInstance, MigReading, OwnerUse
from joulebench.metrics import Metric
from joulebench.metrics.families import Sheet

LabelledValues: TypeAlias = Mapping[str, float] | Mapping[tuple[str, str], float] | Mapping[tuple[str, ...], float]


class StateProvider(Protocol):
    def snapshot(self) -> Sequence[GpuState]:
        """The state of every GPU at one moment, without touching the hardware."""
        ...


@dataclass(frozen=True, slots=True)
class GpuMetric:
    """``read``: the metric's value of one GPU, None where it is unknown; for a metric with more labels than those of the GPU,
    values by the rest of the labels. ``when_down``: shown for a GPU that is down too."""

    metric: Metric
    read: Callable[[GpuState], float | LabelledValues | None]
    when_down: bool = False


STATE_METRICS = (
    GpuMetric(metrics.GPU_INFO, lambda gpu: {_info_labels(gpu): 1.0}, when_down=True),
    GpuMetric(metrics.GPU_UP, lambda gpu: float(gpu.up), when_down=True),
    GpuMetric(metrics.GPU_READ_ERRORS, lambda gpu: gpu.read_errors, when_down=True),
    GpuMetric(metrics.GPU_GLITCHES, lambda gpu: gpu.glitches, when_down=True),
    GpuMetric(metrics.GPU_UTILIZATION, lambda gpu: gpu.state.utilization),
    GpuMetric(metrics.GPU_MEMORY_USED, lambda gpu: gpu.state.memory_used),
    GpuMetric(metrics.GPU_MEMORY_TOTAL, lambda gpu: gpu.state.memory_total),
    GpuMetric(metrics.GPU_MEMORY_RESERVED, lambda gpu: gpu.state.memory_reserved),
    GpuMetric(metrics.GPU_MIG_INFO, lambda gpu: {_mig_labels(one.instance): 1.0 for one in gpu.state.instances}),
    GpuMetric(metrics.GPU_MIG_MEMORY_USED, lambda gpu: _by_instance(gpu, lambda one: one.memory_used)),
    GpuMetric(metrics.GPU_MIG_MEMORY_TOTAL, lambda gpu: _by_instance(gpu, lambda one: one.memory_total)),
    GpuMetric(metrics.GPU_MIG_UTILIZATION, lambda gpu: _by_instance(gpu, lambda one: one.utilization)),
    GpuMetric(metrics.GPU_TEMPERATURE, lambda gpu: gpu.state.temperature),
    GpuMetric(metrics.GPU_TEMPERATURE_MARGIN, lambda gpu: gpu.state.temperature_margin),
    GpuMetric(metrics.GPU_POWER, lambda gpu: gpu.power),
    GpuMetric(metrics.GPU_POWER_LIMIT, lambda gpu: gpu.state.power_limit),
    GpuMetric(metrics.GPU_CLOCK, lambda gpu: gpu.state.clock),
    GpuMetric(metrics.GPU_CLOCK_MAX, lambda gpu: gpu.state.clock_max),
    GpuMetric(metrics.GPU_THROTTLE_ACTIVE, lambda gpu: gpu.state.throttle_active),
    GpuMetric(metrics.GPU_THROTTLE_SECONDS, lambda gpu: gpu.throttle),
    GpuMetric(metrics.GPU_LINK_BYTES, lambda gpu: gpu.state.link_bytes),
    GpuMetric(metrics.GPU_FOREIGN_PROCESSES, lambda gpu: gpu.processes.foreign),
    GpuMetric(metrics.GPU_UNNAMED_PROCESSES, lambda gpu: gpu.processes.unnamed),
    GpuMetric(metrics.GPU_FOREIGN_SM, lambda gpu: gpu.processes.foreign_sm),
    GpuMetric(metrics.GPU_FOREIGN_USE, lambda gpu: gpu.processes.foreign_use),
    GpuMetric(metrics.GPU_FOREIGN_USE_START, lambda gpu: gpu.processes.foreign_use_start),
    GpuMetric(metrics.GPU_PROCESS_OWNER_INFO, lambda gpu: {row: 1.0 for row, use in _owners(gpu) if use.end is None}),
    GpuMetric(metrics.GPU_PROCESS_OWNER_START, lambda gpu: {row: use.start for row, use in _owners(gpu)}),
    GpuMetric(metrics.GPU_PROCESS_OWNER_END, lambda gpu: {row: use.end for row, use in _owners(gpu) if use.end is not None}),
    GpuMetric(metrics.GPU_PROCESS_OWNERS_DROPPED, lambda gpu: gpu.processes.owners_dropped),
)

ENERGY_METRICS = (
    GpuMetric(metrics.METER_POLLS, lambda gpu: gpu.polls, when_down=True),
    GpuMetric(metrics.METER_OVERRUNS, lambda gpu: gpu.overruns, when_down=True),
    GpuMetric(metrics.GPU_ENERGY, lambda gpu: gpu.energy),
    GpuMetric(metrics.GPU_ENERGY_SAMPLE_TIMESTAMP, lambda gpu: gpu.energy_at),
    GpuMetric(metrics.GPU_ENERGY_SAMPLE_UNCERTAINTY, lambda gpu: gpu.energy_uncertainty),
    GpuMetric(metrics.GPU_ENERGY_STEP, lambda gpu: gpu.energy_step),
    GpuMetric(metrics.GPU_ENERGY_RESETS, lambda gpu: None if gpu.energy is None else gpu.energy_resets),
    GpuMetric(metrics.GPU_ENERGY_CROSSCHECK, lambda gpu: gpu.energy_crosscheck),
)
"""Counter and sample time of a GPU are one pair: read from two snapshots, a change between them would date the joules wrongly."""


class GpuCollector:
    """Shows the metrics of a table, from one snapshot a scrape."""

    def __init__(self, name: str, provider: StateProvider, table: Sequence[GpuMetric]) -> None:
        self.name = name
        self._provider = provider
        self._table = table

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return tuple(entry.metric for entry in self._table)

    def collect(self, sheet: Sheet) -> None:
        gpus = [(gpu, gpu_labels(gpu)) for gpu in self._provider.snapshot()]
        for entry in self._table:
            if not sheet.wants(entry.metric):
                continue
            for gpu, labels in gpus:
                if not gpu.up and not entry.when_down:
                    continue
                value = entry.read(gpu)
                if isinstance(value, Mapping):
                    for rest, labelled_value in value.items():
                        more = (rest,) if isinstance(rest, str) else rest
                        sheet.value(entry.metric, labelled_value, (*labels, *more))
                else:
                    sheet.value(entry.metric, value, labels)


def _info_labels(gpu: GpuState) -> tuple[str, ...]:
    identity = gpu.identity
    return (identity.name, identity.architecture, identity.driver_version, identity.source, gpu.energy_method)


def _mig_labels(instance: MigInstance) -> tuple[str, ...]:
    ids = (str(instance.gpu_instance), str(instance.compute_instance))
    multiprocessors = "" if instance.multiprocessors is None else str(instance.multiprocessors)
    return (instance.uuid, instance.profile, *ids, multiprocessors)


def _by_instance(gpu: GpuState, read: Callable[[MigReading], float | None]) -> Mapping[str, float]:
    values = {one.instance.uuid: read(one) for one in gpu.state.instances}
    return {uuid: value for uuid, value in values.items() if value is not None}


def _owners(gpu: GpuState) -> Iterator[tuple[tuple[str, ...], OwnerUse]]:
    return (((mig, *labels), use) for (mig, labels), use in gpu.processes.owners.items())


def gpu_labels(gpu: GpuState) -> tuple[str, str]:
    """Values of ``metrics.GPU``."""
    return (str(gpu.identity.index), gpu.identity.uuid)


def gpu_collectors(provider: StateProvider) -> list[GpuCollector]:
    """Returns the collectors of a monitor. The energy metrics have a collector of their own: four scrapes a second ask for them
    alone."""
    return [GpuCollector("gpu", provider, STATE_METRICS), GpuCollector("energy", provider, ENERGY_METRICS)]
