"""A confidence that a benchmark reports itself is not taken for that of a tool call's own tokens."""

from __future__ import annotations

import pytest

from joulebench.results.journal import task_values
from joulebench.results.task import Task, TaskKey
from joulebench.results.task_result import computed_metrics
from joulebench.schema.computed_metrics import ToolConfidence
from joulebench.schema.result import Event

OF_TOKENS: Event = {"confidence": 0.4, "span_status": "ok", "confidence_measures": {"naive_mean": 0.9, "args_min": 0.4}}
REPORTED: Event = {"confidence": 0.8, "span_status": "reported", "confidence_measures": {"reported": 0.8}}
NOT_FOUND: Event = {"confidence": None, "span_status": "not_found", "confidence_measures": {}}


def confidence(*tools: Event) -> ToolConfidence:
    events: list[Event] = []
    for number, tool in enumerate(tools):
        events.append({"event_type": "TOOL_CALL_START", "timestamp": float(number), "tool_call": number, **tool})
        events.append({"event_type": "TOOL_CALL_END", "timestamp": number + 0.5, "tool_call": number, "outcome": "ok"})
    task = Task(TaskKey("t", "w"), task_values(events, {}), {}, events=tuple(events))
    return computed_metrics(task).tool_confidence_metrics


@pytest.mark.parametrize(
    ("tools", "definition", "avg", "reply"),
    [
        ((OF_TOKENS, NOT_FOUND), "tool_call", 0.4, 0.9),
        ((REPORTED,), "reported", 0.8, 0.8),
        ((OF_TOKENS, REPORTED), "mixed", pytest.approx(0.6), pytest.approx(0.85)),
        ((NOT_FOUND,), None, None, None),
    ],
)
def test_the_definition_of_a_confidence_is_named(
    tools: tuple[Event, ...], definition: str | None, avg: object, reply: object
) -> None:
    found = confidence(*tools)
    assert (found.tool_confidence_definition, found.avg_tool_confidence, found.avg_reply_confidence) == (definition, avg, reply)
