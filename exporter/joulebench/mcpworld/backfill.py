"""``backfill``: finished result files get their energy afterwards, and the client is not changed at all.

Idempotent: the same samples give the same bytes, and a file that would not change is not written. A later run never replaces a
known energy by an unknown one, so a Prometheus that has forgotten costs nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from joulebench.clients.prometheus import PrometheusApi
from joulebench.devices import DeviceName
from joulebench.energy.attribution import TaskAttribution
from joulebench.errors import UserError
from joulebench.files import write_atomic
from joulebench.mcpworld import measurement, telemetry
from joulebench.mcpworld.session import Session, load_session
from joulebench.mcpworld.telemetry import PROMETHEUS, SampleSource, Telemetry
from joulebench.meters import EmissionFactor, Meter
from joulebench.parsing import as_float
from joulebench.results.emissions import fetch_factors
from joulebench.results.fetch import Samples
from joulebench.results.meters import fetch_meters, meter_results, metered_task
from joulebench.results.owner_history import observe_devices
from joulebench.schema import UnreadableResult, find_result_files
from joulebench.schema.result import MeterResult

FILLED, UNCHANGED, KEPT, NOT_MEASURED, SKIPPED, FAILED = "filled", "unchanged", "kept", "not_measured", "skipped", "failed"
"""Written; already so; the earlier, better numbers kept; nothing saw the session; no file for us; could not be written."""


CLIENT_ZERO = "client_wrote_0_joules"
"""The client's 0 J was no measurement; it is null now, and kept beside."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file. ``joules`` of its headline window; ``reasons`` why the file or a number of it is not all well."""

    path: Path
    status: str
    key: str | None = None
    joules: float | None = None
    quality: str | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    outcomes: list[Outcome]
    notes: list[str] = field(default_factory=list)

    def count(self, status: str) -> int:
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def all_measured(self) -> bool:
        """Whether every result of the client now has an energy."""
        return all(outcome.status == SKIPPED or outcome.joules is not None for outcome in self.outcomes)


@dataclass(frozen=True, slots=True)
class Options:
    """``monitor_csv``: logs to read; empty means those that lie below ``root``. ``instance``: only GPUs of this scrape target.
    ``wait``: seconds for Prometheus to scrape what follows a session that has just ended. ``devices``: the GPUs that served,
    all that were measured where none is named. ``meters``: other meters whose joules each session gets.
    ``emissions``: factors of what a kWh emits. ``server``: HOST:PORT or URL of the model server; without ``devices`` the GPUs
    that it used in each session count, where Prometheus has them."""

    root: Path
    monitor_csv: Sequence[Path] = ()
    instance: str | None = None
    dry_run: bool = False
    wait: float = 0.0
    devices: tuple[DeviceName, ...] = ()
    meters: Sequence[Meter] = ()
    emissions: Mapping[str, EmissionFactor] = field(default_factory=dict)
    server: str | None = None


def backfill(options: Options, api: PrometheusApi | None, step: Callable[[int, int], None] | None = None) -> Report:
    """Raises UserError for a place without result files or a log that is none."""
    if not options.root.exists():
        raise UserError(f"DIR: {options.root} does not exist; give the directory with the result_*.json files")
    sessions: list[Session] = []
    outcomes: list[Outcome] = []
    for path in find_result_files(options.root):
        try:
            sessions.append(load_session(path))
        except UnreadableResult as error:  # noqa: PERF203
            ours = "joulebench export" in str(error)
            outcomes.append(Outcome(path, SKIPPED if ours else FAILED, reasons=(str(error),)))
    if not sessions and not outcomes:
        raise UserError(f"DIR: no result_*.json below {options.root}; give the directory in which the client logs")
    logs = options.monitor_csv or telemetry.logs_below(options.root)
    measured = telemetry.gather_telemetry(sessions, api, options.instance, logs, step=step, wait=options.wait)
    why = "prometheus_failed" if measured.failure else "no_samples" if api or logs else "no_telemetry_given"
    if options.devices:
        sessions = [replace(session, task=replace(session.task, declared_devices=options.devices)) for session in sessions]
    sessions = _with_observed_devices(sessions, measured, api, options)
    shared = _with_shares(sessions, measured, options.devices)
    metered, meter_notes = _meters_of_sessions(options.meters, api, [(session, source) for session, source, _ in shared])
    windows = [session.task.window for session in sessions if session.task.window is not None]
    factors, factor_notes = fetch_factors(api, options.emissions, windows)
    measured.notes += [*meter_notes, *factor_notes]
    first_of: dict[str, Path] = {}
    for session, source, share in shared:
        copy_of = first_of.setdefault(str(session.identity), session.path)
        notes = () if copy_of == session.path else (f"copy of {copy_of}",)
        outcomes.append(
            _fill(
                session,
                measurement.measured_sections(
                    session, source, share, why, metered.get(str(session.identity), {}), factors=factors
                ),
                source,
                notes,
                options.dry_run,
            )
        )
    return Report(sorted(outcomes, key=lambda outcome: outcome.path), measured.notes)


def _with_shares(
    sessions: Sequence[Session], measured: Telemetry, devices: tuple[DeviceName, ...] = ()
) -> list[tuple[Session, SampleSource | None, TaskAttribution | None]]:
    """Sessions that the same samples saw share their joules; each of another log is on its own."""
    sources = [measured.of(session) for session in sessions]
    if devices:
        chosen = {id(source.samples): source.of_devices(devices).samples for source in sources if source is not None}
        sources = [source and replace(source, samples=chosen[id(source.samples)]) for source in sources]
    sources = _of_observed_devices(sessions, sources)
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index, source in enumerate(sources):
        if source is not None:
            groups[id(source.samples)].append(index)
    shares: dict[int, Mapping[str, TaskAttribution]] = {}
    for group, members in groups.items():
        some = sources[members[0]]
        assert some is not None
        shares[group] = measurement.attribute_sessions([sessions[index] for index in members], some.samples.gpus)
    return [
        (session, source, None if source is None else shares[id(source.samples)].get(str(session.identity)))
        for session, source in zip(sessions, sources, strict=True)
    ]


