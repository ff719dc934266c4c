"""``benchmark_results.csv``: one row for each result file, the client's 104 columns in their order, then ours.

A metric that is missing or failed is an empty cell, also where the client's own converter writes 0. Result files of our own
runner are rows of the same table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulebench.mcpworld import cells, document, session
from joulebench.mcpworld.document import Document, UnreadableError
from joulebench.mcpworld.identity import identify
from joulebench.mcpworld.schema import HARDWARE_COLUMNS
from joulebench.results.hardware import ratio
from joulebench.results.journal import count, number

Cell = Callable[[object], str]
NUMBER, BOOL, TEXT, LIST = cells.numeric, cells.truth, cells.words, cells.listed

_META, _CONFIG, _METRICS = ("metadata",), ("metadata", "task_config_at_start"), ("computed_metrics",)


def _each(names: Sequence[str], section: Sequence[str], cell: Cell = NUMBER) -> dict[str, tuple[Cell, tuple[str, ...]]]:
    """Columns that have the name of their key."""
    return {name: (cell, (*section, name)) for name in names}


def _spread(name: str) -> tuple[str, ...]:
    return tuple(f"{kind}_{name}" for kind in ("average", "min", "max"))


FROM_KEYS: Mapping[str, tuple[Cell, tuple[str, ...]]] = {
    "model_name": (TEXT, (*_META, "model_name")),
    "temperature": (NUMBER, (*_META, "temperature")),
    "infrastructure_tag": (TEXT, (*_META, "infrastructure_tag")),
    **_each(("session_start_iso", "session_end_iso"), _META, TEXT),
    "session_duration_seconds": (NUMBER, (*_META, "session_duration_seconds")),
    **_each(("task_id", "task_name"), _CONFIG, TEXT),
    "task_description": (TEXT, (*_CONFIG, "description")),
    "application_name": (TEXT, (*_CONFIG, "application_info", "name")),
    "total_key_steps": (NUMBER, (*_CONFIG, "total_key_steps")),
    "exec_mode": (TEXT, (*_CONFIG, "exec_mode")),
    "task_status": (TEXT, (*_METRICS, "task_completion_status", "status")),
    "task_remark": (TEXT, (*_METRICS, "task_completion_status", "reason")),
    "agent_reported_completion": (TEXT, (*_METRICS, "agent_reported_completion", "reasoning")),
    **_each(
        ("completed_steps_count", "highest_index_reached", "completion_rate_by_count", "completion_rate_by_progress"),
        (*_METRICS, "key_step_tracker"),
    ),
    "final_step_reached": (BOOL, (*_METRICS, "key_step_tracker", "final_step_reached")),
    "llm_call_count": (NUMBER, (*_METRICS, "llm_call_count")),
    **_each(("total_prompt_tokens", "total_completion_tokens", "total_tokens"), (*_METRICS, "llm_token_usage")),
    **_each(("average_tokens_per_call", "token_efficiency_ratio"), (*_METRICS, "token_efficiency_metrics")),
    **_each(
        (
            *(f"{kind}_tokens_per_second" for kind in ("avg", "min", "max", "overall")),
            "total_generation_time_sec",
        ),
        (*_METRICS, "throughput_metrics"),
    ),
    **_each(tuple(f"{kind}_tool_confidence" for kind in ("avg", "min", "max")), (*_METRICS, "tool_confidence_metrics")),
    "total_duration_seconds": (NUMBER, (*_METRICS, "total_duration_seconds")),
    **_each(_spread("generation_time_ms"), (*_METRICS, "generation_time_metrics")),
    "all_generation_times_ms": (LIST, (*_METRICS, "generation_time_metrics", "all_generation_times_ms")),
    **_each(
        ("total_llm_time_ms", "total_task_time_ms", "total_tool_time_ms", "processing_overhead_ms", "overhead_percentage"),
        (*_METRICS, "processing_overhead_metrics"),
    ),
    "total_tool_calls": (NUMBER, (*_METRICS, "tool_usage_stats", "total_tool_calls")),
    "unique_tools_used": (NUMBER, ()),
    "tool_names_used": (TEXT, ()),
    "most_used_tool": (TEXT, ()),
    "most_used_tool_count": (NUMBER, ()),
    "error_count": (NUMBER, (*_METRICS, "error_summary", "total_error_count")),
    "error_types": (TEXT, ()),
    **_each(_spread("ttft_ms"), (*_METRICS, "ttft_metrics")),
    "all_ttft_ms": (LIST, (*_METRICS, "ttft_metrics", "all_ttft_ms")),
    "hallucination_detected": (BOOL, (*_METRICS, "tool_hallucination_metrics", "hallucination_detected")),
    "total_hallucinated_calls": (NUMBER, (*_METRICS, "tool_hallucination_metrics", "total_hallucinated_calls")),
    "hallucinated_tool_names": (cells.joined, (*_METRICS, "tool_hallucination_metrics", "hallucinated_tool_names")),
    "loop_detected": (BOOL, (*_METRICS, "loop_detection_metrics", "loop_detected")),
    "total_loop_detections": (NUMBER, (*_METRICS, "loop_detection_metrics", "total_loop_detections")),
    "loop_types": (LIST, ()),
    **{column: (NUMBER, ("gpu_hardware_metrics", key)) for key, column in HARDWARE_COLUMNS.items()},
}
"""The client's columns in order: how a cell is written, and where its value stands; ``()`` where it is worked out below."""

