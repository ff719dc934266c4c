"""Finished runs as rows, one for each attempt at a task, read from result files and run.json.

What a row does not know is None. A task that ran beside others has the joules that it was attributed, which is what it may be
charged with, and says so in ``exclusions``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joulebench.analysis import result_files
from joulebench.errors import UserError
from joulebench.parsing import as_float, as_int, as_name
from joulebench.schema.result import RUN_FILE_NAME

THROTTLED, OVERLAP, SUSPECT, NO_ENERGY, NO_END = "throttled", "overlap", "suspect", "no joules", "never ended"
EXCLUSIONS = (THROTTLED, OVERLAP, SUSPECT, NO_ENERGY, NO_END)
"""Why a row does not count in a comparison. The last two cannot be waived: there is no number to count."""
WAIVABLE = (THROTTLED, OVERLAP, SUSPECT)

_REPEAT = re.compile(r"#\d+$")


@dataclass(frozen=True, slots=True)
class Timeline:
    """``events``: (kind, start, end, label) in seconds after the start of the task. ``power``: (start, end, watts) of its fifths.

    ``uuids`` of its GPUs; ``samples`` by ``power``, ``util`` or ``temp``: (seconds, value), where a Prometheus was asked.
    """

    events: tuple[tuple[str, float, float, str], ...]
    power: tuple[tuple[float, float, float], ...]
    uuids: tuple[str, ...] = ()
    samples: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One attempt. ``task`` is the same for all attempts at it. Joules, seconds, tokens, celsius, MiB, percent.

    ``seconds_by_phase`` and ``joules_by_phase`` hold only phases that are known; ``joules_low`` and ``joules_high`` are bounds.
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


@dataclass(frozen=True, slots=True)
class Run:
    """All rows of one directory. ``planned`` and ``notes`` as run.json tells them."""

    name: str
    directory: Path
    rows: tuple[Row, ...]
    planned: int | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def missing(self) -> int:
        """Planned tasks that left no result."""
        return max(0, (self.planned or 0) - len(self.rows))


def read(directory: Path, *, timelines: bool = False) -> Run:
    """Raises UserError for a directory without result files."""
    if not directory.is_dir():
        raise UserError(f"{directory} is no directory; give the directory of an exported run, as runs/RUN_ID")
    rows = tuple(_rows(directory, timelines=timelines))
    if not rows:
        raise UserError(
            f"{directory}: no {result_files.PATTERN}; export the run first: joulebench export --run-id {directory.name}"
        )
    told = _run_record(directory)
    planned = as_int(told.get("planned_tasks"))
    return Run(rows[0].run or directory.name, directory, rows, planned, tuple(map(str, told.get("notes") or ())))


def _run_record(directory: Path) -> Mapping[str, Any]:
    try:
        told = json.loads((directory / RUN_FILE_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _rows(directory: Path, *, timelines: bool) -> Iterator[Row]:
    for path, record in result_files.read(directory):
        yield _checked(path, record, timelines=timelines)


def _checked(path: Path, record: Mapping[str, Any], *, timelines: bool) -> Row:
    try:
        return row(path, record, timelines=timelines)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise result_files.wrong(path, repr(error)) from error


def row(path: Path, record: Mapping[str, Any], *, timelines: bool = False) -> Row:
    """Of one result file's content."""
    meta, computed, measured = record["metadata"], record["computed_metrics"], record["measurement"]
    usage, sure = computed["llm_token_usage"], computed["tool_confidence_metrics"]
    status = computed["task_completion_status"]
    gpu, shares = _section(record, "gpu_hardware_metrics"), _section(record, "attribution")
    phases = _section(_section(record, "phases"), "by_phase")
    overlap = as_float(shares.get("overlap_fraction"))
    calls = _calls(record)
    joules = as_float(shares.get("attributed")) if overlap else as_float(measured["joules"])
    low, high = (shares.get("lower"), shares.get("upper")) if overlap else (measured["low_joules"], measured["high_joules"])
    reasons = tuple(map(str, measured.get("reasons") or ()))
    quality = as_name(measured.get("quality")) or "missing"
    success = status.get("success")
    task_id = str(meta["task_id"])
    seconds = as_float(computed["total_duration_seconds"])
    return Row(
        run=str(meta["run_id"]),
        suite=as_name(meta.get("suite")) or "",
        model=as_name(meta.get("model_name")) or "unknown",
        task=_REPEAT.sub("", task_id),
        task_id=task_id,
        name=as_name(meta.get("task_name")) or task_id,
        worker=as_name(meta.get("worker")) or "",
        start=as_float(meta.get("session_start_unix")),
        status=as_name(status.get("status")) or "unknown",
        success=success if isinstance(success, bool) else None,
        seconds=seconds,
        joules=joules,
        joules_low=as_float(low),
        joules_high=as_float(high),
        simulated=measured.get("simulated") is True,
        quality=quality,
        reasons=reasons,
        exclusions=tuple(_exclusions(quality, reasons, joules, seconds)),
        prompt_tokens=as_int(usage.get("total_prompt_tokens")),
        cached_tokens=_whole(calls, "cached_tokens"),
        completion_tokens=as_int(usage.get("total_completion_tokens")),
        decode_tokens=_decoded(calls)[0],
        decode_seconds=_decoded(calls)[1],
        ttft_seconds=_mean([value for one in calls if (value := as_float(one.get("ttft_seconds"))) is not None]),
        seconds_by_phase=_by_phase(phases, "seconds"),
        joules_by_phase={} if overlap else _by_phase(phases, "joules"),
        confidence=as_float(sure.get("avg_tool_confidence")),
        least_confidence=as_float(sure.get("min_tool_confidence")),
        tool_calls=as_int(computed["tool_usage_stats"].get("total_tool_calls")),
        throttled_seconds=as_float(_section(record, "throttle").get("throttled_seconds")),
        power_watts=as_float(gpu.get("avg_power_w")),
        util_percent=as_float(gpu.get("avg_gpu_util_pct")),
        max_temp_c=as_float(gpu.get("max_temp_c")),
        peak_vram_mib=as_float(gpu.get("peak_vram_mb")),
        idle_watts=as_float(_section(record, "idle").get("watts")),
        gpus=tuple(sorted(as_name(one.get("name")) or "unknown GPU" for one in record.get("per_gpu") or ())),
        file=path.name,
        timeline=_timeline(record, gpu, calls) if timelines else None,
    )


