"""The result of a task: its totals from events, its energy and how good that is, and what each GPU and call did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

import msgspec

from joulebench.energy.allocation import Share
from joulebench.energy.attribution import TaskAttribution
from joulebench.energy.phases import Timeline
from joulebench.energy.window import QUALITIES, WindowEnergy
from joulebench.metrics import POWER_CAP
from joulebench.parsing import as_count, as_dict, as_float, as_int, as_name, sum_or_none
from joulebench.results.attribution import phase_results, phases_of_parts, task_timeline
from joulebench.results.calls import answered_stretches, call_results, calls_exceed_task, efficiency
from joulebench.results.emissions import FactorSamples, emission_results
from joulebench.results.fetch import GpuSamples, Samples
from joulebench.results.gpu_stats import NO_READINGS, GpuGroup, GpuReadings, TaskReadings, hardware_metrics, ratio
from joulebench.results.server_metrics import ServerMetrics, capped_clock, link_bytes, model_server
from joulebench.results.task import GpuJoules, ObservedDevice, Task, TaskKey
from joulebench.results.task_energy import (
    ChosenEnergy,
    IdlePower,
    TaskEnergy,
    exporter_clock_offset,
    idle_share,
    is_below_idle,
    is_on_two_clocks,
    task_energy,
)
from joulebench.results.throttle import (
    Throttling,
    disagreement_reasons,
    gpu_throttling,
    most_throttled,
    throttle_result,
    throttled_seconds,
)
from joulebench.results.timeseries import EMPTY
from joulebench.results.window_record import window_record
from joulebench.schema import events
from joulebench.schema.computed_metrics import (
    CompletionStatus,
    ComputedMetrics,
    ErrorSource,
    ErrorSummary,
    GenerationTimeMetrics,
    Hallucinations,
    KeySteps,
    LoopDetections,
    OverheadMetrics,
    Throughput,
    TokenEfficiency,
    TokenUsage,
    ToolCallSummary,
    ToolConfidence,
    ToolStats,
    ToolUsage,
    TtftMetrics,
)
from joulebench.schema.load import convert_tolerantly
from joulebench.schema.reasons import Reason
from joulebench.schema.result import (
    SCHEMA_VERSION,
    Attribution,
    CallResult,
    ClockOffsets,
    DeviceRecord,
    Disagreement,
    Event,
    GpuEnergy,
    GpuResult,
    GpuShare,
    HardwareMetrics,
    JouleBounds,
    Measurement,
    Metadata,
    MeterResult,
    ModelServer,
    Phases,
    TaskConfig,
    TaskResult,
)

BATCH_TASKS = 500
"""Tasks whose readings are taken at once: the readings of all tasks of a long run would fill the memory."""
LOOP = "loop_detection"
LOOP_WORDS = {"consecutive_identical": "consecutive identical", "alternating_pattern": "alternating pattern"}
"""How the client's agent names its loops, and by which words of the message."""
OF_TOOL_CALL, MIXED = "tool_call", "mixed"
"""Definitions of confidence beside ``events.REPORTED``."""
THROTTLED_SHARE = 0.05
"""A task that was throttled for more than this share of its time is not comparable with others."""

NEARLY_ALL = 0.999
"""Share of a window from which on its joules count as the exporter's."""

Gpus = Collection[str] | None


@dataclass(frozen=True, slots=True)
class ExportContext:
    """What is the same for all tasks of an export. ``why_no_samples``: a reason, where ``samples`` is None."""

    run_id: str
    version: str
    samples: Samples | None
    idle: Mapping[str, IdlePower] = field(default_factory=dict)
    servers: ServerMetrics = field(default_factory=ServerMetrics)
    why_no_samples: str = Reason.PROMETHEUS_NOT_ASKED
    meters: Mapping[TaskKey, Mapping[str, MeterResult]] = field(default_factory=dict)
    factors: Sequence[FactorSamples] = ()

    def gpus(self, uuids: Gpus) -> list[GpuSamples]:
        """Samples of these GPUs, of all where it is not known which."""
        return [gpu for gpu in self.samples.gpus if uuids is None or gpu.uuid in uuids] if self.samples else []


