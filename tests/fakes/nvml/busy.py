"""Lets a workload switch the power of fake GPUs, and the processes on them, at moments that it knows exactly.

Each line of the file is ``unix_time gpu watts``: from then on that GPU draws that power; or ``unix_time gpu +pid`` or ``-pid``: a
process comes to that GPU or leaves it. The fake library follows the file;
the truth is the integral of the same lines. Written ahead of time or as it happens; lines of one GPU in order of time.
"""

from __future__ import annotations

import os
from pathlib import Path

from joulebench.clock import Clock, SystemClock
from tests.fakes.nvml.curve import Points


class BusyFile:
    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.path = path
        self._clock = clock or SystemClock()
        path.touch()

    def draw(self, gpu: int, watts: float, at_unix: float | None = None) -> float:
        """From ``at_unix`` (default now) ``gpu`` draws ``watts``; returns the unix time it counts from."""
        return self._write(gpu, f"{watts:.9g}", at_unix)

    def enter(self, gpu: int, pid: int, at_unix: float | None = None) -> float:
        """From ``at_unix`` (default now) the process is on the GPU; returns the unix time it counts from."""
        return self._write(gpu, f"+{pid}", at_unix)

    def leave(self, gpu: int, pid: int, at_unix: float | None = None) -> float:
        """From ``at_unix`` (default now) the process is on the GPU no more; returns the unix time it counts from."""
        return self._write(gpu, f"-{pid}", at_unix)

    def _write(self, gpu: int, what: str, at_unix: float | None) -> float:
        at = self._clock.unix() if at_unix is None else at_unix
        # One write of one whole line, so that a reader never sees half of it.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, f"{at:.9f} {gpu} {what}\n".encode())
        finally:
            os.close(file)
        return at

    def points(self, gpu: int) -> Points:
        """(unix time, watts) of one GPU."""
        rows = (line.split() for line in self.path.read_text().splitlines())
        return [(float(at), float(watts)) for at, index, watts in rows if int(index) == gpu and watts[0] not in "+-"]