BENCHMARK_COLUMNS = tuple(FROM_KEYS)

OUR_COLUMNS = (
    "success",
    "task_key",
    "session_start_unix",
    "measured_window_seconds",
    "measured_window_ends_with",
    "energy_low_joules",
    "energy_high_joules",
    "energy_quality",
    "energy_reasons",
    "energy_method",
    "energy_source",
    "energy_coverage",
    "energy_longest_gap_seconds",
    "energy_simulated",
    "agent_energy_joules",
    "session_energy_joules",
    "evaluator_wait_seconds",
    "evaluator_wait_energy_joules",
    "attributed_energy_joules",
    "overlap_fraction",
    "throttled_seconds",
    "generation_seconds",
    "end_to_end_tokens_per_second",
    "decode_tokens_per_second",
    "prefill_tokens_per_second",
    "measured_ttft_calls",
    "measured_avg_ttft_ms",
    "joules_per_completion_token",
    "result_file",
)
COLUMNS = (*BENCHMARK_COLUMNS, *OUR_COLUMNS)

SUCCESS = {"success": True, "failure": False, "timeout": False}
NO_TAG = "N/A"


@dataclass(frozen=True, slots=True)
class Converted:
    """``left_out``: (file, why) of those that are no result."""

    rows: list[dict[str, str]]
    left_out: list[tuple[Path, str]]


def convert(root: Path) -> Converted:
    """Every result file below ``root``, in order of its path."""
    rows: list[dict[str, str]] = []
    left_out: list[tuple[Path, str]] = []
    for path in session.files(root):
        try:
            rows.append(row(document.read(path), root))
        except UnreadableError as error:  # noqa: PERF203
            left_out.append((path, str(error)))
    return Converted(rows, left_out)


def row(found: Document, root: Path) -> dict[str, str]:
    shown = {column: cell(_value(found, keys)) for column, (cell, keys) in FROM_KEYS.items() if keys}
    shown["infrastructure_tag"] = shown["infrastructure_tag"] or NO_TAG
    shown |= _tools(found)
    errors = found.section("computed_metrics", "error_summary", "errors_by_source")
    shown["error_types"] = cells.joined(list(errors))
    detections = found.section("computed_metrics", "loop_detection_metrics")
    types = detections.get("loop_types")
    shown["loop_types"] = LIST(list(types)) if isinstance(types, Mapping) else ""
    return {**{column: shown[column] for column in BENCHMARK_COLUMNS}, **_ours(found, root)}