def task_results(
    tasks: Sequence[Task], gpus_of: Sequence[Gpus], shares: Sequence[TaskAttribution | None], context: ExportContext
) -> Iterator[TaskResult]:
    """One after another, in the order of the tasks. ``gpus_of``: UUIDs of the GPUs that each ran on, None where not known."""
    groups: dict[Gpus, GpuGroup] = {}
    for begin in range(0, len(tasks), BATCH_TASKS):
        batch = range(begin, min(begin + BATCH_TASKS, len(tasks)))
        readings: dict[TaskKey, TaskReadings] = {}
        for uuids in dict.fromkeys(gpus_of[i] for i in batch):
            group = groups.setdefault(uuids, GpuGroup(context.gpus(uuids))) if context.samples else None
            if group is not None:
                readings.update(group.read_tasks([tasks[i] for i in batch if gpus_of[i] == uuids], is_on_two_clocks))
        for i in batch:
            yield task_result(tasks[i], gpus_of[i], readings.get(tasks[i].key), shares[i], context)


def task_result(
    task: Task, uuids: Gpus, readings: TaskReadings | None, attribution: TaskAttribution | None, context: ExportContext
) -> TaskResult:
    """``readings``: None without samples, and without a window."""
    by_uuid = {gpu.samples.uuid: gpu for gpu in readings.gpus} if readings else {}
    energy = task_energy(task, None if context.samples is None else list(by_uuid.values()), context.why_no_samples, uuids)
    gpus = [by_uuid[gpu.uuid] for gpu in energy.gpus if gpu.uuid in by_uuid]
    slowed = _throttling(task, energy, by_uuid)
    task_throttled = throttled_seconds(most_throttled([gpu.seconds for gpu in slowed]))
    # Stored samples are of whole GPUs: they say nothing of calls on a part of one.
    is_part = any(device.is_shared for device in task.observed_devices)
    calls = call_results(task, [] if is_part else gpus, task_throttled, context.servers)
    findings = [
        *_findings(task, energy, attribution, context, task_throttled),
        *calls_exceed_task(calls, energy.total.high),
        *disagreement_reasons(slowed),
    ]
    verdict = _verdict(energy, findings)
    line = readings.timeline if readings else _timeline(task)
    phases = _phases(task, energy, line, gpus, calls)
    overlap = None if attribution is None else attribution.overlap_fraction
    seconds = _seconds(task)
    result = TaskResult(
        schema_version=SCHEMA_VERSION,
        metadata=_metadata(task, context),
        llm_error_count=task.values.llm_errors,
        raw_events=[_event(event) for event in task.events],
        computed_metrics=computed_metrics(task),
        gpu_hardware_metrics=_hardware(task, readings, energy.total.joules),
        measurement=_measurement(task, energy, verdict, [gpu.samples for gpu in gpus]),
        per_gpu=[_gpu_result(task, one, by_uuid.get(one.uuid), throttled, context) for one, throttled in _with(energy, slowed)],
        throttle=throttle_result(slowed, [gpu.margin for gpu in gpus]),
        phases=phases,
        idle=idle_share(context.idle, _uuids(energy), verdict, seconds),
        efficiency=efficiency(task, calls, phases.by_phase, overlap),
        calls=calls,
        attribution=_attribution(attribution, verdict, energy.source),
        call_energy=[_event(event) for event in task.call_energy],
        model_server=model_server(context.servers, task.values.model_name, *task.window) if task.window else ModelServer(),
        meters=dict(context.meters.get(task.key, {})),
    )
    result.emissions = emission_results(context.factors, result, task.window)
    return result


