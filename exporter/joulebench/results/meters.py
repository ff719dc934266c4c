"""The joules of other meters over the windows of tasks: CPU, memory, module, host and wall, by the estimator of the GPUs.

Each meter is fetched by one query for each chunk of time, for all tasks together. Each series of it becomes an energy curve. A
task has the series of its hosts, or of its own GPUs where the series name GPUs; tasks at the same time share each series, so
that their shares add up to what the series counted.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from joulebench.clients.matrix import Column
from joulebench.clients.prometheus import PrometheusApi
from joulebench.devices import parse_ip
from joulebench.energy.allocation import METHODS, Share, total_share
from joulebench.energy.attribution import attribute
from joulebench.energy.bins import TaskWork
from joulebench.energy.calls import LlmCall
from joulebench.energy.curve import GAP_FACTOR, EnergyCurve, Flags, Floats
from joulebench.energy.estimator import window_energies
from joulebench.energy.plausibility import checked_curve
from joulebench.energy.power_gauge import GaugeCurve
from joulebench.energy.window import QUALITIES, WindowEnergy, missing, total
from joulebench.errors import PrometheusError
from joulebench.meters import EVERY_HOST, Meter
from joulebench.results import queries
from joulebench.results.attribution import llm_calls
from joulebench.results.fetch import CHUNK_SECONDS, NO_CURVE, PAD_SECONDS, GpuSamples, chunks, fetch_in_parts, union
from joulebench.results.task import Task
from joulebench.results.timeseries import TimeSeries, Window
from joulebench.results.window_record import window_record
from joulebench.schema.reasons import Reason
from joulebench.schema.result import MeterResult
from joulebench.settings import is_loopback

PAD_INTERVALS = 4.0
"""Usual intervals fetched before and after a window: an edge needs its neighbours, and a counter that fell three samples."""
SCRAPE_SECONDS = 0.05
"""How far from the time of its scrape a value may have been read."""
UNEXPECTED_INTERVAL = 2.0
SCRAPER_LABELS = ("job", "prometheus_replica", "replica", "__replica__")
"""Labels that say who scraped a series and not what it is of: the job, and the usual external labels of replicas of Prometheus
that a store beyond them keeps apart."""

COUNTER, INTEGRATED = "counter", "integrated"


@dataclass(frozen=True, slots=True)
class MeterSeries:
    """One series of a meter. ``host``: ``*`` where it counts for every host. ``device``: UUID of its GPU, None without."""

    meter: Meter
    host: str
    device: str | None
    curve: EnergyCurve

    @property
    def method(self) -> str:
        return COUNTER if self.meter.kind == "counter" else INTEGRATED


@dataclass(frozen=True, slots=True)
class MeterSamples:
    """``series``: by name of the meter, with every one of ``meters``. ``failures``: why a meter could not be fetched."""

    meters: Sequence[Meter] = ()
    series: Mapping[str, Sequence[MeterSeries]] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class MeteredTask:
    """A task, or another window, that meters are read for. ``hosts``: those that its GPUs are in; ``uuids``: of these GPUs.

    ``calls`` None: not known; it counts as one call in flight all the time.
    """

    key: str
    start: float
    end: float
    hosts: frozenset[str] = frozenset()
    uuids: frozenset[str] | None = None
    calls: Sequence[LlmCall] | None = None


# --- samples ------------------------------------------------------------------------------------------------------------------


def fetch_meters(
    api: PrometheusApi, meters: Sequence[Meter], windows: Sequence[Window], *, chunk: float = CHUNK_SECONDS
) -> MeterSamples:
    """The samples of all meters around the windows. A meter that cannot be fetched has a failure and no series."""
    series: dict[str, Sequence[MeterSeries]] = {}
    failures: dict[str, str] = {}
    notes = []
    for meter in meters:
        pad = max(PAD_SECONDS, PAD_INTERVALS * max(meter.interval_seconds, meter.update_seconds))
        try:
            columns = [
                column
                for start, end in chunks(union(windows, pad), chunk)
                for column in fetch_columns(api, meter.query, start, end)
            ]
        except PrometheusError as error:
            failures[meter.name] = str(error)
            series[meter.name] = ()
            notes.append(f"meter {meter.name}: Prometheus failed: {error}")
            continue
        joined = list(join_columns(columns))
        series[meter.name] = [_meter_series(meter, labels, samples) for labels, samples in joined]
        notes += _sample_notes(meter, [samples for _, samples in joined], bool(windows))
    return MeterSamples(tuple(meters), series, failures, tuple(notes))


def fetch_columns(api: PrometheusApi, selector: str, start: float, end: float) -> list[Column]:
    """Stored samples of the series. Raises PrometheusError. A store that refuses to load so much at once is asked for halves."""

    def fetch(start: float, end: float) -> list[Column]:
        query = queries.raw_selector(selector.strip(), end - start)
        return api.columns(api.raw(query, end), query)

    return [column for part in fetch_in_parts(fetch, start, end) for column in part]


def join_columns(columns: Sequence[Column]) -> Iterator[tuple[Mapping[str, str], TimeSeries]]:
    """(labels, samples) of each series over all chunks. What two jobs, or two replicas of Prometheus, scraped of one target is
    one series, as the one with more samples stored it."""
    parts: defaultdict[tuple[tuple[str, str], ...], defaultdict[tuple[str, ...], list[TimeSeries]]]
    parts = defaultdict(lambda: defaultdict(list))
    for column in columns:
        finite = np.isfinite(column.value)
        identity = tuple(
            sorted((name, text) for name, text in column.labels.items() if name not in ("__name__", *SCRAPER_LABELS))
        )
        scraper = tuple(column.labels.get(name, "") for name in SCRAPER_LABELS)
        parts[identity][scraper].append(TimeSeries(column.at[finite], column.value[finite]))
    for identity, scrapers in sorted(parts.items()):
        yield dict(identity), max((TimeSeries.joined(some) for some in scrapers.values()), key=len)


def _sample_notes(meter: Meter, samples: Sequence[TimeSeries], asked: bool) -> Iterator[str]:
    if asked and not samples:
        yield f"meter {meter.name}: Prometheus has no series {meter.query.strip()}; correct the query or take the meter out"
    usual = [float(np.median(np.diff(one.at))) for one in samples if len(one) > 2]
    if usual and max(usual) > UNEXPECTED_INTERVAL * meter.interval_seconds:
        yield (
            f"meter {meter.name}: samples come every {max(usual):.3g} s, not every {meter.interval_seconds:g} s as"
            " interval_seconds has it; scrape it more often or correct that"
        )


def _meter_series(meter: Meter, labels: Mapping[str, str], samples: TimeSeries) -> MeterSeries:
    value = labels.get(meter.host_label, "")
    host = meter.host or meter.hosts.get(value) or meter.hosts.get(_host_name(value)) or value
    device = None if meter.device_label is None else labels.get(meter.device_label, "")
    curve = counter_curve(meter, samples) if meter.kind == "counter" else gauge_curve(meter, samples)
    return MeterSeries(meter, host, device, curve)


def counter_curve(meter: Meter, samples: TimeSeries) -> EnergyCurve:
    """The energy curve of a counter as it was scraped.

    Where the exporter repeats a value for some time (``update_seconds``), only changes count: the counter stood at the new value
    at some time since the scrape before, and at most that long ago.
    """
    values, anew = _unwrapped(samples, meter)
    at, joules = samples.at, values * meter.factor
    lateness = np.zeros(len(at))
    if meter.update_seconds and len(at):
        changed = (np.diff(joules) != 0) | anew[1:]
        lateness = np.minimum(np.diff(at)[changed], meter.update_seconds) / 2
        at, joules, anew = at[1:][changed] - lateness, joules[1:][changed], anew[1:][changed]
    if len(at) < 2:
        return NO_CURVE
    return checked_curve(at, joules, lateness + SCRAPE_SECONDS, meter.max_watts, np.flatnonzero(anew).tolist())


def _unwrapped(samples: TimeSeries, meter: Meter) -> tuple[Floats, Flags]:
    """Values that go on where the counter began at 0 again since it was full, and where they begin anew as it is unknown how
    often it did so meanwhile. Any other fall stays."""
    values = samples.value
    if meter.wraps_at is None or len(values) < 2:
        return values, np.zeros(len(values), np.bool_)
    rises = np.diff(values)
    possible = meter.max_watts / meter.factor * (np.diff(samples.at) + 2 * (SCRAPE_SECONDS + meter.update_seconds))
    # The fewest joules that explain the step, and whether the counter can have been full once more.
    least = np.where(rises < 0, rises + meter.wraps_at, rises)
    unsure = least + meter.wraps_at <= possible
    wrapped = (rises < 0) & (least >= 0) & (least <= possible) & ~unsure
    found: Floats = values + meter.wraps_at * np.concatenate(([0.0], np.cumsum(wrapped)))
    return found, np.concatenate(([False], unsure))


def gauge_curve(meter: Meter, samples: TimeSeries) -> EnergyCurve:
    """The energy curve of a power gauge; samples outside the plausible range are left out, and steps of more than ``GAP_FACTOR``
    usual intervals are gaps."""
    watts = samples.value * meter.factor
    possible = (watts >= meter.min_watts) & (watts <= meter.max_watts)
    at, glitches = samples.at[possible], samples.at[~possible]
    if len(at) < 2:
        return NO_CURVE
    usual = max(meter.interval_seconds, float(np.median(np.diff(at))))
    lateness = meter.update_seconds / 2
    return GaugeCurve(at - lateness, watts[possible], GAP_FACTOR * usual, lateness, glitches.tolist())


# --- which series a task has --------------------------------------------------------------------------------------------------


def _host_name(text: str) -> str:
    """A host without its port, in small letters; all names of this machine are one."""
    name = text.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name and is_loopback(name):
        return "localhost"
    address = parse_ip(name)
    return name if address is None else str(address)


def is_same_host(one: str, other: str) -> bool:
    """Whether two addresses name one host: equal without ports, or one is the other without its domain."""
    a, b = _host_name(one), _host_name(other)
    if a == b:
        return True
    if ("." in a and "." in b) or _is_address(a) or _is_address(b):
        return False
    return bool(a and b) and a.partition(".")[0] == b.partition(".")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class SeriesChoice:
    """The series of a task, by their place in the list, and why they may not be all or not the right ones."""

    places: tuple[int, ...]
    reasons: tuple[str, ...] = ()


def choose_series(series: Sequence[MeterSeries], hosts: frozenset[str], uuids: frozenset[str] | None) -> SeriesChoice:
    if not series:
        return SeriesChoice((), (Reason.NO_SAMPLES,))
    if series[0].meter.device_label is not None:
        return _choose_devices(series, uuids)
    everywhere = tuple(place for place, one in enumerate(series) if one.host == EVERY_HOST)
    if everywhere:
        return SeriesChoice(everywhere)
    if not hosts:
        if len({_host_name(one.host) for one in series}) > 1:
            return SeriesChoice((), (Reason.HOST_UNKNOWN,))
        return SeriesChoice(tuple(range(len(series))), (Reason.HOST_ASSUMED,))
    places = tuple(place for place, one in enumerate(series) if any(is_same_host(host, one.host) for host in hosts))
    covered = all(any(is_same_host(host, series[place].host) for place in places) for host in hosts)
    return SeriesChoice(places, () if covered else (Reason.HOST_WITHOUT_METER,))


def _choose_devices(series: Sequence[MeterSeries], uuids: frozenset[str] | None) -> SeriesChoice:
    if uuids is None:
        return SeriesChoice((), (Reason.HOST_UNKNOWN,))
    places = tuple(place for place, one in enumerate(series) if one.device in uuids)
    covered = uuids <= {series[place].device for place in places}
    return SeriesChoice(places, () if covered and uuids else (Reason.HOST_WITHOUT_METER,))


# --- joules of tasks ----------------------------------------------------------------------------------------------------------


def meter_results(samples: MeterSamples, tasks: Sequence[MeteredTask], *, shares: bool = True) -> list[dict[str, MeterResult]]:
    """By task, in their order: the result of every meter by its name. ``shares`` False: no part of time that tasks share."""
    choices = {meter.name: _choices(samples.series.get(meter.name, ()), tasks) for meter in samples.meters}
    attributed = _attribute(samples, tasks, choices) if shares else {}
    found: list[dict[str, MeterResult]] = [{} for _ in tasks]
    for meter in samples.meters:
        series = samples.series.get(meter.name, ())
        energies = _series_energies(series, tasks, choices[meter.name])
        for index, (task, choice) in enumerate(zip(tasks, choices[meter.name], strict=True)):
            reasons = (Reason.PROMETHEUS_FAILED,) if meter.name in samples.failures else choice.reasons
            parts = [energies[place][index] for place in choice.places]
            energy = _task_energy(meter, parts, reasons, task.end - task.start)
            hosts = sorted({series[place].host for place in choice.places})
            result = _meter_result(meter, energy, task.end - task.start)
            result.hosts, result.series = hosts, len(choice.places)
            if (own := attributed.get((meter.name, index))) is not None:
                charge_share(result, own.share, own.overlap_fraction, own.method)
            found[index][meter.name] = result
    return found


def _choices(series: Sequence[MeterSeries], tasks: Sequence[MeteredTask]) -> list[SeriesChoice]:
    known: dict[tuple[frozenset[str], frozenset[str] | None], SeriesChoice] = {}
    for task in tasks:
        where = (task.hosts, task.uuids)
        if where not in known:
            known[where] = choose_series(series, *where)
    return [known[task.hosts, task.uuids] for task in tasks]


def _series_energies(
    series: Sequence[MeterSeries], tasks: Sequence[MeteredTask], choices: Sequence[SeriesChoice]
) -> dict[int, dict[int, WindowEnergy]]:
    """By place of the series and of the task, for the series that each task has."""
    found = {}
    for place, one in enumerate(series):
        indices = [index for index, choice in enumerate(choices) if place in choice.places]
        windows = [(tasks[index].start, tasks[index].end) for index in indices]
        energies = window_energies(one.curve, windows, method=one.method)
        found[place] = dict(zip(indices, energies, strict=True))
    return found


def _task_energy(meter: Meter, parts: Sequence[WindowEnergy], reasons: tuple[str, ...], seconds: float) -> WindowEnergy:
    if not parts:
        return missing("none", reasons or (Reason.NO_SAMPLES,))
    energy = total(_with_sensor_error(_gauge_energy(part, meter, seconds), meter) for part in parts)
    if Reason.HOST_WITHOUT_METER in reasons:
        energy = replace(energy, joules=None, high=None, quality="missing")
    elif reasons:
        energy = replace(energy, quality=max(energy.quality, "suspect", key=QUALITIES.index))
    return replace(energy, reasons=(*energy.reasons, *reasons)) if reasons else energy


def _gauge_energy(energy: WindowEnergy, meter: Meter, seconds: float) -> WindowEnergy:
    """The energy of a gauge; that of a counter is returned as it is.

    What divides its curve is no counter that began anew but a gap. A window with fewer than two samples may have held any power
    in the plausible range, and of one without a sample nothing is known.
    """
    if energy.method == COUNTER:
        return energy
    reasons = tuple(dict.fromkeys(Reason.GAP if reason == Reason.RESET else reason for reason in energy.reasons))
    energy = replace(energy, resets=0, reasons=reasons)
    if energy.joules is None or energy.samples >= 2:
        return energy
    if not energy.samples:
        reasons = (*(reason for reason in reasons if reason != Reason.SHORT), Reason.NO_SAMPLES)
        return replace(energy, joules=None, low=None, high=None, quality="missing", reasons=reasons)
    return replace(energy, low=meter.min_watts * seconds, high=meter.max_watts * seconds)


def _with_sensor_error(energy: WindowEnergy, meter: Meter) -> WindowEnergy:
    if not meter.error_ratio:
        return energy
    low = None if energy.low is None else energy.low * (1 - meter.error_ratio)
    high = None if energy.high is None else energy.high * (1 + meter.error_ratio)
    return replace(energy, low=low, high=high)


@dataclass(frozen=True, slots=True)
class _Attributed:
    share: Share
    overlap_fraction: float
    method: str


def _attribute(
    samples: MeterSamples, tasks: Sequence[MeteredTask], choices: Mapping[str, Sequence[SeriesChoice]]
) -> dict[tuple[str, int], _Attributed]:
    """By meter and task. Each series is shared by all tasks that have it; series with the same tasks are shared out at once."""
    by_tasks: defaultdict[tuple[int, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, of_tasks in choices.items():
        for place in range(len(samples.series.get(name, ()))):
            indices = tuple(index for index, choice in enumerate(of_tasks) if place in choice.places)
            if indices:
                by_tasks[indices].append((name, place))
    parts: defaultdict[tuple[str, int], list[_Attributed]] = defaultdict(list)
    for indices, sources in by_tasks.items():
        curves = {f"{name}/{place}": samples.series[name][place].curve for name, place in sources}
        work = [TaskWork(tasks[i].key, tasks[i].start, tasks[i].end, tasks[i].calls) for i in indices]
        done = attribute(curves, work)
        for index, share in zip(indices, done.tasks, strict=True):
            for name, place in sources:
                parts[name, index].append(_Attributed(share.gpus[f"{name}/{place}"], share.overlap_fraction, share.method))
    return {
        where: _Attributed(
            total_share(part.share for part in some),
            max(part.overlap_fraction for part in some),
            max((part.method for part in some), key=METHODS.index),
        )
        for where, some in parts.items()
    }


def _meter_result(meter: Meter, energy: WindowEnergy, seconds: float) -> MeterResult:
    result = window_record(energy, MeterResult)
    result.scope, result.kind, result.simulated = meter.scope, meter.kind, meter.simulated
    result.mean_watts = None if energy.joules is None or seconds <= 0 else energy.joules / seconds
    result.attributed_joules = energy.joules
    return result


def charge_share(result: MeterResult, share: Share, overlap_fraction: float, method: str) -> None:
    """Puts the share of a task into its result; where no other task had the same series, all of its window is its own."""
    result.overlap_fraction = overlap_fraction
    if not overlap_fraction:
        return
    complete = Reason.HOST_WITHOUT_METER not in result.reasons
    result.attributed_joules = share.attributed if complete else None
    result.attributed_low_joules, result.attributed_high_joules = share.lower, share.upper if complete else None
    result.attribution_method = method
    result.quality = max(result.quality or "missing", "suspect", key=QUALITIES.index)
    result.reasons = [*result.reasons, str(Reason.OVERLAP)]


def metered_task(task: Task, uuids: Collection[str] | None, gpus: Sequence[GpuSamples]) -> MeteredTask:
    """``task``: with a window. ``uuids``: its GPUs, None where not known. Its hosts are those of the exporters that answered for
    it, else those whose targets the samples of its GPUs come from."""
    assert task.window is not None
    addresses = {answer.host for answer in task.exporter_energy if answer.host}
    if not addresses:
        addresses = {name for gpu in gpus if uuids is None or gpu.uuid in uuids for name in gpu.instances}
    start, end = task.window
    return MeteredTask(
        str(task.key),
        start,
        end,
        frozenset(filter(None, map(_host_name, addresses))),
        frozenset(gpu.uuid for gpu in gpus) or None if uuids is None else frozenset(uuids),
        llm_calls(task.events, end) if task.events else None,
    )
