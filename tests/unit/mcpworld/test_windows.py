"""Windows of a session from its events, in the cases that real runs have."""

from __future__ import annotations

from typing import Any

import pytest

from joulebench.mcpworld.client_events import journal_events, was_streamed
from joulebench.mcpworld.windows import in_order, windows

SESSION = {"session_start_unix": 100.0, "session_end_unix": 260.0}


def event(kind: str, at: float, **fields: Any) -> dict[str, Any]:
    return {"event_type": kind, "timestamp": at, **fields}


WORK = [event("TASK_START", 100.0), event("LLM_QUERY_START", 102.0), event("LLM_QUERY_END", 110.0), event("TOOL_CALL_END", 112.0)]


@pytest.mark.parametrize(
    ("ends", "end", "ends_with", "notes"),
    [
        ([("success", 113.0)], 113.0, "verdict", ()),
        ([("success", 113.0), ("stopped", 115.0)], 113.0, "verdict", ("task_end_repeated",)),
        ([("stopped", 112.5), ("failure", 114.0)], 114.0, "verdict", ("task_end_repeated",)),
        ([("failure", 113.0), ("success", 114.0)], 114.0, "verdict", ("task_end_repeated", "verdicts_differ")),
        ([("success", 105.0)], 260.0, "session_end", ()),
        ([("stopped", 240.0)], 112.0, "last_agent_event", ("no_verdict",)),
        ([], 112.0, "last_agent_event", ("no_verdict",)),
    ],
)
def test_the_headline_ends_with_the_verdict_or_the_last_work(
    ends: list[tuple[str, float]], end: float, ends_with: str, notes: tuple[str, ...]
) -> None:
    found = windows(in_order([*WORK, *(event("TASK_END", at, status=status) for status, at in ends)]), SESSION)
    assert found.headline == (100.0, end)
    assert (found.ends_with, found.notes) == (ends_with, notes)
    assert (found.agent, found.session, found.evaluator_wait) == ((102.0, 112.0), (100.0, 260.0), (112.0, 260.0))


def test_a_task_that_did_nothing_ends_with_its_end_or_its_session() -> None:
    stopped = windows([event("TASK_START", 100.0), event("TASK_END", 101.0, status="stopped")], SESSION)
    assert (stopped.headline, stopped.ends_with, stopped.agent) == ((100.0, 101.0), "task_end", None)
    silent = windows([event("TASK_START", 100.0)], SESSION)
    assert (silent.headline, silent.ends_with) == ((100.0, 260.0), "session_end")


def test_without_a_time_there_is_no_window() -> None:
    assert windows([], {}).headline is None
    assert windows([], {"session_start_unix": 5.0}).headline is None
    assert windows([], {"session_start_unix": "5", "session_end_unix": True}).headline is None
    assert windows([event("LLM_QUERY_START", 3.0), event("LLM_QUERY_END", 4.0)], {}).headline == (3.0, 4.0)


def test_an_end_far_outside_the_session_is_told() -> None:
    found = windows([*WORK, event("TASK_END", 900.0, status="success")], SESSION)
    assert "ends_outside_session" in found.notes


def test_only_events_with_type_and_time_count() -> None:
    rows = [event("B", 2.0), "x", None, {"event_type": "C"}, {"timestamp": 1.0}, event("A", 1.0), event("D", float("nan"))]
    assert [one["event_type"] for one in in_order(rows)] == ["A", "B"]
    assert in_order("ERROR_GETTING_VALUE: x") == []


def test_calls_and_tools_are_paired_as_they_happened() -> None:
    rows = [
        event("LLM_QUERY_END", 1.0, completion_tokens=5),
        event("LLM_QUERY_START", 2.0, model_name="m"),
        event("LLM_QUERY_START", 3.0, model_name="m"),
        event("LLM_QUERY_END", 5.0, status="success", prompt_tokens=10, completion_tokens=4),
        event("TOOL_CALL_START", 5.1, tool_name="a", confidence=0.5),
        event("TOOL_CALL_START", 5.2, tool_name="b"),
        event("TOOL_CALL_END", 5.5, tool_name="a", success=True),
        event("TOOL_CALL_END", 5.6, tool_name="zzz", success=True),
        event("TOOL_CALL_END", 5.7, tool_name="b", success=False, error="no"),
    ]
    found = journal_events(rows, (0.0, 9.0), ["a"])
    ends = [one for one in found if one["event_type"] == "LLM_QUERY_END"]
    assert [(one["call"], one["duration_seconds"]) for one in ends] == [(2, 2.0)]
    tools = [one for one in found if one["event_type"] == "TOOL_CALL_END"]
    assert [(one["tool_call"], one["outcome"]) for one in tools] == [(1, "ok"), (2, "undeclared")]


@pytest.mark.parametrize(
    ("first", "tokens", "streamed"),
    [(0.3, 50, True), (1.996, 50, False), (1.99, 5, True), (0.3, None, False), (0.3, 1, False), (2.5, 50, False)],
)
def test_a_first_token_must_leave_time_for_the_others(first: float, tokens: int | None, streamed: bool) -> None:
    assert was_streamed(0.0, first, 2.0, tokens) is streamed


def test_server_times_of_a_newer_client_are_taken_over() -> None:
    rows = [
        event("LLM_QUERY_START", 1.0),
        event("LLM_QUERY_END", 3.0, completion_tokens=20, decode_seconds=1.0, prefill_seconds=0.5),
    ]
    (_, end) = journal_events(rows, (0.0, 9.0), [])
    assert (end["decode_seconds"], end["decode_tokens"], end["prefill_seconds"], end["ttft_seconds"]) == (1.0, 20, 0.5, None)
