"""What was measured while the sessions ran: a Prometheus, logs of the monitor, or both; for each session the one that saw it.

Prometheus is preferred, because it has the energy counter of each card. A log of the monitor stands in where Prometheus has
nothing, and alone tells of the container.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import SystemClock
from joulebench.errors import PrometheusError, UserError
from joulebench.mcpworld import monitor_csv
from joulebench.mcpworld.monitor_csv import MonitorLog
from joulebench.mcpworld.schema import MONITOR_LOG_PATTERN
from joulebench.mcpworld.session import Session
from joulebench.results import samples, waiting
from joulebench.results.samples import Samples, Window

PROMETHEUS, MONITOR_CSV = "prometheus", "monitor_csv"
NEAR_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Source:
    """``origin``: name of the log; None for Prometheus. ``log``: what tells of the container, None where nothing does."""

    name: str
    origin: str | None
    samples: Samples
    log: MonitorLog | None = None


@dataclass
class Telemetry:
    """``trouble``: why there are no samples of Prometheus, empty where it was asked and answered, or was not to be asked."""

    stored: Samples | None = None
    logs: Sequence[MonitorLog] = ()
    notes: list[str] = field(default_factory=list)
    trouble: str = ""

    def of(self, session: Session) -> Source | None:
        """None where nothing saw the session."""
        start, end = session.windows.headline or (0.0, 0.0)
        log = self.log_of(start, end)
        if self.stored is not None and _saw(self.stored, start, end):
            return Source(PROMETHEUS, None, self.stored, log)
        return None if log is None else Source(MONITOR_CSV, log.path.name, log.samples, log)

    def log_of(self, start: float, end: float) -> MonitorLog | None:
        """The log with most rows in the window."""
        best = max(self.logs, key=lambda log: log.rows_within(start, end), default=None)
        return best if best is not None and best.rows_within(start, end) else None


def gather(
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
    telemetry = Telemetry(logs=[monitor_csv.read(path) for path in log_paths])
    for log in telemetry.logs:
        if log.damaged:
            telemetry.notes.append(f"{log.path}: {log.damaged} damaged rows were left out")
    if api is None or not sessions:
        return telemetry
    equal: Mapping[str, str] = {"instance": instance} if instance else {}
    windows: list[Window] = [span for session in sessions for span in session.spans]
    try:
        if windows and not waiting.wait_until_settled(api, max(end for _, end in windows), wait, SystemClock()):
            telemetry.notes.append(f"Prometheus had not scraped all of it after {wait:g} s; a later backfill may know more")
        telemetry.stored = samples.fetch(api, windows, equal, step=step)
    except PrometheusError as error:
        telemetry.trouble = str(error)
        telemetry.notes.append(f"Prometheus failed: {error}")
    telemetry.notes += [f"Prometheus warns: {warning}" for warning in api.warnings]
    return telemetry


def logs_below(root: Path) -> list[Path]:
    """Logs of the monitor as the client leaves them; what bears their name and is none is left out."""
    found = []
    for path in sorted(root.rglob(MONITOR_LOG_PATTERN)) if root.is_dir() else []:
        try:
            monitor_csv.read(path)
        except UserError:
            continue
        found.append(path)
    return found


def _saw(stored: Samples, start: float, end: float) -> bool:
    for gpu in stored.gpus:
        first, last = gpu.energy.first_at, gpu.energy.last_at
        if first is not None and last is not None and len(gpu.energy.view(start, end).at) and first < end and last > start:
            inner = gpu.energy.view(start, end).at
            if any(start - NEAR_SECONDS <= at <= end + NEAR_SECONDS for at in inner):
                return True
        if any(samples.inside(points, start, end) for points in gpu.gauges.values()):
            return True
    return False
