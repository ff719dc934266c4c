"""The append-only journal beside a run: the last resort when Pushgateway, Prometheus or the benchmark dies.

One file per worker, one flat JSON object per line. An event is handed to the kernel with a single ``write`` before the call
returns, so killing the process loses nothing; ``sync`` (called in the background after each task) covers the machine.
A journal that cannot be written never breaks the benchmark: events wait in memory, up to MAX_UNWRITTEN_BYTES, until the disk
takes them again; those beyond are counted, logged once and reported in PUSH_STATE.
A half-written last line of a crashed run is closed with a newline when the file is opened again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import numbers
import os
import re
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from joulebench.errors import UserError
from joulebench.schema import events

log = logging.getLogger(__name__)

FILE_MODE = 0o600
"""Journals hold the arguments and results of tool calls."""
MAX_EVENT_BYTES = 4 << 20
MAX_UNWRITTEN_BYTES = 16 << 20
MAX_DEPTH = 32
MAX_TEXT = 65_536
"""Characters of one text in an event that is too large."""
MAX_ITEMS = 10_000
MAX_OBJECT_TEXT = 1_000
MAX_INTEGER_BITS = 1024

_SURROGATE_PAIR = re.compile(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f]", re.ASCII)


class Journal:
    """Raises UserError where the file cannot be made or another process is writing it. Safe to use from several threads."""

    def __init__(self, path: Path, run_id: str, worker: str) -> None:
        self.path = path
        self._run_id = run_id
        self._worker = worker
        self._lock = threading.Lock()
        self._unwritten: deque[bytes] = deque()
        self._unwritten_bytes = 0
        self._lost = 0
        self._problem: str | None = None
        self._fd = _open(path)
        self._torn = _ends_torn(self._fd)

    @property
    def lost(self) -> int:
        """Events that are not in the file, and will not be unless the disk takes those that wait."""
        with self._lock:
            return self._lost + len(self._unwritten)

    @property
    def problem(self) -> str | None:
        """Why the last event could not be written; None after one that could."""
        with self._lock:
            return self._problem

    def write(self, event_type: str, timestamp: float, task_id: str | None = None, **fields: object) -> None:
        """Appends one event; never raises."""
        event: dict[str, object] = {"event_type": event_type, "timestamp": timestamp, "run_id": self._run_id}
        if task_id is not None:
            event["task_id"] = task_id
        event["worker"] = self._worker
        event.update(fields)
        line = encode_event(event)
        with self._lock:
            if self._unwritten:
                self._keep(line)
                self._write_kept()
            elif not self._append(line):
                self._keep(line)

    def sync(self) -> None:
        """Waits until the disk has it; for background threads."""
        with self._lock:
            self._write_kept()
            fd = self._fd
        if fd < 0:
            return
        try:
            os.fsync(fd)
        except OSError as error:
            log.warning("journal %s could not be synced: %s", self.path, error)

    def close(self) -> None:
        self.sync()
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def abandon(self) -> None:
        """Closes the file of another process's worker, after a fork; its lock stays with that process."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def task_ids(self) -> set[str]:
        """Ids that the file already holds, of an earlier process with this run id and worker."""
        task_ids: set[str] = set()
        with self.path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if f'"{events.TASK_START}"' not in line:
                    continue
                try:
                    event = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(event, dict) and isinstance(task_id := event.get("task_id"), str):
                    task_ids.add(task_id)
        return task_ids

    def _append(self, line: bytes) -> bool:
        """Writes ``line`` as one line of its own. Returns False when it was not taken, or not whole."""
        data = b"\n" + line if self._torn else line
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            self._fail(error.strerror or str(error))
            return False
        if not written:
            self._fail("nothing was taken")
            return False
        # The rest of a line that was cut is of no use: the whole line is written again behind it.
        self._torn = written < len(data)
        if self._torn:
            self._fail(f"only {written} of {len(data)} bytes were taken")
            return False
        self._problem = None
        return True

    def _keep(self, line: bytes) -> None:
        if self._unwritten_bytes + len(line) > MAX_UNWRITTEN_BYTES:
            self._lost += 1
            if self._lost == 1:
                log.error("journal %s: %d bytes wait for the disk; further events are lost", self.path, self._unwritten_bytes)
            return
        self._unwritten.append(line)
        self._unwritten_bytes += len(line)

    def _write_kept(self) -> None:
        while self._unwritten and self._fd >= 0:
            line = self._unwritten[0]
            if not self._append(line):
                return
            self._unwritten.popleft()
            self._unwritten_bytes -= len(line)

    def _fail(self, reason: str) -> None:
        if self._problem is None:
            log.error("journal %s: an event could not be written (%s); the run goes on and tries again", self.path, reason)
        self._problem = reason


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
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


