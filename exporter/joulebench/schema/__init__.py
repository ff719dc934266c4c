"""What is written down, typed and named once: journal events, result files, columns, quality reasons, and their reader.

The reader is loaded on first use: what writes events runs also on the interpreter of a benchmark that has no msgspec.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joulebench.schema.load import (
        UnreadableResult,
        find_result_files,
        iterate_files,
        iterate_readable_results,
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
    "iterate_files",
    "iterate_readable_results",
    "iterate_results",
    "load_result",
    "load_results",
    "result_from_json",
]

_MODULES = {"QUALITIES": "reasons", "Reason": "reasons", "SCHEMA_VERSION": "result", "TaskResult": "result"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'joulebench.schema' has no attribute {name!r}")
    return getattr(importlib.import_module(f"joulebench.schema.{_MODULES.get(name, 'load')}"), name)
