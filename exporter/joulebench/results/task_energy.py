"""The energy of a task, from two independent readers of the same counter.

The exporter's own answer, taken from every counter change at the end of the task, is preferred; Prometheus, which kept some
of the changes, checks it, and stands in where there is none. Both are kept. Two estimates that lie outside each other's
guaranteed bounds are a finding, not a rounding matter.

Also the idle power of each GPU with the model loaded, as a run measured it. Anything that disturbs an idle measurement only adds
to it, so of several the lowest counts, and one during which a task of the run was under way is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from joulebench import metrics
from joulebench.energy.devices import are_used_unequally
from joulebench.energy.phases import idle_split
from joulebench.energy.window import QUALITIES, WindowEnergy, missing, total
from joulebench.parsing import as_float, as_list, as_name
from joulebench.results.fetch import PAD_SECONDS, GpuSamples
from joulebench.results.gpu_stats import GpuReadings
from joulebench.results.task import GpuJoules, ObservedDevice, Task
from joulebench.schema import events
from joulebench.schema import events as event_types
from joulebench.schema.reasons import Reason
from joulebench.schema.result import Event, IdleShare

TOLERANCE_JOULES = 0.01
UNBOUNDED_TOLERANCE = 0.05
"""Share by which two estimates may differ where no bounds are guaranteed (integrated power)."""
CLOCK_TOLERANCE_SECONDS = 0.25
NEAR_SECONDS = 5.0
"""Around a window, for clocks, which are scraped now and then."""
STEP_SECONDS = 1.0
"""A jump against Prometheus's clock that is no slow scrape."""


@dataclass(frozen=True, slots=True)
class ChosenEnergy:
    """``chosen`` is the exporter's or Prometheus's, as ``source`` says."""

    gpu: str
    uuid: str
    chosen: WindowEnergy
    source: str | None
    exporter: WindowEnergy | None
    prometheus: WindowEnergy | None


@dataclass(frozen=True, slots=True)
class TaskEnergy:
    """``total`` carries the verdict on the task. ``gpu_source``: nvml, amd, simulated, or None where that is not known.

    ``basis``: how its devices are known: declared, observed or assumed; None without any device.
    """

    total: WindowEnergy
    gpus: tuple[ChosenEnergy, ...]
    source: str | None
    gpu_source: str | None
    basis: str | None = None

    @property
    def simulated(self) -> bool | None:
        return None if self.gpu_source is None else self.gpu_source == "simulated"


def task_energy(
    task: Task, readings: Sequence[GpuReadings] | None, why_no_samples: str, own: Collection[str] | None = None
) -> TaskEnergy:
    """``readings``: of the GPUs that the task ran on, None where Prometheus gave nothing: then ``why_no_samples`` says why.

    ``own``: UUIDs of the GPUs that this task ran on, None where that is not known.
    """
    if task.window is None:
        return TaskEnergy(missing("none", _why_no_window(task)), (), None, None)
    if _ran_elsewhere(task):
        return TaskEnergy(missing("none", (Reason.REMOTE_MODEL,)), (), None, task.exporter_source)
    answered = {answer.uuid: answer for answer in task.exporter_energy}
    known = {gpu.samples.uuid: gpu for gpu in readings or ()}
    used_gpus = sorted(task.used_gpus) if own == task.used_gpus else []
    uuids = list(answered) or list(dict.fromkeys([*known, *used_gpus]))
    if task.observed_devices:
        gpus = tuple(_observed_energy(device, known.get(device.counter)) for device in task.observed_devices)
    else:
        gpus = tuple(_choose_energy(uuid, answered.get(uuid), known.get(uuid)) for uuid in uuids)
    if not gpus:
        why = why_no_samples if readings is None and own is None else Reason.NO_GPU
        return TaskEnergy(missing("none", (why,)), (), None, task.exporter_source)
    used = [known[uuid].samples for uuid in uuids if uuid in known]
    basis = _device_basis(task, own)
    energy = _judged(total(gpu.chosen for gpu in gpus), _findings(task, gpus, used, basis))
    if task.missing_hosts:
        energy = replace(energy, joules=None, high=None, quality="missing", reasons=(*energy.reasons, Reason.HOST_MISSING))
    if len(used) < len(uuids):
        # The joules are in no question; it is the reason why a GPU has no statistics.
        energy = replace(energy, reasons=(*energy.reasons, why_no_samples if readings is None else Reason.NOT_SCRAPED))
    sources = {gpu.source for gpu in gpus}
    return TaskEnergy(
        total=energy,
        gpus=gpus,
        source=sources.pop() if len(sources) == 1 else "mixed",
        gpu_source=_gpu_source(task, used),
        basis=basis,
    )