def _phases(
    task: Task, energy: TaskEnergy, line: Timeline | None, gpus: Sequence[GpuReadings], calls: Sequence[CallResult]
) -> Phases:
    """By the exporter's energies between all changes of phase; else by those of calls; else by stored samples."""
    joules = energy.total.joules
    by_exporter = energy.source == "exporter" and joules is not None
    known = phases_of_parts(line, task.energy_parts) if by_exporter and line is not None else None
    if known is not None:
        return known
    answered = answered_stretches(task, calls) if by_exporter else []
    return phase_results(task, joules, line, [gpu.phases for gpu in gpus], answered)


def _hardware(task: Task, readings: TaskReadings | None, joules: float | None) -> HardwareMetrics | None:
    """None only where no window is known."""
    if task.window is None:
        return None
    return hardware_metrics(readings or NO_READINGS, joules, *task.window)


def _timeline(task: Task) -> Timeline | None:
    return None if task.window is None else task_timeline(task, *task.window)


def _throttling(task: Task, energy: TaskEnergy, readings: Mapping[str, GpuReadings]) -> list[Throttling]:
    """Of each GPU of the task, in their order; empty where no window is known."""
    if task.window is None:
        return []
    answers = {answer.uuid: answer.throttled for answer in task.exporter_energy}
    found = []
    for gpu in energy.gpus:
        known = readings.get(gpu.uuid)
        stored, samples = (known.throttled, known.samples) if known else (None, None)
        found.append(gpu_throttling(gpu.uuid, answers.get(gpu.uuid, {}), stored, samples, task.window))
    return found


def _with(energy: TaskEnergy, slowed: Sequence[Throttling]) -> Iterator[tuple[ChosenEnergy, Throttling | None]]:
    by_uuid = {one.uuid: one for one in slowed}
    return ((gpu, by_uuid.get(gpu.uuid)) for gpu in energy.gpus)


def _metadata(task: Task, context: ExportContext) -> Metadata:
    values, known, run = task.values, _task_metadata(task), task.run_configuration
    config = convert_tolerantly(as_dict(known.get("task_config_at_start")), TaskConfig)
    config.task_id = config.task_id or task.key.task_id
    config.task_name = config.task_name or values.task_name
    temperature = as_float(known.get("temperature"))
    return Metadata(
        run_id=context.run_id,
        task_id=task.key.task_id,
        worker=task.key.worker,
        task_name=values.task_name,
        suite=values.suite,
        model_name=values.model_name,
        temperature=as_float(run.get("temperature")) if temperature is None else temperature,
        infrastructure_tag=as_name(known.get("infrastructure_tag")) or as_name(run.get("infrastructure_tag")),
        application=as_name(known.get("application")) or values.suite or None,
        session_start_iso=_iso(values.start),
        session_start_unix=values.start,
        session_end_iso=_iso(values.end),
        session_end_unix=values.end,
        session_duration_seconds=None if task.window is None else round(task.window[1] - task.window[0], 3),
        joulebench_version=context.version,
        benchmark_joulebench_version=task.run_version,
        benchmark_configuration=dict(task.run_configuration) if task.run_configuration else msgspec.UNSET,
        task_config_at_start=config,
    )


def _task_metadata(task: Task) -> Mapping[str, object]:
    """What the benchmark said of the task at its start."""
    return next((as_dict(start.get("task_metadata")) for start in _of_type(task, events.TASK_START)), {})


def _iso(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, tz=timezone.utc).isoformat()


def _event(event: Event) -> Event:
    """Flat, with its type and time first; ``event`` and ``data`` are what users of the MCPWorld client read."""
    kind = event["event_type"]
    return {"event_type": kind, "timestamp": event["timestamp"], "event": kind, **event, "data": _event_data(kind, event)}


def _event_data(kind: str, event: Event) -> Event:
    match kind:
        case events.TOOL_CALL_START:
            return {
                "tool_name": event.get("tool_name"),
                "arguments": event.get("args"),
                "confidence": event.get("confidence"),
            }
        case events.TOOL_CALL_END:
            return {"tool_name": event.get("tool_name"), "success": event.get("success"), "error": event.get("error")}
        case events.LLM_QUERY_END:
            seconds = as_float(event.get("duration_seconds"))
            return {
                "prompt_tokens": event.get("prompt_tokens"),
                "completion_tokens": event.get("completion_tokens"),
                "generation_time_ms": None if seconds is None else 1000 * seconds,
            }
    return {}


