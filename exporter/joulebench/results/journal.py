"""The journals of a run, as lines that may be torn: what can be read is read, what cannot is counted."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from joulebench.errors import UserError
from joulebench.results.task import Event, TaskKey, TaskValues

PATTERN = "journal-*.jsonl"
LAST_MOMENT = 253402300800.0
"""The end of the year 9999, in unix seconds."""


@dataclass(frozen=True, slots=True)
class Journal:
    """Events in the order in which each worker wrote them. ``damaged``: lines that are no event.

    ``values`` keeps what was counted of a task's events, which do not change any more.
    """

    tasks: Mapping[TaskKey, list[Event]]
    run_events: list[Event]
    damaged: int
    files: int
    values: dict[TaskKey, TaskValues] = field(default_factory=dict, compare=False)


def read(directory: Path) -> Journal:
    """All journals of one run; none at all is an empty journal. Raises UserError for one that cannot be read."""
    tasks: defaultdict[TaskKey, list[Event]] = defaultdict(list)
    run_events: list[Event] = []
    damaged = files = 0
    for path in sorted(directory.glob(PATTERN)):
        files += 1
        for line in _lines(path):
            if not line.strip():
                continue
            event = _event(line)
            if event is None:
                damaged += 1
            elif isinstance(task_id := event.get("task_id"), str):
                tasks[TaskKey(task_id, str(event.get("worker", "")))].append(event)
            else:
                run_events.append(event)
    return Journal(dict(tasks), run_events, damaged, files)


def events(directory: Path, wanted: Callable[[bytes], bool]) -> Iterator[Event]:
    """Of the lines that are ``wanted``, none of them kept. A journal that is a link to some other place is not the run's own."""
    for path in sorted(directory.glob(PATTERN)):
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as lines:
            for line in lines:
                if wanted(line) and (event := _event(line)) is not None:
                    yield event


def known_runs(runs_dir: Path) -> list[str]:
    """Runs that have a journal in ``runs_dir``."""
    return sorted({path.parent.name for path in runs_dir.glob(f"*/{PATTERN}")})


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as lines:
            yield from lines
    except OSError as error:
        raise UserError(f"--runs-dir: {path} cannot be read ({error.strerror}); mend it or move it away") from error


def _event(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event_type"), str):
        return None
    # Calls are told apart by what stands here.
    if any(isinstance(event.get(name), dict | list) for name in ("call", "tool_call")):
        return None
    return event if moment(event.get("timestamp")) is not None else None


def number(value: object) -> float | None:
    """A finite number, or None: a journal is data from outside."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def moment(value: object) -> float | None:
    """A unix time that a calendar has, or None."""
    found = number(value)
    return found if found is not None and 0 <= found < LAST_MOMENT else None


def count(value: object) -> int | None:
    found = number(value)
    return None if found is None else round(found)


def text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
