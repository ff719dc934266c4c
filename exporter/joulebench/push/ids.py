"""Names that a benchmark gives: checked where they become paths, bounded where they become labels.

A run id and a worker name are parts of a path, so only a closed alphabet passes. A task id is data: any text is taken, and
made storable by one function (``bounded_name``) for the journal and for the label, so that both always carry the same id.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import threading
from collections.abc import Iterable
from datetime import datetime, timezone

from joulebench.errors import UserError
from joulebench.metrics.label_text import label_text
from joulebench.push.journal import object_text
from joulebench.units import Seconds

_PATH_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NOT_IN_A_KEY = re.compile(r"[^A-Za-z0-9_-]+")
_NOT_PATH_PART = re.compile(r"[^A-Za-z0-9._-]+")


def is_path_part(value: str) -> bool:
    return _PATH_PART.fullmatch(value) is not None


def path_part(value: str, setting: str) -> str:
    """``value`` if it can be a part of a path; raises UserError otherwise."""
    if not is_path_part(value):
        raise UserError(f"{setting}: {value!r} must be 1 to 100 of A-Z a-z 0-9 . _ - and begin with a letter or digit")
    return value


def new_run_id(unix: Seconds) -> str:
    """``YYYYmmdd-HHMMSS-xxxxxx`` in UTC; the hex keeps runs apart that begin in the same second."""
    return f"{datetime.fromtimestamp(unix, tz=timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def forked_worker(worker: str) -> str:
    """Name of the worker that a forked process is, from that of its parent."""
    suffix = f"-f{os.getpid()}"
    return worker[: 100 - len(suffix)] + suffix


def default_worker() -> str:
    """Host and process: unlike for every process that shares a run id."""
    host = _NOT_PATH_PART.sub("-", socket.gethostname().split(".")[0]).strip("-._")[:60] or "host"
    return f"{host}-{os.getpid()}"


class TaskIds:
    """Gives each task of a worker an id of its own. ``taken``: ids of an earlier process. Safe to use from several threads."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._taken = set(taken)
        self._repeats: dict[str, int] = {}

    def claim(self, task_id: str) -> str:
        """``task_id``, or with ``#2``, ``#3``... where the run already has it: a repeated task is a new measurement."""
        with self._lock:
            unique_id, number = task_id, self._repeats.get(task_id, 1)
            while unique_id in self._taken:
                number += 1
                unique_id = f"{task_id}#{number}"
            # The next repetition does not try all the numbers again.
            self._repeats[task_id] = number
            self._taken.add(unique_id)
        return unique_id


def bounded_name(value: object) -> str:
    """Any name that a benchmark gives, as a label can hold it: valid Unicode without control characters, of bounded length."""
    return label_text(value if isinstance(value, str) else object_text(value))


def task_key(task_id: str) -> str:
    """``task_id`` in A-Z a-z 0-9 _ and -, which the address of a link carries unchanged.

    An id with other characters gets a hash of the original, so that two ids never share a key.
    """
    readable = _NOT_IN_A_KEY.sub("-", task_id).strip("-")[:60]
    if readable == task_id:
        return task_id
    return f"{readable}-{hashlib.sha256(task_id.encode()).hexdigest()[:10]}".lstrip("-")
