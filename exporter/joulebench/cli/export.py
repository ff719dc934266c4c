"""``joulebench export``: result JSON and CSV of a run, from Prometheus and the journal, and a summary on the screen."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from joulebench import settings
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clients.pushgateway import Pushgateway
from joulebench.errors import UserError

if TYPE_CHECKING:
    from joulebench.results.export import Export

SHOWN_ROWS = 40


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run-id", required=True, help="the run to export")
    parser.add_argument(
        "--prometheus-url",
        help=f"'none' reads the journal alone (default: {settings.ENV_PROMETHEUS_URL}, else {settings.DEFAULT_PROMETHEUS_URL})",
    )
    parser.add_argument(
        "--runs-dir",
        type=Path,
        help=f"where runs keep their journals (default: {settings.ENV_RUNS_DIR}, else {settings.DEFAULT_RUNS_DIR})",
    )
    parser.add_argument("--out", type=Path, help="directory for the results (default: RUNS_DIR/RUN_ID)")
    parser.add_argument(
        "--wait", type=_seconds, default=15.0, help="longest wait for the last scrape, in seconds (default: %(default)s)"
    )
    parser.add_argument("--gateway-url", help="delete groups that a dead benchmark left there, once Prometheus holds them")
    parser.add_argument("--instance", help="only GPUs of this scrape target, as its instance label has it")
    parser.add_argument(
        "--lookback",
        type=_days,
        help="days back to look for a run without a journal (default: 30)",
    )


def run(args: argparse.Namespace) -> int:
    # Their numpy would make every help wait.
    from joulebench.results.cleanup import release
    from joulebench.results.export import LOOKBACK_SECONDS, Options, export

    runs_dir = args.runs_dir or Path(settings.from_env(settings.ENV_RUNS_DIR, settings.DEFAULT_RUNS_DIR))
    url = args.prometheus_url or settings.from_env(settings.ENV_PROMETHEUS_URL, settings.DEFAULT_PROMETHEUS_URL)
    options = Options(
        run_id=args.run_id,
        runs_dir=runs_dir,
        out=args.out,
        instance=args.instance,
        wait=args.wait,
        lookback=LOOKBACK_SECONDS if args.lookback is None else args.lookback,
    )
    # A file or a pipe has no width; 80 columns would fold the reasons.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    api = None if url == settings.NO_URL else PrometheusApi(url)
    try:
        with _Bar() as bar:
            result = export(options, api, progress=bar.tell)
    finally:
        if api is not None:
            api.close()
    show(console, result, args.run_id)
    if args.gateway_url:
        gateway = Pushgateway(settings.http_url(args.gateway_url, "--gateway-url"))
        deleted = release(gateway, args.run_id, result.settled)
        gateway.close()
        console.print(f"{deleted} groups of this run deleted from {gateway.url}", markup=False, soft_wrap=True)
    return 0


class _Bar:
    """One line on stderr that says what is being done; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._line: TaskID | None = None

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, what: str, done: int, of: int) -> None:
        if self._line is None:
            self._line = self._progress.add_task(what)
        self._progress.update(self._line, description=what, completed=done, total=of or None)


def show(console: Console, result: Export, run_id: str) -> None:
    if result.rows:
        console.print(summary(result.rows, run_id))
    else:
        console.print(f"run {run_id} has no tasks yet")
    if len(result.rows) > SHOWN_ROWS:
        console.print(f"... {len(result.rows) - SHOWN_ROWS} more tasks in {result.csv_path}", soft_wrap=True)
    if result.residual is not None:
        missed, counted = result.residual
        console.print(
            f"the tasks' shares, idle time and time between tasks add up to the {counted:,.1f} J counted, but for {missed:.3g} J",
            style="dim",
            soft_wrap=True,
        )
    for note in result.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    if any(row["energy_simulated"] for row in result.rows):
        console.print("energy is SIMULATED: no GPU was measured", style="bold")
    if result.rows:
        console.print("s: duration; J: energy, true within ± J; conf: lowest confidence of a tool call", style="dim")
    console.print(f"{result.csv_path} ({len(result.rows)} tasks)", markup=False, soft_wrap=True)
    if result.json_paths:
        console.print(
            f"{result.json_paths[0].parent}/result_*.json ({len(result.json_paths)} files)", markup=False, soft_wrap=True
        )


def summary(rows: Sequence[Mapping[str, object]], run_id: str) -> Table:
    """Unknown numbers are shown as a dash; the quality column says why."""
    grid = Table(title=f"run {_plain(run_id)}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading, width in (("task", 24), ("model", 18)):
        grid.add_column(heading, overflow="ellipsis", max_width=width, no_wrap=True)
    grid.add_column("status", no_wrap=True)
    for heading in ("s", "J", "± J", "tok/s", "conf"):
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column("quality", overflow="fold")
    for row in rows[:SHOWN_ROWS]:
        grid.add_row(
            _plain(row["task_name"] or row["task_id"]),
            _plain(row["model_name"] or "-"),
            _plain(row["status"]),
            _number(row["total_duration_seconds"], 2),
            _number(row["total_energy_joules"], 1),
            _number(_width(row), 1),
            _number(row["tokens_per_second"], 1),
            _number(row["min_tool_confidence"], 3),
            _plain(row["reasons"] or row["quality"]).replace(";", " "),
        )
    return grid


def _width(row: Mapping[str, object]) -> float | None:
    """The farther of the two bounds from the estimate."""
    joules, low, high = (row[name] for name in ("total_energy_joules", "energy_low_joules", "energy_high_joules"))
    if isinstance(joules, float) and isinstance(low, int | float) and isinstance(high, int | float):
        return max(high - joules, joules - low)
    return None


def _plain(value: object) -> str:
    """Names are data: no markup in them is obeyed, and half a character pair is spelled out."""
    return str(value).encode("utf-8", "backslashreplace").decode().replace("[", r"\[")


def _number(value: object, digits: int) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else "-"


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UserError(f"{text!r} is not a duration; give a number such as 15")
    return value


def _days(text: str) -> float:
    return _seconds(text) * 86400.0
