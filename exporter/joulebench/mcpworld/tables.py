"""Tables of the client's result files: ``benchmark_results.csv``, and the summary and metrics of a suite.

A number is written only where it was measured: a metric that is missing or failed is an empty cell, also where the client's
own converter writes 0. Text that a spreadsheet would run as a formula is quoted. Result files of our own benchmark are rows
of the same tables.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulebench.errors import UserError
from joulebench.files import csv_text, lock_directory, write_atomic
from joulebench.mcpworld.client_names import HARDWARE_COLUMNS, METRICS_COLUMNS, SUMMARY_COLUMNS
from joulebench.mcpworld.document import Document, read_document
from joulebench.parsing import as_count, as_float, as_name
from joulebench.results.gpu_stats import ratio
from joulebench.schema import UnreadableResult, find_result_files
from joulebench.schema.client_identity import identify

FAILED_METRIC = "ERROR_GETTING_VALUE"


def number_cell(value: object) -> str:
    """Returns the number with all its digits, and nothing for what is no finite number."""
    if as_float(value) is None:
        return ""
    return str(value)


def bool_cell(value: object) -> str:
    return str(value) if isinstance(value, bool) else ""


def text_cell(value: object) -> str:
    """Returns text as it is and a number as text, and nothing for what failed."""
    if isinstance(value, bool) or (not isinstance(value, str) and as_float(value) is None):
        return ""
    # JSON can hold half a character, which no file can.
    shown = str(value).encode("utf-8", "replace").decode("utf-8")
    if shown.startswith(FAILED_METRIC):
        return ""
    return csv_text(shown) if isinstance(value, str) else shown


def list_cell(value: object) -> str:
    """Returns a list as Python writes it, which is the form of the client's tables."""
    return repr(list(value)) if isinstance(value, list | tuple) else ""


def joined_cell(values: object) -> str:
    names = [name for name in values if as_name(name)] if isinstance(values, Iterable) and not isinstance(values, str) else []
    return text_cell(", ".join(names))


def plain_cell(value: object) -> str:
    """Returns text without comma and newline, for tables that scripts split at commas."""
    shown = text_cell(value)
    return " ".join(shown.replace(",", ";").split())


