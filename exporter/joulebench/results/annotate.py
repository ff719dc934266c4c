"""Joules beside each row of a table of anybody's: windows of any harness, by the samples in Prometheus and the export's own code.

The table is read twice and not kept: once for the times of its rows, once to be written with our cells. Rows may come in any
order and lie over each other; then each also has its share, and the shares add up to what was counted.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import Clock, SystemClock
from joulebench.devices import DeviceName, resolve_devices
from joulebench.energy.allocation import METHODS, Share, total_share
from joulebench.energy.curve import EnergyCurve, Floats
from joulebench.energy.equal_shares import EqualShares, SharedTime, equal_shares, shared_time
from joulebench.energy.estimator import window_energies
from joulebench.energy.phases import PhaseEnergy
from joulebench.energy.window import QUALITIES, WindowEnergy, missing
from joulebench.errors import UserError
from joulebench.files import open_atomic
from joulebench.meters import EmissionFactor, Meter
from joulebench.results.attribution import stored_devices
from joulebench.results.emissions import FactorSamples, emission_results, fetch_factors
from joulebench.results.fetch import GpuSamples, fetch_samples, wait_until_settled
from joulebench.results.gpu_stats import Gauges, GpuReadings, throttled_by_reason
from joulebench.results.meters import (
    MeteredTask,
    MeterSamples,
    charge_share,
    choose_series,
    fetch_meters,
    meter_results,
    metered_task,
)
from joulebench.results.owner_history import observe_devices
from joulebench.results.row_files import Cells, RowFile, TimeReader, detect_times, open_rows
from joulebench.results.task import ObservedDevice, Task, TaskKey, TaskValues
from joulebench.results.task_energy import is_on_two_clocks, task_energy
from joulebench.results.throttle import most_throttled, throttled_seconds
from joulebench.results.timeseries import Window
from joulebench.schema.columns import EMISSION_COLUMNS, METER_FIELDS, emission_cells, meter_cells
from joulebench.schema.reasons import Reason
from joulebench.schema.result import Attribution, Measurement, MeterResult, TaskResult

BATCH_ROWS = 5_000
ROW_FIELDS = (
    "joules",
    "low_joules",
    "high_joules",
    "mean_watts",
    "attributed_joules",
    "overlap_fraction",
    "throttled_seconds",
    "coverage",
    "samples",
    "quality",
    "reasons",
    "simulated",
    "device_basis",
    "devices",
)

Progress = Callable[[str, int, int], None]

_NO_PHASES = PhaseEnergy(missing("none", ()), {}, None, None, None)
_NO_GAUGES = Gauges(None, None, None, None)


@dataclass(frozen=True, slots=True)
class AnnotateOptions:
    """``start`` and ``end``: columns with the times. ``out`` None: in place. ``devices``: the GPUs that served, all where none is
    named. ``server``: HOST:PORT or URL of the model server, whose GPUs in each row's window are looked up in Prometheus;
    ``used_now``: returns those that it uses now, for a Prometheus that knows them of no row. ``emissions``: factors of what a kWh
    emits."""

    path: Path
    start: str
    end: str
    out: Path | None = None
    devices: tuple[DeviceName, ...] = ()
    server: str | None = None
    used_now: Callable[[], tuple[DeviceName, ...]] | None = None
    instance: str | None = None
    meters: tuple[Meter, ...] = ()
    emissions: Mapping[str, EmissionFactor] = field(default_factory=dict)
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Annotated:
    """``times``: how the times of both columns were read. ``qualities``: rows by the quality of their GPU energy."""

    path: Path
    rows: int
    times: tuple[str, str]
    qualities: Mapping[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Windows:
    """Times of all rows, NaN where a row has none; ``usable``: rows whose window does not end before it starts."""

    starts: Floats
    ends: Floats
    usable: np.ndarray[Any, np.dtype[np.bool_]]
    forms: tuple[str, str]


def annotate(
    options: AnnotateOptions, api: PrometheusApi, clock: Clock | None = None, progress: Progress | None = None
) -> Annotated:
    """Writes the table. Raises UserError for a table that cannot be read and PrometheusError; then nothing is written."""
    clock, report = clock or SystemClock(), progress or (lambda *_: None)
    rows = open_rows(options.path)
    windows = _read_windows(rows, options)
    places = np.flatnonzero(windows.usable)
    spans = list(zip(windows.starts[places].tolist(), windows.ends[places].tolist(), strict=True))
    notes = []
    if spans and not wait_until_settled(api, max(end for _, end in spans), options.wait, clock):
        notes.append(f"Prometheus had not scraped all of it after {options.wait:g} s; a later run may know more")
    equal = {"instance": options.instance} if options.instance else {}
    stored = fetch_samples(api, spans, equal, step=lambda done, of: report("reading samples", done, of)).gpus
    served, served_notes = _serving_devices(options, api, spans, stored)
    notes += served_notes
    gpus = _chosen_gpus(served.named, stored)
    if spans and not gpus:
        notes.append("no GPU is known in this time: the exporter was not scraped, or its samples are gone")
    meters = fetch_meters(api, options.meters, spans)
    factors, factor_notes = fetch_factors(api, options.emissions, spans)
    notes += [*meters.notes, *factor_notes, *(f"Prometheus warns: {warning}" for warning in api.warnings)]
    annotator = _Annotator(windows, served, gpus, meters, factors)
    metered = (f"meter_{meter.name}_{name}" for meter in options.meters for name in METER_FIELDS)
    emitted = (name for name, (kind, _) in EMISSION_COLUMNS.items() if kind in options.emissions)
    columns = [*ROW_FIELDS, *metered, *emitted]
    qualities: Counter[str] = Counter()
    target = options.out or options.path
    with open_atomic(target, option="--out" if options.out else "FILE") as raw:
        out = io.BufferedWriter(raw, 1 << 20)
        rows.write(out, columns, _counted(annotator.cells(report), qualities))
        out.flush()
        out.detach()
    return Annotated(target, len(windows.starts), windows.forms, dict(qualities), tuple(notes))


def _read_windows(rows: RowFile, options: AnnotateOptions) -> _Windows:
    names = ((options.start, "--start"), (options.end, "--end"))
    readers: list[TimeReader | None] = [None, None]
    columns: list[list[float]] = [[], []]
    seen = 0
    for cells in rows.times(options.start, options.end):
        seen += 1
        for place, cell in enumerate(cells):
            time = None
            if cell is not None and cell != "":
                reader = readers[place] = readers[place] or detect_times(cell, f"{names[place][1]} {names[place][0]}")
                time = reader.read(cell)
            columns[place].append(np.nan if time is None else time)
    for (name, option), found in zip(names, readers, strict=True):
        if found is None and seen:
            raise UserError(f"{option}: no row of {options.path} has a time in {name!r}")
    starts, ends = (np.array(column, np.float64) for column in columns)
    with np.errstate(invalid="ignore"):
        usable = ends >= starts
    forms = tuple(found.form if found else "no times" for found in readers)
    return _Windows(starts, ends, usable, (forms[0], forms[1]))


@dataclass(frozen=True, slots=True)
class _Served:
    """The devices that served. ``named``: the same for all rows, all where none is; ``basis``: how those are known, ``declared``
    or ``observed``. ``of_rows``: those that the server used in the window of each row with one; empty where that is not known."""

    named: tuple[DeviceName, ...] = ()
    basis: str = "declared"
    of_rows: Sequence[tuple[ObservedDevice, ...]] = ()


def _serving_devices(
    options: AnnotateOptions, api: PrometheusApi, spans: Sequence[Window], stored: Sequence[GpuSamples]
) -> tuple[_Served, list[str]]:
    """(the devices, notes). Raises UserError for an address that is none, and where nothing knows the GPUs of the server."""
    if options.devices or options.server is None:
        return _Served(options.devices), []
    equal = {"instance": options.instance} if options.instance else {}
    rows = [Task(TaskKey(str(row), ""), TaskValues(start=start, end=end), {}) for row, (start, end) in enumerate(spans)]
    tasks, notes = observe_devices(api, rows, stored, options.server, equal=equal)
    of_rows = [task.observed_devices for task in tasks]
    unknown = sum(not devices for devices in of_rows)
    if unknown < len(of_rows):
        if unknown:
            notes.append(f"{unknown:,} rows: Prometheus does not know which GPUs {options.server} used, so all are assumed")
        return _Served(of_rows=of_rows), notes
    if options.used_now is None:
        return _Served(), notes
    notes.append(f"Prometheus does not know which GPUs {options.server} used in these windows; those that it uses now are taken")
    return _Served(options.used_now(), "observed"), notes


def _chosen_gpus(names: tuple[DeviceName, ...], stored: Sequence[GpuSamples]) -> list[GpuSamples]:
    if not names:
        return list(stored)
    chosen = {device.uuid for device in resolve_devices(names, stored_devices(stored), "--gpus")}
    return [gpu for gpu in stored if gpu.uuid in chosen]


def _counted(cells: Iterator[Cells], qualities: Counter[str]) -> Iterator[Cells]:
    for one in cells:
        qualities[str(one["quality"])] += 1
        yield one


@dataclass(frozen=True, slots=True)
class _GpuShares:
    """What rows share of one GPU. ``place``: of each row of the table among the rows that it served."""

    time: SharedTime
    shares: EqualShares | None
    place: np.ndarray[Any, np.dtype[np.int64]]

    def overlap(self, row: int) -> float:
        return float(self.time.overlap[self.place[row]])

    def share(self, row: int) -> Share:
        return _share(self.shares, self.place[row])


class _Annotator:
    """The cells of every row, batch after batch; the shares of all rows are worked out at once, as columns."""

    def __init__(
        self,
        windows: _Windows,
        served: _Served,
        gpus: Sequence[GpuSamples],
        meters: MeterSamples,
        factors: Sequence[FactorSamples],
    ) -> None:
        self._windows = windows
        self._served = served
        self._gpus = gpus
        self._meters = meters
        self._factors = factors
        self._uuids = frozenset(gpu.uuid for gpu in gpus)
        usable = windows.usable
        self._shared = shared_time(windows.starts[usable], windows.ends[usable]) if usable.any() else None
        self._place = np.cumsum(usable) - 1
        self._gpu_shares = {gpu.uuid: self._shares_of(gpu) for gpu in gpus}
        self._task = self._metered(0.0, 0.0)
        self._meter_shares = {meter.name: self._series_shares(meter.name) for meter in meters.meters}

    def _shares_of(self, gpu: GpuSamples) -> _GpuShares | None:
        """Of the rows that the GPU served, and of those whose GPUs are not known."""
        usable = self._windows.usable
        if self._shared is None:
            return None
        if not self._served.of_rows:
            return _GpuShares(self._shared, _shares(gpu.energy, self._shared), self._place)
        own = [not devices or any(device.counter == gpu.uuid for device in devices) for devices in self._served.of_rows]
        if not any(own):
            return None
        served = np.zeros(len(usable), np.bool_)
        served[np.flatnonzero(usable)[own]] = True
        shared = shared_time(self._windows.starts[served], self._windows.ends[served])
        return _GpuShares(shared, _shares(gpu.energy, shared), np.cumsum(served) - 1)

    def _metered(self, start: float, end: float) -> MeteredTask:
        return metered_task(self._row_task(start, end), self._uuids or None, self._gpus)

    def _series_shares(self, name: str) -> list[EqualShares | None]:
        series = self._meters.series.get(name, ())
        chosen = choose_series(series, self._task.hosts, self._task.uuids)
        return [_shares(series[place].curve, self._shared) for place in chosen.places]

    def _row_task(self, start: float, end: float, devices: tuple[ObservedDevice, ...] = ()) -> Task:
        begins, ends = (None if np.isnan(time) else float(time) for time in (start, end))
        declared = self._served.named if self._gpus else ()
        times = TaskValues(start=begins, end=ends)
        return Task(TaskKey("", ""), times, {}, declared_devices=declared, observed_devices=devices)

    def _devices_of(self, row: int) -> tuple[ObservedDevice, ...]:
        usable = self._served.of_rows and self._windows.usable[row]
        return self._served.of_rows[self._place[row]] if usable else ()

    def cells(self, report: Progress) -> Iterator[Cells]:
        count = len(self._windows.starts)
        for begin in range(0, count, BATCH_ROWS):
            batch = range(begin, min(begin + BATCH_ROWS, count))
            yield from self._batch(batch)
            report("computing and writing", batch.stop, count)

    def _batch(self, batch: range) -> Iterator[Cells]:
        tasks = [self._row_task(self._windows.starts[i], self._windows.ends[i], self._devices_of(i)) for i in batch]
        timed = [(task, window) for task in tasks if (window := task.window) is not None]
        windows = [window for _, window in timed]
        by_gpu = [self._readings(gpu, timed) for gpu in self._gpus]
        metered = meter_results(self._meters, [self._metered(*window) for window in windows], shares=False)
        place = -1
        for i, task in zip(batch, tasks, strict=True):
            if task.window is None:
                yield self._cells(i, task, (), {})
                continue
            place += 1
            yield self._cells(i, task, [readings[place] for readings in by_gpu], metered[place])

    @staticmethod
    def _readings(gpu: GpuSamples, timed: Sequence[tuple[Task, tuple[float, float]]]) -> list[GpuReadings]:
        windows = [window for _, window in timed]
        energies = window_energies(gpu.energy, windows, method=gpu.method or "counter")
        slowed = throttled_by_reason(gpu, windows)
        doubtful = [len(gpu.clock_steps) > 0 and is_on_two_clocks(task, gpu) for task, _ in timed]
        # As the export has it: None where the store has no counter, and nothing known where its clock jumped.
        known = bool(len(gpu.energy.at))
        return [
            GpuReadings(gpu, _stored_energy(energy, known, doubt), (), (), _NO_PHASES, _NO_GAUGES, throttled, None)
            for energy, throttled, doubt in zip(energies, slowed, doubtful, strict=True)
        ]

    def _cells(self, row: int, task: Task, readings: Sequence[GpuReadings], meters: Mapping[str, MeterResult]) -> Cells:
        if task.observed_devices:
            counters = {device.counter for device in task.observed_devices}
            readings = [one for one in readings if one.samples.uuid in counters]
        found = task_energy(task, readings, Reason.NO_SAMPLES, self._uuids if task.declared_devices else None)
        energy, window = found.total, task.window
        quality, reasons, attributed = energy.quality, list(energy.reasons), energy.joules
        overlap, all_rows_overlap = None, 0.0
        if self._shared is not None and window is not None:
            all_rows_overlap = float(self._shared.overlap[self._place[row]])
            own = [shares for one in readings if (shares := self._gpu_shares[one.samples.uuid]) is not None]
            overlap = max((shares.overlap(row) for shares in own), default=all_rows_overlap)
            if overlap:
                quality, reasons = max(quality, "suspect", key=QUALITIES.index), [*reasons, Reason.OVERLAP]
                # Of a part of a GPU its equal shares say nothing.
                in_part = any(device.is_shared or device.parent for device in task.observed_devices)
                attributed = None if in_part else total_share(shares.share(row) for shares in own).attributed
        for name, result in meters.items():
            parts = [_share(shares, self._place[row]) for shares in self._meter_shares[name]]
            charge_share(result, total_share(parts), all_rows_overlap, METHODS[-1])
        measured = Measurement(
            joules=energy.joules,
            low_joules=energy.low,
            high_joules=energy.high,
            quality=quality,
            reasons=list(map(str, reasons)),
            simulated=found.simulated,
        )
        seconds = 0.0 if window is None else window[1] - window[0]
        return {
            "joules": energy.joules,
            "low_joules": energy.low,
            "high_joules": energy.high,
            "mean_watts": None if energy.joules is None or not seconds else energy.joules / seconds,
            "attributed_joules": attributed,
            "overlap_fraction": overlap,
            "throttled_seconds": throttled_seconds(most_throttled([one.throttled for one in readings])) if readings else None,
            "coverage": energy.coverage,
            "samples": energy.samples,
            "quality": quality,
            "reasons": ";".join(map(str, reasons)),
            "simulated": found.simulated,
            "device_basis": self._served.basis if found.basis == "declared" else found.basis,
            "devices": " ".join(gpu.uuid for gpu in found.gpus) or None,
            **meter_cells(meters),
            **self._emission_cells(measured, Attribution(overlap_fraction=overlap, attributed=attributed), meters, window),
        }

    def _emission_cells(
        self, measured: Measurement, attribution: Attribution, meters: Mapping[str, MeterResult], window: Window | None
    ) -> Cells:
        if not self._factors:
            return {}
        result = TaskResult(measurement=measured, attribution=attribution, meters=dict(meters))
        return emission_cells(emission_results(self._factors, result, window))


def _stored_energy(energy: WindowEnergy, known: bool, doubtful: bool) -> WindowEnergy | None:
    if not known:
        return None
    return missing(energy.method, (Reason.CLOCK_STEP,)) if doubtful else energy


def _shares(curve: EnergyCurve, shared: SharedTime | None) -> EqualShares | None:
    return equal_shares(curve, shared) if shared is not None and curve.is_known else None


def _share(shares: EqualShares | None, place: int) -> Share:
    if shares is None:
        return Share(None, None, None, None)
    attributed, upper = (None if np.isnan(one[place]) else float(one[place]) for one in (shares.attributed, shares.upper))
    return Share(float(shares.lower[place]), attributed, attributed, upper)
