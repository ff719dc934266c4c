"""What one result file claims, in one shape for files of our runner and of the MCPWorld client, backfilled or not.

``None`` is not told. Nothing is corrected here: an implausible number has to reach its check.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from joulebench.mcpworld.document import Document, read_document
from joulebench.mcpworld.session import identify
from joulebench.parsing import as_float, as_name
from joulebench.schema import UnreadableResult, find_result_files

CLOCKS = ("benchmark_to_gateway", "exporter_to_prometheus")


class ToolCall(NamedTuple):
    confidence: float
    success: bool | None


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one task. Times in seconds, ``hardware`` with the client's names and units; ``measured``: the file has our sections."""

    path: Path
    key: str
    model: str
    status: str | None
    measured: bool
    hardware: Mapping[str, Any]
    measurement: Mapping[str, Any]
    joules: float | None
    low: float | None
    high: float | None
    reasons: tuple[str, ...]
    seconds: float | None
    task_seconds: float | None
    gpu_names: tuple[str, ...]
    gpu_count: int
    idle_watts: float | None
    completion_tokens: float | None
    end_to_end_rate: float | None
    decode_rate: float | None
    ttft_ms: float | None
    latency_ms: float | None
    ttft_measured: bool | None
    confidences: tuple[object, ...]
    tool_calls: tuple[ToolCall, ...]
    clock_offsets: Mapping[str, float]
    overlap: float | None
    throttled: float | None

    @property
    def watts(self) -> float | None:
        """Mean power over the measured window, all GPUs."""
        told = as_float(self.hardware.get("avg_power_w"))
        return told if told is not None or self.joules is None or not self.seconds else self.joules / self.seconds


@dataclass(frozen=True, slots=True)
class Found:
    """``unreadable``: (file, why)."""

    tasks: list[Facts]
    unreadable: list[tuple[Path, str]]


def gather(root: Path) -> Found:
    tasks: list[Facts] = []
    unreadable: list[tuple[Path, str]] = []
    for path in find_result_files(root):
        try:
            tasks.append(facts(read_document(path)))
        except UnreadableResult as error:  # noqa: PERF203
            unreadable.append((path, str(error)))
    return Found(tasks, unreadable)


def facts(found: Document) -> Facts:
    hardware, measured = found.section("gpu_hardware_metrics"), found.section("measurement")
    computed, generation = found.section("computed_metrics"), found.section("generation")
    throughput = found.section("computed_metrics", "throughput_metrics")
    reasons = measured.get("reasons")
    joules = as_float(measured.get("joules")) if measured else as_float(hardware.get("total_energy_joules"))
    metadata = found.section("metadata")
    run_id = as_name(metadata.get("run_id"))
    gpus = found.body.get("per_gpu")
    per_gpu = [gpu for gpu in gpus if isinstance(gpu, Mapping)] if isinstance(gpus, list) else []
    window = as_float(hardware.get("monitoring_duration_sec"))
    return Facts(
        path=found.path,
        key="|".join([run_id, str(metadata.get("task_id")), str(metadata.get("worker"))]) if run_id else str(identify(found)),
        model=as_name(metadata.get("model_name")) or "unknown",
        status=as_name(found.section("computed_metrics", "task_completion_status").get("status")),
        measured=bool(measured),
        hardware=hardware,
        measurement=measured,
        joules=joules,
        low=as_float(measured.get("low_joules")),
        high=as_float(measured.get("high_joules")),
        reasons=tuple(map(str, reasons)) if isinstance(reasons, list) else (),
        seconds=window,
        task_seconds=as_float(computed.get("total_duration_seconds")),
        gpu_names=tuple(name for gpu in per_gpu if (name := as_name(gpu.get("name"))) is not None),
        gpu_count=len(per_gpu),
        idle_watts=as_float(found.section("idle").get("watts")),
        completion_tokens=as_float(found.section("computed_metrics", "llm_token_usage").get("total_completion_tokens")),
        end_to_end_rate=_first(generation.get("end_to_end_tokens_per_second"), throughput.get("overall_tokens_per_second")),
        decode_rate=_first(generation.get("decode_tokens_per_second"), throughput.get("decode_tokens_per_second")),
        ttft_ms=as_float(found.section("computed_metrics", "ttft_metrics").get("average_ttft_ms")),
        latency_ms=as_float(found.section("computed_metrics", "generation_time_metrics").get("average_generation_time_ms")),
        ttft_measured=None if not generation else bool(generation.get("ttft_measured_calls")),
        confidences=tuple(_confidences(found)),
        tool_calls=tuple(_tool_calls(found.body.get("raw_events"))),
        clock_offsets={
            name: offset
            for name in CLOCKS
            if (offset := as_float(found.section("measurement", "clock_offset_seconds").get(name))) is not None
        },
        overlap=as_float(found.section("attribution").get("overlap_fraction")),
        throttled=as_float(found.section("throttle").get("throttled_seconds")),
    )


def _first(*values: object) -> float | None:
    return next((found for value in values if (found := as_float(value)) is not None), None)


def _confidences(found: Document) -> Iterator[object]:
    summary = found.section("computed_metrics", "tool_confidence_metrics")
    yield from (summary.get(f"{kind}_tool_confidence") for kind in ("avg", "min", "max"))
    for event in _events(found.body.get("raw_events")):
        if event.get("event_type") == "TOOL_CALL_START":
            yield event.get("confidence")


def _tool_calls(raw_events: object) -> Iterator[ToolCall]:
    """Tool calls with a confidence and an end, paired by number where there is one, else by name and order."""
    waiting: dict[object, list[float | None]] = {}
    for event in _events(raw_events):
        name = event.get("tool_call", event.get("tool_name"))
        if event.get("event_type") == "TOOL_CALL_START" and isinstance(name, str | int):
            waiting.setdefault(name, []).append(as_float(event.get("confidence")))
        elif event.get("event_type") == "TOOL_CALL_END" and isinstance(name, str | int) and waiting.get(name):
            confidence, success = waiting[name].pop(), event.get("success")
            if confidence is not None:
                yield ToolCall(confidence, success if isinstance(success, bool) else None)


def _events(raw_events: object) -> Iterator[Mapping[str, Any]]:
    for event in raw_events if isinstance(raw_events, list) else []:
        if isinstance(event, Mapping):
            yield event
