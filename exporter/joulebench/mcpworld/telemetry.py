"""What was measured while the sessions ran: a Prometheus, logs of the monitor, or both; for each session the source that has
it.

Prometheus is preferred, because it has the energy counter of each card. A log of the monitor (``gpu_metrics_*.csv``, the
client's own or ours) stands in where Prometheus has nothing, and only it has the container. In a log an empty or unreadable
cell is no reading, never 0; a last line that was being written is left out. Power is integrated between neighbouring samples
that are near enough, and what lies in a gap stays unknown. Where a log has counter columns of single GPUs (ours on request),
they are the energy.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import SystemClock, iso_seconds
from joulebench.devices import Device, DeviceName, resolve_devices
from joulebench.energy.trace import CounterTrace
from joulebench.errors import PrometheusError, UserError
from joulebench.files import csv_reader, decode_text
from joulebench.mcpworld.client_names import MONITOR_COLUMNS, MONITOR_LOG_PATTERN
from joulebench.mcpworld.session import Session
from joulebench.results.attribution import stored_devices
from joulebench.results.fetch import GpuSamples, Samples, fetch_samples, wait_until_settled
from joulebench.results.task import ObservedDevice
from joulebench.results.timeseries import EMPTY, TimeSeries, Window
from joulebench.units import BYTES_PER_MIB

INTEGRATED, COUNTER = "power_integration", "counter"
ALL_GPUS = "all"
GAP_STEPS, GAP_SECONDS = 5.0, 2.0
"""Between samples further apart than this many usual steps, and than this many seconds, power is not known."""

GPU_COLUMNS = ("uuid", "util_pct", "vram_mb", "temp_c", "power_w", "energy_j", "energy_at", "energy_uncertainty_s")
"""Of one GPU in a log that has them, each behind ``gpu0_``, ``gpu1_`` and so on."""
DEVICES_COLUMN = "gpu_devices"
"""The GPUs that a row is of, as ``INDEX:UUID``, separated by spaces; only in logs of GPUs that were chosen."""
BASIS_COLUMN, OBSERVED = "gpu_basis", "observed"
"""Only in logs of the GPUs that a server used, which may differ from row to row."""
SOURCE_COLUMN = "gpu_source"
"""Only in logs of simulated GPUs, where every row says so."""

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
    """``times``: unix seconds of the rows. ``container_cpu`` in percent of one core, ``container_mem`` in MiB. ``devices``: those
    that the rows name; empty where they are of all GPUs, or differ. ``observed``: what each row names, in a log of the GPUs that
    a server used; else empty."""

    path: Path
    times: list[float]
    samples: Samples
    container_cpu: TimeSeries = EMPTY
    container_mem: TimeSeries = EMPTY
    damaged: int = 0
    devices: tuple[Device, ...] = ()
    observed: Sequence[tuple[Device, ...]] = ()

    def rows_within(self, start: float, end: float) -> int:
        return bisect_right(self.times, end) - bisect_left(self.times, start)

    def observed_devices(self, start: float, end: float) -> tuple[ObservedDevice, ...]:
        """The GPUs that the server used between two unix times; the sum over them is one, where the log has no more."""
        sums = [ObservedDevice(gpu.gpu, gpu.uuid) for gpu in self.samples.gpus if gpu.gpu == ALL_GPUS]
        rows = self.observed[bisect_left(self.times, start) : bisect_right(self.times, end)]
        used = dict.fromkeys(device for devices in rows for device in devices)
        return tuple((used and sums) or (ObservedDevice(str(device.index), device.uuid) for device in used))


def read_monitor_log(path: Path) -> MonitorLog:
    """Raises UserError for a file that is no log of the monitor."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"--monitor-csv: {path} cannot be read ({error.strerror})") from error
    text = decode_text(content, f"--monitor-csv: {path}", damaged=True).replace("\0", "")
    # The last line may still be being written.
    reader = csv_reader(text[: text.rfind("\n") + 1])
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
        container_cpu=_series(rows, "container_cpu_pct"),
        container_mem=_series(rows, "container_mem_mb"),
        damaged=damaged,
        devices=_named_devices(rows),
        observed=[_devices(row.get(DEVICES_COLUMN, "")) for _, row in rows] if BASIS_COLUMN in names else (),
    )