def _findings(
    task: Task, energy: TaskEnergy, attribution: TaskAttribution | None, context: ExportContext, throttled: float | None
) -> list[str]:
    """What makes the joules of a task suspect, beside what the counter itself says."""
    seconds = _seconds(task)
    if seconds is None:
        return []
    found: list[str] = list(task.reasons)
    if attribution is not None and attribution.overlap_fraction > 0:
        found.append(Reason.OVERLAP)
    if throttled is not None and throttled > THROTTLED_SHARE * seconds:
        found.append(Reason.THROTTLED)
    if is_below_idle(context.idle, _uuids(energy), energy.total, seconds):
        found.append(Reason.BELOW_IDLE)
    return found


def _verdict(energy: TaskEnergy, findings: Sequence[str]) -> WindowEnergy:
    if not findings:
        return energy.total
    quality = max(energy.total.quality, "suspect", key=QUALITIES.index)
    return replace(energy.total, quality=quality, reasons=(*energy.total.reasons, *findings))


def _uuids(energy: TaskEnergy) -> list[str]:
    return [gpu.uuid for gpu in energy.gpus]


def _seconds(task: Task) -> float | None:
    return None if task.window is None else task.window[1] - task.window[0]


def _measurement(task: Task, energy: TaskEnergy, verdict: WindowEnergy, gpus: Sequence[GpuSamples]) -> Measurement:
    window = window_record(verdict, Measurement)
    # Energy that was pushed and not journaled comes without the number of samples behind it.
    window.samples = None if energy.source == "exporter" and not verdict.samples else verdict.samples
    window.energy_source = energy.source
    window.gpu_source = energy.gpu_source
    window.device_basis = energy.basis
    answers = {answer.uuid: answer for answer in task.exporter_energy}
    lags = {gpu.uuid: gpu.sensor_lag for gpu in gpus if gpu.sensor_lag}
    observed = {device.uuid: device for device in task.observed_devices}
    window.devices = [_device(gpu, answers.get(gpu.uuid), observed.get(gpu.uuid), lags.get(gpu.uuid)) for gpu in energy.gpus]
    window.joules_by_role = _joules_by_role(window.devices, energy.gpus, complete=not task.missing_hosts)
    window.missing_hosts = list(task.missing_hosts)
    window.simulated = energy.simulated
    window.energy_exporter = _bounds([gpu.exporter for gpu in energy.gpus])
    window.energy_prometheus = _bounds([gpu.prometheus for gpu in energy.gpus])
    window.clock_offset_seconds = ClockOffsets(
        benchmark_to_gateway=task.gateway_clock_offset,
        exporter_to_prometheus=exporter_clock_offset(gpus, *task.window) if task.window else None,
    )
    window.sources = dict(task.sources)
    window.disagreements = [
        Disagreement(field=one.field, journal=one.journal, prometheus=one.prometheus) for one in task.disagreements
    ]
    return window


def _device(
    gpu: ChosenEnergy, answer: GpuJoules | None, observed: ObservedDevice | None, sensor_lag: float | None
) -> DeviceRecord:
    device = DeviceRecord(gpu=gpu.gpu, uuid=gpu.uuid, sensor_lag_seconds=sensor_lag)
    if observed is not None:
        device.host, device.share, device.parent = observed.host, observed.share, observed.parent
    if answer is not None:
        device.host, device.share, device.role = answer.host, answer.share, answer.role
        device.parent = answer.parent
        device.clock_offset_seconds, device.clock_uncertainty_seconds = answer.clock_offset, answer.clock_uncertainty
    return device


