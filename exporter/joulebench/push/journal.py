"""The append-only journal beside a run: the last resort when Pushgateway, Prometheus or the benchmark dies.

One file per worker, one flat JSON object per line. An event is handed to the kernel with a single ``write`` before the call
returns, so killing the process loses nothing; ``sync`` (called in the background after each task) covers the machine.
A journal that cannot be written never breaks the benchmark: lost events are counted, logged once and told in PUSH_STATE.
A half-written last line of a crashed run is closed with a newline when the file is opened again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path

from joulebench.errors import UserError

log = logging.getLogger(__name__)

_encode = json.JSONEncoder(separators=(",", ":"), default=str, allow_nan=False).encode


class Journal:
    """Raises UserError where the file cannot be made or another process is writing it."""

    def __init__(self, path: Path, run_id: str, worker: str) -> None:
        self.path = path
        self.lost = 0
        self._run_id = run_id
        self._worker = worker
        self._fd = _open(path)
        self._torn = _ends_torn(self._fd)

    def write(self, event_type: str, timestamp: float, task_id: str | None = None, **fields: object) -> None:
        """Appends one event; never raises."""
        event: dict[str, object] = {"event_type": event_type, "timestamp": timestamp, "run_id": self._run_id}
        if task_id is not None:
            event["task_id"] = task_id
        event["worker"] = self._worker
        event.update(fields)
        try:
            text = _encode(event)
        except (TypeError, ValueError, RecursionError):
            text = _encode(_storable(event))
        data = f"\n{text}\n" if self._torn else f"{text}\n"
        encoded = data.encode("ascii")
        try:
            written = os.write(self._fd, encoded)
        except OSError as error:
            self._lose(error.strerror or str(error))
            return
        self._torn = written < len(encoded)
        if self._torn:
            self._lose(f"only {written} of {len(encoded)} bytes were taken")

    def sync(self) -> None:
        """Waits until the disk has it; for background threads."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            log.warning("journal %s could not be synced: %s", self.path, error)

    def close(self) -> None:
        self.sync()
        os.close(self._fd)
        self._fd = -1

    def task_ids(self) -> set[str]:
        """Ids that the file already holds, of an earlier process with this run id and worker."""
        found: set[str] = set()
        with self.path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if '"TASK_START"' not in line:
                    continue
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict) and isinstance(task_id := event.get("task_id"), str):
                    found.add(task_id)
        return found

    def _lose(self, reason: str) -> None:
        self.lost += 1
        if self.lost == 1:
            log.error("journal %s: an event could not be written (%s); the run goes on without it", self.path, reason)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(f"runs_dir: {path} cannot be written ({error.strerror}); give a directory that can") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise UserError(f"worker: {path} is being written by another Run; give each worker of a run its own name") from error
    except OSError:
        # A file system without locks: two workers of one name are then the caller's to avoid.
        log.debug("no file lock on %s", path)
    return fd


def _ends_torn(fd: int) -> bool:
    size = os.fstat(fd).st_size
    return size > 0 and os.pread(fd, 1, size - 1) != b"\n"


def _storable(value: object, depth: int = 0) -> object:
    """``value`` as JSON can hold it: non-finite numbers become null, what cannot be encoded its ``repr``."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if depth > 20:
        return repr(value)[:200]
    if isinstance(value, Mapping):
        return {str(key): _storable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item, depth + 1) for item in value]
    return repr(value)
