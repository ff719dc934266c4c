"""One time for the test, the code under test and the fake library: a double in a shared file, moved by the test alone."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from joulebench.units import Seconds

_DOUBLE = struct.Struct("=d")


class VirtualClock:
    """A ``Clock``. A scripted slow call moves it too, as a slow call lets real time pass."""

    def __init__(self, path: Path, monotonic: float = 1000.0, unix: float = 1_700_000_000.0) -> None:
        self.path = path
        path.write_bytes(_DOUBLE.pack(monotonic))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _DOUBLE.size)
        self._wall_offset = unix - monotonic

    def monotonic(self) -> Seconds:
        return Seconds(_DOUBLE.unpack_from(self._shared)[0])

    def unix(self) -> Seconds:
        return Seconds(self.monotonic() + self._wall_offset)

    def advance(self, seconds: float) -> None:
        _DOUBLE.pack_into(self._shared, 0, self.monotonic() + seconds)

    def advance_to(self, monotonic: float) -> None:
        self.advance(max(0.0, monotonic - self.monotonic()))

    def step_wall(self, seconds: float) -> None:
        """The wall clock jumps; monotonic time does not."""
        self._wall_offset += seconds
