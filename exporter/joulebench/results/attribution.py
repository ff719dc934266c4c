"""What a task's joules were spent on, which GPUs it ran on, and whose joules they are where tasks overlapped."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import fsum

from joulebench.devices import Device, resolve_devices
from joulebench.energy.allocation import METHODS, GpuBalance
from joulebench.energy.answered_curve import SAME_EDGE, AnsweredCurve, EnergyReadings
from joulebench.energy.attribution import TaskAttribution, attribute, attribute_parts
from joulebench.energy.bins import TaskWork
from joulebench.energy.calls import LlmCall
from joulebench.energy.curve import EnergyCurve
from joulebench.energy.lag import LEAST_LAG, edge_delays, learn_sensor_lag
from joulebench.energy.phases import PHASES, PhaseEnergy, Timeline, is_short, timeline, total_phases
from joulebench.energy.window import total
from joulebench.errors import UserError
from joulebench.parsing import as_dict, as_float, as_int, sum_or_none
from joulebench.results.fetch import NO_CURVE, GpuSamples
from joulebench.results.journal import curve_readings
from joulebench.results.task import PartEnergy, Task, TaskKey
from joulebench.schema import events as event_types
from joulebench.schema.reasons import Reason
from joulebench.schema.result import Event, PhaseResult, Phases

EXCLUSIVE = METHODS[0]

MOST_LAG_WINDOWS = 2000
"""Calls that the lag of a sensor is learned from."""

Interval = tuple[float, float]


def llm_calls(events: Sequence[Event], task_end: float) -> list[LlmCall]:
    """The task's calls. Prefill tokens are known where the server reports how much of a prompt came from its cache."""
    first = {e.get("call"): float(e["timestamp"]) for e in events if e["event_type"] == event_types.LLM_FIRST_TOKEN_RECEIVED}
    ends = {e.get("call"): e for e in events if e["event_type"] == event_types.LLM_QUERY_END}
    found = []
    for call, (start, end) in _pairs(events, event_types.LLM_QUERY_START, event_types.LLM_QUERY_END, "call", task_end).items():
        ended = ends.get(call, {})
        ttft = as_float(ended.get("ttft_seconds"))
        found.append(
            LlmCall(
                start,
                end,
                load_seconds=as_float(ended.get("load_seconds")),
                prefill_seconds=as_float(ended.get("prefill_seconds")),
                decode_seconds=as_float(ended.get("decode_seconds")),
                ttft_seconds=first[call] - start if ttft is None and call in first else ttft,
                prefill_tokens=computed_prompt_tokens(ended),
                decode_tokens=as_float(ended.get("completion_tokens")),
            )
        )
    return found


def computed_prompt_tokens(ended: Mapping[str, object]) -> int | None:
    """Prompt tokens less those from the cache, of an LLM_QUERY_END; None where they are not reported or contradict."""
    prompt, cached = as_int(ended.get("prompt_tokens")), as_int(ended.get("cached_tokens"))
    return None if prompt is None or cached is None or not 0 <= cached <= prompt else prompt - cached


def tool_spans(events: Sequence[Event], task_end: float) -> list[Interval]:
    return list(_pairs(events, event_types.TOOL_CALL_START, event_types.TOOL_CALL_END, "tool_call", task_end).values())


def _pairs(events: Sequence[Event], opening: str, closing: str, key: str, task_end: float) -> dict[object, Interval]:
    """Intervals by their number; one without a closing event lasts until the end of the task."""
    closed = {e.get(key): float(e["timestamp"]) for e in events if e["event_type"] == closing}
    return {
        e.get(key): (float(e["timestamp"]), max(closed.get(e.get(key), task_end), float(e["timestamp"])))
        for e in events
        if e["event_type"] == opening
    }


def correct_sensor_lag(gpus: Sequence[GpuSamples], tasks: Sequence[Task]) -> None:
    """Learns from the calls how much later each counter shows energy than it is used, and corrects the times of its curve."""
    # An offset between two clocks looks like a lag.
    ended = ((task, task.window) for task in tasks if not _has_clock_offset(task))
    calls = [call for task, window in ended if window is not None for call in llm_calls(task.events, window[1])]
    windows = [(call.start, call.end) for call in calls[:MOST_LAG_WINDOWS]]
    for gpu in gpus:
        if gpu.method in (None, "counter"):
            gpu.sensor_lag = learn_sensor_lag(*edge_delays(gpu.energy, windows))
        if gpu.sensor_lag:
            gpu.energy = gpu.energy.shifted(gpu.sensor_lag, gpu.sensor_lag)


