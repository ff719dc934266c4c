"""One finished session of the client: its file, its key, its windows and its events, ready to be measured.

Raises nothing for oddities inside a file; a file that cannot be used at all says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from joulebench.mcpworld import calls, document
from joulebench.mcpworld.document import Document, UnreadableError
from joulebench.mcpworld.identity import Identity, identify
from joulebench.mcpworld.schema import RESULT_PREFIX
from joulebench.mcpworld.windows import Windows, in_order, windows
from joulebench.results import from_journal
from joulebench.results.journal import text
from joulebench.results.task import Event, Task, TaskKey


@dataclass(frozen=True, slots=True)
class Session:
    """``task``: the session as the export knows tasks, over its headline window. ``first_tokens``: how many were stamped."""

    document: Document
    identity: Identity
    windows: Windows
    task: Task
    first_tokens: int

    @property
    def path(self) -> Path:
        return self.document.path

    @property
    def spans(self) -> list[tuple[float, float]]:
        return [span for span in self.windows.named().values() if span is not None]


def files(root: Path) -> Iterator[Path]:
    """Every result file below ``root``, or ``root`` itself, in order of its name; each file once, whatever links lead to it."""
    found = [root] if root.is_file() else sorted(root.rglob(f"{RESULT_PREFIX}*.json"))
    seen: set[Path] = set()
    for path in found:
        real = path.resolve()
        if real not in seen and path.is_file():
            seen.add(real)
            yield path


def load(path: Path) -> Session:
    """Raises UnreadableError with what is wrong with the file."""
    found = document.read(path)
    if "schema_version" in found.body and "run_id" in found.section("metadata"):
        raise UnreadableError("was written by 'joulebench export'; it has its measurement")
    metadata = found.section("metadata")
    raw = in_order(found.body.get("raw_events"))
    if not raw and not metadata:
        raise UnreadableError("has neither raw_events nor metadata; it is no result of a task")
    times = windows(raw, metadata)
    if times.headline is None:
        raise UnreadableError("tells no window: neither its events nor its session have a start and an end")
    identity = identify(found)
    declared = metadata.get("available_tools")
    tools = [name for name in declared if isinstance(name, str)] if isinstance(declared, list) else []
    events = calls.journal_events(raw, times.headline, tools)
    return Session(
        document=found,
        identity=identity,
        windows=times,
        task=_task(found, identity, times, events),
        first_tokens=sum(event["event_type"] == "LLM_FIRST_TOKEN_RECEIVED" for event in raw),
    )


def _task(found: Document, identity: Identity, times: Windows, events: list[Event]) -> Task:
    assert times.headline is not None
    start, end = times.headline
    config = found.section("metadata", "task_config_at_start")
    begun = {
        "event_type": "TASK_START",
        "timestamp": start,
        "task_name": text(config.get("task_name")) or identity.task,
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
    whole = [begun, *events, ended]
    return Task(
        key=TaskKey(identity.task_key, str(identity)),
        values=from_journal.values(whole, {}),
        sources={},
        events=tuple(whole),
    )