def _joules_by_role(devices: Sequence[DeviceRecord], gpus: Sequence[ChosenEnergy], *, complete: bool) -> dict[str, float | None]:
    """None for a role of which a device is unknown, and for all where a host is missing, whose devices may have any."""
    by_role: dict[str, list[float | None]] = {}
    for device, gpu in zip(devices, gpus, strict=True):
        if device.role is not None:
            by_role.setdefault(device.role, []).append(gpu.chosen.joules)
    return {role: sum_or_none(joules) if complete else None for role, joules in by_role.items()}


def _bounds(windows: Sequence[WindowEnergy | None]) -> JouleBounds | None:
    """Joules and bounds over all GPUs by one of the two readers; null in a field where one GPU is not known."""
    known = [window for window in windows if window is not None]
    if not known:
        return None
    if len(known) < len(windows):
        return JouleBounds()
    return JouleBounds(
        joules=sum_or_none(window.joules for window in known),
        low=sum_or_none(window.low for window in known),
        high=sum_or_none(window.high for window in known),
    )


def _gpu_result(
    task: Task, energy: ChosenEnergy, readings: GpuReadings | None, slowed: Throttling | None, context: ExportContext
) -> GpuResult:
    chosen = window_record(energy.chosen, GpuEnergy)
    chosen.source = energy.source
    found = GpuResult(
        gpu=energy.gpu,
        uuid=energy.uuid,
        energy=chosen,
        energy_exporter=_bounds([energy.exporter]),
        energy_prometheus=_bounds([energy.prometheus]),
        throttle_seconds_by_reason=dict(slowed.seconds) if slowed and (readings or slowed.sources) else {},
        throttle_sources=dict(slowed.sources) if slowed else {},
        memory_total_bytes=context.servers.memory.get(energy.uuid),
        link_bytes=link_bytes(context.servers, energy.uuid, *task.window) if task.window else {},
    )
    if readings is not None and task.window is not None:
        gauges, cap = readings.gauges, readings.samples.throttle.get(POWER_CAP, EMPTY)
        found.name, found.power_limit_w = readings.samples.name, readings.samples.power_limit
        found.min_temp_margin_c = readings.margin
        found.power_capped_clock = capped_clock(context.servers, energy.uuid, cap, *task.window)
        found.util_pct, found.vram_mb, found.temp_c, found.power_w = gauges.util, gauges.vram, gauges.temp, gauges.power
    return found


def _attribution(attribution: TaskAttribution | None, verdict: WindowEnergy, source: str | None) -> Attribution:
    """Joules of the task: ``lower`` while it was alone, ``attributed`` its share, ``upper`` all of its window.

    ``source``: of the energy of the window.
    """
    if attribution is None:
        return Attribution()
    # As they add up over the run, which Prometheus alone feeds, with what run.json has of each GPU.
    gpus = {uuid: _share(share) for uuid, share in attribution.gpus.items()}
    found = Attribution(method=attribution.method, overlap_fraction=attribution.overlap_fraction, gpus=gpus)
    total = attribution.total
    if attribution.overlap_fraction == 0:
        # Alone on the GPUs, all of the window is the task's.
        found.lower = found.attributed = found.fully_loaded = found.upper = verdict.joules
        found.reasons, found.source = [], source
    else:
        found.lower, found.attributed, found.fully_loaded, found.upper = (
            total.lower,
            total.attributed,
            total.fully_loaded,
            total.upper,
        )
        found.reasons, found.source = list(total.reasons), _share_source(attribution)
    return found


def _share_source(attribution: TaskAttribution) -> str | None:
    if attribution.total.attributed is None:
        return None
    if attribution.answered >= NEARLY_ALL:
        return "exporter"
    return "mixed" if attribution.answered > 1 - NEARLY_ALL else "prometheus"


def _share(share: Share) -> GpuShare:
    return GpuShare(
        lower=share.lower,
        attributed=share.attributed,
        fully_loaded=share.fully_loaded,
        upper=share.upper,
        reasons=list(share.reasons),
    )


# --- totals from events -------------------------------------------------------------------------------------------------------


