"""``result_*.json`` of a task: the sections that this benchmark's analyses read, and beside them how good each number is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from joulebench.energy.attribution import TaskAttribution
from joulebench.energy.ledger import Share
from joulebench.energy.trace import CounterTrace
from joulebench.energy.window import QUALITIES, WindowEnergy
from joulebench.results import calls, idle, shares, surroundings, throttle
from joulebench.results.circumstances import Circumstances
from joulebench.results.computed import computed_metrics
from joulebench.results.energy import GpuEnergy, TaskEnergy, exporter_clock_offset, is_on_two_clocks
from joulebench.results.gauge_stats import stats
from joulebench.results.hardware import Gauges, hardware_metrics
from joulebench.results.idle import IdlePower
from joulebench.results.points import EMPTY, Columns
from joulebench.results.samples import GpuSamples, Samples
from joulebench.results.task import Event, Task
from joulebench.results.throttle import Throttling
from joulebench.units import kwh_from_joules

SCHEMA_VERSION = 1
THROTTLED_SHARE = 0.05
"""A task that was throttled for more than this share of its time is not comparable with others."""

NO_WINDOW = (float("inf"), float("-inf"))
"""That no sample falls into."""

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Context:
    """What is the same for all tasks of an export."""

    run_id: str
    version: str
    samples: Samples | None
    idle: Mapping[str, IdlePower] = field(default_factory=dict)
    around: Circumstances = field(default_factory=Circumstances)
    _folded: dict[tuple[str, ...], Gauges] = field(default_factory=dict)

    def gauges(self, gpus: Sequence[GpuSamples]) -> Gauges:
        """These GPUs folded into one; folded once, since tasks share it."""
        key = tuple(gpu.uuid for gpu in gpus)
        if key not in self._folded:
            self._folded[key] = Gauges.of(gpus)
        return self._folded[key]

    def columns(self) -> Iterator[Columns]:
        """All that ``gauges`` has given out."""
        return (one for gauges in self._folded.values() for one in gauges.columns)

    def gpus(self, energy: TaskEnergy) -> list[GpuSamples]:
        known = {gpu.uuid: gpu for gpu in self.samples.gpus} if self.samples else {}
        return [known[gpu.uuid] for gpu in energy.gpus if gpu.uuid in known]


def build(task: Task, energy: TaskEnergy, attribution: TaskAttribution | None, context: Context) -> Record:
    gpus = [replace(gpu, energy=CounterTrace()) if is_on_two_clocks(task, gpu) else gpu for gpu in context.gpus(energy)]
    slowed = _throttling(task, energy, gpus)
    throttled = throttle.throttled_seconds(throttle.together([gpu.seconds for gpu in slowed]))
    call_rows = calls.rows(task, gpus, throttled)
    for call in call_rows:
        call.update(surroundings.of_call(context.around, task.values.model_name, call["start"], call["end"]))
    findings = [*_findings(task, energy, attribution, context, throttled), *_exceeded(call_rows, energy)]
    verdict = _verdict(energy, [*findings, *([throttle.DISAGREEMENT] if any(gpu.disagreements for gpu in slowed) else [])])
    phases = shares.phases(task, verdict, gpus)
    overlap = None if attribution is None else attribution.overlap_fraction
    return {
        "schema_version": SCHEMA_VERSION,
        "metadata": _metadata(task, context),
        "llm_error_count": task.values.llm_errors,
        "raw_events": [_event(event) for event in task.events],
        "computed_metrics": computed_metrics(task),
        "gpu_hardware_metrics": _hardware(task, energy, gpus, context),
        "measurement": _measurement(task, energy, verdict, context),
        "per_gpu": [_gpu(task, *one, context) for one in _beside(energy.gpus, gpus, slowed)],
        "throttle": throttle.section(slowed, throttle.least_margin(gpus, *task.window) if task.window else None),
        "phases": phases,
        "idle": idle.of_task(context.idle, _uuids(energy), verdict, _seconds(task)),
        "efficiency": calls.efficiency(task, call_rows, phases["by_phase"], overlap),
        "calls": call_rows,
        "attribution": _attribution(attribution, verdict),
        "call_energy": [_event(event) for event in task.call_energy],
        "model_server": surroundings.model_server(context.around, task.values.model_name, *(task.window or NO_WINDOW)),
    }


def _throttling(task: Task, energy: TaskEnergy, gpus: Sequence[GpuSamples]) -> list[Throttling]:
    """Of each GPU of the task, in their order; empty where no window is known."""
    if task.window is None:
        return []
    told = {answer.uuid: answer.throttled for answer in task.exporter_energy}
    known = {gpu.uuid: gpu for gpu in gpus}
    return [throttle.of_gpu(one.uuid, told.get(one.uuid, {}), known.get(one.uuid), *task.window) for one in energy.gpus]


def _beside(
    energy: Sequence[GpuEnergy], gpus: Sequence[GpuSamples], slowed: Sequence[Throttling]
) -> Iterator[tuple[GpuEnergy, GpuSamples | None, Throttling | None]]:
    samples, throttling = {gpu.uuid: gpu for gpu in gpus}, {one.uuid: one for one in slowed}
    for one in energy:
        yield one, samples.get(one.uuid), throttling.get(one.uuid)


def _metadata(task: Task, context: Context) -> Record:
    values = task.values
    return {
        "run_id": context.run_id,
        "task_id": task.key.task_id,
        "worker": task.key.worker,
        "task_name": values.task_name,
        "suite": values.suite,
        "model_name": values.model_name,
        "session_start_iso": _iso(values.start),
        "session_start_unix": values.start,
        "session_end_iso": _iso(values.end),
        "session_end_unix": values.end,
        "session_duration_seconds": None if task.window is None else round(task.window[1] - task.window[0], 3),
        "joulebench_version": context.version,
        "benchmark_joulebench_version": task.run_version,
        **({"benchmark_configuration": dict(task.run_configuration)} if task.run_configuration else {}),
        "task_config_at_start": {"task_id": task.key.task_id, "task_name": values.task_name},
    }


def _iso(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, tz=timezone.utc).isoformat()


def _event(event: Event) -> Event:
    """Flat, with its type and time first."""
    return {"event_type": event["event_type"], "timestamp": event["timestamp"], **event}


def _findings(
    task: Task, energy: TaskEnergy, attribution: TaskAttribution | None, context: Context, throttled: float | None
) -> list[str]:
    """What makes the joules of a task suspect, beside what the counter itself says."""
    seconds = _seconds(task)
    if seconds is None:
        return []
    found = []
    if attribution is not None and attribution.overlap_fraction > 0:
        found.append("overlap")
    if throttled is not None and throttled > THROTTLED_SHARE * seconds:
        found.append("throttled")
    if idle.impossible(context.idle, _uuids(energy), energy.total, seconds):
        found.append(idle.BELOW_IDLE)
    return found


def _exceeded(call_rows: Sequence[Record], energy: TaskEnergy) -> list[str]:
    return [calls.EXCEEDED] if calls.exceed(call_rows, energy.total.high) else []


def _verdict(energy: TaskEnergy, findings: Sequence[str]) -> WindowEnergy:
    if not findings:
        return energy.total
    quality = max(energy.total.quality, "suspect", key=QUALITIES.index)
    return replace(energy.total, quality=quality, reasons=(*energy.total.reasons, *findings))


def _uuids(energy: TaskEnergy) -> list[str]:
    return [gpu.uuid for gpu in energy.gpus]


def _seconds(task: Task) -> float | None:
    return None if task.window is None else task.window[1] - task.window[0]


def _hardware(task: Task, energy: TaskEnergy, gpus: Sequence[GpuSamples], context: Context) -> Record | None:
    """None only where no window is known; with a window every key is there."""
    if task.window is None:
        return None
    return dict(hardware_metrics(context.gauges(gpus), gpus, energy, *task.window))


def _measurement(task: Task, energy: TaskEnergy, verdict: WindowEnergy, context: Context) -> Record:
    return {
        **_window(verdict),
        # Energy that was pushed and not journaled comes without the number of samples behind it.
        "samples": None if energy.source == "exporter" and not verdict.samples else verdict.samples,
        "energy_source": energy.source,
        "gpu_source": energy.gpu_source,
        "simulated": energy.simulated,
        "energy_exporter": _sum_of([gpu.exporter for gpu in energy.gpus]),
        "energy_prometheus": _sum_of([gpu.prometheus for gpu in energy.gpus]),
        "clock_offset_seconds": {
            "benchmark_to_gateway": task.gateway_clock_offset,
            "exporter_to_prometheus": exporter_clock_offset(context.gpus(energy), *task.window) if task.window else None,
        },
        "sources": dict(task.sources),
        "disagreements": [asdict(one) for one in task.disagreements],
    }


def _window(energy: WindowEnergy) -> Record:
    return {
        "joules": energy.joules,
        "kwh": None if energy.joules is None else kwh_from_joules(energy.joules),
        "low_joules": energy.low,
        "high_joules": energy.high,
        "method": energy.method,
        "coverage": energy.coverage,
        "samples": energy.samples,
        "longest_gap_seconds": energy.longest_gap,
        "counter_resets": energy.resets,
        "quality": energy.quality,
        "reasons": list(energy.reasons),
    }


def _sum_of(windows: Sequence[WindowEnergy | None]) -> Record | None:
    """Joules and bounds over all GPUs by one of the two readers; null in a field where one GPU is not known."""
    if not any(windows):
        return None
    known = [window for window in windows if window is not None]
    whole = len(known) == len(windows)
    return {
        name: sum(values) if whole and None not in (values := [getattr(window, name) for window in known]) else None
        for name in ("joules", "low", "high")
    }


def _gpu(task: Task, energy: GpuEnergy, samples: GpuSamples | None, slowed: Throttling | None, context: Context) -> Record:
    gauges = context.gauges([samples]) if samples else None
    found: Record = {
        "gpu": energy.gpu,
        "uuid": energy.uuid,
        "name": samples.name if samples else None,
        "energy": {**_window(energy.chosen), "source": energy.source},
        "energy_exporter": _sum_of([energy.exporter]),
        "energy_prometheus": _sum_of([energy.prometheus]),
        "throttle_seconds_by_reason": dict(slowed.seconds) if slowed and (samples or slowed.sources) else {},
        "throttle_sources": slowed.sources if slowed else {},
        "min_temp_margin_c": throttle.least_margin([samples], *task.window) if samples and task.window else None,
        "memory_total_bytes": context.around.memory.get(energy.uuid),
        "link_bytes": surroundings.link_bytes(context.around, energy.uuid, *task.window) if task.window else {},
        "power_capped_clock": _capped_clock(task, samples, context),
    }
    for name, unit in (("util", "pct"), ("vram", "mb"), ("temp", "c"), ("power", "w")):
        one = stats(getattr(gauges, name), *task.window) if gauges and task.window else None
        found[f"{name}_{unit}"] = one.as_dict() if one else None
    return found


def _capped_clock(task: Task, samples: GpuSamples | None, context: Context) -> Record | None:
    if samples is None or task.window is None:
        return None
    return surroundings.capped_clock(context.around, samples.uuid, samples.throttle.get("sw_power_cap", EMPTY), *task.window)


def _attribution(attribution: TaskAttribution | None, verdict: WindowEnergy) -> Record:
    """Joules of the task: ``lower`` while it was alone, ``attributed`` its share, ``upper`` all of its window."""
    if attribution is None:
        return {"method": None, "overlap_fraction": None, "attributed": None}
    found: Record = {"method": attribution.method, "overlap_fraction": attribution.overlap_fraction}
    # As they stand in the books of the run, which Prometheus alone feeds: these add up with what run.json tells of each GPU.
    gpus = {uuid: _share(share) for uuid, share in attribution.gpus.items()}
    if attribution.overlap_fraction == 0:
        # Alone on the GPUs, all of the window is the task's.
        alone = dict.fromkeys(("lower", "attributed", "fully_loaded", "upper"), verdict.joules)
        return {**found, **alone, "reasons": [], "gpus": gpus}
    return {**found, **_share(attribution.total), "gpus": gpus}


def _share(share: Share) -> Record:
    return {name: getattr(share, name) for name in share.__slots__}
