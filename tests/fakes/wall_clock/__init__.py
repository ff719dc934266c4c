"""The wall clock of another process, set at any moment: a library that is preloaded into it, and the file that it reads."""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import subprocess
from pathlib import Path

from tests.fakes.c_compiler import need_c_compiler

SOURCE = Path(__file__).with_name("wall_clock.c")
CACHE = Path(__file__).resolve().parents[3] / ".build" / "wall_clock"
_DOUBLE = struct.Struct("=d")


def build() -> Path:
    """The library; a build is cached by the hash of its source."""
    library = CACHE / hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16] / "wall_clock.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        draft = library.with_name(f"draft-{os.getpid()}.so")
        flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run([*need_c_compiler(), *flags, "-o", str(draft), str(SOURCE), "-ldl", "-lm"], check=True)
        draft.replace(library)
    return library


class ForeignWallClock:
    """``environment`` is for the process whose clock this is; it may be restarted and keeps its clock."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(_DOUBLE.pack(0.0))
        self.environment = {"LD_PRELOAD": str(build()), "FAKE_WALL_CLOCK": str(path)}
        with path.open("r+b") as file:
            self._ahead = mmap.mmap(file.fileno(), _DOUBLE.size)

    def step(self, seconds: float) -> None:
        """Sets the clock by that much, now."""
        (before,) = _DOUBLE.unpack_from(self._ahead)
        _DOUBLE.pack_into(self._ahead, 0, before + seconds)
