"""Which tasks of a run are done, kept beside it so that a second start goes on where the first one was cut off.

A task is done once its line says so. A line is written after the task's result, so a task that was interrupted, or met a server
that did not answer, is run again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from joulebench.errors import UserError
from joulebench.parsing import load_json
from joulebench.results.journal import load_journals

NAME = "range.jsonl"
FINAL = ("success", "failure", "timeout")
DONE, AGAIN = "done", "again"


class CompletedTasks:
    """``directory``: of the run."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._directory = directory

    def done(self) -> set[str]:
        """Task ids. A verdict in the journal counts too, for a start that died before it wrote the line."""
        found = set()
        for key, events in load_journals(self._directory).tasks.items():
            if any(event["event_type"] == "TASK_END" and event.get("status") in FINAL for event in events):
                found.add(key.task_id.partition("#")[0])
        for task_id, state in self._lines():
            (found.add if state == DONE else found.discard)(task_id)
        return found

    def write(self, task_id: str, state: str, status: str, reason: str) -> None:
        """``state``: DONE or AGAIN."""
        line = json.dumps({"task_id": task_id, "state": state, "status": status, "reason": reason}) + "\n"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(fd, line.encode())
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise UserError(
                f"--runs-dir: {self._path} cannot be written ({error.strerror}); give a directory that can"
            ) from error

    def _lines(self) -> list[tuple[str, str]]:
        found = []
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines() if self._path.exists() else []:
            try:
                row = load_json(line)
                found.append((str(row["task_id"]), str(row["state"])))
            except (ValueError, KeyError, TypeError):  # noqa: PERF203
                # Cut off by a crash: the task is run again.
                continue
        return found