def _ran_elsewhere(task: Task) -> bool:
    """Returns whether another host ran the model in every call that was answered (Ollama cloud)."""
    answered = [
        event for event in task.events if event["event_type"] == event_types.LLM_QUERY_END and event.get("status") == "success"
    ]
    return task.ran_elsewhere or (bool(answered) and all(event.get("remote_host") for event in answered))


def _device_basis(task: Task, own: Collection[str] | None) -> str:
    """Of an exporter of an earlier version, which does not say: it answered for all of its GPUs."""
    if task.exporter_energy:
        return task.device_basis or "assumed"
    if task.observed_devices:
        return "observed"
    return "declared" if task.declared_devices and own else "assumed"


def _observed_energy(device: ObservedDevice, readings: GpuReadings | None) -> ChosenEnergy:
    """The joules of a GPU by Prometheus, or the part of them that counts for a MIG instance. Of a GPU that others used too, only
    bounds are known."""
    energy = _choose_energy(device.counter, None, readings)
    if device.parent is None and not device.is_shared:
        return energy
    joules = energy.chosen.joules
    joules = None if joules is None or device.share is None else joules * device.share
    reasons = [Reason.MIG_ESTIMATED] * (device.parent is not None) + [Reason.GPU_SHARED] * device.is_shared
    quality = "missing" if joules is None else max(energy.chosen.quality, "suspect", key=QUALITIES.index)
    part = replace(
        energy.chosen,
        joules=joules,
        low=None if energy.chosen.low is None else 0.0,
        quality=quality,
        reasons=(*energy.chosen.reasons, *reasons),
    )
    return replace(energy, gpu=device.gpu, uuid=device.uuid, chosen=part)


def _why_no_window(task: Task) -> tuple[str, ...]:
    if task.values.end is None:
        return (Reason.NO_END,)
    if task.values.start is None:
        return (Reason.NO_START,)
    return (Reason.ENDS_BEFORE_START, Reason.CLOCK_STEP) if task.values.end < task.values.start else (Reason.CLOCK_STEP,)


def _choose_energy(uuid: str, answer: GpuJoules | None, readings: GpuReadings | None) -> ChosenEnergy:
    gpu = readings.samples if readings else None
    stored = readings.window if readings else None
    answered = _as_window(answer, gpu.method if gpu else None) if answer else None
    index = answer.gpu if answer else gpu.gpu if gpu else ""
    if answer is not None and answered is not None and abs(answer.clock_offset or 0.0) > CLOCK_TOLERANCE_SECONDS:
        # Samples in Prometheus carry the times of a clock that is not the benchmark's.
        return ChosenEnergy(index, uuid, answered, "exporter", answered, None)
    if answered is not None and {Reason.GPU_SHARED, Reason.MIG_ESTIMATED} & {*answered.reasons}:
        # Samples in Prometheus are of the whole GPU: they say nothing of a part of it.
        return ChosenEnergy(index, uuid, answered, "exporter", answered, None)
    # An answer from before the exporter had learned how late the counter shows energy.
    is_uncorrected = bool(gpu and gpu.sensor_lag and answered and Reason.SENSOR_LAG not in answered.reasons)
    if answered is not None and (stored is None or not (is_uncorrected or _knows_more(stored, answered))):
        chosen, source = answered, "exporter"
        if stored is not None:
            chosen = replace(answered, resets=stored.resets)
    elif stored is not None:
        chosen, source = stored, "prometheus"
        if gpu is not None and gpu.sensor_lag:
            chosen = replace(stored, reasons=(*stored.reasons, Reason.SENSOR_LAG.value))
    else:
        chosen, source = missing("none", (Reason.NO_SAMPLES,)), "prometheus"
    return ChosenEnergy(index, uuid, chosen, source, answered, stored)


