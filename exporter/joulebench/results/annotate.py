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
from joulebench.results.merge import Task, TaskKey, TaskValues
from joulebench.results.meters import (
    MeteredTask,
    MeterSamples,
    charge_share,
    choose_series,
    fetch_meters,
    meter_results,
    metered_task,
)
from joulebench.results.row_files import Cells, RowFile, TimeReader, detect_times, open_rows
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
    named; ``basis``: how they are known, ``declared`` or ``observed``. ``emissions``: factors of what a kWh emits."""

    path: Path
    start: str
    end: str
    out: Path | None = None
    devices: tuple[DeviceName, ...] = ()
    basis: str = "declared"
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
    gpus = _chosen_gpus(options.devices, stored)
    if spans and not gpus:
        notes.append("no GPU is known in this time: the exporter was not scraped, or its samples are gone")
    meters = fetch_meters(api, options.meters, spans)
    factors, factor_notes = fetch_factors(api, options.emissions, spans)
    notes += [*meters.notes, *factor_notes, *(f"Prometheus warns: {warning}" for warning in api.warnings)]
    annotator = _Annotator(options, windows, gpus, meters, factors)
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


def _chosen_gpus(names: tuple[DeviceName, ...], stored: Sequence[GpuSamples]) -> list[GpuSamples]:
    if not names:
        return list(stored)
    chosen = {device.uuid for device in resolve_devices(names, stored_devices(stored), "--gpus")}
    return [gpu for gpu in stored if gpu.uuid in chosen]


def _counted(cells: Iterator[Cells], qualities: Counter[str]) -> Iterator[Cells]:
    for one in cells:
        qualities[str(one["quality"])] += 1
        yield one


class _Annotator:
    """The cells of every row, batch after batch; the shares of all rows are worked out at once, as columns."""

    def __init__(
        self,
        options: AnnotateOptions,
        windows: _Windows,
        gpus: Sequence[GpuSamples],
        meters: MeterSamples,
        factors: Sequence[FactorSamples],
    ) -> None:
        self._options = options
        self._windows = windows
        self._gpus = gpus
        self._meters = meters
        self._factors = factors
        self._uuids = frozenset(gpu.uuid for gpu in gpus)
        usable = windows.usable
        self._shared = shared_time(windows.starts[usable], windows.ends[usable]) if usable.any() else None
        self._place = np.cumsum(usable) - 1
        self._gpu_shares = [_shares(gpu.energy, self._shared) for gpu in gpus]
        self._task = self._metered(0.0, 0.0)
        self._meter_shares = {meter.name: self._series_shares(meter.name) for meter in meters.meters}

    def _metered(self, start: float, end: float) -> MeteredTask:
        return metered_task(self._row_task(start, end), self._uuids or None, self._gpus)

    def _series_shares(self, name: str) -> list[EqualShares | None]:
        series = self._meters.series.get(name, ())
        chosen = choose_series(series, self._task.hosts, self._task.uuids)
        return [_shares(series[place].curve, self._shared) for place in chosen.places]

    def _row_task(self, start: float, end: float) -> Task:
        begins, ends = (None if np.isnan(time) else float(time) for time in (start, end))
        declared = self._options.devices if self._gpus else ()
        return Task(TaskKey("", ""), TaskValues(start=begins, end=ends), {}, declared_devices=declared)

    def cells(self, report: Progress) -> Iterator[Cells]:
        count = len(self._windows.starts)
        for begin in range(0, count, BATCH_ROWS):
            batch = range(begin, min(begin + BATCH_ROWS, count))
            yield from self._batch(batch)
            report("computing and writing", batch.stop, count)

    def _batch(self, batch: range) -> Iterator[Cells]:
        tasks = [self._row_task(self._windows.starts[i], self._windows.ends[i]) for i in batch]
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
        found = task_energy(task, readings, Reason.NO_SAMPLES, self._uuids if task.declared_devices else None)
        energy, window = found.total, task.window
        quality, reasons, attributed = energy.quality, list(energy.reasons), energy.joules
        overlap = self._overlap(row) if window is not None else None
        if overlap:
            quality, reasons = max(quality, "suspect", key=QUALITIES.index), [*reasons, Reason.OVERLAP]
            attributed = total_share(self._share(shares, row) for shares in self._gpu_shares).attributed
        for name, result in meters.items():
            parts = [self._share(shares, row) for shares in self._meter_shares[name]]
            charge_share(result, total_share(parts), overlap or 0.0, METHODS[-1])
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
            "device_basis": self._options.basis if found.basis == "declared" else found.basis,
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

    def _overlap(self, row: int) -> float:
        assert self._shared is not None
        return float(self._shared.overlap[self._place[row]])

    def _share(self, shares: EqualShares | None, row: int) -> Share:
        if shares is None:
            return Share(None, None, None, None)
        place = self._place[row]
        attributed, upper = (None if np.isnan(one[place]) else float(one[place]) for one in (shares.attributed, shares.upper))
        return Share(float(shares.lower[place]), attributed, attributed, upper)


def _stored_energy(energy: WindowEnergy, known: bool, doubtful: bool) -> WindowEnergy | None:
    if not known:
        return None
    return missing(energy.method, (Reason.CLOCK_STEP,)) if doubtful else energy


def _shares(curve: EnergyCurve, shared: SharedTime | None) -> EqualShares | None:
    return equal_shares(curve, shared) if shared is not None and curve.is_known else None