def _section(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = record.get(name)
    return found if isinstance(found, Mapping) else {}


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


def _calls(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Rows of the calls; of a file written before there were any, the events that ended them."""
    found = record.get("calls")
    if isinstance(found, list):
        return found
    ends = [event for event in record["raw_events"] if event["event_type"] == "LLM_QUERY_END"]
    return [{**event, "start": event["timestamp"] - (as_float(event.get("duration_seconds")) or 0.0)} for event in ends]


def _whole(calls: Sequence[Mapping[str, Any]], name: str) -> int | None:
    """The sum, where every call tells."""
    told = [as_int(one.get(name)) for one in calls]
    known = [one for one in told if one is not None]
    return sum(known) if told and len(known) == len(told) else None


def _decoded(calls: Sequence[Mapping[str, Any]]) -> tuple[int | None, float | None]:
    """(tokens, seconds) of the calls that tell both."""
    both = [(as_int(one.get("decode_tokens")), as_float(one.get("decode_seconds"))) for one in calls]
    known = [(tokens, seconds) for tokens, seconds in both if tokens is not None and seconds]
    return (sum(tokens for tokens, _ in known), sum(seconds for _, seconds in known)) if known else (None, None)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _by_phase(phases: Mapping[str, Any], name: str) -> dict[str, float]:
    return {phase: value for phase, one in phases.items() if (value := as_float(one.get(name))) is not None}


def _timeline(record: Mapping[str, Any], gpu: Mapping[str, Any], calls: Sequence[Mapping[str, Any]]) -> Timeline | None:
    start, end = (as_float(record["metadata"].get(f"session_{edge}_unix")) for edge in ("start", "end"))
    if start is None or end is None:
        return None
    events: list[tuple[str, float, float, str]] = []
    for call in calls:
        if (begun := as_float(call.get("start"))) is not None:
            seconds = as_float(call.get("duration_seconds"))
            first = begun + (as_float(call.get("ttft_seconds")) or 0.0)
            done = end if seconds is None else begun + seconds
            if first > begun:
                events.append(("prefill", begun, first, f"call {call.get('call')}: until the first token"))
            events.append(("decode", first, done, f"call {call.get('call')}: {call.get('completion_tokens')} tokens"))
    ends = {e.get("tool_call"): e for e in record["raw_events"] if e["event_type"] == "TOOL_CALL_END"}
    for event in record["raw_events"]:
        at = float(event["timestamp"])
        if event["event_type"] == "TOOL_CALL_START":
            told = ends.get(event.get("tool_call"), {})
            sure = as_float(event.get("confidence"))
            label = f"{event.get('tool_name')}: {told.get('outcome')}" + ("" if sure is None else f", confidence {sure:.2f}")
            events.append(("tool", at, float(told.get("timestamp", end)), label))
        elif event["event_type"] == "KEY_STEP_COMPLETED":
            events.append(("step", at, at, f"step {event.get('step_index')} {event.get('step_name') or ''}".strip()))
    fifths = [as_float(gpu.get(f"avg_power_q{i}_w")) for i in range(1, 6)]
    part = (end - start) / 5
    power = [(i * part, (i + 1) * part, watts) for i, watts in enumerate(fifths) if watts is not None]
    return Timeline(
        tuple((kind, round(a - start, 3), round(b - start, 3), label[:120]) for kind, a, b, label in events),
        tuple((round(a, 3), round(b, 3), round(watts, 1)) for a, b, watts in power),
        tuple(str(one.get("uuid")) for one in record.get("per_gpu") or ()),
    )
