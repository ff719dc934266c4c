"""Writing ``gpu_metrics_*.csv``: what ``monitor_gpu.py`` does, read from NVML in this process.

A row carries the time at which its GPU values were read. A value that was not read is an empty cell, and where one of several
GPUs does not answer, so are sums over them. Each row is one write, so a monitor that is killed leaves whole rows.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import threading
from collections.abc import Callable, Collection, Sequence
from math import ceil
from pathlib import Path

from joulebench.clock import Clock
from joulebench.errors import GpuError, UserError
from joulebench.gpu.monitor import GpuMonitor
from joulebench.gpu.reading import CounterReading, GpuDevice, GpuSource, GpuState, StateReading
from joulebench.mcpworld.client_names import MONITOR_COLUMNS
from joulebench.mcpworld.container import ContainerPoller, ContainerReading
from joulebench.mcpworld.telemetry import BASIS_COLUMN, DEVICES_COLUMN, GPU_COLUMNS, OBSERVED, SOURCE_COLUMN
from joulebench.units import mib_from_bytes

log = logging.getLogger(__name__)

SIMULATED = "simulated"
Reading = tuple[CounterReading, StateReading] | None
"""Of one GPU at one moment; None where it did not answer."""


class CsvMonitor:
    """``source`` None: there is no GPU. ``energy``: a monitor of the same GPUs, where a row shall have columns for each of them.
    ``names_devices``: whether each row names the GPUs that it is of, as where these are not all of the machine. ``serving``:
    returns the UUIDs of those that the next row is of, where that changes; the others' cells are empty in it.

    Raises UserError where the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        source: GpuSource | None,
        clock: Clock,
        *,
        interval: float,
        container: ContainerPoller | None = None,
        energy: GpuMonitor | None = None,
        names_devices: bool = False,
        serving: Callable[[], Collection[str]] | None = None,
    ) -> None:
        self.missed = 0
        self._source = source
        self._clock = clock
        self._interval = interval
        self._container = container
        self._energy = energy
        self._stop = threading.Event()
        self._simulated = source is not None and source.name == SIMULATED
        self._names_devices = names_devices or serving is not None
        self._serving = serving
        self._fd = _open(path, self.columns)

    @property
    def columns(self) -> tuple[str, ...]:
        gpus = self._source.devices() if self._source is not None and self._energy is not None else ()
        single = [f"gpu{gpu.identity.index}_{name}" for gpu in gpus for name in GPU_COLUMNS]
        named = [DEVICES_COLUMN] if self._names_devices else []
        named += [BASIS_COLUMN] if self._serving is not None else []
        return (*MONITOR_COLUMNS, *single, *named, *([SOURCE_COLUMN] if self._simulated else []))

    def stop(self, *_: object) -> None:
        """Ends ``run`` at its next row; may be called by a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """A row every ``interval`` seconds until ``stop``; beats that passed meanwhile are left out and counted in ``missed``."""
        due: float = self._clock.monotonic()
        try:
            while not self._stop.is_set():
                self._write(self.row())
                now = self._clock.monotonic()
                beats = max(1, ceil((now - due) / self._interval))
                self.missed += beats - 1
                due += self._interval * beats
                self._stop.wait(max(0.0, due - now))
        finally:
            os.close(self._fd)

    def row(self) -> list[str]:
        """One reading of everything, in the order of ``columns``."""
        serving = None if self._serving is None else self._serving()
        gpus = [] if self._source is None else self._source.devices()
        own = [gpu for gpu in gpus if serving is None or gpu.identity.uuid in serving]
        before = self._clock.unix()
        readings = self._read(own)
        at = (before + self._clock.unix()) / 2
        states = self._energy.snapshot() if self._energy is not None else ()
        container = self._container.latest() if self._container is not None else None
        cells = [f"{at:.6f}", *_together(readings), *_container(container)]
        of_gpu = {gpu.identity.uuid: reading for gpu, reading in zip(own, readings, strict=True)}
        for state in states:
            uuid = state.identity.uuid
            cells += _single(of_gpu[uuid], state) if uuid in of_gpu else [""] * len(GPU_COLUMNS)
        if self._names_devices:
            cells.append(" ".join(f"{gpu.identity.index}:{gpu.identity.uuid}" for gpu in own))
        if serving is not None:
            cells.append(OBSERVED)
        return [*cells, SIMULATED] if self._simulated else cells

    @staticmethod
    def _read(gpus: Sequence[GpuDevice]) -> list[Reading]:
        found: list[Reading] = []
        for gpu in gpus:
            try:
                found.append((gpu.read_counters(), gpu.read_state()))
            except GpuError as error:  # noqa: PERF203
                log.debug("GPU %d: %s", gpu.identity.index, error)
                found.append(None)
        return found

    def _write(self, cells: Sequence[str]) -> None:
        try:
            os.write(self._fd, _line(cells))
        except OSError as error:
            # A full disk must not end the readings that come after it.
            log.error("a row could not be written (%s)", error.strerror)


def _together(readings: Sequence[Reading]) -> list[str]:
    """Mean utilization, sum of memory, highest temperature, sum of power; empty where one GPU's part is missing."""
    if not readings or None in readings:
        return [""] * 4
    known = [reading for reading in readings if reading is not None]
    util = [slow.utilization for _, slow in known if slow.utilization is not None]
    memory = [slow.memory_used for _, slow in known if slow.memory_used is not None]
    temperature = [slow.temperature for _, slow in known if slow.temperature is not None]
    power = [fast.power for fast, _ in known if fast.power is not None]
    count = len(known)
    return [
        _cell(100 * sum(util) / count if len(util) == count else None),
        _cell(mib_from_bytes(sum(memory)) if len(memory) == count else None),
        _cell(max(temperature) if len(temperature) == count else None),
        _cell(sum(power) if len(power) == count else None),
    ]


def _container(reading: ContainerReading | None) -> list[str]:
    if reading is None:
        return ["", ""]
    return [_cell(reading.cpu_percent), _cell(reading.memory_mib)]


def _single(reading: Reading, state: GpuState) -> list[str]:
    fast, slow = reading if reading is not None else (None, None)
    memory = slow.memory_used if slow else None
    return [
        state.identity.uuid,
        _cell(100 * slow.utilization if slow and slow.utilization is not None else None),
        _cell(None if memory is None else mib_from_bytes(memory)),
        _cell(slow.temperature if slow else None),
        _cell(fast.power if fast else None),
        _cell(state.energy),
        "" if state.energy_at is None else f"{state.energy_at:.6f}",
        _cell(state.energy_uncertainty, 6),
    ]


def _cell(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{round(value, digits):.15g}"


def _line(cells: Sequence[str]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue().encode()


def _open(path: Path, columns: Sequence[str]) -> int:
    """Ready for rows. A log of the same columns is continued; another one is moved aside, since telemetry cannot be had again."""
    header = _line(columns)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        known = b""
        if path.exists():
            with path.open("rb") as file:
                known = file.readline()
            if known and known != header:
                _move_aside(path)
                known = b""
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        size = os.fstat(fd).st_size
        if not known:
            os.write(fd, header)
        elif os.pread(fd, 1, size - 1) != b"\n":
            os.write(fd, b"\n")
    except OSError as error:
        raise UserError(f"OUTPUT.csv: {path} cannot be written ({error.strerror}); give a file that can") from error
    return fd


def _move_aside(path: Path) -> None:
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    path.rename(aside)
    log.warning("%s had other columns and is now %s", path, aside)
