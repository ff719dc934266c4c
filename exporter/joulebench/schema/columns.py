"""``results.csv``: one row a task, each column with where its value stands in the result file.

A column that is a field of the file takes unit and meaning from it; others say their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec

from joulebench.devices import ROLES
from joulebench.metrics import DIRECTIONS, LINKS, OTHER_REASON, POWER_CAP, THROTTLE_REASONS, TOOL_OUTCOMES
from joulebench.parsing import sum_or_none
from joulebench.schema.fields import FieldDoc, doc, field_at
from joulebench.schema.result import EmissionResult, HardwareMetrics, MeterResult, TaskResult

KEY_COLUMNS = ("run_id", "task_id", "worker")
"""The key of a row."""

CellValue = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Column:
    """``path``: of the field in the result file; empty for a value that is computed of several."""

    name: str
    path: str
    doc: FieldDoc
    value: Callable[[TaskResult], CellValue]


def _field(name: str, path: str) -> Column:
    read = attrgetter(path)

    def value(result: TaskResult) -> CellValue:
        found: Any = read(result)
        return None if found is msgspec.UNSET else found

    return Column(name, path, field_at(TaskResult, path).doc, value)


def _computed(name: str, description: FieldDoc, value: Callable[[TaskResult], CellValue]) -> Column:
    return Column(name, "", description, value)


def _joules_per_completion_token(result: TaskResult) -> float | None:
    joules, tokens = result.measurement.joules, result.computed_metrics.llm_token_usage.total_completion_tokens
    return None if joules is None or not tokens else joules / tokens


def _phase_joules(phase: str) -> Column:
    def value(result: TaskResult) -> float | None:
        found = (result.phases.by_phase or {}).get(phase)
        return None if found is None else found.joules

    meaning = f"Energy of the phase `{phase}`; see `phases`."
    return _computed(f"{phase}_energy_joules", doc("J", meaning), value)


def _tool_outcome(outcome: str) -> Column:
    def value(result: TaskResult) -> int | None:
        outcomes = result.computed_metrics.tool_usage_stats.outcomes
        return outcomes.get(outcome) if outcomes else None

    return _computed(f"tool_calls_{outcome}", doc("calls", f"Tool calls with the outcome `{outcome}`."), value)


def _throttle_reason(reason: str) -> Column:
    def value(result: TaskResult) -> float | None:
        return result.throttle.seconds_by_reason.get(reason)

    texts = {
        POWER_CAP: "Seconds that `sw_power_cap` held clocks down with the power at 90 % of its limit or more; empty where it has none.",
        OTHER_REASON: "Seconds that reasons without a name here held clocks down, such as `board_limit` and `reliability`.",
    }
    text = texts.get(reason, f"Seconds that `{reason}` held clocks down.")
    return _computed(f"throttled_{reason}_seconds", doc("s", text), value)


def _link(link: str, direction: str) -> Column:
    def value(result: TaskResult) -> float | None:
        directions = (gpu.link_bytes.get(link, {}).get(direction) for gpu in result.per_gpu)
        total: float | None = sum_or_none(None if found is None else found.bytes for found in directions)
        return total

    meaning = f"Bytes over {link} ({direction}), all GPUs of the task; empty where one of them does not count."
    return _computed(f"{link}_{direction}_bytes", doc("bytes", meaning), value)


def _bounds_ratio(result: TaskResult) -> float | None:
    energy = result.measurement
    if not energy.joules or energy.low_joules is None or energy.high_joules is None:
        return None
    return (energy.high_joules - energy.low_joules) / energy.joules


def _role_joules(result: TaskResult, role: str) -> float | None:
    return result.measurement.joules_by_role.get(role)


def _exporter_joules(result: TaskResult) -> float | None:
    energy = result.measurement.energy_exporter
    return None if energy is None else energy.joules


def _prometheus_joules(result: TaskResult) -> float | None:
    energy = result.measurement.energy_prometheus
    return None if energy is None else energy.joules


def _hardware(name: str) -> Column:
    def value(result: TaskResult) -> float | None:
        hardware = result.gpu_hardware_metrics
        found: float | None = None if hardware is None else getattr(hardware, name)
        return found

    return Column(name, f"gpu_hardware_metrics.{name}", field_at(HardwareMetrics, name).doc, value)


_HARDWARE = (
    "avg_gpu_util_pct",
    "max_gpu_util_pct",
    "min_gpu_util_pct",
    "avg_vram_mb",
    "peak_vram_mb",
    "min_vram_mb",
    "avg_temp_c",
    "max_temp_c",
    "avg_power_w",
    "max_power_w",
)
_MODEL_MEMORY = ("size_bytes", "vram_bytes", "offload_ratio", "context_tokens", "kv_cache_bytes")

COLUMNS: tuple[Column, ...] = (
    _field("run_id", "metadata.run_id"),
    _field("task_id", "metadata.task_id"),
    _field("worker", "metadata.worker"),
    _field("task_name", "metadata.task_name"),
    _field("suite", "metadata.suite"),
    _field("model_name", "metadata.model_name"),
    _field("status", "computed_metrics.task_completion_status.status"),
    _field("success", "computed_metrics.task_completion_status.success"),
    _field("start_time", "metadata.session_start_iso"),
    _field("end_time", "metadata.session_end_iso"),
    _field("start_timestamp_seconds", "metadata.session_start_unix"),
    _field("end_timestamp_seconds", "metadata.session_end_unix"),
    _field("total_duration_seconds", "computed_metrics.total_duration_seconds"),
    _field("llm_call_count", "computed_metrics.llm_call_count"),
    _field("llm_error_count", "llm_error_count"),
    _field("total_prompt_tokens", "computed_metrics.llm_token_usage.total_prompt_tokens"),
    _field("total_completion_tokens", "computed_metrics.llm_token_usage.total_completion_tokens"),
    _field("total_tokens", "computed_metrics.llm_token_usage.total_tokens"),
    _field("tokens_per_second", "computed_metrics.throughput_metrics.overall_tokens_per_second"),
    _field("decode_tokens_per_second", "computed_metrics.throughput_metrics.decode_tokens_per_second"),
    _field("avg_ttft_ms", "computed_metrics.ttft_metrics.average_ttft_ms"),
    _field("min_ttft_ms", "computed_metrics.ttft_metrics.min_ttft_ms"),
    _field("max_ttft_ms", "computed_metrics.ttft_metrics.max_ttft_ms"),
    *map(_hardware, _HARDWARE),
    _field("total_energy_joules", "measurement.joules"),
    _field("energy_low_joules", "measurement.low_joules"),
    _field("energy_high_joules", "measurement.high_joules"),
    _field("total_energy_kwh", "measurement.kwh"),
    _computed(
        "joules_per_completion_token",
        doc("J/token", "Joules of the window over completion tokens."),
        _joules_per_completion_token,
    ),
    _field("joules_per_prompt_token", "efficiency.joules_per_prompt_token"),
    _field("prompt_token_basis", "efficiency.prompt_token_basis"),
    _field("joules_per_decode_token", "efficiency.joules_per_decode_token"),
    _field("joules_per_call", "efficiency.joules_per_call"),
    _field("call_energy_joules", "efficiency.call_energy_joules"),
    _field("idle_power_w", "idle.watts"),
    _field("idle_energy_joules", "idle.joules"),
    _field("active_energy_joules", "idle.active_joules"),
    _field("attributed_energy_joules", "attribution.attributed"),
    _field("overlap_fraction", "attribution.overlap_fraction"),
    _field("attribution_method", "attribution.method"),
    *map(_phase_joules, ("prefill", "decode", "tool_wait")),
    _field("avg_tool_confidence", "computed_metrics.tool_confidence_metrics.avg_tool_confidence"),
    _field("min_tool_confidence", "computed_metrics.tool_confidence_metrics.min_tool_confidence"),
    _field("max_tool_confidence", "computed_metrics.tool_confidence_metrics.max_tool_confidence"),
    _field("tool_calls_with_confidence", "computed_metrics.tool_confidence_metrics.tool_calls_with_confidence"),
    _field("tool_confidence_definition", "computed_metrics.tool_confidence_metrics.tool_confidence_definition"),
    _field("avg_reply_confidence", "computed_metrics.tool_confidence_metrics.avg_reply_confidence"),
    _field("total_tool_calls", "computed_metrics.tool_usage_stats.total_tool_calls"),
    *map(_tool_outcome, TOOL_OUTCOMES),
    _field("min_temp_margin_c", "throttle.min_temp_margin_c"),
    _field("throttled_seconds", "throttle.throttled_seconds"),
    *map(_throttle_reason, THROTTLE_REASONS),
    _field("throttled_source", "throttle.source"),
    _computed("gpu_count", doc("GPUs", "GPUs of the task."), lambda result: len(result.per_gpu) or None),
    _field("gpu_source", "measurement.gpu_source"),
    _field("energy_simulated", "measurement.simulated"),
    _field("energy_method", "measurement.method"),
    _field("energy_source", "measurement.energy_source"),
    _computed("energy_exporter_joules", doc("J", "Joules by the exporter's own record."), _exporter_joules),
    _computed("energy_prometheus_joules", doc("J", "Joules by the samples in Prometheus."), _prometheus_joules),
    _field("energy_coverage", "measurement.coverage"),
    _field("energy_samples", "measurement.samples"),
    _field("energy_longest_gap_seconds", "measurement.longest_gap_seconds"),
    _field("counter_resets", "measurement.counter_resets"),
    _field("clock_offset_seconds", "measurement.clock_offset_seconds.benchmark_to_gateway"),
    _field("quality", "measurement.quality"),
    _computed(
        "reasons",
        doc("", "Why the quality is what it is, separated by `;`."),
        lambda result: ";".join(result.measurement.reasons),
    ),
    _computed(
        "sources",
        doc("", "Where the values of the task come from: `journal`, `prometheus`, `both`, separated by `;`."),
        lambda result: ";".join(sorted(set(result.measurement.sources.values()))),
    ),
    _computed(
        "sources_disagree",
        doc("", "Values of which the sources differ, separated by `;`."),
        lambda result: ";".join(one.field for one in result.measurement.disagreements),
    ),
    _computed("result_file", doc("", "Name of the result file."), lambda result: result.path.name if result.path else None),
    *(_field(f"model_{name}", f"model_server.{name}") for name in _MODEL_MEMORY),
    _field("server_waiting_requests", "model_server.waiting_requests"),
    _field("server_kv_cache_ratio_max", "model_server.kv_cache_ratio_max"),
    *(_link(link, direction) for link in LINKS for direction in DIRECTIONS),
    _field("device_basis", "measurement.device_basis"),
    _computed(
        "devices",
        doc("", "The devices that the task is charged for, as `host/uuid` or `uuid`, separated by spaces."),
        lambda result: " ".join(device.label for device in result.measurement.devices) or None,
    ),
    _computed(
        "energy_bounds_ratio",
        doc("ratio", "Distance of the guaranteed bounds over the joules: how exact the energy of the task is."),
        _bounds_ratio,
    ),
    _field("wall_tokens_per_second", "computed_metrics.throughput_metrics.wall_tokens_per_second"),
    _field("time_per_output_token_ms", "computed_metrics.throughput_metrics.time_per_output_token_ms"),
    *(
        _computed(
            f"{role}_devices_energy_joules",
            doc("J", f"Energy of the devices that were declared to do {role}, over all of the task."),
            partial(_role_joules, role=role),
        )
        for role in ROLES
    ),
    _field("phase_energy_source", "phases.source"),
    _computed(
        "short_phases",
        doc("", "Phases whose bounds lie more than 20 % of their joules apart, joined by `;`; empty without a journal, too."),
        lambda result: ";".join(result.phases.short) or None,
    ),
    _field("attributed_energy_source", "attribution.source"),
)

COLUMN_NAMES = tuple(column.name for column in COLUMNS)


METER_FIELDS = (
    "scope",
    "joules",
    "low_joules",
    "high_joules",
    "attributed_joules",
    "mean_watts",
    "coverage",
    "samples",
    "quality",
    "reasons",
)
"""Of ``MeterResult``: a column each for every meter, ``meter_NAME_FIELD``, behind the others."""
_METER_COLUMN = re.compile(rf"meter_[a-z][a-z0-9_]*_(?:{'|'.join(METER_FIELDS)})")

EMISSION_UNITS: Mapping[str, str] = {"carbon": "grams", "water": "litres"}
_EMISSION_FIELDS = ("factor", "of", "source", "date", "quality", "reasons")
EMISSION_COLUMNS: Mapping[str, tuple[str, str]] = {
    name: place
    for kind, unit in EMISSION_UNITS.items()
    for name, place in (
        (f"{kind}_{unit}", (kind, "amount")),
        (f"{kind}_low_{unit}", (kind, "low")),
        (f"{kind}_high_{unit}", (kind, "high")),
        *((f"{kind}_{field}", (kind, field)) for field in _EMISSION_FIELDS),
    )
}
"""Column -> (section of ``emissions``, its field), for the kinds that a file of meters has factors of."""


def is_configured_column(name: str) -> bool:
    """Whether only a file of meters brings this column, by its meters or its emissions."""
    return name in EMISSION_COLUMNS or _METER_COLUMN.fullmatch(name) is not None


def meter_cells(meters: Mapping[str, MeterResult]) -> dict[str, CellValue]:
    """The columns of all meters of a row; reasons are separated by ``;``."""
    cells: dict[str, CellValue] = {}
    for name, meter in meters.items():
        for field in METER_FIELDS:
            value = getattr(meter, field)
            cells[f"meter_{name}_{field}"] = ";".join(value) if isinstance(value, list) else value
    return cells


def emission_cells(emissions: Mapping[str, EmissionResult]) -> dict[str, CellValue]:
    cells: dict[str, CellValue] = {}
    for name, (kind, field) in EMISSION_COLUMNS.items():
        if kind in emissions:
            value = getattr(emissions[kind], field)
            cells[name] = ";".join(value) if isinstance(value, list) else value
    return cells


def result_row(result: TaskResult) -> dict[str, CellValue]:
    """The row of a result; None where a value is unknown."""
    cells = {column.name: column.value(result) for column in COLUMNS}
    return {**cells, **meter_cells(result.meters), **emission_cells(result.emissions)}
