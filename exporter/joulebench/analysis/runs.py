"""Finished runs as attempts at tasks, from result files (ours and the MCPWorld client's) and run.json.

An unknown value is None. A task that ran beside others has the joules that it was attributed, which is what it is charged, and
names the overlap in ``exclusions``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from msgspec import UNSET

from joulebench.errors import UserError
from joulebench.meters import SCOPES
from joulebench.parsing import as_count, as_float, as_list, load_json, sum_or_none
from joulebench.schema import Reason, TaskResult, events, iterate_files, iterate_results
from joulebench.schema.result import RUN_FILE_NAME, CallResult, EmissionResult, Metadata
from joulebench.schema.scopes import GPU, ScopeEnergy, add_scopes, energy_by_scope, kept_reasons

THROTTLED, OVERLAP, SUSPECT = Reason.THROTTLED.value, Reason.OVERLAP.value, "suspect"
NO_ENERGY, NO_END = "no joules", "never ended"
EXCLUSIONS = (THROTTLED, OVERLAP, SUSPECT, NO_ENERGY, NO_END)
"""Why an attempt does not count in a comparison. The last two cannot be waived: there is no number to count."""
WAIVABLE = (THROTTLED, OVERLAP, SUSPECT)

_REPEAT = re.compile(r"#\d+$")
_LABEL_LENGTH = 120
SETTINGS = ("tag", "temperature", "mode")
"""Of a run of a model: the infrastructure tag, the sampling temperature and how the agent acts."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """``events``: (kind, start, end, label) in seconds after the start of the task. ``power``: (start, end, watts) of its fifths.

    ``uuids`` of its GPUs; ``samples`` by ``power``, ``util`` or ``temp``: (seconds, value), from Prometheus where it was queried.
    """

    events: tuple[tuple[str, float, float, str], ...]
    power: tuple[tuple[float, float, float], ...]
    uuids: tuple[str, ...] = ()
    samples: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt. ``task`` is the same for all attempts at it. Joules, seconds, tokens, celsius, MiB, percent.

    ``seconds_by_phase`` and ``joules_by_phase`` contain known phases only; ``joules_low`` and ``joules_high`` are bounds.
    ``phase_source``: of ``joules_by_phase``, exporter or prometheus. ``short_phases``: those whose bounds are wide.
    ``cached_tokens`` and ``prompt_tokens_with_cache_count``: sums over the calls whose server reports cached tokens.
    ``device_basis``: how the devices that it is charged for are known; empty where its file does not say. ``devices``: their
    names, as in the column of results.csv. ``scopes``: joules by what was measured; ``joules`` are those of the GPUs, or of the
    scopes that were chosen. ``emissions`` by kind, only those that were configured.
    """

    run: str
    suite: str
    model: str
    task: str
    task_id: str
    name: str
    worker: str
    start: float | None
    status: str
    success: bool | None
    seconds: float | None
    joules: float | None
    joules_low: float | None
    joules_high: float | None
    simulated: bool
    quality: str
    reasons: tuple[str, ...]
    exclusions: tuple[str, ...]
    prompt_tokens: int | None
    cached_tokens: int | None
    prompt_tokens_with_cache_count: int | None
    completion_tokens: int | None
    decode_tokens: int | None
    decode_seconds: float | None
    ttft_seconds: float | None
    seconds_by_phase: Mapping[str, float]
    joules_by_phase: Mapping[str, float]
    confidence: float | None
    least_confidence: float | None
    tool_calls: int | None
    throttled_seconds: float | None
    power_watts: float | None
    util_percent: float | None
    max_temp_c: float | None
    peak_vram_mib: float | None
    idle_watts: float | None
    gpus: tuple[str, ...]
    file: str
    timeline: Timeline | None = None
    phase_source: str | None = None
    short_phases: tuple[str, ...] = ()
    settings: tuple[str, str, str] = ("", "", "")
    device_basis: str = ""
    devices: tuple[str, ...] = ()
    scopes: Mapping[str, ScopeEnergy] = field(default_factory=dict)
    emissions: Mapping[str, EmissionResult] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunResults:
    """All attempts of one directory. ``planned`` and ``notes`` from run.json."""

    name: str
    directory: Path
    attempts: tuple[Attempt, ...]
    planned: int | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def missing(self) -> int:
        """Planned tasks that left no result."""
        return max(0, (self.planned or 0) - len(self.attempts))


