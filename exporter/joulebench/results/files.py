"""Where results lie: names that data cannot lead astray, and writes that are whole or not there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from joulebench.errors import UserError

CSV_NAME = "results.csv"
_LONGEST_PART = 80
_STRANGE = re.compile(r"[^A-Za-z0-9._#-]")


def run_directory(runs_dir: Path, run_id: str) -> Path:
    """``runs_dir/run_id``. Raises UserError for a run id that would lead elsewhere."""
    if run_id in ("", ".", "..") or any(sign in run_id for sign in "/\\\0"):
        raise UserError(f"--run-id: {run_id!r} is not a run id; it is the name of one directory of --runs-dir")
    return runs_dir / run_id


def result_name(start: float | None, model: str | None, task_id: str, tail: str = "") -> str:
    """``result_{YYYYmmdd_HHMMSS}_{model}_{task_id}.json``, the time in UTC."""
    stamp = "00000000_000000" if start is None else f"{datetime.fromtimestamp(start, tz=timezone.utc):%Y%m%d_%H%M%S}"
    parts = [stamp, _part(model or "unknown"), _part(task_id), *([_part(tail)] if tail else [])]
    return f"result_{'_'.join(parts)}.json"


def _part(text: str) -> str:
    """As the field's tools clean a model name, and nothing else that a file system or a shell would trip over.

    Where more than that was changed, a hash keeps two names from becoming one.
    """
    usual = text.replace(":", "-").replace("/", "_")
    clean = _STRANGE.sub("_", usual)[:_LONGEST_PART]
    if clean == usual and clean:
        return clean
    return f"{clean}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]}"


def read_whole(path: Path) -> str:
    """The text under ``path``, empty where there is none. Raises UserError where it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(f"--out: {path} cannot be read ({error.strerror}); move it away") from error


def write_whole(path: Path, text: str, *, durable: bool = False) -> None:
    """All of ``text`` under ``path``, or what was there before; ``durable`` also when the machine loses power.

    Raises UserError where the directory cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # A lone half of a character pair has no UTF-8; spelled out it is what JSON calls it too.
        content = text.encode("utf-8", "backslashreplace")
        with open(beside, "wb", buffering=0) as out:
            while content:
                content = content[out.write(content) :]
            if durable:
                os.fsync(out.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UserError(f"--out: {path} cannot be written ({error.strerror}); give a directory that can") from error


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One export at a time in a directory: two would each put back the rows that the other replaced."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"--out: {directory} cannot be used ({error.strerror}); give a directory") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