def _value(found: Document, keys: tuple[str, ...]) -> Any:
    return found.section(*keys[:-1]).get(keys[-1])


def _tools(found: Document) -> dict[str, str]:
    tools = found.section("computed_metrics", "tool_usage_stats").get("tools")
    if not isinstance(tools, Mapping):
        return dict.fromkeys(("unique_tools_used", "tool_names_used", "most_used_tool", "most_used_tool_count"), "")
    counts = {name: count(tool.get("total_count")) or 0 for name, tool in tools.items() if isinstance(tool, Mapping)}
    most = max(counts, key=lambda name: counts[name], default="")
    return {
        "unique_tools_used": str(len(tools)),
        "tool_names_used": cells.joined(list(tools)),
        "most_used_tool": TEXT(most),
        "most_used_tool_count": str(counts.get(most, 0)),
    }


def _ours(found: Document, root: Path) -> dict[str, str]:
    measured, windows, speed = (found.section(name) for name in ("measurement", "windows", "generation"))
    headline, agent, whole, wait = (found.section("windows", n) for n in ("headline", "agent", "session", "evaluator_wait"))
    status = found.section("computed_metrics", "task_completion_status").get("status")
    identity = identify(found)
    reasons = measured.get("reasons")
    tokens = number(found.section("computed_metrics", "llm_token_usage").get("total_completion_tokens"))
    shown = {
        "success": BOOL(SUCCESS.get(status) if isinstance(status, str) else None),
        "task_key": TEXT(identity.task_key),
        "session_start_unix": NUMBER(identity.start),
        "measured_window_seconds": NUMBER(headline.get("seconds")),
        "measured_window_ends_with": TEXT(measured.get("window_ends_with")) if windows else "",
        "energy_low_joules": NUMBER(measured.get("low_joules")),
        "energy_high_joules": NUMBER(measured.get("high_joules")),
        "energy_quality": TEXT(measured.get("quality")),
        "energy_reasons": ";".join(map(str, reasons)) if isinstance(reasons, list) else "",
        "energy_method": TEXT(measured.get("method")),
        "energy_source": TEXT(measured.get("energy_source")),
        "energy_coverage": NUMBER(measured.get("coverage")),
        "energy_longest_gap_seconds": NUMBER(measured.get("longest_gap_seconds")),
        "energy_simulated": BOOL(measured.get("simulated")),
        "agent_energy_joules": NUMBER(agent.get("joules")),
        "session_energy_joules": NUMBER(whole.get("joules")),
        "evaluator_wait_seconds": NUMBER(wait.get("seconds")),
        "evaluator_wait_energy_joules": NUMBER(wait.get("joules")),
        "attributed_energy_joules": NUMBER(found.section("attribution").get("attributed")),
        "overlap_fraction": NUMBER(found.section("attribution").get("overlap_fraction")),
        "throttled_seconds": NUMBER(found.section("throttle").get("throttled_seconds")),
        "generation_seconds": NUMBER(speed.get("generation_seconds")),
        "end_to_end_tokens_per_second": NUMBER(speed.get("end_to_end_tokens_per_second")),
        "decode_tokens_per_second": NUMBER(speed.get("decode_tokens_per_second")),
        "prefill_tokens_per_second": NUMBER(speed.get("prefill_tokens_per_second")),
        "measured_ttft_calls": NUMBER(speed.get("ttft_measured_calls")),
        "measured_avg_ttft_ms": NUMBER(speed.get("avg_ttft_ms")),
        "joules_per_completion_token": NUMBER(ratio(number(measured.get("joules")), tokens)),
        "result_file": TEXT(str(found.path.relative_to(root)) if root.is_dir() else found.path.name),
    }
    return {column: shown[column] for column in OUR_COLUMNS}
