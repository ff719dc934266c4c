"""What ``up`` started, on disk, so that ``down`` ends exactly that.

A process is ended only while it is still the one that was started: same pid and same start time. A pid that the system has
given to another program is left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from joulebench.cache import cache_path, private_folder
from joulebench.clock import wait_until
from joulebench.errors import UserError
from joulebench.files import write_atomic
from joulebench.stack.process import STOP_SECONDS

FILE_NAME = "stack.json"
LIST_NAME = "directories"
MAX_KNOWN = 50


@dataclass(frozen=True, slots=True)
class Started:
    name: str
    pid: int
    born: int
    url: str

    @property
    def alive(self) -> bool:
        return birth(self.pid) == self.born


def birth(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot (field 22 of /proc/PID/stat), None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def save(directory: Path, started: list[Started]) -> None:
    rows = [{"name": one.name, "pid": one.pid, "born": one.born, "url": one.url} for one in started]
    temporary = directory / f"{FILE_NAME}.part"
    temporary.write_text(json.dumps(rows, indent=1))
    temporary.replace(directory / FILE_NAME)


def remember(directory: Path) -> None:
    """Adds ``directory`` to the list of this user's stacks, by which ``down`` finds them. Without a cache there is no list."""
    kept = [known for known in known_directories() if known != directory.resolve() and (known / FILE_NAME).exists()]
    with contextlib.suppress(OSError, UserError):
        folder = private_folder(cache_path("stacks"))
        write_atomic(folder / LIST_NAME, "".join(f"{path}\n" for path in [*kept, directory.resolve()][-MAX_KNOWN:]))


def known_directories() -> list[Path]:
    """Directories of stacks that this user started, as far as they are remembered."""
    try:
        lines = (cache_path("stacks") / LIST_NAME).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    return [Path(line) for line in lines if line]


def load(directory: Path) -> list[Started]:
    try:
        rows = json.loads((directory / FILE_NAME).read_text())
        return [Started(row["name"], row["pid"], row["born"], row["url"]) for row in rows]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{directory / FILE_NAME} is not readable ({error}); end the processes yourself and delete it") from error


def end(started: list[Started]) -> list[Started]:
    """End them, last started first; gives those that were alive."""
    ended = [one for one in reversed(started) if one.alive]
    for one in ended:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.pid, number)
            if wait_until(lambda one=one: not one.alive, STOP_SECONDS):  # type: ignore[misc]
                break
    return ended


def forget(directory: Path) -> None:
    (directory / FILE_NAME).unlink(missing_ok=True)
