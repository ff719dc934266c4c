"""The windows of a session, from its events: what the agent worked, what the task took, what the evaluator waited.

The client's energy covers the session and its duration the task, and where no verdict comes its runner waits two minutes more
beside an idle GPU. The headline window ends as ``task_end`` says: with the verdict, with the session where the agent worked on
after it, or with the agent's last event where there is no verdict, so that a task is not charged for the waiting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joulebench.mcpworld.client_names import VERDICTS
from joulebench.parsing import as_name, as_unix_time

Interval = tuple[float, float]
RawEvent = Mapping[str, Any]

AGENT_EVENTS = ("LLM_QUERY_START", "LLM_FIRST_TOKEN_RECEIVED", "LLM_QUERY_END", "TOOL_CALL_START", "TOOL_CALL_END")


@dataclass(frozen=True, slots=True)
class Windows:
    """Unix seconds; None where the events do not tell.

    ``headline``: what the task is charged for, begun with the task and ended by what ``ends_with`` says: ``verdict``,
    ``last_agent_event`` (no verdict), ``task_end`` or ``session_end`` (work went on after the verdict). ``agent``: first LLM
    call to last event of a call or tool. ``task``: TASK_START to the last TASK_END, as the client's own duration has it.
    ``evaluator_wait``: from the agent's last event to the end of the session.
    """

    headline: Interval | None
    ends_with: str | None
    agent: Interval | None
    task: Interval | None
    session: Interval | None
    evaluator_wait: Interval | None
    verdict: str | None
    notes: tuple[str, ...] = ()

    def named(self) -> dict[str, Interval | None]:
        return {
            "headline": self.headline,
            "agent": self.agent,
            "task": self.task,
            "session": self.session,
            "evaluator_wait": self.evaluator_wait,
        }


def in_order(raw_events: object) -> list[RawEvent]:
    """Events with a type and a time, by time; anything else that stands among them is left out."""
    rows = raw_events if isinstance(raw_events, list) else []
    events = [row for row in rows if isinstance(row, Mapping) and as_name(row.get("event_type")) and _at(row) is not None]
    return sorted(events, key=lambda event: float(event["timestamp"]))


def windows(events: Sequence[RawEvent], metadata: Mapping[str, Any]) -> Windows:
    """``events`` as ``in_order`` gives them."""
    session = _interval(as_unix_time(metadata.get("session_start_unix")), as_unix_time(metadata.get("session_end_unix")))
    starts = _times(events, "TASK_START")
    start = starts[0] if starts else as_unix_time(metadata.get("session_start_unix"))
    if start is None and events:
        start = _at(events[0])
    ends = [event for event in events if event["event_type"] == "TASK_END"]
    verdicts = [event for event in ends if event.get("status") in VERDICTS]
    worked = [event for event in events if event["event_type"] in AGENT_EVENTS]
    last_work = _at(worked[-1]) if worked else None
    end, ends_with = task_end(
        _at(verdicts[-1]) if verdicts else None,
        last_work,
        _at(ends[-1]) if ends else None,
        session[1] if session else None,
    )
    calls = _times(events, "LLM_QUERY_START")
    return Windows(
        headline=_interval(start, end),
        ends_with=ends_with if start is not None else None,
        agent=_interval(calls[0] if calls else None, last_work),
        task=_interval(start, _at(ends[-1]) if ends else None),
        session=session,
        evaluator_wait=_interval(last_work, session[1] if session else None),
        verdict=as_name(verdicts[-1].get("status")) if verdicts else None,
        notes=tuple(_notes(starts, ends, verdicts, end, session)),
    )


def task_end(
    verdict: float | None, work: float | None, last_task_end: float | None, session_end: float | None
) -> tuple[float | None, str]:
    """Returns until when a task is charged, in unix seconds, and by what that is known.

    A verdict ends it, unless the agent worked on after the verdict: then the end of the session does. Where no verdict came, the
    agent's last event does, so that the time in which the evaluator waited for a verdict is not charged.
    """
    if verdict is not None:
        if work is None or work <= verdict:
            return verdict, "verdict"
        if session_end is not None and session_end >= work:
            return session_end, "session_end"
        return work, "last_agent_event"
    if work is not None:
        return work, "last_agent_event"
    if last_task_end is not None:
        return last_task_end, "task_end"
    return session_end, "session_end"


def _notes(
    starts: Sequence[float],
    ends: Sequence[RawEvent],
    verdicts: Sequence[RawEvent],
    end: float | None,
    session: Interval | None,
) -> list[str]:
    notes = []
    if not starts:
        notes.append("no_task_start")
    if len(starts) > 1:
        notes.append("task_start_repeated")
    if not verdicts:
        notes.append("no_verdict")
    if len(ends) > 1:
        notes.append("task_end_repeated")
    if len({event.get("status") for event in verdicts}) > 1:
        notes.append("verdicts_differ")
    if session is None:
        notes.append("no_session_window")
    elif end is not None and not session[0] - 1 <= end <= session[1] + 1:
        notes.append("ends_outside_session")
    return notes


def _interval(start: float | None, end: float | None) -> Interval | None:
    return None if start is None or end is None or end < start else (start, end)


def _times(events: Sequence[RawEvent], event_type: str) -> list[float]:
    return [float(event["timestamp"]) for event in events if event["event_type"] == event_type]


def _at(event: RawEvent) -> float | None:
    return as_unix_time(event.get("timestamp"))