def computed_metrics(task: Task) -> ComputedMetrics:
    """Totals as both sources agree on them; lists, minima and maxima over calls need the journal and are else empty or null."""
    values = task.values
    calls = _of_type(task, events.LLM_QUERY_END)
    succeeded = [call for call in calls if call.get("status") != "error"]
    ttfts = _milliseconds(calls, "ttft_seconds")
    latencies = _milliseconds(succeeded, "duration_seconds")
    tokens = TokenUsage(
        total_prompt_tokens=values.prompt_tokens,
        total_completion_tokens=values.completion_tokens,
        total_tokens=_total_tokens(task),
    )
    return ComputedMetrics(
        total_duration_seconds=_duration(task),
        llm_call_count=values.llm_calls,
        llm_token_usage=tokens,
        task_completion_status=CompletionStatus(status=task.status, reason=values.reason, success=values.success),
        tool_usage_stats=_tool_usage(task),
        error_summary=_error_summary(task),
        ttft_metrics=TtftMetrics(
            average_ttft_ms=_mean(ttfts, values.ttft_seconds, values.ttft_count),
            min_ttft_ms=min(ttfts, default=None),
            max_ttft_ms=max(ttfts, default=None),
            total_llm_calls=values.ttft_count,
            all_ttft_ms=ttfts,
        ),
        generation_time_metrics=GenerationTimeMetrics(
            average_generation_time_ms=_mean(latencies, values.llm_seconds, _timed_count(task)),
            min_generation_time_ms=min(latencies, default=None),
            max_generation_time_ms=max(latencies, default=None),
            total_llm_calls=len(latencies) if calls else _succeeded_count(task),
            all_generation_times_ms=latencies,
        ),
        processing_overhead_metrics=_overhead(task, sum(latencies) / 1000 if calls else values.llm_seconds),
        token_efficiency_metrics=TokenEfficiency(
            token_efficiency_ratio=ratio(values.prompt_tokens, values.completion_tokens),
            total_prompt_tokens=values.prompt_tokens,
            total_completion_tokens=values.completion_tokens,
            total_tokens=tokens.total_tokens,
            average_tokens_per_call=ratio(tokens.total_tokens, values.completion_tokens),
            tokens_per_call=ratio(tokens.total_tokens, values.llm_calls),
        ),
        throughput_metrics=_throughput(task, calls, succeeded),
        tool_confidence_metrics=_tool_confidence(task),
        tool_hallucination_metrics=_hallucinations(task),
        loop_detection_metrics=_loop_detections(task),
        key_step_tracker=_key_steps(task),
    )


def _duration(task: Task) -> float | None:
    """By the monotonic clock where it was kept, else end minus start."""
    return task.values.duration if task.values.duration is not None else _seconds(task)


def _total_tokens(task: Task) -> int | None:
    tokens: int | None = sum_or_none((task.values.prompt_tokens, task.values.completion_tokens))
    return tokens


def _of_type(task: Task, event_type: str) -> list[Event]:
    return [event for event in task.events if event["event_type"] == event_type]


def _milliseconds(calls: Sequence[Event], name: str) -> list[float]:
    return [1000 * seconds for call in calls if (seconds := as_float(call.get(name))) is not None]


def _mean(milliseconds: Sequence[float], seconds: float | None, count: int | None) -> float | None:
    """Of the calls, else by the pushed sum and count."""
    if milliseconds:
        return sum(milliseconds) / len(milliseconds)
    return 1000 * seconds / count if seconds is not None and count else None


def _timed_count(task: Task) -> int | None:
    """Calls whose durations are known as a sum only."""
    return task.values.llm_calls if task.values.answered_calls is None else task.values.answered_calls


def _succeeded_count(task: Task) -> int | None:
    calls, errors = task.values.llm_calls, task.values.llm_errors
    return None if calls is None or errors is None else calls - errors


