"""``{suite}_batch_summary.csv`` and ``{suite}_metrics.csv``: a row for a task as its run ends, in the client's columns.

A missing or unreadable result is ``missing``, whatever the caller would fall back to: only a result file can say success. A
second call for the same task and log directory replaces the row, so a resumed run has no task twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from joulebench.mcpworld import cells, document
from joulebench.mcpworld.document import Document, UnreadableError
from joulebench.mcpworld.schema import METRICS_COLUMNS, SUMMARY_COLUMNS
from joulebench.results.journal import text

MISSING = "missing"
SUCCESS = "success"
NO_REASON = "n/a"
KEY = ("task_id", "log_dir")

_FROM = {
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
class Call:
    """As the client's script is called."""

    task_id: str
    log_dir: str
    summary: Path
    metrics: Path
    result: Path | None = None
    fallback_status: str = "unknown"
    fallback_reason: str = ""


def collect(call: Call) -> dict[str, str]:
    """Puts both rows; returns the one of the metrics. Raises UserError for a table with other columns."""
    found, trouble = _read(call.result)
    status, reason = _verdict(call, found, trouble)
    shown = {"task_id": cells.plain(call.task_id), "status": status, "reason": reason, "log_dir": cells.plain(call.log_dir)}
    for column in METRICS_COLUMNS:
        if column not in shown:
            shown[column] = "" if found is None else _value(found, column)
    cells.put_row(call.summary, SUMMARY_COLUMNS, KEY, {column: shown[column] for column in SUMMARY_COLUMNS})
    cells.put_row(call.metrics, METRICS_COLUMNS, KEY, shown)
    return shown


def _value(found: Document, column: str) -> str:
    if column == "completed_steps":
        return cells.numeric(found.section("computed_metrics", "key_step_tracker").get("completed_steps_count"))
    return cells.numeric(found.section(*_FROM.get(column, _HARDWARE)).get(column))


def _read(path: Path | None) -> tuple[Document | None, str]:
    if path is None or not path.exists():
        return None, "there is no result file"
    try:
        return document.read(path), ""
    except UnreadableError as error:
        return None, f"the result file {error}"


def _verdict(call: Call, found: Document | None, trouble: str) -> tuple[str, str]:
    told = found.section("computed_metrics", "task_completion_status") if found else {}
    status, reason = cells.plain(text(told.get("status"))), cells.plain(text(told.get("reason")))
    if status:
        return status, reason or NO_REASON
    status = cells.plain(call.fallback_status) or "unknown"
    why = cells.plain(call.fallback_reason) or trouble or "the result file has no status"
    if status == SUCCESS:
        return MISSING, f"{why} (not counted as {SUCCESS})"
    return status, why
