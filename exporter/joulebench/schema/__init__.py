"""What is written down, typed and named once: journal events, result files, columns, quality reasons, and their reader."""

from joulebench.schema.load import (
    UnreadableResult,
    find_result_files,
    iterate_results,
    load_result,
    load_results,
    result_from_json,
)
from joulebench.schema.reasons import QUALITIES, Reason
from joulebench.schema.result import SCHEMA_VERSION, TaskResult

__all__ = [
    "QUALITIES",
    "SCHEMA_VERSION",
    "Reason",
    "TaskResult",
    "UnreadableResult",
    "find_result_files",
    "iterate_results",
    "load_result",
    "load_results",
    "result_from_json",
]
