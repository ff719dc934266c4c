"""``calls.csv``: one row a call, which is one request; the fields of a call in the result file, and what its tool calls came to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from joulebench.parsing import as_float
from joulebench.schema import events
from joulebench.schema.columns import CellValue
from joulebench.schema.fields import FieldDoc, doc, field_at
from joulebench.schema.result import CallResult, Event, Metadata, TaskResult

CALL_KEY_COLUMNS = ("run_id", "task_id", "worker", "call")
"""The key of a row."""

_TASK_COLUMNS = ("run_id", "task_id", "worker", "task_name", "suite")
_CALL_FIELDS = CallResult.__struct_fields__
_TOOL_COLUMNS = {
    "tool_calls": doc("calls", "Tool calls that the reply asked for."),
    "tool_names": doc("", "Their names, separated by `;`."),
    "tool_outcomes": doc("", "Their outcomes, separated by `;`."),
    "min_tool_confidence": doc("ratio", "Lowest of their confidences."),
}

CALL_COLUMN_NAMES = (*_TASK_COLUMNS, *_CALL_FIELDS, *_TOOL_COLUMNS)


def call_column_docs() -> dict[str, FieldDoc]:
    """Unit and meaning by column."""
    of_task = {name: field_at(Metadata, name).doc for name in _TASK_COLUMNS}
    return {**of_task, **{name: field_at(CallResult, name).doc for name in _CALL_FIELDS}, **_TOOL_COLUMNS}


def call_rows(result: TaskResult) -> Iterator[dict[str, CellValue]]:
    """A row for each call of a task; None where a value is unknown."""
    started: dict[object, list[Event]] = {}
    outcomes = {}
    for event in result.raw_events:
        if event["event_type"] == events.TOOL_CALL_START:
            started.setdefault(event.get("call"), []).append(event)
        elif event["event_type"] == events.TOOL_CALL_END:
            outcomes[event.get("tool_call")] = str(event.get("outcome") or "")
    for call in result.calls:
        tools = started.get(call.call, [])
        confidences = [score for event in tools if (score := as_float(event.get("confidence"))) is not None]
        yield {
            **{name: getattr(result.metadata, name) for name in _TASK_COLUMNS},
            **{name: _cell(getattr(call, name)) for name in _CALL_FIELDS},
            "tool_calls": len(tools),
            "tool_names": ";".join(str(event.get("tool_name") or "") for event in tools) or None,
            "tool_outcomes": ";".join(outcomes.get(event.get("tool_call"), "") for event in tools) or None,
            "min_tool_confidence": min(confidences, default=None),
        }


def _cell(value: Any) -> CellValue:
    if isinstance(value, list):
        return ";".join(map(str, value)) or None
    return value if value is None or isinstance(value, str | int | float) else str(value)