def _with_observed_devices(
    sessions: Sequence[Session], measured: Telemetry, api: PrometheusApi | None, options: Options
) -> list[Session]:
    """The sessions with the devices that the server used in each, as Prometheus or the log that measured it knows them."""
    if not options.devices:
        sessions = [_with_devices_of_log(session, measured.of(session)) for session in sessions]
    seen = [session for session in sessions if (source := measured.of(session)) is not None and source.name == PROMETHEUS]
    equal = {"instance": options.instance} if options.instance else {}
    gpus = measured.stored.gpus if measured.stored is not None else ()
    tasks, notes = observe_devices(api, [session.task for session in seen], gpus, options.server, equal=equal)
    measured.notes += notes
    by_path = {session.path: task for session, task in zip(seen, tasks, strict=True)}
    return [replace(session, task=by_path.get(session.path, session.task)) for session in sessions]


def _with_devices_of_log(session: Session, source: SampleSource | None) -> Session:
    if source is None or source.log is None or source.name == PROMETHEUS or session.task.window is None:
        return session
    return replace(session, task=replace(session.task, observed_devices=source.log.observed_devices(*session.task.window)))


def _of_observed_devices(sessions: Sequence[Session], sources: Sequence[SampleSource | None]) -> list[SampleSource | None]:
    """Sessions on the same devices have the same samples, which they share."""
    chosen: dict[tuple[int, frozenset[str]], Samples] = {}
    found: list[SampleSource | None] = []
    for session, source in zip(sessions, sources, strict=True):
        uuids = frozenset(device.counter for device in session.task.observed_devices)
        if source is None or not uuids:
            found.append(source)
            continue
        gpus = [gpu for gpu in source.samples.gpus if gpu.uuid in uuids]
        found.append(replace(source, samples=chosen.setdefault((id(source.samples), uuids), Samples(gpus))))
    return found


def _meters_of_sessions(
    meters: Sequence[Meter], api: PrometheusApi | None, sessions: Sequence[tuple[Session, SampleSource | None]]
) -> tuple[Mapping[str, Mapping[str, MeterResult]], list[str]]:
    """(results of all meters by key of the session, notes). Two copies of one session share nothing with each other."""
    if not meters or api is None:
        return {}, ["the meters are not known: they are in Prometheus, which was not asked"] if meters else []
    unique = {str(session.identity): (session.task, source) for session, source in sessions if session.task.window is not None}
    tasks = [metered_task(task, None, source.samples.gpus if source else ()) for task, source in unique.values()]
    samples = fetch_meters(api, meters, [(task.start, task.end) for task in tasks])
    return dict(zip(unique, meter_results(samples, tasks), strict=True)), list(samples.notes)


def _fill(session: Session, new: dict[str, Any], source: SampleSource | None, notes: tuple[str, ...], dry_run: bool) -> Outcome:
    measured = new["measurement"]
    known = dict.fromkeys((*notes, *session.windows.notes, *measured["reasons"]))
    outcome = Outcome(session.path, FILLED, str(session.identity), measured["joules"], measured["quality"], tuple(known))
    before, ours = session.document.section("gpu_hardware_metrics"), session.document.section("measurement")
    if measured["joules"] is None:
        earlier = as_float(ours.get("joules"))
        if earlier is not None:
            return Outcome(session.path, KEPT, outcome.key, earlier, str(ours.get("quality")), outcome.reasons)
        if measurement.FILLED_BY not in ours and _has_invented_zero(before):
            # Nothing was measured, so only what replaces the 0 J is written.
            new = {name: new[name] for name in ("gpu_hardware_metrics", "measurement")}
            new["measurement"]["notes"].append(CLIENT_ZERO)
            outcome = replace(outcome, reasons=(*outcome.reasons, CLIENT_ZERO))
        elif source is None or (before and measurement.FILLED_BY not in ours):
            # Nothing measured the session: the file stays as it is. The client's own numbers are better than none.
            return Outcome(session.path, NOT_MEASURED, outcome.key, None, "missing", outcome.reasons)
    if before and measurement.FILLED_BY not in ours:
        new = {**new, measurement.CLIENTS_OWN: before}
    return _written(session, new, outcome, source, dry_run)


def _has_invented_zero(hardware: Mapping[str, Any]) -> bool:
    """Whether the client wrote 0 J: its sum over polls that failed, since a GPU that is on always draws power."""
    return as_float(hardware.get("total_energy_joules")) == 0


def _written(session: Session, new: dict[str, Any], outcome: Outcome, source: SampleSource | None, dry_run: bool) -> Outcome:
    text = session.document.with_sections(new)
    status = FILLED if source is not None and outcome.joules is not None else NOT_MEASURED
    if text == session.document.text:
        status = UNCHANGED if outcome.joules is not None else NOT_MEASURED
    elif not dry_run:
        try:
            write_atomic(session.path, text, durable=True, option="DIR")
        except UserError as error:
            return Outcome(outcome.path, FAILED, outcome.key, None, outcome.quality, (str(error), *outcome.reasons))
    return Outcome(outcome.path, status, outcome.key, outcome.joules, outcome.quality, outcome.reasons)
