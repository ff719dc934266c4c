"""``backfill``: finished result files get their energy afterwards, and the client is not changed at all.

Idempotent: the same samples give the same bytes, and a file that would not change is not written. A later run never replaces a
known energy by an unknown one, so a Prometheus that has forgotten costs nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joulebench.clients.prometheus import PrometheusApi
from joulebench.energy.attribution import TaskAttribution
from joulebench.errors import UserError
from joulebench.mcpworld import document, measure, session, telemetry
from joulebench.mcpworld.document import UnreadableError
from joulebench.mcpworld.session import Session
from joulebench.mcpworld.telemetry import Source, Telemetry
from joulebench.results.journal import number

FILLED, UNCHANGED, KEPT, NOT_MEASURED, SKIPPED, FAILED = "filled", "unchanged", "kept", "not_measured", "skipped", "failed"
"""Written; already so; the earlier, better numbers kept; nothing saw the session; no file for us; could not be written."""


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
        return all(one.status == SKIPPED or one.joules is not None for one in self.outcomes)


@dataclass(frozen=True, slots=True)
class Options:
    """``monitor_csv``: logs to read; empty means those that lie below ``root``. ``instance``: only GPUs of this scrape target.
    ``wait``: seconds for Prometheus to scrape what follows a session that has just ended."""

    root: Path
    monitor_csv: Sequence[Path] = ()
    instance: str | None = None
    dry_run: bool = False
    wait: float = 0.0


def backfill(options: Options, api: PrometheusApi | None, step: Callable[[int, int], None] | None = None) -> Report:
    """Raises UserError for a place without result files or a log that is none."""
    if not options.root.exists():
        raise UserError(f"DIR: {options.root} does not exist; give the directory with the result_*.json files")
    sessions: list[Session] = []
    outcomes: list[Outcome] = []
    for path in session.files(options.root):
        try:
            sessions.append(session.load(path))
        except UnreadableError as error:  # noqa: PERF203
            ours = "joulebench export" in str(error)
            outcomes.append(Outcome(path, SKIPPED if ours else FAILED, reasons=(str(error),)))
    if not sessions and not outcomes:
        raise UserError(f"DIR: no result_*.json below {options.root}; give the directory in which the client logs")
    logs = options.monitor_csv or telemetry.logs_below(options.root)
    known = telemetry.gather(sessions, api, options.instance, logs, step=step, wait=options.wait)
    why = "prometheus_failed" if known.trouble else "no_samples" if api or logs else "no_telemetry_given"
    first_of: dict[str, Path] = {}
    for one, source, share in _with_shares(sessions, known):
        copy_of = first_of.setdefault(str(one.identity), one.path)
        notes = () if copy_of == one.path else (f"copy of {copy_of}",)
        outcomes.append(_fill(one, measure.sections(one, source, share, why), source, notes, options.dry_run))
    return Report(sorted(outcomes, key=lambda outcome: outcome.path), known.notes)


def _with_shares(sessions: Sequence[Session], known: Telemetry) -> list[tuple[Session, Source | None, TaskAttribution | None]]:
    """Sessions that the same samples saw share their joules; each of another log is on its own."""
    sources = [known.of(one) for one in sessions]
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index, source in enumerate(sources):
        if source is not None:
            groups[id(source.samples)].append(index)
    shares: dict[int, Mapping[str, TaskAttribution]] = {}
    for group, members in groups.items():
        some = sources[members[0]]
        assert some is not None
        shares[group] = measure.attributions([sessions[index] for index in members], some.samples.gpus)
    return [
        (one, source, None if source is None else shares[id(source.samples)].get(str(one.identity)))
        for one, source in zip(sessions, sources, strict=True)
    ]


def _fill(one: Session, new: dict[str, Any], source: Source | None, notes: tuple[str, ...], dry_run: bool) -> Outcome:
    measured = new["measurement"]
    known = dict.fromkeys((*notes, *one.windows.notes, *measured["reasons"]))
    outcome = Outcome(one.path, FILLED, str(one.identity), measured["joules"], measured["quality"], tuple(known))
    before, ours = one.document.section("gpu_hardware_metrics"), one.document.section("measurement")
    if measured["joules"] is None:
        earlier = number(ours.get("joules"))
        if earlier is not None:
            return Outcome(one.path, KEPT, outcome.key, earlier, str(ours.get("quality")), outcome.reasons)
        if source is None and measure.FILLED_BY in ours:
            return Outcome(one.path, NOT_MEASURED, outcome.key, None, "missing", outcome.reasons)
        if before and measure.FILLED_BY not in ours:
            # The client's own numbers are worse than a counter's and better than none.
            return Outcome(one.path, NOT_MEASURED, outcome.key, None, "missing", outcome.reasons)
    if before and measure.FILLED_BY not in ours:
        new = {**new, measure.CLIENTS_OWN: before}
    return _written(one, new, outcome, source, dry_run)


def _written(one: Session, new: dict[str, Any], outcome: Outcome, source: Source | None, dry_run: bool) -> Outcome:
    text = one.document.with_sections(new)
    status = FILLED if source is not None and outcome.joules is not None else NOT_MEASURED
    if text == one.document.text:
        status = UNCHANGED if outcome.joules is not None else NOT_MEASURED
    elif not dry_run:
        try:
            document.write(one.path, text)
        except OSError as error:
            reason = f"cannot be written ({error.strerror})"
            return Outcome(outcome.path, FAILED, outcome.key, None, outcome.quality, (reason, *outcome.reasons))
    return Outcome(outcome.path, status, outcome.key, outcome.joules, outcome.quality, outcome.reasons)
