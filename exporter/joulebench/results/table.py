"""``results.csv``: one row for each task, with the column names that published analysis snippets use.

An unknown number is an empty cell, which pandas reads as NaN. ``success`` is True, False or empty. Text comes from tasks and
models, so a cell that a spreadsheet would run as a formula gets an apostrophe in front.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from joulebench.metrics import DIRECTIONS, LINKS, THROTTLE_REASONS, TOOL_OUTCOMES
from joulebench.results.hardware import ratio
from joulebench.results.surroundings import link_totals
from joulebench.units import kwh_from_joules

KEY = ("run_id", "task_id", "worker")

MODEL_MEMORY = ("size_bytes", "vram_bytes", "offload_ratio", "context_tokens", "kv_cache_bytes")
EFFICIENCY = ("joules_per_prompt_token", "prompt_token_basis", "joules_per_decode_token", "joules_per_call")

COLUMNS = (
    *KEY,
    "task_name",
    "suite",
    "model_name",
    "status",
    "success",
    "start_time",
    "end_time",
    "start_timestamp_seconds",
    "end_timestamp_seconds",
    "total_duration_seconds",
    "llm_call_count",
    "llm_error_count",
    "total_prompt_tokens",
    "total_completion_tokens",
    "total_tokens",
    "tokens_per_second",
    "decode_tokens_per_second",
    "avg_ttft_ms",
    "min_ttft_ms",
    "max_ttft_ms",
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
    "total_energy_joules",
    "energy_low_joules",
    "energy_high_joules",
    "total_energy_kwh",
    "joules_per_completion_token",
    *EFFICIENCY,
    "idle_power_w",
    "idle_energy_joules",
    "active_energy_joules",
    "attributed_energy_joules",
    "overlap_fraction",
    "attribution_method",
    "prefill_energy_joules",
    "decode_energy_joules",
    "tool_wait_energy_joules",
    "avg_tool_confidence",
    "min_tool_confidence",
    "max_tool_confidence",
    "tool_calls_with_confidence",
    "total_tool_calls",
    *(f"tool_calls_{outcome}" for outcome in TOOL_OUTCOMES),
    "min_temp_margin_c",
    "throttled_seconds",
    *(f"throttled_{reason}_seconds" for reason in THROTTLE_REASONS),
    "throttled_source",
    "gpu_count",
    "gpu_source",
    "energy_simulated",
    "energy_method",
    "energy_source",
    "energy_exporter_joules",
    "energy_prometheus_joules",
    "energy_coverage",
    "energy_samples",
    "energy_longest_gap_seconds",
    "counter_resets",
    "clock_offset_seconds",
    "quality",
    "reasons",
    "sources",
    "sources_disagree",
    "result_file",
    *(f"model_{name}" for name in MODEL_MEMORY),
    "server_waiting_requests",
    "server_kv_cache_ratio_max",
    *(f"{link}_{direction}_bytes" for link in LINKS for direction in DIRECTIONS),
)

Row = Mapping[str, object]


def row(record: Mapping[str, Any], result_file: str) -> dict[str, object]:
    """The row of one record; ``None`` where a value is not known."""
    meta, computed, measured = record["metadata"], record["computed_metrics"], record["measurement"]
    gpu: Mapping[str, Any] = record["gpu_hardware_metrics"] or {}
    usage, speed = computed["llm_token_usage"], computed["throughput_metrics"]
    ttft, sure, tools = computed["ttft_metrics"], computed["tool_confidence_metrics"], computed["tool_usage_stats"]
    outcomes, phases = tools["outcomes"] or {}, record["phases"]["by_phase"] or {}
    slowed = record["throttle"]["seconds_by_reason"]
    joules = measured["joules"]
    return {
        **{name: meta[name] for name in (*KEY, "task_name", "suite", "model_name")},
        "status": computed["task_completion_status"]["status"],
        "success": computed["task_completion_status"]["success"],
        "start_time": meta["session_start_iso"],
        "end_time": meta["session_end_iso"],
        "start_timestamp_seconds": meta["session_start_unix"],
        "end_timestamp_seconds": meta["session_end_unix"],
        "total_duration_seconds": computed["total_duration_seconds"],
        "llm_call_count": computed["llm_call_count"],
        "llm_error_count": record["llm_error_count"],
        **usage,
        "tokens_per_second": speed["overall_tokens_per_second"],
        "decode_tokens_per_second": speed["decode_tokens_per_second"],
        "avg_ttft_ms": ttft["average_ttft_ms"],
        "min_ttft_ms": ttft["min_ttft_ms"],
        "max_ttft_ms": ttft["max_ttft_ms"],
        **{name: gpu.get(name) for name in COLUMNS if name in gpu},
        "total_energy_joules": joules,
        "energy_low_joules": measured["low_joules"],
        "energy_high_joules": measured["high_joules"],
        "total_energy_kwh": None if joules is None else kwh_from_joules(joules),
        "joules_per_completion_token": ratio(joules, usage["total_completion_tokens"]),
        **{name: record["efficiency"][name] for name in EFFICIENCY},
        "idle_power_w": record["idle"]["watts"],
        "idle_energy_joules": record["idle"]["joules"],
        "active_energy_joules": record["idle"]["active_joules"],
        "attributed_energy_joules": record["attribution"]["attributed"],
        "overlap_fraction": record["attribution"]["overlap_fraction"],
        "attribution_method": record["attribution"]["method"],
        **{f"{phase}_energy_joules": phases.get(phase, {}).get("joules") for phase in ("prefill", "decode", "tool_wait")},
        **sure,
        "total_tool_calls": tools["total_tool_calls"],
        **{f"tool_calls_{outcome}": outcomes.get(outcome, 0 if outcomes else None) for outcome in TOOL_OUTCOMES},
        "min_temp_margin_c": record["throttle"]["min_temp_margin_c"],
        "throttled_seconds": record["throttle"]["throttled_seconds"],
        **{f"throttled_{reason}_seconds": slowed.get(reason) for reason in THROTTLE_REASONS},
        "throttled_source": record["throttle"]["source"],
        "gpu_count": len(record["per_gpu"]) or None,
        "gpu_source": measured["gpu_source"],
        "energy_simulated": measured["simulated"],
        "energy_method": measured["method"],
        "energy_source": measured["energy_source"],
        "energy_exporter_joules": (measured["energy_exporter"] or {}).get("joules"),
        "energy_prometheus_joules": (measured["energy_prometheus"] or {}).get("joules"),
        "energy_coverage": measured["coverage"],
        "energy_samples": measured["samples"],
        "energy_longest_gap_seconds": measured["longest_gap_seconds"],
        "counter_resets": measured["counter_resets"],
        "clock_offset_seconds": measured["clock_offset_seconds"]["benchmark_to_gateway"],
        "quality": measured["quality"],
        "reasons": ";".join(measured["reasons"]),
        "sources": ";".join(sorted(set(measured["sources"].values()))),
        "sources_disagree": ";".join(one["field"] for one in measured["disagreements"]),
        "result_file": result_file,
        **{f"model_{name}": record["model_server"][name] for name in MODEL_MEMORY},
        "server_waiting_requests": record["model_server"]["waiting_requests"],
        "server_kv_cache_ratio_max": record["model_server"]["kv_cache_ratio_max"],
        **link_totals(record["per_gpu"]),
    }


def cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        # Unix times need all their digits; elsewhere the last ones are only how the sum was rounded.
        return repr(value) if abs(value) >= 1e9 else f"{value:.12g}"
    if isinstance(value, int):
        return str(value)
    shown = str(value)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else shown


def merged(existing: str, rows: Iterable[Row]) -> str:
    """The CSV text with ``rows`` in place of those of the same key; in order of run, start and key."""
    cells = {tuple(r[name] for name in KEY): r for r in read(existing)}
    for new in rows:
        shown = {name: cell(new.get(name)) for name in COLUMNS}
        cells[tuple(shown[name] for name in KEY)] = shown
    ordered = sorted(
        cells.values(), key=lambda r: (r["run_id"], _seconds(r["start_timestamp_seconds"]), r["task_id"], r["worker"])
    )
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(ordered)
    return out.getvalue()


def read(existing: str) -> list[dict[str, str]]:
    """Rows of an earlier export; a file that is not one has none."""
    rows = csv.DictReader(io.StringIO(existing, newline=""))
    return [{name: r.get(name) or "" for name in COLUMNS} for r in rows if all(r.get(name) is not None for name in KEY)]


def _seconds(shown: str) -> float:
    try:
        return float(shown)
    except ValueError:
        return float("inf")