def table_text(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def put_row(path: Path, columns: Sequence[str], key: Sequence[str], row: Mapping[str, str]) -> None:
    """Puts the row into its table, in place of a row with the same key. The table is complete at every moment.

    Raises UserError for a file that has other columns.
    """
    with lock_directory(path.parent, option=str(path)):
        rows = _read_table(path, columns)
        same = [index for index, old in enumerate(rows) if all(old[name] == row[name] for name in key)]
        if same:
            rows[same[0]] = row
            rows = [old for index, old in enumerate(rows) if index not in same[1:]]
        else:
            rows.append(row)
        write_atomic(path, table_text(columns, rows), durable=True, option=str(path))


def _read_table(path: Path, columns: Sequence[str]) -> list[Mapping[str, str]]:
    if not path.exists() or not path.stat().st_size:
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        if list(reader.fieldnames or ()) != list(columns):
            raise UserError(f"{path}: has other columns than this table; give a new file, or move this one away")
        # A last row that was cut off by a crash has too few cells.
        return [
            {name: row[name] or "" for name in columns} for row in reader if all(row.get(name) is not None for name in columns)
        ]


# --- benchmark_results.csv: one row a result file, the client's 104 columns in their order, then ours ------------------------

Cell = Callable[[object], str]
NUMBER, BOOL, TEXT, LIST = number_cell, bool_cell, text_cell, list_cell

_META, _CONFIG, _METRICS = ("metadata",), ("metadata", "task_config_at_start"), ("computed_metrics",)


def _same_names(names: Sequence[str], section: Sequence[str], cell: Cell = NUMBER) -> dict[str, tuple[Cell, tuple[str, ...]]]:
    """Returns columns that are named like their key."""
    return {name: (cell, (*section, name)) for name in names}


def _spread(name: str) -> tuple[str, ...]:
    return tuple(f"{kind}_{name}" for kind in ("average", "min", "max"))


FROM_KEYS: Mapping[str, tuple[Cell, tuple[str, ...]]] = {
    "model_name": (TEXT, (*_META, "model_name")),
    "temperature": (NUMBER, (*_META, "temperature")),
    "infrastructure_tag": (TEXT, (*_META, "infrastructure_tag")),
    **_same_names(("session_start_iso", "session_end_iso"), _META, TEXT),
    "session_duration_seconds": (NUMBER, (*_META, "session_duration_seconds")),
    **_same_names(("task_id", "task_name"), _CONFIG, TEXT),
    "task_description": (TEXT, (*_CONFIG, "description")),
    "application_name": (TEXT, (*_CONFIG, "application_info", "name")),
    "total_key_steps": (NUMBER, (*_CONFIG, "total_key_steps")),
    "exec_mode": (TEXT, (*_CONFIG, "exec_mode")),
    "task_status": (TEXT, (*_METRICS, "task_completion_status", "status")),
    "task_remark": (TEXT, (*_METRICS, "task_completion_status", "reason")),
    "agent_reported_completion": (TEXT, (*_METRICS, "agent_reported_completion", "reasoning")),
    **_same_names(
        ("completed_steps_count", "highest_index_reached", "completion_rate_by_count", "completion_rate_by_progress"),
        (*_METRICS, "key_step_tracker"),
    ),
    "final_step_reached": (BOOL, (*_METRICS, "key_step_tracker", "final_step_reached")),
    "llm_call_count": (NUMBER, (*_METRICS, "llm_call_count")),
    **_same_names(("total_prompt_tokens", "total_completion_tokens", "total_tokens"), (*_METRICS, "llm_token_usage")),
    **_same_names(("average_tokens_per_call", "token_efficiency_ratio"), (*_METRICS, "token_efficiency_metrics")),
    **_same_names(
        (
            *(f"{kind}_tokens_per_second" for kind in ("avg", "min", "max", "overall")),
            "total_generation_time_sec",
        ),
        (*_METRICS, "throughput_metrics"),
    ),
    **_same_names(tuple(f"{kind}_tool_confidence" for kind in ("avg", "min", "max")), (*_METRICS, "tool_confidence_metrics")),
    "total_duration_seconds": (NUMBER, (*_METRICS, "total_duration_seconds")),
    **_same_names(_spread("generation_time_ms"), (*_METRICS, "generation_time_metrics")),
    "all_generation_times_ms": (LIST, (*_METRICS, "generation_time_metrics", "all_generation_times_ms")),
    **_same_names(
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
    **_same_names(_spread("ttft_ms"), (*_METRICS, "ttft_metrics")),
    "all_ttft_ms": (LIST, (*_METRICS, "ttft_metrics", "all_ttft_ms")),
    "hallucination_detected": (BOOL, (*_METRICS, "tool_hallucination_metrics", "hallucination_detected")),
    "total_hallucinated_calls": (NUMBER, (*_METRICS, "tool_hallucination_metrics", "total_hallucinated_calls")),
    "hallucinated_tool_names": (joined_cell, (*_METRICS, "tool_hallucination_metrics", "hallucinated_tool_names")),
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
class BenchmarkTable:
    """``left_out``: (file, why) of those that are no result."""

    rows: list[dict[str, str]]
    left_out: list[tuple[Path, str]]


def benchmark_table(root: Path) -> BenchmarkTable:
    """Reads every result file below ``root``, in order of its path."""
    rows: list[dict[str, str]] = []
    left_out: list[tuple[Path, str]] = []
    for path in find_result_files(root):
        try:
            rows.append(result_row(read_document(path), root))
        except UnreadableResult as error:  # noqa: PERF203
            left_out.append((path, str(error)))
    return BenchmarkTable(rows, left_out)


def result_row(document: Document, root: Path) -> dict[str, str]:
    shown = {column: cell(_value(document, keys)) for column, (cell, keys) in FROM_KEYS.items() if keys}
    shown["infrastructure_tag"] = shown["infrastructure_tag"] or NO_TAG
    shown |= _tools(document)
    errors = document.section("computed_metrics", "error_summary", "errors_by_source")
    shown["error_types"] = joined_cell(list(errors))
    detections = document.section("computed_metrics", "loop_detection_metrics")
    types = detections.get("loop_types")
    shown["loop_types"] = LIST(list(types)) if isinstance(types, Mapping) else ""
    return {**{column: shown[column] for column in BENCHMARK_COLUMNS}, **_our_cells(document, root)}


def _value(document: Document, keys: tuple[str, ...]) -> Any:
    return document.section(*keys[:-1]).get(keys[-1])


def _tools(document: Document) -> dict[str, str]:
    tools = document.section("computed_metrics", "tool_usage_stats").get("tools")
    if not isinstance(tools, Mapping):
        return dict.fromkeys(("unique_tools_used", "tool_names_used", "most_used_tool", "most_used_tool_count"), "")
    counts = {name: as_count(tool.get("total_count")) or 0 for name, tool in tools.items() if isinstance(tool, Mapping)}
    most = max(counts, key=lambda name: counts[name], default="")
    return {
        "unique_tools_used": str(len(tools)),
        "tool_names_used": joined_cell(list(tools)),
        "most_used_tool": TEXT(most),
        "most_used_tool_count": str(counts.get(most, 0)),
    }


def _our_cells(document: Document, root: Path) -> dict[str, str]:
    measured, windows, speed = (document.section(name) for name in ("measurement", "windows", "generation"))
    headline, agent, session, wait = (document.section("windows", n) for n in ("headline", "agent", "session", "evaluator_wait"))
    status = document.section("computed_metrics", "task_completion_status").get("status")
    identity = identify(document.section("metadata"), document.path)
    reasons = measured.get("reasons")
    tokens = as_float(document.section("computed_metrics", "llm_token_usage").get("total_completion_tokens"))
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
        "session_energy_joules": NUMBER(session.get("joules")),
        "evaluator_wait_seconds": NUMBER(wait.get("seconds")),
        "evaluator_wait_energy_joules": NUMBER(wait.get("joules")),
        "attributed_energy_joules": NUMBER(document.section("attribution").get("attributed")),
        "overlap_fraction": NUMBER(document.section("attribution").get("overlap_fraction")),
        "throttled_seconds": NUMBER(document.section("throttle").get("throttled_seconds")),
        "generation_seconds": NUMBER(speed.get("generation_seconds")),
        "end_to_end_tokens_per_second": NUMBER(speed.get("end_to_end_tokens_per_second")),
        "decode_tokens_per_second": NUMBER(speed.get("decode_tokens_per_second")),
        "prefill_tokens_per_second": NUMBER(speed.get("prefill_tokens_per_second")),
        "measured_ttft_calls": NUMBER(speed.get("ttft_measured_calls")),
        "measured_avg_ttft_ms": NUMBER(speed.get("avg_ttft_ms")),
        "joules_per_completion_token": NUMBER(ratio(as_float(measured.get("joules")), tokens)),
        "result_file": TEXT(str(document.path.relative_to(root)) if root.is_dir() else document.path.name),
    }
    return {column: shown[column] for column in OUR_COLUMNS}


# --- {suite}_batch_summary.csv and {suite}_metrics.csv: one row a task, put there as its run ends ----------------------------
#
# A missing or unreadable result is ``missing``, whatever the caller would fall back to: only a result file can say success. A
# second call for the same task and log directory replaces the row, so a resumed run has no task twice.

MISSING = "missing"
NO_REASON = "n/a"
SUITE_KEY = ("task_id", "log_dir")

_METRIC_SECTIONS = {
    "total_duration_seconds": ("computed_metrics",),
    "llm_call_count": ("computed_metrics",),
    "total_tool_calls": ("computed_metrics", "tool_usage_stats"),
    "total_error_count": ("computed_metrics", "error_summary"),
    "total_steps": ("computed_metrics", "key_step_tracker"),
    "avg_tokens_per_second": ("computed_metrics", "throughput_metrics"),
    "overall_tokens_per_second": ("computed_metrics", "throughput_metrics"),
    "total_completion_tokens": ("computed_metrics", "throughput_metrics"),
    "total_generation_time_sec": ("computed_metrics", "throughput_metrics"),
    "avg_tool_confidence": ("computed_metrics", "tool_confidence_metrics"),
    "min_tool_confidence": ("computed_metrics", "tool_confidence_metrics"),
}
_HARDWARE = ("gpu_hardware_metrics",)


@dataclass(frozen=True, slots=True)
class SuiteRow:
    """A finished task, with the arguments of the client's ``collect_metrics.py``."""

    task_id: str
    log_dir: str
    summary: Path
    metrics: Path
    result: Path | None = None
    fallback_status: str = "unknown"
    fallback_reason: str = ""


def put_suite_rows(task: SuiteRow) -> dict[str, str]:
    """Puts the task into both tables and returns its row of metrics. Raises UserError for a table with other columns."""
    document, trouble = _read_result(task.result)
    status, reason = _verdict(task, document, trouble)
    shown = {"task_id": plain_cell(task.task_id), "status": status, "reason": reason, "log_dir": plain_cell(task.log_dir)}
    for column in METRICS_COLUMNS:
        if column not in shown:
            shown[column] = "" if document is None else _suite_value(document, column)
    put_row(task.summary, SUMMARY_COLUMNS, SUITE_KEY, {column: shown[column] for column in SUMMARY_COLUMNS})
    put_row(task.metrics, METRICS_COLUMNS, SUITE_KEY, shown)
    return shown


def _suite_value(document: Document, column: str) -> str:
    if column == "completed_steps":
        return number_cell(document.section("computed_metrics", "key_step_tracker").get("completed_steps_count"))
    return number_cell(document.section(*_METRIC_SECTIONS.get(column, _HARDWARE)).get(column))


def _read_result(path: Path | None) -> tuple[Document | None, str]:
    if path is None or not path.exists():
        return None, "there is no result file"
    try:
        return read_document(path), ""
    except UnreadableResult as error:
        return None, f"the result file {error}"


def _verdict(task: SuiteRow, document: Document | None, trouble: str) -> tuple[str, str]:
    completion = document.section("computed_metrics", "task_completion_status") if document else {}
    status, reason = plain_cell(as_name(completion.get("status"))), plain_cell(as_name(completion.get("reason")))
    if status:
        return status, reason or NO_REASON
    status = plain_cell(task.fallback_status) or "unknown"
    why = plain_cell(task.fallback_reason) or trouble or "the result file has no status"
    if status == "success":
        return MISSING, f"{why} (not counted as success)"
    return status, why
