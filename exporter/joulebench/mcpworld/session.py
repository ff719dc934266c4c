"""One finished session of the client: its file, its identity, its windows and its events, ready to be measured.

Nothing is raised for oddities inside a
file; a file that cannot be used at all says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from joulebench.mcpworld.client_events import journal_events
from joulebench.mcpworld.document import Document, read_document
from joulebench.mcpworld.windows import Windows, in_order, windows
from joulebench.parsing import as_name
from joulebench.results.journal import task_values
from joulebench.results.task import Task, TaskKey
from joulebench.schema import UnreadableResult
from joulebench.schema.client_identity import ClientIdentity, identify
from joulebench.schema.result import Event


@dataclass(frozen=True, slots=True)
class Session:
    """``task``: the session as the export knows tasks, over its headline window. ``first_tokens``: how many were stamped."""

    document: Document
    identity: ClientIdentity
    windows: Windows
    task: Task
    first_tokens: int

    @property
    def path(self) -> Path:
        return self.document.path

    @property
    def spans(self) -> list[tuple[float, float]]:
        return [span for span in self.windows.named().values() if span is not None]


def load_session(path: Path) -> Session:
    """Raises UnreadableResult with what is wrong with the file."""
    document = read_document(path)
    if "schema_version" in document.body and "run_id" in document.section("metadata"):
        raise UnreadableResult("was written by 'joulebench export'; it has its measurement")
    metadata = document.section("metadata")
    raw = in_order(document.body.get("raw_events"))
    if not raw and not metadata:
        raise UnreadableResult("has neither raw_events nor metadata; it is no result of a task")
    times = windows(raw, metadata)
    if times.headline is None:
        raise UnreadableResult("has no window: neither its events nor its session have a start and an end")
    identity = identify(metadata, path)
    declared = metadata.get("available_tools")
    tools = [name for name in declared if isinstance(name, str)] if isinstance(declared, list) else []
    events = journal_events(raw, times.headline, tools)
    return Session(
        document=document,
        identity=identity,
        windows=times,
        task=_task(document, identity, times, events),
        first_tokens=sum(event["event_type"] == "LLM_FIRST_TOKEN_RECEIVED" for event in raw),
    )


def _task(document: Document, identity: ClientIdentity, times: Windows, events: list[Event]) -> Task:
    assert times.headline is not None
    start, end = times.headline
    config = document.section("metadata", "task_config_at_start")
    begun = {
        "event_type": "TASK_START",
        "timestamp": start,
        "task_name": as_name(config.get("task_name")) or identity.task,
        "model_name": identity.model,
        "suite": identity.application,
    }
    status = times.verdict or "unknown"
    ended = {
        "event_type": "TASK_END",
        "timestamp": end,
        "status": status,
        "success": {"success": True, "failure": False, "timeout": False}.get(status),
        "duration_seconds": end - start,
    }
    events_of_task = [begun, *events, ended]
    return Task(
        key=TaskKey(identity.task_key, str(identity)),
        values=task_values(events_of_task, {}),
        sources={},
        events=tuple(events_of_task),
    )