def _knows_more(stored: WindowEnergy, answered: WindowEnergy) -> bool:
    """Whether Prometheus saw what the exporter did not: the whole window, or at least more of it."""
    if stored.joules is not None:
        return answered.joules is None or (_is_partial(answered) and not _is_partial(stored))
    if answered.joules is not None:
        return False
    if stored.low is None and answered.low is None:
        return (stored.coverage or 0.0) > (answered.coverage or 0.0)
    return (stored.low or 0.0) > (answered.low or 0.0)


def _as_window(answer: GpuJoules, method: str | None) -> WindowEnergy:
    """The exporter's answer. Read back from pushed gauges it has no verdict: then the bounds give one."""
    quality, reasons = answer.quality, answer.reasons
    if quality not in QUALITIES:
        quality, reasons = ("missing", (Reason.NO_ANSWER,)) if answer.joules is None else ("ok", ())
        if answer.joules is not None and answer.low is not None and answer.high is not None:
            wide = answer.high - answer.low > 0.2 * answer.joules
            quality, reasons = ("short", (Reason.SHORT,)) if wide else ("ok", ())
    return WindowEnergy(
        joules=answer.joules,
        low=answer.low,
        high=answer.high,
        method=answer.method or method or "counter",
        samples=answer.samples or 0,
        longest_gap=answer.longest_gap,
        coverage=None if answer.joules is None or _in_part(reasons) else 1.0,
        resets=0,
        quality=quality or "missing",
        reasons=reasons,
    )


def _findings(task: Task, gpus: Sequence[ChosenEnergy], used: Sequence[GpuSamples], basis: str) -> list[str]:
    assert task.window is not None
    found: list[str] = []
    # An exporter judges its own answers, and knows who used each GPU; read back from pushed gauges they come without its verdict.
    judged = {answer.uuid for answer in task.exporter_energy if answer.quality in QUALITIES}
    alone = [gpu.chosen.joules for gpu in gpus if gpu.uuid not in judged]
    if basis == "assumed" and are_used_unequally(alone, task.window[1] - task.window[0]):
        found.append(Reason.DEVICES_ASSUMED)
    if any(gpu.exporter and gpu.prometheus and disagree(gpu.exporter, gpu.prometheus) for gpu in gpus):
        found.append(Reason.ENERGY_DISAGREEMENT)
    if not task.exporter_energy and basis == "assumed" and len({instance for gpu in used for instance in gpu.instances}) > 1:
        found.append(Reason.SEVERAL_EXPORTERS)
    if any((gpu.gauges[metrics.GPU_UP.name].between(*task.window).value == 0).any() for gpu in used):
        found.append(Reason.GPU_LOST)
    # A program that is not expected on a GPU is so where it is the server itself.
    own = {device.counter for device in task.observed_devices if not device.is_shared}
    if task.device_basis == "observed":
        own |= {answer.parent or answer.uuid for answer in task.exporter_energy if Reason.GPU_SHARED not in answer.reasons}
    if any(_used_by_others(gpu, *task.window) for gpu in used if gpu.uuid not in own):
        found.append(Reason.FOREIGN_PROCESS)
    if task.disagreements:
        found.append(Reason.SOURCES_DISAGREE)
    offsets = [task.gateway_clock_offset, exporter_clock_offset(used, *task.window)]
    if any(offset is not None and abs(offset) > CLOCK_TOLERANCE_SECONDS for offset in offsets):
        found.append(Reason.CLOCK_OFFSET)
    if _own_clock_stepped(task) or any(_stepped(gpu, *task.window) for gpu in used):
        found.append(Reason.CLOCK_STEP)
    return found


