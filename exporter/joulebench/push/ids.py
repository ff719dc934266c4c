"""Names that a benchmark gives: checked where they become paths, bounded where they become labels.

A run id and a worker name are parts of a path, so only a closed alphabet passes. A task id is data: any text is taken, and
made storable the same way for the journal and for the label (labels.py), so that both always carry the same id.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
from collections.abc import Container
from datetime import datetime, timezone

from joulebench.errors import UserError
from joulebench.units import Seconds

_PATH_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NOT_IN_A_KEY = re.compile(r"[^A-Za-z0-9_-]+")
_NOT_PATH_PART = re.compile(r"[^A-Za-z0-9._-]+")


def path_part(value: str, setting: str) -> str:
    """``value`` if it can be a part of a path; raises UserError otherwise."""
    if not _PATH_PART.fullmatch(value):
        raise UserError(f"{setting}: {value!r} must be 1 to 100 of A-Z a-z 0-9 . _ - and begin with a letter or digit")
    return value


def new_run_id(unix: Seconds) -> str:
    """``YYYYmmdd-HHMMSS-xxxxxx`` in UTC; the hex keeps runs apart that begin in the same second."""
    return f"{datetime.fromtimestamp(unix, tz=timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def default_worker() -> str:
    """Host and process: unlike for every process that shares a run id."""
    host = _NOT_PATH_PART.sub("-", socket.gethostname().split(".")[0]).strip("-._")[:60] or "host"
    return f"{host}-{os.getpid()}"


def unique(task_id: str, taken: Container[str]) -> str:
    """``task_id``, or with ``#2``, ``#3``... where the run already has it: a repeated task is a new measurement."""
    if task_id not in taken:
        return task_id
    number = 2
    while f"{task_id}#{number}" in taken:
        number += 1
    return f"{task_id}#{number}"


def task_key(task_id: str) -> str:
    """``task_id`` in A-Z a-z 0-9 _ and -, which the address of a link carries unchanged.

    An id with other characters gets a hash of the original, so that two ids never share a key.
    """
    readable = _NOT_IN_A_KEY.sub("-", task_id).strip("-")[:60]
    if readable == task_id:
        return task_id
    return f"{readable}-{hashlib.sha256(task_id.encode()).hexdigest()[:10]}".lstrip("-")
