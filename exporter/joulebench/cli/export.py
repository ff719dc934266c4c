"""``joulebench export``: result JSON and CSV of a run, from Prometheus and the journal, and a summary on the screen."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from joulebench import settings
from joulebench.cli import options
from joulebench.devices import parse_devices
from joulebench.errors import GatewayError
from joulebench.meters import MeterFile
from joulebench.parsing import printable_text

if TYPE_CHECKING:
    from joulebench.results.export import Export

SHOWN_ROWS = 40
SECONDS_PER_DAY = 86400.0


@click.command("export")
@click.option("--run-id", required=True, metavar="ID", help="The run to export.")
@options.prometheus_option("Prometheus; 'none' reads the journal alone.")
@options.runs_dir_option("Directory in which runs keep their journals.")
@click.option("--out", type=options.DIRECTORY, metavar="DIR", help="Directory for the results.  [default: RUNS_DIR/RUN_ID]")
@click.option("--wait", type=options.SECONDS, default=15.0, help="Longest wait for the last scrape.")
@options.gateway_option("Pushgateway from which groups are deleted that a dead benchmark left, once Prometheus has them.")
@options.gpus_option("GPUs that served, for tasks that no exporter answered for.  [default: as the run declared]")
@options.server_option(
    "The model server of a run that did not name its own: the GPUs that it used count, where Prometheus has them."
)
@options.meters_option()
@click.option(
    "--per",
    type=click.Choice(("task", "call")),
    default="task",
    show_default=True,
    help="call: write calls.csv too, a row for each LLM call or proxied request.",
)
@click.option(
    "--from",
    "source",
    type=click.Choice(("run", "proxy")),
    default="run",
    show_default=True,
    help="Where the tasks are read: run: the journals and what the benchmark pushed; proxy: the metrics of the metering proxy in"
    " Prometheus alone, where its journal is not at hand.",
)
@click.option("--instance", metavar="LABEL", help="Only GPUs of this scrape target, by its instance label.")
@click.option(
    "--lookback",
    type=options.Number(float, 0, unit="days"),
    help="Days to look back for a run without a journal.  [default: 30]",
)
def export_command(
    run_id: str,
    prometheus_url: str,
    runs_dir: Path,
    out: Path | None,
    wait: float,
    gateway_url: str,
    gpus: str | None,
    server: str | None,
    meters: MeterFile,
    instance: str | None,
    per: str,
    source: str,
    lookback: float | None,
) -> int:
    """Write result JSON and CSV of a run from Prometheus and the journal, and print a summary."""
    # Their numpy would make every help wait.
    from joulebench.clients.prometheus import PrometheusApi
    from joulebench.results.export import LOOKBACK_SECONDS, Options, export

    given = Options(
        run_id=run_id,
        runs_dir=runs_dir,
        out=out,
        instance=instance,
        devices=parse_devices(gpus, "--gpus") if gpus else (),
        server=server or None,
        meters=meters.meters,
        emissions=meters.emissions,
        wait=wait,
        per_call=per == "call",
        from_proxy=source == "proxy",
        lookback=LOOKBACK_SECONDS if lookback is None else lookback * SECONDS_PER_DAY,
    )
    # A file or a pipe has no width; 80 columns would fold the reasons.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    api = None if prometheus_url == settings.NO_URL else PrometheusApi(prometheus_url)
    try:
        with ProgressLine() as line:
            result = export(given, api, progress=line.show)
    finally:
        if api is not None:
            api.close()
    show(console, result, run_id)
    if gateway_url != settings.NO_URL and (result.releasable or result.closed_workers):
        _release_groups(console, gateway_url, run_id, result)
    return 0


def _release_groups(console: Console, gateway_url: str, run_id: str, result: Export) -> None:
    from joulebench.clients.pushgateway import Pushgateway
    from joulebench.results.export import release_groups

    gateway = Pushgateway(gateway_url)
    try:
        deleted = release_groups(gateway, run_id, result.releasable, result.closed_workers)
    except GatewayError as error:
        # Without a Pushgateway at the usual place there is nothing to release.
        if gateway_url != settings.DEFAULT_GATEWAY_URL:
            console.print(f"groups of this run were not released: {error}", markup=False, soft_wrap=True)
        return
    finally:
        gateway.close()
    if deleted:
        console.print(f"{deleted} groups of this run deleted from {gateway.url}", markup=False, soft_wrap=True)


class ProgressLine:
    """Shows what is being done in one line on stderr, and nothing where stderr is not a terminal."""

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

    def __enter__(self) -> ProgressLine:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, what: str, done: int, of: int) -> None:
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
        console.print(printable_text(f"note: {note}"), markup=False, soft_wrap=True)
    if any(row["energy_simulated"] for row in result.rows):
        console.print("energy is SIMULATED: no GPU was measured", style="bold")
    if result.rows:
        console.print("s: duration; J: energy, true within ± J; conf: lowest confidence of a tool call", style="dim")
    console.print(f"{result.csv_path} ({len(result.rows)} tasks)", markup=False, soft_wrap=True)
    if result.calls_path is not None:
        console.print(str(result.calls_path), markup=False, soft_wrap=True)
    if result.json_paths:
        console.print(
            f"{result.json_paths[0].parent}/result_*.json ({len(result.json_paths)} files)", markup=False, soft_wrap=True
        )


def summary(rows: Sequence[Mapping[str, object]], run_id: str) -> Table:
    """Returns the table of results; unknown numbers are a dash, and the quality column says why."""
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
    """Returns the distance of the estimate from its farther bound."""
    joules, low, high = (row[name] for name in ("total_energy_joules", "energy_low_joules", "energy_high_joules"))
    if isinstance(joules, float) and isinstance(low, int | float) and isinstance(high, int | float):
        return max(high - joules, joules - low)
    return None


def _plain(value: object) -> str:
    """Returns ``value`` as printable text without markup, since names are data."""
    return printable_text(str(value)).replace("[", r"\[")


def _number(value: object, digits: int) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else "-"