def encode_event(event: Mapping[str, object]) -> bytes:
    """One line of ASCII JSON for any event: cannot fail, whatever objects, depths and sizes its fields have.

    Numbers that JSON does not know become null, half emojis the replacement character, other objects their text. Of an event
    over MAX_EVENT_BYTES the texts are cut; if that is not enough, only names and numbers of it remain, with ``truncated``.
    """
    try:
        text = _encode(event)
        if len(text) <= MAX_EVENT_BYTES and not ("\\ud" in text and "\\ud" in _SURROGATE_PAIR.sub("", text)):
            return text.encode("ascii") + b"\n"
    except Exception:
        # An object that fails, a loop, a depth or a number that JSON has not: below, piece by piece.
        text = ""
    limit = MAX_TEXT if len(text) > MAX_EVENT_BYTES else MAX_EVENT_BYTES
    try:
        text = _encode({plain_text(key, MAX_OBJECT_TEXT): storable_value(value, limit) for key, value in event.items()})
    except Exception:
        text = ""
    if not text or len(text) > MAX_EVENT_BYTES:
        short = {key: storable_value(value, MAX_OBJECT_TEXT) for key, value in event.items() if _is_plain(value)}
        text = _encode({**short, "truncated": True})
    return text.encode("ascii") + b"\n"


def plain_value(value: object) -> object:
    """A number for any kind of number (numpy, Decimal, Fraction), a bool for numpy's; else the text of the object."""
    try:
        if isinstance(value, numbers.Integral):
            return int(value)
        if isinstance(value, numbers.Real | Decimal):
            number = float(value)
            return number if math.isfinite(number) else None
        if isinstance(value, bytes | bytearray):
            return plain_text(bytes(value[:MAX_TEXT]).decode("utf-8", "replace"), MAX_TEXT)
        if type(value).__name__ in ("bool", "bool_") and hasattr(value, "item"):
            return bool(value)
    except Exception:
        return object_text(value)
    return object_text(value)


_encode = json.JSONEncoder(separators=(",", ":"), default=plain_value, allow_nan=False).encode


def object_text(value: object) -> str:
    """The text of an object; its type where it has none, because its own ``__str__`` fails."""
    try:
        return plain_text(str(value), MAX_OBJECT_TEXT)
    except Exception as error:
        return f"<{type(value).__name__} without a text: {type(error).__name__}>"


def plain_text(value: object, longest: int) -> str:
    """At most ``longest`` characters of valid Unicode; halves of an emoji that stand together become the emoji."""
    text = value if isinstance(value, str) else object_text(value)
    text = text[:longest]
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def storable_value(value: object, longest: int, depth: int = 0) -> object:
    """``value`` as JSON can hold it, with texts of at most ``longest`` characters and bounded depth and number of items."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return plain_text(value, longest)
    if isinstance(value, Mapping | list | tuple):
        return _storable_container(value, longest, depth)
    plain = plain_value(value)
    if isinstance(plain, int) and plain.bit_length() > MAX_INTEGER_BITS:
        return f"an integer of {plain.bit_length()} bits"
    return plain


def _storable_container(value: Mapping[object, object] | Sequence[object], longest: int, depth: int) -> object:
    if depth >= MAX_DEPTH:
        return f"<{type(value).__name__} nested deeper than {MAX_DEPTH}>"
    try:
        if isinstance(value, Mapping):
            pairs = list(value.items())[:MAX_ITEMS]
            return {plain_text(key, MAX_OBJECT_TEXT): storable_value(item, longest, depth + 1) for key, item in pairs}
        return [storable_value(item, longest, depth + 1) for item in list(value)[:MAX_ITEMS]]
    except Exception:
        # A container that fails, or that another thread changes.
        return object_text(value)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)