def load_runs(paths: Sequence[Path], *, timelines: bool = False) -> list[RunResults]:
    """A run for each directory, as ``load_run``, then the runs of the result files among ``paths``.

    Files belong to the run that they name; all of the MCPWorld client, which names none, belong together. Raises UserError.
    """
    directories = [path for path in paths if not path.is_file()]
    files = [path for path in dict.fromkeys(paths) if path.is_file()]
    loaded = [load_run(directory, timelines=timelines) for directory in directories]
    return loaded + (_runs_of_files(files, timelines=timelines) if files else [])


def _runs_of_files(files: Sequence[Path], *, timelines: bool) -> list[RunResults]:
    left_out: list[str] = []
    parent = Path(os.path.commonpath([file.resolve().parent for file in files]))
    by_run: dict[str, list[Attempt]] = {}
    for result in iterate_files(files, left_out):
        attempt = attempt_of_result(result, parent.name, timelines=timelines)
        by_run.setdefault(attempt.run, []).append(attempt)
    notes = tuple(f"left out: {why}" for why in left_out)
    return [RunResults(name, parent, _name_settings(attempts), None, notes) for name, attempts in by_run.items()]


def load_run(directory: Path, *, timelines: bool = False) -> RunResults:
    """``directory``: of an exported run, or where the MCPWorld client logs.

    A model that ran with several settings (infrastructure tag, temperature, mode) counts as a model for each. Raises UserError
    for a directory without result files.
    """
    if not directory.exists():
        raise UserError(f"{directory} is no directory; give the directory of an exported run, as runs/RUN_ID, or of the client")
    left_out: list[str] = []
    attempts = _name_settings(
        attempt_of_result(result, directory.resolve().name, timelines=timelines)
        for result in iterate_results([directory], left_out)
    )
    names = sorted({attempt.run for attempt in attempts})
    if len(names) > 1:
        raise UserError(f"{directory}: has results of {len(names)} runs ({', '.join(names[:5])}); give the directory of each run")
    record = _run_record(directory)
    planned, notes = (
        as_count(record.get("planned_tasks")),
        (
            *map(str, as_list(record.get("notes"))),
            *(f"left out: {why}" for why in left_out),
        ),
    )
    return RunResults(names[0], directory, attempts, planned, notes)


def _name_settings(attempts: Iterable[Attempt]) -> tuple[Attempt, ...]:
    """Returns the attempts, with those settings beside the name of a model in which its attempts differ."""
    loaded = tuple(attempts)
    settings: dict[str, set[tuple[str, ...]]] = {}
    for attempt in loaded:
        settings.setdefault(attempt.model, set()).add(attempt.settings)

    def name(attempt: Attempt) -> str:
        different = [len(set(values)) > 1 for values in zip(*settings[attempt.model], strict=True)]
        shown = [
            value or f"no {kind}" for kind, value, differs in zip(SETTINGS, attempt.settings, different, strict=True) if differs
        ]
        return f"{attempt.model} ({', '.join(shown)})" if shown else attempt.model

    return tuple(replace(attempt, model=name(attempt)) for attempt in loaded)


def _settings(meta: Metadata) -> tuple[str, str, str]:
    """(infrastructure tag, temperature, mode), each empty where it is unknown."""
    temperature = "" if meta.temperature is None else f"temperature {meta.temperature:g}"
    return meta.infrastructure_tag or "", temperature, meta.task_config_at_start.exec_mode or ""


