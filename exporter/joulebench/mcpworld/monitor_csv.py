"""Reading ``gpu_metrics_*.csv``, the client's own or ours, as the samples of a Prometheus would be read.

An empty or unreadable cell is no reading, never 0; a last line that was being written is left out. Power is integrated between
neighbouring samples that are near enough, and what lies in a gap stays unknown. Where a log has counter columns of single GPUs
(ours on request), they are the energy.
"""

from __future__ import annotations

import csv
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from statistics import median

from joulebench import metrics
from joulebench.energy.trace import CounterTrace
from joulebench.errors import UserError
from joulebench.mcpworld.schema import MONITOR_COLUMNS
from joulebench.results.samples import GpuSamples, Points, Samples
from joulebench.units import BYTES_PER_MIB

INTEGRATED, COUNTER = "power_integration", "counter"
ALL_GPUS = "all"
GAP_STEPS, GAP_SECONDS = 5.0, 2.0
"""Between samples further apart than this many usual steps, and than this many seconds, power is not known."""

GPU_COLUMNS = ("uuid", "util_pct", "vram_mb", "temp_c", "power_w", "energy_j", "energy_at", "energy_uncertainty_s")
"""Of one GPU in a log that has them, each behind ``gpu0_``, ``gpu1_`` and so on."""
SOURCE_COLUMN = "gpu_source"
"""Only in logs of invented GPUs, where it says so in every row."""

_GPU_COLUMN = re.compile(r"gpu(\d+)_energy_j")
_GAUGES = (
    ("util_pct", metrics.GPU_UTILIZATION, 0.01),
    ("vram_mb", metrics.GPU_MEMORY_USED, BYTES_PER_MIB),
    ("temp_c", metrics.GPU_TEMPERATURE, 1.0),
    ("power_w", metrics.GPU_POWER, 1.0),
)

Row = Mapping[str, str]


@dataclass
class MonitorLog:
    """``times``: unix seconds of the rows. ``container_cpu`` in percent of one core, ``container_mem`` in MiB."""

    path: Path
    times: list[float]
    samples: Samples
    container_cpu: Points = field(default_factory=list)
    container_mem: Points = field(default_factory=list)
    damaged: int = 0

    def rows_within(self, start: float, end: float) -> int:
        return bisect_right(self.times, end) - bisect_left(self.times, start)


def read(path: Path) -> MonitorLog:
    """Raises UserError for a file that is no log of the monitor."""
    try:
        text = path.read_bytes().decode("utf-8", "replace").replace("\0", "")
    except OSError as error:
        raise UserError(f"--monitor-csv: {path} cannot be read ({error.strerror})") from error
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    reader = csv.DictReader(lines)
    names = reader.fieldnames or ()
    if MONITOR_COLUMNS[0] not in names:
        raise UserError(f"--monitor-csv: {path} has no column {MONITOR_COLUMNS[0]}; give a CSV that monitor_gpu.py wrote")
    kept: dict[float, Row] = {}
    damaged = 0
    for row in reader:
        at = moment(row[MONITOR_COLUMNS[0]])
        if at is None or None in row:
            # A header in the middle is where a second monitor began.
            damaged += row[MONITOR_COLUMNS[0]] != MONITOR_COLUMNS[0]
            continue
        kept[at] = {name: value or "" for name, value in row.items()}
    rows = sorted(kept.items())
    return MonitorLog(
        path=path,
        times=[at for at, _ in rows],
        samples=Samples(_gpus(rows, names)),
        container_cpu=_points(rows, "container_cpu_pct"),
        container_mem=_points(rows, "container_mem_mb"),
        damaged=damaged,
    )


def moment(cell: str | None) -> float | None:
    """A unix time, or an ISO time (UTC where it names no zone), as unix seconds."""
    value = reading(cell)
    if value is not None or not cell:
        return value
    try:
        parsed = datetime.fromisoformat(cell.strip().replace("Z", "+00:00"))
    except ValueError:
        return None
    return parsed.replace(tzinfo=parsed.tzinfo or timezone.utc).timestamp()


def reading(cell: str | None) -> float | None:
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _gpus(rows: Sequence[tuple[float, Row]], names: Sequence[str]) -> list[GpuSamples]:
    numbers = sorted(int(found[1]) for name in names if (found := _GPU_COLUMN.fullmatch(name)))
    source = next((row[SOURCE_COLUMN] for _, row in rows if row.get(SOURCE_COLUMN)), None)
    if not numbers:
        whole = _whole(rows)
        whole.source = source
        return [whole] if any(whole.gauges.values()) else []
    single = []
    for number in numbers:
        gpu = _single(rows, number)
        gpu.source = source or "nvml"
        if any(gpu.gauges.values()) or len(gpu.energy):
            single.append(gpu)
    return single


def _whole(rows: Sequence[tuple[float, Row]]) -> GpuSamples:
    """All GPUs as the one that the client's columns make of them."""
    gpu = GpuSamples(ALL_GPUS, ALL_GPUS, method=INTEGRATED)
    for column, metric, scale in _GAUGES:
        name = "gpu_util_pct" if column == "util_pct" else column
        gpu.gauges[metric.name] = [(at, value * scale) for at, value in _points(rows, name)]
    gpu.energy = integrated(gpu.gauges[metrics.GPU_POWER.name])
    return gpu


def _single(rows: Sequence[tuple[float, Row]], number: int) -> GpuSamples:
    prefix = f"gpu{number}_"
    uuid = next((row[f"{prefix}uuid"] for _, row in rows if row.get(f"{prefix}uuid")), f"gpu{number}")
    gpu = GpuSamples(str(number), uuid, method=COUNTER)
    for column, metric, scale in _GAUGES:
        gpu.gauges[metric.name] = [(at, value * scale) for at, value in _points(rows, prefix + column)]
    for _, row in rows:
        at, joules = reading(row.get(f"{prefix}energy_at")), reading(row.get(f"{prefix}energy_j"))
        if at is not None and joules is not None and (gpu.energy.last_at is None or at > gpu.energy.last_at):
            gpu.energy.append(at, joules, reading(row.get(f"{prefix}energy_uncertainty_s")) or 0.0)
    if not len(gpu.energy):
        gpu.energy, gpu.method = integrated(gpu.gauges[metrics.GPU_POWER.name]), INTEGRATED
    return gpu


def integrated(power: Points) -> CounterTrace:
    """Watts over time as a counter of joules; a gap begins a new epoch, so no window is charged with what nobody saw."""
    trace = CounterTrace()
    if not power:
        return trace
    steps = [later - earlier for (earlier, _), (later, _) in pairwise(power)]
    longest = max(GAP_STEPS * median(steps), GAP_SECONDS) if steps else GAP_SECONDS
    total = 0.0
    trace.append(power[0][0], total)
    for (t0, w0), (t1, w1) in pairwise(power):
        # A value below the last one tells the trace that the counter began anew.
        total = total + (w0 + w1) / 2 * (t1 - t0) if t1 - t0 <= longest else total - 1.0
        trace.append(t1, total)
    return trace


def _points(rows: Sequence[tuple[float, Row]], name: str) -> Points:
    return [(at, value) for at, row in rows if (value := reading(row.get(name))) is not None]
