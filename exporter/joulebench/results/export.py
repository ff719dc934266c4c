"""The export of a finished run: tasks from journal and Prometheus, energy and statistics, then JSON and CSV.

Each source may be missing. What is lost with it is null and has its reason; what the other one holds is still written.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from joulebench import __version__
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import Clock, SystemClock
from joulebench.errors import PrometheusError, UserError
from joulebench.results import (
    as_json,
    batches,
    circumstances,
    cleanup,
    files,
    from_prometheus,
    journal,
    queries,
    run_record,
    samples,
    table,
    waiting,
    windows,
)
from joulebench.results.circumstances import Circumstances
from joulebench.results.energy import task_energy
from joulebench.results.from_prometheus import PushedTask
from joulebench.results.idle import idle_power
from joulebench.results.ownership import own_gpus
from joulebench.results.record import Context, Record, build
from joulebench.results.samples import Samples
from joulebench.results.shares import Books, attributions, books
from joulebench.results.task import Task, TaskKey

LOOKBACK_SECONDS = 30 * 86400.0
"""How far back a run is looked for whose journal does not tell when it was."""

Progress = Callable[[str, int, int], None]
"""``(what, done, of)``"""


@dataclass(frozen=True, slots=True)
class Options:
    """``instance``: only GPUs of this scrape target, where Prometheus knows several machines. ``wait``: seconds."""

    run_id: str
    runs_dir: Path
    out: Path | None = None
    instance: str | None = None
    wait: float = 15.0
    lookback: float = LOOKBACK_SECONDS
    chunk: float = samples.CHUNK_SECONDS


@dataclass(frozen=True, slots=True)
class Export:
    """``notes``: what was missing or odd, for the user. ``settled``: tasks whose last state Prometheus holds.

    ``residual``: joules that the shares of the tasks miss, of the joules that the counters of the GPUs tell; None without any.
    """

    rows: list[dict[str, object]]
    csv_path: Path
    json_paths: list[Path]
    notes: list[str] = field(default_factory=list)
    settled: frozenset[TaskKey] = frozenset()
    residual: tuple[float, float] | None = None


def export(options: Options, api: PrometheusApi | None, clock: Clock | None = None, progress: Progress | None = None) -> Export:
    """Writes everything. Raises UserError for an unknown run; Prometheus failing is a note, not an error."""
    clock = clock or SystemClock()
    tell = progress or _silent
    directory = files.run_directory(options.runs_dir, options.run_id)
    held = journal.read(directory)
    notes = _journal_notes(held, directory)
    pushed, stored, around, trouble = _ask_prometheus(options, api, held, clock, tell)
    if trouble:
        notes.append(trouble)
    tasks = windows.tasks(held, pushed)
    if not tasks and not held.files:
        raise UserError(_unknown_run(options, api, clock.unix()))
    if api is not None:
        notes += [f"Prometheus warns: {warning}" for warning in api.warnings]
    why = "prometheus_failed" if trouble else "prometheus_not_asked"
    idle = idle_power(held.run_events, tasks)
    context = Context(options.run_id, __version__, stored, idle, around)
    if stored is not None:
        batches.look_at_edges(tasks, stored.gpus)
    shared = books(tasks, stored.gpus if stored else (), {uuid: one.watts for uuid, one in idle.items()})
    if stored is not None:
        batches.forget(stored.gpus, context)
    notes += run_record.notes(shared, idle)
    records = _records(context, tasks, shared, why, tell)
    shown = {t.key: t.values.end for t in tasks if t.values.end is not None and t.sources.get("end") in ("both", "prometheus")}
    written = _write(
        options.out or directory,
        _names(tasks),
        records,
        lambda short: run_record.build(context, held, shared, short, notes),
        notes,
    )
    return replace(written, settled=cleanup.settled(shown, clock.unix()), residual=run_record.residual(shared))


def _silent(what: str, done: int, of: int) -> None: ...


def _journal_notes(held: journal.Journal, directory: Path) -> list[str]:
    notes = []
    if not held.files:
        notes.append(f"no journal in {directory}: single calls, tools and phases are not known")
    if held.damaged:
        notes.append(f"{held.damaged} damaged lines in the journal were left out")
    return notes


def _ask_prometheus(
    options: Options, api: PrometheusApi | None, held: journal.Journal, clock: Clock, tell: Progress
) -> tuple[Mapping[TaskKey, PushedTask], Samples | None, Circumstances, str]:
    """(pushed tasks, samples, what surrounded them, what went wrong)"""
    if api is None:
        return {}, None, Circumstances(), ""
    pushed: Mapping[TaskKey, PushedTask] = {}
    try:
        own = windows.tasks(held, {})
        tell("waiting for the last scrape", 0, 0)
        trouble = ""
        if not waiting.wait_until_scraped(api, options.run_id, own, options.wait, clock):
            trouble = f"Prometheus had not scraped all of the run after {options.wait:g} s; a later export may know more"
        steps = _Steps(tell, "reading tasks", from_prometheus.QUERIES)
        pushed = from_prometheus.read(api, options.run_id, clock.unix(), _lookback(options, own, clock), steps.one)
        spans = [task.window for task in windows.tasks(held, pushed) if task.window is not None]
        equal = {"instance": options.instance} if options.instance else {}
        found = samples.fetch(api, spans, equal, chunk=options.chunk, step=lambda done, of: tell("reading samples", done, of))
    except PrometheusError as error:
        return pushed, None, Circumstances(), f"Prometheus failed: {error}"
    try:
        return pushed, found, circumstances.fetch(api, spans, equal, found.gpus), trouble
    except PrometheusError as error:
        return pushed, found, Circumstances(), f"model servers, links and power limits around the tasks are not known: {error}"


@dataclass
class _Steps:
    tell: Progress
    what: str
    of: int
    done: int = 0

    def one(self) -> None:
        self.done += 1
        self.tell(self.what, self.done, self.of)


def _lookback(options: Options, own: Sequence[Task], clock: Clock) -> float:
    starts = [task.values.start for task in own if task.values.start is not None]
    return clock.unix() - min(starts) + 60.0 if starts else options.lookback


def _records(context: Context, tasks: Sequence[Task], shared: Sequence[Books], why: str, tell: Progress) -> Iterator[Record]:
    """One after another: all of them would fill the memory."""
    shares, own = attributions(shared), own_gpus(tasks)
    done = 0
    for batch in batches.batches(tasks, own, context):
        for task in batch:
            energy = task_energy(task, context.samples, why, own[task.key])
            yield build(task, energy, shares.get(task.key), context)
            done += 1
            tell("computing and writing", done, len(tasks))


def _write(
    out: Path,
    names: Sequence[str],
    records: Iterable[Record],
    whole: Callable[[Sequence[Record]], Record],
    notes: list[str],
) -> Export:
    """``whole``: the record of the run, from the summaries of all others."""
    with files.locked(out):
        csv_path = out / files.CSV_NAME
        existing = files.read_whole(csv_path)
        try:
            former = {tuple(r[name] for name in table.KEY): r["result_file"] for r in table.read(existing)}
        except csv.Error as error:
            raise UserError(f"--out: {csv_path} is not a table of results ({error}); move it away") from error
        rows, summaries = [], []
        for record, name in zip(records, names, strict=True):
            files.write_whole(out / name, as_json.text(record))
            rows.append(table.row(record, name))
            summaries.append(run_record.summary(record))
        files.write_whole(out / run_record.FILE_NAME, as_json.text(whole(summaries)))
        files.write_whole(csv_path, table.merged(existing, rows), durable=True)
        written = set(names)
        for one in rows:
            before = former.get(tuple(table.cell(one[name]) for name in table.KEY))
            # An earlier export that knew less may have named the file differently.
            if before and before not in written and before == Path(before).name and before.startswith("result_"):
                (out / before).unlink(missing_ok=True)
    return Export(rows, csv_path, [out / name for name in names], notes)


def _names(tasks: Sequence[Task]) -> list[str]:
    """File names; the worker is added only where two workers would share one."""

    def name(task: Task, tail: str = "") -> str:
        return files.result_name(task.values.start, task.values.model_name, task.key.task_id, tail)

    plain = [name(task) for task in tasks]
    times = Counter(plain)
    return [one if times[one] == 1 else name(task, task.key.worker) for one, task in zip(plain, tasks, strict=True)]


def _unknown_run(options: Options, api: PrometheusApi | None, now: float) -> str:
    known = set(journal.known_runs(options.runs_dir))
    where = f"in {options.runs_dir}"
    if api is not None:
        try:
            pushed = api.query(queries.runs(options.lookback), now)
            known |= {one.labels["run_id"] for one in pushed if one.labels.get("run_id")}
            where += f" and at {api.shown_url}"
        except PrometheusError as error:
            where += f" (and {error})"
    listing = ", ".join(sorted(known)[-20:]) or "none"
    return f"--run-id: no run {options.run_id!r}; known {where}: {listing}"