def _overhead(task: Task, llm: float | None) -> OverheadMetrics:
    """``llm``: seconds of the successful calls; without the journal those of all calls."""
    whole, tool = _duration(task), task.values.tool_seconds
    rest = None if whole is None else max(whole - (llm or 0.0) - (tool or 0.0), 0.0)
    return OverheadMetrics(
        processing_overhead_ms=None if rest is None else 1000 * rest,
        total_task_time_ms=None if whole is None else 1000 * whole,
        total_llm_time_ms=None if llm is None else 1000 * llm,
        total_tool_time_ms=None if tool is None else 1000 * tool,
        overhead_percentage=None if rest is None or not whole else 100 * rest / whole,
    )


def _throughput(task: Task, calls: Sequence[Event], succeeded: Sequence[Event]) -> Throughput:
    """Over the successful calls that report tokens; without the journal over all calls, by their pushed sums."""
    values = task.values
    tokens, seconds, count = values.completion_tokens, values.llm_seconds, _timed_count(task)
    rates = []
    wall = None
    if calls:
        timed = [
            (tokens_of_call, seconds_of_call, float(call["timestamp"]))
            for call in succeeded
            if (tokens_of_call := as_int(call.get("completion_tokens")))
            and (seconds_of_call := as_float(call.get("duration_seconds")))
        ]
        rates = [tokens_of_call / seconds_of_call for tokens_of_call, seconds_of_call, _ in timed]
        tokens, seconds = (sum(t for t, _, _ in timed), sum(s for _, s, _ in timed)) if timed else (None, None)
        wall = ratio(tokens, _covered_seconds([(end - seconds_of_call, end) for _, seconds_of_call, end in timed]))
        count = len(timed)
    overall = ratio(tokens, seconds)
    return Throughput(
        tokens_per_second=overall,
        avg_tokens_per_second=sum(rates) / len(rates) if rates else None,
        min_tokens_per_second=min(rates, default=None),
        max_tokens_per_second=max(rates, default=None),
        overall_tokens_per_second=overall,
        wall_tokens_per_second=wall,
        decode_tokens_per_second=ratio(values.decode_tokens, values.decode_seconds),
        time_per_output_token_ms=_milliseconds_each(values.decode_seconds, values.decode_tokens),
        total_completion_tokens=tokens,
        total_generation_time_sec=seconds,
        call_count=count,
    )