def _run_record(directory: Path) -> Mapping[str, Any]:
    try:
        record = load_json((directory / RUN_FILE_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def attempt_of_result(result: TaskResult, run: str = "", *, timelines: bool = False) -> Attempt:
    """``run``: of a file without a run of its own, as the MCPWorld client writes."""
    meta, computed, measured, shares = result.metadata, result.computed_metrics, result.measurement, result.attribution
    hardware = result.gpu_hardware_metrics
    overlapped = result.overlapped
    low, high = (shares.lower, shares.upper) if overlapped else (measured.low_joules, measured.high_joules)
    quality = measured.quality or "missing"
    reasons = tuple(measured.reasons)
    task_id = meta.task_id or meta.task_config_at_start.task_id or (result.path.stem if result.path else "")
    cached, with_count = _cached_tokens(result.calls)
    return Attempt(
        run=meta.run_id or run,
        suite=meta.suite or "",
        model=meta.model_name or "unknown",
        task=_REPEAT.sub("", task_id),
        task_id=task_id,
        name=meta.task_name or meta.task_config_at_start.task_name or task_id,
        worker=meta.worker or "",
        start=meta.session_start_unix,
        status=computed.task_completion_status.status or "unknown",
        success=computed.task_completion_status.success,
        seconds=computed.total_duration_seconds,
        joules=result.charged_joules,
        joules_low=None if low is UNSET else low,
        joules_high=None if high is UNSET else high,
        simulated=measured.simulated is True,
        quality=quality,
        reasons=reasons,
        exclusions=tuple(_exclusions(quality, reasons, result.charged_joules, computed.total_duration_seconds)),
        prompt_tokens=computed.llm_token_usage.total_prompt_tokens,
        cached_tokens=cached,
        prompt_tokens_with_cache_count=with_count,
        completion_tokens=computed.llm_token_usage.total_completion_tokens,
        decode_tokens=_decode_sums(result.calls)[0],
        decode_seconds=_decode_sums(result.calls)[1],
        ttft_seconds=_mean([call.ttft_seconds for call in result.calls if call.ttft_seconds is not None]),
        seconds_by_phase=_known_phases(result, "seconds"),
        joules_by_phase={} if overlapped else _known_phases(result, "joules"),
        phase_source=None if overlapped else result.phases.source,
        short_phases=() if overlapped else result.phases.short,
        confidence=computed.tool_confidence_metrics.avg_tool_confidence,
        least_confidence=computed.tool_confidence_metrics.min_tool_confidence,
        tool_calls=computed.tool_usage_stats.total_tool_calls,
        throttled_seconds=result.throttle.throttled_seconds,
        power_watts=hardware.avg_power_w if hardware else None,
        util_percent=hardware.avg_gpu_util_pct if hardware else None,
        max_temp_c=hardware.max_temp_c if hardware else None,
        peak_vram_mib=hardware.peak_vram_mb if hardware else None,
        idle_watts=result.idle.watts,
        gpus=tuple(sorted(gpu.name or "unknown GPU" for gpu in result.per_gpu)),
        file=result.path.name if result.path else "",
        timeline=_timeline(result) if timelines else None,
        settings=_settings(meta),
        device_basis=measured.device_basis or "",
        devices=tuple(device.label for device in measured.devices),
        scopes=energy_by_scope(result),
        emissions=result.emissions,
    )


def charge_scopes(attempt: Attempt, scopes: Sequence[str]) -> Attempt:
    """The attempt with the joules of these scopes in place of those of its GPUs; without joules where one was not measured.

    A task that was throttled stays so. Joules by phase are those of the GPUs, and go.
    """
    if tuple(scopes) == (GPU,):
        return attempt
    energy = add_scopes(attempt.scopes, scopes)
    reasons = tuple(dict.fromkeys((*(energy.reasons if energy else ()), *kept_reasons(attempt.reasons))))
    quality, joules = (energy.quality, energy.joules) if energy else ("missing", None)
    return replace(
        attempt,
        joules=joules,
        joules_low=energy.low if energy else None,
        joules_high=energy.high if energy else None,
        simulated=energy is not None and energy.simulated,
        quality=quality,
        reasons=reasons,
        exclusions=tuple(_exclusions(quality, reasons, joules, attempt.seconds)),
        joules_by_phase={},
    )


def choose_scopes(run: RunResults, scopes: Sequence[str]) -> RunResults:
    """The run with the joules of these scopes. Raises UserError where no attempt was measured in all of them."""
    if not any(add_scopes(attempt.scopes, scopes) for attempt in run.attempts):
        known = sorted({scope for attempt in run.attempts for scope in attempt.scopes}, key=SCOPES.index)
        raise UserError(
            f"--scope: no task of {run.name} has joules of {'+'.join(scopes)}; it has {', '.join(known) or 'none'}."
            " Export the run with --meters (docs/METERS.md)"
        )
    return replace(run, attempts=tuple(charge_scopes(attempt, scopes) for attempt in run.attempts))


def _exclusions(quality: str, reasons: Sequence[str], joules: float | None, seconds: float | None) -> Iterator[str]:
    if seconds is None:
        yield NO_END
    if joules is None:
        yield NO_ENERGY
    for reason in (THROTTLED, OVERLAP):
        if reason in reasons:
            yield reason
    if quality == "suspect" and not {THROTTLED, OVERLAP} & set(reasons):
        yield SUSPECT


def _cached_tokens(calls: Sequence[CallResult]) -> tuple[int | None, int | None]:
    """(cached tokens, prompt tokens) over the calls whose server reports both; None where no call does."""
    both = [(call.cached_tokens, call.prompt_tokens) for call in calls if None not in (call.cached_tokens, call.prompt_tokens)]
    return sum_or_none(cached for cached, _ in both), sum_or_none(prompt for _, prompt in both)


def _decode_sums(calls: Sequence[CallResult]) -> tuple[int | None, float | None]:
    """(tokens, seconds) over the calls that report both."""
    both = [(call.decode_tokens, call.decode_seconds) for call in calls if call.decode_tokens is not None and call.decode_seconds]
    return sum_or_none(tokens for tokens, _ in both), sum_or_none(seconds for _, seconds in both)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _known_phases(result: TaskResult, name: str) -> dict[str, float]:
    phases = result.phases.by_phase or {}
    return {phase: value for phase, each in phases.items() if (value := getattr(each, name)) is not None}


def _timeline(result: TaskResult) -> Timeline | None:
    window, hardware = result.window, result.gpu_hardware_metrics
    if window is None:
        return None
    start, end = window
    marks = [*_call_marks(result.calls, end), *_event_marks(result.raw_events, end)]
    fifths = [getattr(hardware, f"avg_power_q{part}_w") if hardware else None for part in range(1, 6)]
    length = (end - start) / 5
    power = [(part * length, (part + 1) * length, watts) for part, watts in enumerate(fifths) if watts is not None]
    return Timeline(
        tuple(
            (kind, round(begin - start, 3), round(until - start, 3), label[:_LABEL_LENGTH]) for kind, begin, until, label in marks
        ),
        tuple((round(begin, 3), round(until, 3), round(watts, 1)) for begin, until, watts in power),
        tuple(str(gpu.uuid) for gpu in result.per_gpu),
    )


def _call_marks(calls: Sequence[CallResult], end: float) -> Iterator[tuple[str, float, float, str]]:
    for call in calls:
        if call.start is None:
            continue
        first = call.start + (call.ttft_seconds or 0.0)
        done = end if call.duration_seconds is None else call.start + call.duration_seconds
        if first > call.start:
            yield "prefill", call.start, first, f"call {call.call}: until the first token"
        yield "decode", first, done, f"call {call.call}: {call.completion_tokens} tokens"


def _event_marks(raw_events: Sequence[Mapping[str, Any]], end: float) -> Iterator[tuple[str, float, float, str]]:
    ends = {event.get("tool_call"): event for event in raw_events if event["event_type"] == events.TOOL_CALL_END}
    for event in raw_events:
        at = as_float(event.get("timestamp"))
        if at is None:
            continue
        if event["event_type"] == events.TOOL_CALL_START:
            ended = ends.get(event.get("tool_call"), {})
            confidence = as_float(event.get("confidence"))
            label = f"{event.get('tool_name')}: {ended.get('outcome')}"
            until = as_float(ended.get("timestamp"))
            yield (
                "tool",
                at,
                end if until is None else until,
                label + ("" if confidence is None else f", confidence {confidence:.2f}"),
            )
        elif event["event_type"] == events.KEY_STEP_COMPLETED:
            yield "step", at, at, f"step {event.get('step_index')} {event.get('step_name') or ''}".strip()