def moment(cell: str | None) -> float | None:
    """A unix time, or an ISO time (UTC where it names no zone), as unix seconds."""
    value = reading(cell)
    return value if value is not None else iso_seconds(cell or "")


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
        all_gpus = _all_gpus(rows)
        all_gpus.source = source
        if devices := _named_devices(rows):
            all_gpus.uuid = " ".join(device.uuid for device in devices)
        return [all_gpus] if any(map(len, all_gpus.gauges.values())) else []
    single = []
    for number in numbers:
        gpu = _single(rows, number)
        gpu.source = source or "nvml"
        if any(map(len, gpu.gauges.values())) or len(gpu.energy.at):
            single.append(gpu)
    return single


def _named_devices(rows: Sequence[tuple[float, Row]]) -> tuple[Device, ...]:
    """The GPUs that all rows are of; none where the rows name different GPUs."""
    cells = {row[DEVICES_COLUMN] for _, row in rows if row.get(DEVICES_COLUMN)}
    return _devices(cells.pop()) if len(cells) == 1 else ()


def _devices(cell: str) -> tuple[Device, ...]:
    pairs = [word.partition(":") for word in cell.split()]
    return tuple(Device("", int(index) if index.isdecimal() else -1, uuid) for index, _, uuid in pairs if uuid)


def _all_gpus(rows: Sequence[tuple[float, Row]]) -> GpuSamples:
    """All GPUs as one, as the client's columns have them."""
    gpu = GpuSamples(ALL_GPUS, ALL_GPUS, method=INTEGRATED)
    for column, metric, scale in _GAUGES:
        name = "gpu_util_pct" if column == "util_pct" else column
        gpu.gauges[metric.name] = _series(rows, name, scale)
    gpu.energy = integrated(gpu.gauges[metrics.GPU_POWER.name]).curve()
    return gpu


def _single(rows: Sequence[tuple[float, Row]], number: int) -> GpuSamples:
    prefix = f"gpu{number}_"
    uuid = next((row[f"{prefix}uuid"] for _, row in rows if row.get(f"{prefix}uuid")), f"gpu{number}")
    gpu = GpuSamples(str(number), uuid, method=COUNTER)
    for column, metric, scale in _GAUGES:
        gpu.gauges[metric.name] = _series(rows, prefix + column, scale)
    trace = CounterTrace()
    for _, row in rows:
        at, joules = reading(row.get(f"{prefix}energy_at")), reading(row.get(f"{prefix}energy_j"))
        if at is not None and joules is not None and (trace.last_at is None or at > trace.last_at):
            trace.append(at, joules, reading(row.get(f"{prefix}energy_uncertainty_s")) or 0.0)
    if not len(trace):
        trace, gpu.method = integrated(gpu.gauges[metrics.GPU_POWER.name]), INTEGRATED
    gpu.energy = trace.curve()
    return gpu


def integrated(power: TimeSeries) -> CounterTrace:
    """Integrates watts over time to a counter of joules; a gap begins a new epoch, so no window is charged for it."""
    trace = CounterTrace()
    if not len(power):
        return trace
    steps = [later - earlier for earlier, later in pairwise(power.at.tolist())]
    longest = max(GAP_STEPS * median(steps), GAP_SECONDS) if steps else GAP_SECONDS
    total = 0.0
    trace.append(float(power.at[0]), total)
    for (t0, w0), (t1, w1) in pairwise(power):
        # A value below the last one is a counter reset to the trace.
        total = total + (w0 + w1) / 2 * (t1 - t0) if t1 - t0 <= longest else total - 1.0
        trace.append(t1, total)
    return trace


def _series(rows: Sequence[tuple[float, Row]], name: str, scale: float = 1.0) -> TimeSeries:
    return TimeSeries.of((at, value * scale) for at, row in rows if (value := reading(row.get(name))) is not None)