def _has_clock_offset(task: Task) -> bool:
    return any(abs(answer.clock_offset or 0.0) >= LEAST_LAG for answer in task.exporter_energy)


def task_timeline(task: Task, start: float, end: float) -> Timeline:
    """The window of a task cut into phases."""
    return timeline(start, end, llm_calls(task.events, end), tool_spans(task.events, end))


def answered_calls(task: Task) -> set[object]:
    """Numbers of the calls whose joules the exporter knew."""
    totals = ((event.get("call"), as_dict(event.get("total"))) for event in task.call_energy)
    return {call for call, energy in totals if as_float(energy.get("joules")) is not None}


def call_windows(task: Task) -> list[Interval]:
    """Windows of the calls that ended and whose joules have to come from stored samples, in the order in which they began."""
    answered = answered_calls(task)
    ends = {event.get("call"): event["timestamp"] for event in task.events if event["event_type"] == event_types.LLM_QUERY_END}
    begun = [e for e in task.events if e["event_type"] == event_types.LLM_QUERY_START and e.get("call") not in answered]
    pairs = ((event["timestamp"], ends.get(event.get("call"))) for event in begun)
    return [(float(start), float(end)) for start, end in pairs if end is not None and end >= start]


def phase_results(
    task: Task,
    joules: float | None,
    line: Timeline | None,
    parts: Sequence[PhaseEnergy],
    answered: Sequence[tuple[float, float, float]] = (),
) -> Phases:
    """Seconds and joules by phase. ``parts``: of each GPU, from the stored samples; they are scaled to add up to ``joules``.

    ``answered``: start, end and joules of calls, or parts of them, by the exporter, which sees every change of the counter: then
    the phases within each add up to its joules, those outside to the rest, and stored samples only split these. Null where the
    journal has no calls.
    """
    if line is None or not task.events:
        return Phases()
    together = total_phases(parts, total(part.whole for part in parts))
    whole = together.whole.joules
    scale = None if not whole or joules is None else joules / whole
    by_exporter = None if joules is None else _phases_between_calls(line, together.spans, joules, answered)
    found = {}
    for phase in PHASES:
        energy = together.phases.get(phase)
        known = None if energy is None or energy.joules is None or scale is None else energy.joules * scale
        if known is not None and by_exporter is not None:
            known = by_exporter.get(phase, 0.0)
        seconds = None if phase in line.unknown else line.seconds.get(phase, 0.0)
        notes = list(energy.notes if energy else line.notes.get(phase, ()))
        bounds = (None, None) if energy is None or by_exporter is not None else (energy.low, energy.high)
        found[phase] = PhaseResult(seconds=seconds, joules=known, low_joules=bounds[0], high_joules=bounds[1], notes=notes)
    source = None if scale is None else "prometheus" if by_exporter is None else "exporter"
    return Phases(by_phase=found, scale=scale, source=source)


def phases_of_parts(line: Timeline, parts: Sequence[PartEnergy]) -> Phases | None:
    """Seconds and joules by phase, by energies between all changes of phase; None where the phase changed within a part."""
    edges = [line.start, *(part.end for part in parts)]
    if not line.spans or not parts or any(_distance(edges, edge) > SAME_EDGE for edge in line.edges):
        return None
    starts = [span.start for span in line.spans]
    by_phase: defaultdict[str, list[PartEnergy]] = defaultdict(list)
    for part in parts:
        place = bisect_right(starts, (part.start + part.end) / 2) - 1
        by_phase[line.spans[max(place, 0)].phase].append(part)
    found = {}
    for phase in PHASES:
        if phase in line.unknown:
            found[phase] = PhaseResult(notes=["not_reported"])
            continue
        joules = fsum(part.joules for part in by_phase[phase])
        low, high = sum_or_none(part.low for part in by_phase[phase]), sum_or_none(part.high for part in by_phase[phase])
        notes = list(line.notes.get(phase, ()))
        if is_short(joules, low, high):
            notes.append(Reason.SHORT.value)
        seconds = line.seconds.get(phase, 0.0)
        found[phase] = PhaseResult(seconds=seconds, joules=joules, low_joules=low, high_joules=high, notes=notes)
    return Phases(by_phase=found, scale=1.0, source="exporter")


