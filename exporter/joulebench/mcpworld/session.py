"""One finished session of the client: its file, its identity, its windows and its events, ready to be measured.

The client has three ids for one task, and its shortest, ``01``, names two of them. The key that tells measurements apart is
application, folder id, model, infrastructure tag and start of the session together. Nothing is raised for oddities inside a
file; a file that cannot be used at all says why.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

from joulebench.mcpworld.client_events import journal_events
from joulebench.mcpworld.document import Document, read_document
from joulebench.mcpworld.windows import Windows, in_order, windows
from joulebench.parsing import as_float, as_name
from joulebench.results.journal import task_values
from joulebench.results.merge import Task, TaskKey
from joulebench.schema import UnreadableResult
from joulebench.schema.result import Event

_STAMP = re.compile(r"result_\d{8}_\d{6}_")
_FOLDER_ID = re.compile(r"task\d+_\w+")
_RUNS = "_runs"


class Identity(NamedTuple):
    """``task``: folder id such as ``task01_updateColorTheme``. ``start``: unix seconds of the session, None where not told."""

    application: str
    task: str
    model: str
    infrastructure: str
    start: float | None

    @property
    def task_key(self) -> str:
        """``vscode/task01_updateColorTheme``: the id in the client's summaries, and the shortest that names one task."""
        return f"{self.application}/{self.task}"

    def __str__(self) -> str:
        return "|".join([self.task_key, self.model, self.infrastructure, "" if self.start is None else f"{self.start:.3f}"])


def identify(document: Document) -> Identity:
    metadata = document.section("metadata")
    config = document.section("metadata", "task_config_at_start")
    model = as_name(metadata.get("model_name")) or "unknown"
    infrastructure = as_name(metadata.get("infrastructure_tag")) or ""
    application = as_name(document.section("metadata", "task_config_at_start", "application_info").get("name"))
    return Identity(
        application=(application or _application_of(document.path) or "unknown").lower(),
        task=_folder_id(document.path, model, infrastructure) or as_name(config.get("task_id")) or document.path.stem,
        model=model,
        infrastructure=infrastructure,
        start=as_float(metadata.get("session_start_unix")),
    )


def clean_model_name(model: str) -> str:
    """Returns a model's name as file and folder names have it."""
    return model.replace(":", "-").replace("/", "_")


def _folder_id(path: PurePath, model: str, infrastructure: str) -> str | None:
    rest = _STAMP.sub("", path.stem, count=1)
    for part in (clean_model_name(model), infrastructure):
        if part:
            rest = rest.removeprefix(f"{part}_")
    if rest != path.stem and _FOLDER_ID.fullmatch(rest):
        return rest
    found = _FOLDER_ID.search(path.stem)
    return found[0] if found else None


def _application_of(path: PurePath) -> str | None:
    """From ``.../vscode_runs/...``, for a file without its configuration."""
    return next((part.removesuffix(_RUNS) for part in reversed(path.parts) if part.endswith(_RUNS)), None)


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
        raise UnreadableResult("tells no window: neither its events nor its session have a start and an end")
    identity = identify(document)
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


def _task(document: Document, identity: Identity, times: Windows, events: list[Event]) -> Task:
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