PROMETHEUS, MONITOR_CSV = "prometheus", "monitor_csv"
NEAR_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class SampleSource:
    """``origin``: name of the log; None for Prometheus. ``log``: the log that has the container, None without one."""

    name: str
    origin: str | None
    samples: Samples
    log: MonitorLog | None = None

    def of_devices(self, names: Sequence[DeviceName]) -> SampleSource:
        """Returns the samples of these GPUs. Raises UserError for a name that none of them matches, or several.

        A log that has sums over GPUs is of all that it names, or of GPUs that are unknown.
        """
        known = stored_devices(self.samples.gpus)
        sums = [gpu for gpu in self.samples.gpus if gpu.gpu == ALL_GPUS]
        if sums:
            known = list(self.log.devices) if self.log is not None else []
            if not known:
                raise UserError(
                    f"--gpus: {self.origin} has the sum over all GPUs, not readings of each; run the monitor with --gpus"
                    " or --per-gpu, or do without"
                )
        chosen = {device.uuid for device in resolve_devices(names, known, "--gpus")}
        if sums and len(chosen) < len(known):
            raise UserError(f"--gpus: {self.origin} has only the sum over {', '.join(map(str, known))}; name all of them")
        gpus = sums or [gpu for gpu in self.samples.gpus if gpu.uuid in chosen]
        return replace(self, samples=Samples(gpus))


@dataclass
class Telemetry:
    """``failure``: why there are no samples of Prometheus; empty where it answered or was not queried."""

    stored: Samples | None = None
    logs: Sequence[MonitorLog] = ()
    notes: list[str] = field(default_factory=list)
    failure: str = ""

    def of(self, session: Session) -> SampleSource | None:
        """Returns None where nothing measured the session."""
        start, end = session.windows.headline or (0.0, 0.0)
        log = self.log_of(start, end)
        if self.stored is not None and _has_samples(self.stored, start, end):
            return SampleSource(PROMETHEUS, None, self.stored, log)
        return None if log is None else SampleSource(MONITOR_CSV, log.path.name, log.samples, log)

    def log_of(self, start: float, end: float) -> MonitorLog | None:
        """Returns the log with most rows in the window."""
        best = max(self.logs, key=lambda log: log.rows_within(start, end), default=None)
        return best if best is not None and best.rows_within(start, end) else None


def gather_telemetry(
    sessions: Sequence[Session],
    api: PrometheusApi | None,
    instance: str | None,
    log_paths: Sequence[Path],
    *,
    step: Callable[[int, int], None] | None = None,
    wait: float = 0.0,
) -> Telemetry:
    """``wait``: seconds that Prometheus is given to scrape what follows a session that has just ended. Raises UserError for a log
    that cannot be read; Prometheus failing is a note."""
    telemetry = Telemetry(logs=[read_monitor_log(path) for path in log_paths])
    for log in telemetry.logs:
        if log.damaged:
            telemetry.notes.append(f"{log.path}: {log.damaged} damaged rows were left out")
    if api is None or not sessions:
        return telemetry
    equal: Mapping[str, str] = {"instance": instance} if instance else {}
    windows: list[Window] = [span for session in sessions for span in session.spans]
    try:
        if windows and not wait_until_settled(api, max(end for _, end in windows), wait, SystemClock()):
            telemetry.notes.append(f"Prometheus had not scraped all of it after {wait:g} s; a later backfill may know more")
        telemetry.stored = fetch_samples(api, windows, equal, step=step)
    except PrometheusError as error:
        telemetry.failure = str(error)
        telemetry.notes.append(f"Prometheus failed: {error}")
    telemetry.notes += [f"Prometheus warns: {warning}" for warning in api.warnings]
    return telemetry


def logs_below(root: Path) -> list[Path]:
    """Logs of the monitor as the client leaves them; what bears their name and is none is left out."""
    found = []
    for path in sorted(root.rglob(MONITOR_LOG_PATTERN)) if root.is_dir() else []:
        if not path.is_file():
            continue
        try:
            read_monitor_log(path)
        except UserError:
            continue
        found.append(path)
    return found


def _has_samples(stored: Samples, start: float, end: float) -> bool:
    for gpu in stored.gpus:
        at = gpu.energy.at
        if len(at) and at[0] < end and at[-1] > start and ((at >= start - NEAR_SECONDS) & (at <= end + NEAR_SECONDS)).any():
            return True
        if any(len(series.between(start, end)) for series in gpu.gauges.values()):
            return True
    return False
