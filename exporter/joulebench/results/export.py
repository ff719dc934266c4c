"""The export of a finished run: tasks from journal and Prometheus, energy and statistics, then JSON and CSV.

Each source may be missing. What is lost with it is null and has its reason; what the other one holds is still written. Where the
metering proxy counted the requests of a run and its journal is not at hand, the tasks come from the proxy's metrics alone.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from joulebench import __version__, metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clients.pushgateway import Pushgateway
from joulebench.clock import Clock, SystemClock
from joulebench.devices import DeviceName, resolve_devices
from joulebench.errors import PrometheusError, UserError
from joulebench.files import lock_directory, read_text, write_atomic
from joulebench.meters import EmissionFactor, Meter
from joulebench.results import proxy_metrics, pushed, queries
from joulebench.results.attribution import (
    AttributionGroup,
    attribute_tasks,
    attributions_by_task,
    correct_sensor_lag,
    gpus_by_task,
    stored_devices,
)
from joulebench.results.emissions import fetch_factors
from joulebench.results.fetch import CHUNK_SECONDS, GpuSamples, Samples, fetch_samples, wait_until_scraped
from joulebench.results.journal import Journal, closed_workers, known_runs, load_journals
from joulebench.results.merge import merge_sources
from joulebench.results.meters import fetch_meters, meter_results, metered_task
from joulebench.results.owner_history import observe_devices
from joulebench.results.pushed import PushedTask
from joulebench.results.run_result import TaskSummary, attribution_residual, planned_tasks, run_notes, run_result
from joulebench.results.server_metrics import ServerMetrics, fetch_server_metrics
from joulebench.results.task import Task, TaskKey
from joulebench.results.task_energy import idle_power_by_gpu
from joulebench.results.task_result import ExportContext, task_results
from joulebench.results.write import (
    CALL_TABLE,
    csv_cell,
    merge_rows,
    read_rows,
    result_json,
    result_name,
    run_directory,
    sections_json,
)
from joulebench.schema.call_columns import call_rows
from joulebench.schema.columns import KEY_COLUMNS, CellValue, result_row
from joulebench.schema.reasons import Reason
from joulebench.schema.result import CALLS_CSV_NAME, CSV_NAME, RUN_FILE_NAME, MeterResult, TaskResult

LOOKBACK_SECONDS = 30 * 86400.0
"""How far back a run without a journal is looked for."""
WRITTEN_WITHIN_SECONDS = 1.0
"""After this long a request that the proxy counted is in its journal, if its disk answers."""
RELEASED_AFTER_SECONDS = 60.0
"""After this long the energy of a task has been pushed and scraped too, if it ever will be."""

_FROM_PROXY = (
    "from the proxy's metrics alone: single calls, phases, results of tools and verdicts are not known; a task's window lasts"
    " from the start of its first request to the end of its last one"
)

Progress = Callable[[str, int, int], None]
"""``(what, done, of)``"""


@dataclass(frozen=True, slots=True)
class Options:
    """``instance``: only GPUs of this scrape target, where Prometheus knows several machines. ``wait``: seconds.

    ``devices``: the GPUs that served, in place of those that the run declared; for tasks that no exporter answered for.
    ``server``: HOST:PORT or URL of the model server of runs that did not name theirs; the GPUs that it used count, where they are
    stored.
    ``meters``: other meters whose joules each task gets; ``emissions``: factors of what a kWh emits.
    ``per_call``: write the table of calls, too. ``from_proxy``: take the tasks from the proxy's metrics alone.
    """

    run_id: str
    runs_dir: Path
    out: Path | None = None
    instance: str | None = None
    wait: float = 15.0
    lookback: float = LOOKBACK_SECONDS
    chunk: float = CHUNK_SECONDS
    devices: tuple[DeviceName, ...] = ()
    server: str | None = None
    meters: tuple[Meter, ...] = ()
    emissions: Mapping[str, EmissionFactor] = field(default_factory=dict)
    per_call: bool = False
    from_proxy: bool = False


@dataclass(frozen=True, slots=True)
class Export:
    """``notes``: what was missing or odd, for the user. ``releasable``: tasks whose last state Prometheus holds, and which their
    worker has left. ``closed_workers``: those that have ended or died.

    ``calls_path``: the table of calls, None where it was not asked for.

    ``residual``: joules that the shares of the tasks miss, of the joules that the GPUs counted; None without any.
    """

    rows: list[dict[str, CellValue]]
    csv_path: Path
    json_paths: list[Path]
    notes: list[str] = field(default_factory=list)
    releasable: frozenset[TaskKey] = frozenset()
    closed_workers: frozenset[str] = frozenset()
    residual: tuple[float, float] | None = None
    calls_path: Path | None = None


def export(options: Options, api: PrometheusApi | None, clock: Clock | None = None, progress: Progress | None = None) -> Export:
    """Writes everything. Raises UserError for an unknown run; Prometheus failing is a note, not an error."""
    clock = clock or SystemClock()
    report = progress or _no_progress
    directory = run_directory(options.runs_dir, options.run_id)
    if options.from_proxy and api is None:
        raise UserError("--from proxy: the proxy's metrics are in Prometheus; give its address with --prometheus-url")
    journal = Journal({}, [], 0, 0) if options.from_proxy else load_journals(directory)
    notes = [_FROM_PROXY] if options.from_proxy else _journal_notes(journal, directory)
    stored = _load_from_prometheus(options, api, journal, clock, report)
    if stored.trouble:
        notes.append(stored.trouble)
    tasks = [
        replace(task, reasons=(*task.reasons, Reason.REQUESTS_NOT_JOURNALED)) if task.key in stored.unjournaled else task
        for task in merge_sources(journal, stored.tasks)
    ]
    if options.devices and not all(task.exporter_energy for task in tasks):
        known = stored_devices(stored.samples.gpus) if stored.samples else []
        resolve_devices(options.devices, known, "--gpus")
        tasks = [replace(task, declared_devices=options.devices) for task in tasks]
    tasks, owner_notes = _with_observed_devices(options, api, tasks, stored.samples)
    notes += owner_notes
    if not tasks and not journal.files:
        raise UserError(_unknown_run(options, api, clock.unix()))
    if api is not None:
        notes += [f"Prometheus warns: {warning}" for warning in api.warnings]
    why = Reason.PROMETHEUS_FAILED if stored.trouble else Reason.PROMETHEUS_NOT_ASKED
    idle = idle_power_by_gpu(journal.run_events, tasks)
    gpus = stored.samples.gpus if stored.samples else ()
    correct_sensor_lag(gpus, tasks)
    metered, meter_notes = _meters_of_tasks(options.meters, api, tasks, gpus, options.chunk)
    windows = [task.window for task in tasks if task.window is not None]
    factors, factor_notes = fetch_factors(api, options.emissions, windows, options.chunk)
    notes += [*meter_notes, *factor_notes]
    context = ExportContext(options.run_id, __version__, stored.samples, idle, stored.servers, why.value, metered, factors)
    groups = attribute_tasks(tasks, gpus, {uuid: power.watts for uuid, power in idle.items()})
    notes += [*_missing_task_notes(journal, tasks), *run_notes(groups, idle), *_glitch_notes(gpus)]
    shown = {t.key: t.values.end for t in tasks if t.values.end is not None and t.sources.get("end") in ("both", "prometheus")}
    written = _write(
        options.out or directory,
        _names(tasks),
        _results(tasks, groups, context, report),
        lambda summaries: sections_json(run_result(context, journal, groups, summaries, notes)),
        notes,
        per_call=options.per_call,
    )
    if options.from_proxy:
        return replace(written, residual=attribution_residual(groups))
    closed = closed_workers(directory, clock.unix(), RELEASED_AFTER_SECONDS) if stored.tasks else frozenset()
    return replace(
        written,
        releasable=releasable_tasks(shown, clock.unix()) | {key for key in stored.tasks if key.worker in closed},
        closed_workers=closed,
        residual=attribution_residual(groups),
    )


def _with_observed_devices(
    options: Options, api: PrometheusApi | None, tasks: list[Task], samples: Samples | None
) -> tuple[list[Task], list[str]]:
    """(the tasks, with the devices that their servers used where nothing better is known; notes)."""
    equal = {"instance": options.instance} if options.instance else {}
    gpus = samples.gpus if samples else ()
    return observe_devices(api, tasks, gpus, options.server, equal=equal, chunk=options.chunk)


def _meters_of_tasks(
    meters: Sequence[Meter], api: PrometheusApi | None, tasks: Sequence[Task], gpus: Sequence[GpuSamples], chunk: float
) -> tuple[Mapping[TaskKey, Mapping[str, MeterResult]], list[str]]:
    """(results of all meters by task, notes)."""
    if not meters:
        return {}, []
    if api is None:
        return {}, ["the meters are not known: they are in Prometheus, which was not asked"]
    uuids = gpus_by_task(tasks, stored_devices(gpus))
    timed = [metered_task(task, uuids[task.key], gpus) for task in tasks if task.window is not None]
    samples = fetch_meters(api, meters, [(task.start, task.end) for task in timed], chunk=chunk)
    keys = [task.key for task in tasks if task.window is not None]
    return dict(zip(keys, meter_results(samples, timed), strict=True)), list(samples.notes)


def _no_progress(what: str, done: int, of: int) -> None: ...


def _missing_task_notes(journal: Journal, tasks: Sequence[Task]) -> list[str]:
    """How many of the planned tasks left no trace, such as where the disk was full or a worker died."""
    planned = planned_tasks(journal)
    if planned is None or planned <= len(tasks):
        return []
    unfinished = sum(task.values.end is None for task in tasks)
    begun = f"; {unfinished} of those never ended" if unfinished else ""
    return [f"{planned - len(tasks)} of {planned} planned tasks are missing: {len(tasks)} are known{begun}"]


def _glitch_notes(gpus: Sequence[GpuSamples]) -> list[str]:
    """Samples that were left out since they cannot be true, by GPU."""
    found = []
    for gpu in gpus:
        if gpu.glitches:
            counted = ", ".join(f"{count} of {name}" for name, count in sorted(gpu.glitches.items()))
            found.append(f"GPU {gpu.gpu} ({gpu.uuid}): samples that cannot be true were left out ({counted})")
    return found


def _journal_notes(journal: Journal, directory: Path) -> list[str]:
    notes = []
    if not journal.files:
        notes.append(f"no journal in {directory}: single calls, tools and phases are not known")
    if journal.damaged:
        notes.append(f"{journal.damaged} damaged lines in the journal were left out")
    return notes


@dataclass
class _Stored:
    """What Prometheus has of the run. ``trouble``: what went wrong; empty where nothing did. ``unjournaled``: tasks of the
    benchmark of which the proxy counted more requests than the journals hold."""

    tasks: Mapping[TaskKey, PushedTask] = field(default_factory=dict)
    samples: Samples | None = None
    servers: ServerMetrics = field(default_factory=ServerMetrics)
    trouble: str = ""
    unjournaled: frozenset[TaskKey] = frozenset()


def _load_from_prometheus(
    options: Options, api: PrometheusApi | None, journal: Journal, clock: Clock, report: Progress
) -> _Stored:
    stored, journals_read_at = _Stored(), clock.unix()
    if api is None:
        return stored
    equal = {"instance": options.instance} if options.instance else {}
    try:
        own = merge_sources(journal, {})
        report("waiting for the last scrape", 0, 0)
        if not _wait_until_scraped(api, options, own, clock):
            stored.trouble = f"Prometheus had not scraped all of the run after {options.wait:g} s; a later export may know more"
        load, queried = pushed.load_pushed_tasks, pushed.QUERIES
        if options.from_proxy:
            load, queried = proxy_metrics.load_proxied_tasks, proxy_metrics.QUERIES
        steps = _Steps(report, "reading tasks", queried)
        stored.tasks = load(api, options.run_id, clock.unix(), _lookback(options, own, clock), steps.one)
        if journal.is_proxied:
            # Requests that ended since the journals were read are not missing in them.
            at, lookback = journals_read_at - WRITTEN_WITHIN_SECONDS, _lookback(options, own, clock)
            counted = proxy_metrics.load_proxied_tasks(api, options.run_id, at, lookback)
            alone, stored.unjournaled = proxy_metrics.find_unjournaled_tasks(journal, counted)
            stored.tasks = {**stored.tasks, **alone}
        windows = [task.window for task in merge_sources(journal, stored.tasks) if task.window is not None]
        stored.samples = fetch_samples(
            api, windows, equal, chunk=options.chunk, step=lambda done, of: report("reading samples", done, of)
        )
    except PrometheusError as error:
        stored.trouble = f"Prometheus failed: {error}"
        return stored
    try:
        stored.servers = fetch_server_metrics(api, windows, equal, stored.samples.gpus)
    except PrometheusError as error:
        stored.trouble = f"model servers, links and power limits around the tasks are not known: {error}"
    return stored


def _wait_until_scraped(api: PrometheusApi, options: Options, own: Sequence[Task], clock: Clock) -> bool:
    if options.from_proxy:
        return proxy_metrics.wait_until_proxy_scraped(api, options.run_id, options.wait, clock)
    return wait_until_scraped(api, options.run_id, own, options.wait, clock)


@dataclass
class _Steps:
    report: Progress
    what: str
    of: int
    done: int = 0

    def one(self) -> None:
        self.done += 1
        self.report(self.what, self.done, self.of)


def _lookback(options: Options, own: Sequence[Task], clock: Clock) -> float:
    starts = [task.values.start for task in own if task.values.start is not None]
    return clock.unix() - min(starts) + 60.0 if starts else options.lookback


def _results(
    tasks: Sequence[Task], groups: Sequence[AttributionGroup], context: ExportContext, report: Progress
) -> Iterator[TaskResult]:
    """One after another: all of them would fill the memory."""
    stored = stored_devices(context.samples.gpus) if context.samples else []
    shares, gpus = attributions_by_task(groups), gpus_by_task(tasks, stored)
    results = task_results(tasks, [gpus[t.key] for t in tasks], [shares.get(t.key) for t in tasks], context)
    for done, result in enumerate(results, 1):
        yield result
        report("computing and writing", done, len(tasks))


def _write(
    out: Path,
    names: Sequence[str],
    results: Iterable[TaskResult],
    run_record: Callable[[Sequence[TaskSummary]], bytes],
    notes: list[str],
    *,
    per_call: bool,
) -> Export:
    """``run_record``: the record of the run, from the summaries of all tasks."""
    with lock_directory(out):
        csv_path, calls_path = out / CSV_NAME, out / CALLS_CSV_NAME
        existing, existing_calls = read_text(csv_path), read_text(calls_path) if per_call else ""
        try:
            read_rows(existing_calls, CALL_TABLE)
            former = {tuple(row[name] for name in KEY_COLUMNS): row["result_file"] for row in read_rows(existing)}
        except csv.Error as error:
            raise UserError(f"--out: a table in {out} is not one of results ({error}); move {CSV_NAME} away") from error
        rows, summaries, calls = [], [], list[dict[str, CellValue]]()
        for result, name in zip(results, names, strict=True):
            result.path = out / name
            write_atomic(result.path, result_json(result))
            rows.append(result_row(result))
            calls += call_rows(result) if per_call else ()
            summaries.append(TaskSummary.of(result))
        write_atomic(out / RUN_FILE_NAME, run_record(summaries))
        write_atomic(csv_path, merge_rows(existing, rows), durable=True)
        if per_call:
            write_atomic(calls_path, merge_rows(existing_calls, calls, CALL_TABLE), durable=True)
        written = set(names)
        for row in rows:
            before = former.get(tuple(csv_cell(row[name]) for name in KEY_COLUMNS))
            # An earlier export that knew less may have named the file differently.
            if before and before not in written and before == Path(before).name and before.startswith("result_"):
                (out / before).unlink(missing_ok=True)
    return Export(rows, csv_path, [out / name for name in names], notes, calls_path=calls_path if per_call else None)


def _names(tasks: Sequence[Task]) -> list[str]:
    """File names; the worker is added only where two workers would share one."""

    def name(task: Task, tail: str = "") -> str:
        return result_name(task.values.start, task.values.model_name, task.key.task_id, tail)

    plain = [name(task) for task in tasks]
    times = Counter(plain)
    return [text if times[text] == 1 else name(task, task.key.worker) for text, task in zip(plain, tasks, strict=True)]


def _unknown_run(options: Options, api: PrometheusApi | None, now: float) -> str:
    known: set[str] = set() if options.from_proxy else set(known_runs(options.runs_dir))
    where = [] if options.from_proxy else [f"in {options.runs_dir}"]
    advice = ""
    if api is not None:
        try:
            proxied = _stored_runs(api, options, now, metrics.PROXY_TASK_START)
            known |= proxied if options.from_proxy else _stored_runs(api, options, now, metrics.TASK_START)
            where.append(f"at {api.shown_url}")
            if options.run_id in proxied:
                advice = "; the metering proxy's metrics there have it: add --from proxy"
        except PrometheusError as error:
            where.append(f"at {api.shown_url} ({error})")
    listing = ", ".join(sorted(known)[-20:]) or "none"
    return f"--run-id: no run {options.run_id!r}; known {' and '.join(where)}: {listing}{advice}"


def _stored_runs(api: PrometheusApi, options: Options, now: float, start: metrics.Metric) -> set[str]:
    found = api.query(queries.runs(options.lookback, start), now)
    return {series.labels["run_id"] for series in found if series.labels.get("run_id")}


# --- groups of workers that died ----------------------------------------------------------------------------------------------


def releasable_tasks(ends: Mapping[TaskKey, float], now: float) -> frozenset[TaskKey]:
    """Tasks whose groups on the Pushgateway may go. ``ends``: unix seconds of the ends that Prometheus has shown.

    A benchmark that lives deletes its own groups. Nothing may go that ended a moment ago, that never ended, or whose end
    Prometheus has not shown.
    """
    return frozenset(key for key, end in ends.items() if now - end > RELEASED_AFTER_SECONDS)


def release_groups(gateway: Pushgateway, run_id: str, tasks: Collection[TaskKey], closed_workers: Collection[str] = ()) -> int:
    """Deletes the groups of these tasks, and those of the run that closed workers left; returns how many. Raises GatewayError."""
    deleted = 0
    for key in gateway.groups():
        task_id, worker = key.get("task_id", ""), key.get("worker", "")
        if key.get("run_id") != run_id:
            continue
        if TaskKey(task_id, worker) in tasks or (not task_id and worker in closed_workers):
            gateway.delete(key)
            deleted += 1
    return deleted