def disagree(one: WindowEnergy, other: WindowEnergy) -> bool:
    """Whether what one of the two says cannot be true if the other is.

    A reader that saw the window in part, or whose window ends inside a gap, says only how much it took at least, so it is
    compared by its lower bound. Two unknown values do not disagree.
    """
    if _is_bounded(one) or _is_bounded(other):
        return _contradicts(one, other) or _contradicts(other, one)
    if one.joules is None or other.joules is None:
        return False
    apart = one.joules - other.joules
    allowed = UNBOUNDED_TOLERANCE * max(one.joules, other.joules) + TOLERANCE_JOULES
    return (apart > allowed and not _is_partial(other)) or (-apart > allowed and not _is_partial(one))


def _contradicts(claim: WindowEnergy, bounds: WindowEnergy) -> bool:
    """Whether all that one reader holds possible lies outside the bounds of the other.

    An estimate stands for itself only where it has no bounds, and not where it can only be a guess.
    """
    guess = _is_partial(claim) or Reason.GAP in claim.reasons
    sure = None if guess else claim.joules
    least, most = sure if claim.low is None else claim.low, sure if claim.high is None else claim.high
    too_much = least is not None and bounds.high is not None and least > bounds.high + TOLERANCE_JOULES
    too_little = most is not None and bounds.low is not None and most < bounds.low - TOLERANCE_JOULES
    return too_much or too_little


def _is_bounded(energy: WindowEnergy) -> bool:
    return energy.low is not None or energy.high is not None


def _is_partial(energy: WindowEnergy) -> bool:
    """Whether some of the window, be it one counter step, was not seen."""
    if energy.coverage is not None and energy.coverage < 1:
        return True
    # Pushed energy has no coverage; a counter has no upper bound only where its window is not closed.
    return _in_part(energy.reasons) or (energy.low is not None and energy.high is None)


def _in_part(reasons: Sequence[str]) -> bool:
    return any(reason == Reason.RESET or reason.startswith("uncovered") for reason in reasons)


def _judged(energy: WindowEnergy, findings: Sequence[str]) -> WindowEnergy:
    if not findings:
        return energy
    worst = max(energy.quality, "suspect", key=QUALITIES.index)
    return replace(energy, quality=worst, reasons=tuple(dict.fromkeys((*energy.reasons, *findings))))


def exporter_clock_offset(gpus: Sequence[GpuSamples], start: float, end: float) -> float | None:
    """The exporter's clock minus Prometheus's around the window: the smallest of each GPU's, since a slow scrape only adds; of
    several exporters the worst."""
    exporters = {id(gpu.clock_offsets): gpu.clock_offsets for gpu in gpus}
    near = [offsets.between(start - NEAR_SECONDS, end + NEAR_SECONDS).value for offsets in exporters.values()]
    smallest = [float(offsets[np.abs(offsets).argmin()]) for offsets in near if len(offsets)]
    return max(smallest, key=abs, default=None)


def _own_clock_stepped(task: Task) -> bool:
    """Whether the benchmark's two clocks give different durations: then the window is not the time that the task took."""
    if task.window is None or task.values.duration is None:
        return False
    return abs(task.window[1] - task.window[0] - task.values.duration) > CLOCK_TOLERANCE_SECONDS


def _stepped(gpu: GpuSamples, start: float, end: float) -> bool:
    """Whether the wall clock of its exporter jumped near the window."""
    if not len(gpu.clock_steps):
        return False
    counts = gpu.clock_steps.between(start - NEAR_SECONDS, end + NEAR_SECONDS).value
    return bool(len(counts) and counts.max() > counts.min())


def is_on_two_clocks(task: Task, gpu: GpuSamples) -> bool:
    """Whether energy samples before and after a jump of their exporter's clock mean different times, so that they say nothing of
    the task; a benchmark whose clock jumped along is on the same two clocks."""
    if task.window is None or _own_clock_stepped(task) or not _stepped(gpu, *task.window):
        return False
    start, end = task.window
    offsets = gpu.clock_offsets.between(start - NEAR_SECONDS, end + NEAR_SECONDS).value
    return bool(len(offsets) and offsets.max() - offsets.min() > STEP_SECONDS)