def _distance(rising: Sequence[float], value: float) -> float:
    """From a value to the nearest of these."""
    place = bisect_right(rising, value)
    return min(abs(value - near) for near in rising[max(place - 1, 0) : place + 1])


def _phases_between_calls(
    line: Timeline, spans: Sequence[float], joules: float, calls: Sequence[tuple[float, float, float]]
) -> dict[str, float] | None:
    """Joules by phase where each call and the time outside all of them have their own; None where that cannot be: no calls,
    calls at the same time or of more joules than the task, or a stretch without a stored joule to split."""
    ordered = sorted(calls)
    rest = joules - sum(used for _, _, used in ordered)
    if not ordered or rest < 0 or any(a[1] > b[0] for a, b in pairwise(ordered)) or len(spans) != len(line.spans):
        return None
    starts = [start for start, _, _ in ordered]
    stretch_of = []
    for span in line.spans:
        middle = (span.start + span.end) / 2
        place = bisect_right(starts, middle) - 1
        stretch_of.append(place if place >= 0 and middle <= ordered[place][1] else len(ordered))
    stored = [0.0] * (len(ordered) + 1)
    for place, energy in zip(stretch_of, spans, strict=True):
        stored[place] += energy
    wanted = [*(used for _, _, used in ordered), rest]
    if any(have <= 0 < want for have, want in zip(stored, wanted, strict=True)):
        return None
    found: defaultdict[str, float] = defaultdict(float)
    for span, place, energy in zip(line.spans, stretch_of, spans, strict=True):
        found[span.phase] += energy * wanted[place] / stored[place] if stored[place] > 0 else 0.0
    return found


@dataclass(frozen=True, slots=True)
class AttributionGroup:
    """The shares of tasks that ran on the same GPUs, and the balance of each of these over ``start`` to ``end``, unix seconds.

    sum of shares + unattributed + shared idle + withheld + other servers + residual = the counter's own difference.
    """

    start: float
    end: float
    shares: Mapping[TaskKey, TaskAttribution]
    balances: Mapping[str, GpuBalance]


def attribute_tasks(
    tasks: Sequence[Task], gpus: Sequence[GpuSamples], idle_watts: Mapping[str, float | None] | None = None
) -> list[AttributionGroup]:
    """Shares of every task with a window; the window of an unfinished task is not known, so it shares nothing here.

    Tasks share a GPU only with those that ran on it. ``idle_watts`` by uuid.
    """
    own = gpus_by_task(tasks, stored_devices(gpus))
    found = []
    for uuids in dict.fromkeys(own.values()):
        ended = [(task, task.window) for task in tasks if task.window is not None and own[task.key] == uuids]
        if not ended:
            continue
        parents = {answer.uuid: answer.parent for task, _ in ended for answer in task.exporter_energy if answer.parent}
        counters = None if uuids is None else {parents.get(uuid, uuid) for uuid in uuids}
        stored = {gpu.uuid: gpu for gpu in gpus if counters is None or gpu.uuid in counters}
        curves = _energy_curves(stored, [task for task, _ in ended], counters)
        work = [
            TaskWork(str(task.key), start, end, llm_calls(task.events, end) if task.events else None)
            for task, (start, end) in ended
        ]
        done = attribute_parts(attribute(curves, work, idle_watts=idle_watts), [gpu_parts(task) for task, _ in ended])
        shares = {task.key: share for (task, _), share in zip(ended, done.tasks, strict=True)}
        found.append(AttributionGroup(min(w.start for w in work), max(w.end for w in work), shares, done.gpus))
    return found


def _energy_curves(
    stored: Mapping[str, GpuSamples], tasks: Sequence[Task], counters: Collection[str] | None
) -> dict[str, EnergyCurve]:
    """By UUID: those of ``answered_curves`` where tasks overlapped, else those of the stored samples."""
    windows = sorted(task.window for task in tasks if task.window is not None)
    if all(before[1] <= after[0] for before, after in pairwise(windows)):
        return {uuid: gpu.energy for uuid, gpu in stored.items()}
    answers = (event for task in tasks for event in (*task.call_energy, task.task_energy) if event is not None)
    return answered_curves(stored, answers, counters)