def _covered_seconds(windows: Sequence[tuple[float, float]]) -> float:
    """Length of the time that lies in at least one of the windows."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(windows):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


def _milliseconds_each(seconds: float | None, count: int | None) -> float | None:
    each = ratio(seconds, count)
    return None if each is None else 1000 * each


def _tool_usage(task: Task) -> ToolUsage:
    starts = {event.get("tool_call"): event for event in _of_type(task, events.TOOL_CALL_START)}
    tools: dict[str, ToolStats] = {}
    for end in _of_type(task, events.TOOL_CALL_END):
        start = starts.get(end.get("tool_call"), {})
        tool = tools.setdefault(as_name(end.get("tool_name")) or "", ToolStats())
        tool.total_count += 1
        if end.get("success") is True:
            tool.success_count += 1
        else:
            tool.failure_count += 1
        tool.last_call = ToolCallSummary(
            start_time=start.get("timestamp"),
            args=start.get("args"),
            end_time=end["timestamp"],
            success=end.get("success"),
            result=end.get("result"),
            error=end.get("error"),
        )
    outcomes = task.values.tool_calls
    return ToolUsage(
        total_tool_calls=None if outcomes is None else sum(outcomes.values()),
        outcomes=None if outcomes is None else dict(outcomes),
        tools=tools,
    )


def _error_summary(task: Task) -> ErrorSummary:
    by_source: dict[str, ErrorSource] = {}
    failed = [("LLM", event) for event in _of_type(task, events.LLM_QUERY_END) if event.get("status") == "error"]
    failed += [("Tool", event) for event in _of_type(task, events.TOOL_CALL_END) if event.get("success") is False]
    failed += [("Agent", event) for event in _of_type(task, events.AGENT_ERROR_OCCURRED)]
    for source, event in failed:
        errors = by_source.setdefault(source, ErrorSource())
        errors.count += 1
        errors.errors.append({"timestamp": event["timestamp"], "details": _error_details(event)})
    return ErrorSummary(total_error_count=len(failed), errors_by_source=by_source)


def _error_details(event: Event) -> object:
    return event.get("message") or event.get("error") or event.get("outcome")


def _loop_detections(task: Task) -> LoopDetections:
    """Known of a task whose benchmark says what it is, as the MCPWorld client does: its agent looks for loops."""
    if not _task_metadata(task):
        return LoopDetections()
    details = []
    for event in _of_type(task, events.AGENT_ERROR_OCCURRED):
        if event.get("error") == LOOP:
            text = str(event.get("message") or "")
            kind = next((name for name, words in LOOP_WORDS.items() if words in text), "unknown")
            details.append({"loop_type": kind, "description": text, "timestamp": event["timestamp"]})
    return LoopDetections(
        loop_detected=bool(details),
        total_loop_detections=len(details),
        loop_types=dict(Counter(str(loop["loop_type"]) for loop in details)),
        loop_details=details,
    )


def _tool_confidence(task: Task) -> ToolConfidence:
    """A benchmark may report numbers of its own beside those of the calls' tokens; the definition says which they are."""
    values = task.values
    ended = {event.get("tool_call") for event in _of_type(task, events.TOOL_CALL_END)}
    starts = [event for event in _of_type(task, events.TOOL_CALL_START) if event.get("tool_call") in ended]
    scored = [event for event in starts if as_float(event.get("confidence")) is not None]
    definitions = {events.REPORTED if event.get("span_status") == events.REPORTED else OF_TOOL_CALL for event in scored}
    replies = [value for event in starts if (value := _reply_confidence(event)) is not None]
    return ToolConfidence(
        avg_tool_confidence=ratio(values.confidence_sum, values.confidence_count),
        min_tool_confidence=values.confidence_min,
        max_tool_confidence=values.confidence_max,
        tool_calls_with_confidence=values.confidence_count,
        tool_confidence_definition=MIXED if len(definitions) > 1 else next(iter(definitions), None),
        avg_reply_confidence=sum(replies) / len(replies) if replies else None,
    )


def _reply_confidence(start: Event) -> float | None:
    if start.get("span_status") == events.REPORTED:
        return as_float(start.get("confidence"))
    return as_float(as_dict(start.get("confidence_measures")).get("naive_mean"))


def _hallucinations(task: Task) -> Hallucinations:
    """Calls of tools that were never declared."""
    outcomes = task.values.tool_calls
    calls = None if outcomes is None else outcomes.get("undeclared")
    undeclared = [event for event in _of_type(task, events.TOOL_CALL_END) if event.get("outcome") == "undeclared"]
    return Hallucinations(
        hallucination_detected=None if calls is None else calls > 0,
        total_hallucinated_calls=calls,
        hallucinated_tool_names=sorted({as_name(event.get("tool_name")) or "" for event in undeclared}),
    )


def _key_steps(task: Task) -> KeySteps:
    steps = _of_type(task, events.KEY_STEP_COMPLETED)
    indices = {index for event in steps if (index := as_int(event.get("step_index"))) is not None}
    total = as_count(as_dict(_task_metadata(task).get("task_config_at_start")).get("total_key_steps")) or None
    highest = max(indices, default=0)
    return KeySteps(
        total_steps=total,
        completion_rate_by_count=None if total is None else len(indices) / total,
        completion_rate_by_progress=None if total is None else highest / total,
        final_step_reached=None if total is None else highest >= total,
        completed_steps_count=len(indices),
        highest_index_reached=max(indices, default=None),
        completed_indices_list=sorted(indices),
        completion_timeline=[
            {"step_index": step.get("step_index"), "step_name": step.get("step_name"), "timestamp": step["timestamp"]}
            for step in steps
        ],
    )