def _used_by_others(gpu: GpuSamples, start: float, end: float) -> bool:
    """Whether a process that is not expected used the GPU in the window. Each scrape has the last such use; the exporter looks
    every few seconds, so one in a window is reported a little later."""
    if metrics.GPU_FOREIGN_USE.name not in gpu.gauges:
        return False
    ends, begins = (
        gpu.gauges[metric.name].between(start, end + PAD_SECONDS)
        for metric in (metrics.GPU_FOREIGN_USE, metrics.GPU_FOREIGN_USE_START)
    )
    began = dict(begins)
    return any(began.get(at, until) <= end and start <= until for at, until in ends)


def _gpu_source(task: Task, used: Sequence[GpuSamples]) -> str | None:
    sources = {gpu.source for gpu in used if gpu.source} | ({task.exporter_source} - {None, "none"})
    # One invented GPU among measured ones makes the sum invented.
    return "simulated" if "simulated" in sources else next(iter(sorted(filter(None, sources))), None)


# --- idle power ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IdlePower:
    """Of one GPU, in watts. ``low``: what the counter guarantees of the lowest measurement. ``spread``: highest less lowest.

    ``measurements``: as they were journaled, each with its label, worker, times and bounds.
    """

    watts: float
    low: float | None
    spread: float
    measurements: tuple[Mapping[str, Any], ...]


def idle_power_by_gpu(run_events: Iterable[Event], tasks: Sequence[Task]) -> Mapping[str, IdlePower]:
    """By UUID; a GPU whose idle power was never measured alone is not in it."""
    windows = [window for task in tasks if (window := task.window) is not None]
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in run_events:
        if event["event_type"] != events.IDLE_POWER or _is_disturbed(event, windows):
            continue
        for row in as_list(event.get("gpus")):
            if isinstance(row, dict) and (watts := as_float(row.get("watts"))) is not None and (uuid := as_name(row.get("uuid"))):
                found[uuid].append(_measurement(event, row, watts))
    return {uuid: _lowest_measurement(some) for uuid, some in found.items()}


def idle_share(power: Mapping[str, IdlePower], uuids: Collection[str], window: WindowEnergy, seconds: float | None) -> IdleShare:
    """Watts of all GPUs of a task, and its joules as the floor and what lies above; null where one of them is not known."""
    known = [power[uuid].watts for uuid in uuids if uuid in power]
    watts = sum(known) if known and len(known) == len(uuids) else None
    idle, active, reason = idle_split(window.joules, seconds, watts)
    return IdleShare(watts=watts, joules=idle, active_joules=active, reason=reason)


def is_below_idle(power: Mapping[str, IdlePower], uuids: Collection[str], window: WindowEnergy, seconds: float) -> bool:
    """Whether a task surely took less than its GPUs take idle: by the bounds of both, not by the noise of either."""
    most = window.high if window.high is not None else window.joules
    least = [power[uuid].low for uuid in uuids if uuid in power]
    known = [watts for watts in least if watts is not None]
    return most is not None and bool(known) and len(known) == len(uuids) and most < sum(known) * seconds


def idle_power_as_json(power: IdlePower) -> dict[str, Any]:
    return {"watts": power.watts, "spread_watts": power.spread, "measurements": list(power.measurements)}


def _is_disturbed(event: Event, windows: Sequence[tuple[float, float]]) -> bool:
    start, end = as_float(event.get("start")), as_float(event.get("end"))
    return start is None or end is None or any(a < end and b > start for a, b in windows)


def _measurement(event: Event, row: Mapping[str, object], watts: float) -> dict[str, Any]:
    when = {name: event.get(name) for name in ("label", "worker", "start", "end", "source")}
    return {
        **when,
        "watts": watts,
        "low_watts": as_float(row.get("low")),
        "high_watts": as_float(row.get("high")),
        "quality": row.get("quality"),
    }


def _lowest_measurement(measurements: Sequence[dict[str, Any]]) -> IdlePower:
    lowest = min(measurements, key=lambda one: float(one["watts"]))
    highest = max(float(one["watts"]) for one in measurements)
    return IdlePower(lowest["watts"], lowest["low_watts"], highest - lowest["watts"], tuple(measurements))