def answered_curves(
    stored: Mapping[str, GpuSamples], answers: Iterable[Event], counters: Collection[str] | None
) -> dict[str, EnergyCurve]:
    """By UUID: of the exporter's answers for tasks and calls, with the stored samples between them.

    That of a GPU without such answers is that of its stored samples. ``counters``: UUIDs of the GPUs that count, None for all.
    """
    curves = {uuid: gpu.energy for uuid, gpu in stored.items()}
    readings: defaultdict[str, list[tuple[float, float, bool]]] = defaultdict(list)
    for answer in answers:
        for uuid, points, is_corrected in curve_readings(answer):
            if counters is not None and uuid not in counters:
                continue
            # An answer from before the exporter knew how late the counter shows energy has other times than those after it.
            if is_corrected or uuid not in stored or not stored[uuid].sensor_lag:
                readings[uuid] += points
    for uuid, points in readings.items():
        columns = zip(*points, strict=True)
        curves[uuid] = AnsweredCurve(curves.get(uuid, NO_CURVE), EnergyReadings(*map(list, columns)))
    return curves


def gpu_parts(task: Task) -> Mapping[str, float | None]:
    """The part of a GPU's energy, 0 to 1, that the server of a task used in its window, by UUID of the GPU; None where unknown.

    GPUs that the server had alone are not in it.
    """
    parts: defaultdict[str, list[float | None]] = defaultdict(list)
    for answer in task.exporter_energy:
        if {Reason.GPU_SHARED, Reason.MIG_ESTIMATED} & {*answer.reasons}:
            parts[answer.parent or answer.uuid].append(None if answer.joules is None else answer.share)
    for device in task.observed_devices:
        if device.is_shared or device.parent is not None:
            parts[device.counter].append(device.share)
    return {uuid: None if None in some else min(sum(part or 0.0 for part in some), 1.0) for uuid, some in parts.items()}


def attributions_by_task(groups: Sequence[AttributionGroup]) -> Mapping[TaskKey, TaskAttribution]:
    return {key: share for group in groups for key, share in group.shares.items()}


NO_SOURCE = "none"
"""An exporter that answers without having any GPU."""

Gpus = frozenset[str]


def stored_devices(gpus: Sequence[GpuSamples]) -> list[Device]:
    """The GPUs of which samples are stored, each as a device of the exporter that scraped it."""
    return [Device(next(iter(sorted(gpu.instances)), ""), int(gpu.gpu) if gpu.gpu.isdecimal() else -1, gpu.uuid) for gpu in gpus]


def gpus_by_task(tasks: Sequence[Task], stored: Sequence[Device] = ()) -> Mapping[TaskKey, Gpus | None]:
    """UUIDs of the GPUs that each task ran on: those that its exporters named; None where that is not known.

    A Prometheus may hold many machines. A task whose own question was not answered ran on the devices that its run declared,
    among those that are ``stored``, or on those that its server was observed on; else where its worker's other tasks ran, or
    where all others of the run did.
    """
    named = {task.key: found for task in tasks if (found := _named_gpus(task, stored)) is not None}
    of_run = frozenset(named.values())
    of_worker = {
        worker: frozenset(gpus for key, gpus in named.items() if key.worker == worker) for worker in {key.worker for key in named}
    }
    return {task.key: named.get(task.key, _common_answer(of_worker.get(task.key.worker, of_run))) for task in tasks}


def _named_gpus(task: Task, stored: Sequence[Device]) -> Gpus | None:
    if task.exporter_energy:
        return frozenset(answer.uuid for answer in task.exporter_energy)
    if task.declared_devices and stored:
        try:
            return frozenset(device.uuid for device in resolve_devices(task.declared_devices, stored, "gpus"))
        except UserError:
            # A name that means no stored device, or two, chooses none.
            return frozenset()
    if task.used_gpus:
        return task.used_gpus
    if task.observed_devices:
        return frozenset(device.counter for device in task.observed_devices)
    return frozenset() if task.exporter_source == NO_SOURCE else None


def _common_answer(answers: frozenset[Gpus]) -> Gpus | None:
    return next(iter(answers)) if len(answers) == 1 else None
