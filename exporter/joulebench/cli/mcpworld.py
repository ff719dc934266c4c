"""``joulebench mcpworld``: the MCPWorld client, which is not changed, measured live or afterwards, and its tables."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from joulebench import settings
from joulebench.cli import options
from joulebench.clock import Clock, SystemClock
from joulebench.devices import DeviceChoice, DeviceName, parse_devices
from joulebench.errors import GpuUnavailable, UserError
from joulebench.gpu import sources
from joulebench.parsing import printable_text

if TYPE_CHECKING:
    from joulebench.gpu.reading import GpuSource
    from joulebench.mcpworld.container import ContainerPoller
    from joulebench.meters import MeterFile

OUR_PATHS = "JOULEBENCH_PYTHONPATH"
NEEDED = ("joulebench", "prometheus_client", "requests", "urllib3", "certifi", "idna", "charset_normalizer", "wrapt")
NO_CONTAINER = "none"
NOTHING_SEEN = (
    "joulebench run: no task was measured: no call of an openai, ollama or litellm client and no event of the MCPWorld evaluator"
    " was seen. {command} started no Python that imports one of them with the environment that it was given; 'env -i', sudo,"
    " docker exec and containers drop it. Run 'joulebench run' beside that Python (docs/MCPWORLD.md: in a container), lead"
    " another client through 'joulebench proxy', or measure finished result files of MCPWorld with 'joulebench backfill LOG_DIR'"
)
PRIORITY = -10


@click.group("mcpworld", cls=options.CommandGroup)
def mcpworld_command() -> None:
    """Measure the MCPWorld client live or afterwards, and make its tables."""


@mcpworld_command.command(
    "run",
    short_help="Start a benchmark, MCPWorld's or any other, and measure it live.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("--run-id", envvar=settings.ENV_RUN_ID, show_envvar=True, metavar="ID", help="[default: made from the time]")
@click.option(
    "--suite",
    envvar=settings.ENV_SUITE,
    show_envvar=True,
    metavar="NAME",
    help="Name of the suite.  [default: mcpworld for its tasks]",
)
@options.infrastructure_option()
@options.gateway_option()
@options.prometheus_option("Prometheus, or 'none'.")
@options.exporter_option("Exporter, or 'none'; several for a model on several hosts.")
@options.gpus_option()
@options.server_option("The model server, by which an exporter finds the GPUs that serve.")
@options.runs_dir_option()
@click.option(
    "--task-file",
    type=options.FILE,
    help="Keep the run and the task that runs in this file, for 'joulebench proxy --task-file'.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND ...")
def run(
    run_id: str | None,
    suite: str | None,
    infrastructure_tag: str | None,
    gateway_url: str,
    prometheus_url: str,
    exporter_url: str,
    gpus: str | None,
    server: str | None,
    runs_dir: Path,
    task_file: Path | None,
    command: tuple[str, ...],
) -> int:
    """Start a benchmark as it is always started, and measure it live.

    Every Python that COMMAND starts records the calls of its openai, ollama and litellm clients: in the tasks that it opens, in a
    task for each test of pytest, else in a task of the process; JOULEBENCH_INSTRUMENT=0 turns that off. A Python that imports
    MCPWorld's evaluator records the evaluator's tasks. Signals are passed on to COMMAND, and its exit code is returned. Exits
    with 1 where COMMAND succeeded and nothing was measured.
    """
    from joulebench.mcpworld.launcher import SeenTasks, die_by, run_client
    from joulebench.mcpworld.startup import __path__ as startup
    from joulebench.push import ids

    if not command:
        raise UserError("COMMAND: nothing to run; write it behind --, such as 'joulebench run -- python run_tasks.py'")
    program = shutil.which(command[0])
    if program is None:
        raise UserError(f"COMMAND: {command[0]!r} is no program that can be run; check its name and the PATH")
    run_id = ids.path_part(run_id, "--run-id") if run_id else ids.new_run_id(SystemClock().unix())
    runs_dir = runs_dir.resolve()
    environment = {
        **os.environ,
        settings.ENV_RUN_ID: run_id,
        settings.ENV_RUNS_DIR: str(runs_dir),
        settings.ENV_GATEWAY_URL: gateway_url,
        settings.ENV_PROMETHEUS_URL: prometheus_url,
        settings.ENV_EXPORTER_URL: exporter_url,
        **DeviceChoice.from_settings(gpus, server, setting="--gpus").environment(),
        settings.ENV_INSTRUMENT: settings.from_env(settings.ENV_INSTRUMENT, "1"),
        OUR_PATHS: os.pathsep.join(_our_paths()),
        "PYTHONPATH": os.pathsep.join([*startup, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    if suite:
        environment[settings.ENV_SUITE] = suite
    if task_file is not None:
        environment[settings.ENV_TASK_FILE] = str(task_file.resolve())
    if infrastructure_tag:
        environment[settings.ENV_INFRASTRUCTURE] = infrastructure_tag
    export = shlex.join(["--run-id", run_id, "--runs-dir", str(runs_dir)])
    print(f"joulebench run {run_id}; results afterwards: joulebench export {export}", file=sys.stderr, flush=True)
    seen = SeenTasks(runs_dir / run_id)
    code = run_client(program, command, environment)
    if not seen.any():
        print(NOTHING_SEEN.format(command=shlex.join(command)), file=sys.stderr, flush=True)
        code = code or 1
    if code < 0:
        die_by(-code)
    return code


def _our_paths() -> list[str]:
    """Returns the directories that hold joulebench and what it needs to push, for a client with another environment."""
    paths: dict[str, None] = {}
    for name in NEEDED:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            paths[str(Path(spec.origin).resolve().parents[1])] = None
    return list(paths)


@mcpworld_command.command("monitor", short_help="Write GPU and container readings to a CSV.")
@click.argument("output", type=options.FILE, metavar="OUTPUT.csv")
@click.argument("interval", type=options.Number(float, 0.02, 3600, unit="seconds"), default=1.0, metavar="[INTERVAL]")
@click.option("--per-gpu", is_flag=True, help="Append columns of each GPU, with its energy counter polled at 50 Hz.")
@click.option("--container", default="ollama", metavar="NAME", help="Docker container to watch, or 'none'.")
@click.option("--cgroup", type=options.DIRECTORY, metavar="DIR", help="Watch this cgroup instead of a container.")
@click.option(
    "--gpu-source",
    type=click.Choice(sources.CHOICES),
    default=sources.AUTO,
    help="auto goes on without GPU columns where there is no GPU; every row of simulated GPUs says so.",
)
@options.gpus_option("GPUs to read: indices, UUIDs or beginnings of UUIDs; every row names them.  [default: all]")
@options.server_option("The model server on this machine: every row is of the GPUs that it uses at its time, and names them.")
def monitor(
    output: Path,
    interval: float,
    per_gpu: bool,
    container: str,
    cgroup: Path | None,
    gpu_source: str,
    gpus: str | None,
    server: str | None,
) -> int:
    """Write GPU and container readings to OUTPUT.csv every INTERVAL seconds (default 1) until SIGTERM or Ctrl-C.

    An existing file with the same columns is continued.
    """
    from joulebench.gpu.monitor import GpuMonitor
    from joulebench.gpu.server_gpus import ServerGpus
    from joulebench.mcpworld.monitor import CsvMonitor

    clock = SystemClock()
    with suppress(OSError):
        # Rows keep their beat beside a benchmark that takes all CPUs; where that is not allowed, some come late.
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    with ExitStack() as stack:
        names = parse_devices(gpus, "--gpus") if gpus else ()
        source = _gpu_source(gpu_source, names)
        energy = None
        if source is not None:
            stack.callback(source.close)
            if per_gpu:
                # A source of its own: one card's reading is for one thread at a time.
                watched = (
                    source
                    if source.name == "simulated"
                    else stack.enter_context(closing(_gpu_source(gpu_source, names) or source))
                )
                energy = GpuMonitor(watched, clock, ring_seconds=60.0)
        poller = _container_poller(container, cgroup, clock)
        # What was declared counts before what is observed.
        serving = ServerGpus(source, server, clock, "--server").uuids if server and source is not None and not names else None
        csv_monitor = CsvMonitor(
            output,
            source,
            clock,
            interval=interval,
            container=poller,
            energy=energy,
            names_devices=bool(names),
            serving=serving,
        )
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # What was ignored for us, as nohup does it, stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, csv_monitor.stop)
        if poller is not None:
            poller.start()
            stack.callback(poller.stop)
        if energy is not None:
            energy.start()
            stack.callback(energy.stop)
        print(f"monitor: {output}, a row every {interval:g} s", file=sys.stderr, flush=True)
        csv_monitor.run()
    return 0


def _gpu_source(wanted: str, names: Sequence[DeviceName]) -> GpuSource | None:
    """Returns the GPUs of that kind that ``names`` mean, all without names; None where there may be none."""
    from joulebench.gpu.chosen_devices import ChosenDevices

    source = _all_gpus(wanted)
    if source is None:
        if names:
            raise UserError(f"--gpus: {', '.join(map(str, names))} cannot be read, since there is no GPU here")
        return None
    if not names:
        return source
    try:
        return ChosenDevices(source, names, "--gpus")
    except UserError:
        source.close()
        raise


def _all_gpus(wanted: str) -> GpuSource | None:
    if wanted == sources.SIMULATED:
        from joulebench.gpu.simulated import SimulatedSource, own_host

        return SimulatedSource(host=own_host())
    try:
        return sources.open_measured_source(wanted)
    except GpuUnavailable as error:
        if wanted != sources.AUTO:
            raise
        print(f"monitor: no GPU columns: {error}", file=sys.stderr, flush=True)
        return None


def _container_poller(container: str, cgroup: Path | None, clock: Clock) -> ContainerPoller | None:
    from joulebench.mcpworld.container import Cgroup, ContainerPoller, DockerContainer

    if cgroup is not None:
        if not (cgroup / "cpu.stat").exists():
            raise UserError(f"--cgroup: {cgroup} has no cpu.stat; give a cgroup v2 directory below /sys/fs/cgroup")
        return ContainerPoller(Cgroup(cgroup), clock)
    return None if container == NO_CONTAINER else ContainerPoller(DockerContainer(container), clock)


@mcpworld_command.command("backfill")
@click.argument("directory", type=options.DIRECTORY, metavar="DIR")
@options.prometheus_option("Prometheus; 'none' uses logs of the monitor alone.")
@click.option(
    "--monitor-csv",
    type=options.FILE,
    multiple=True,
    help="Log of monitor_gpu.py for what Prometheus did not scrape, and for the container; may be repeated."
    "  [default: every gpu_metrics_*.csv below DIR]",
)
@click.option("--instance", metavar="LABEL", help="Only GPUs of this scrape target, by its instance label.")
@click.option(
    "--wait",
    type=options.SECONDS,
    default=15.0,
    help="Longest wait for Prometheus to scrape the end of a session that has just ended.",
)
@options.gpus_option("GPUs that served the model, of those that were measured.  [default: all of them]")
@options.server_option("The model server: the GPUs that it used in each session count, where Prometheus has them.")
@options.meters_option()
@click.option("--dry-run", is_flag=True, help="Print what would be done and write nothing.")
@click.option("--quiet", is_flag=True, help="Print only files whose energy is not ok.")
def backfill(
    directory: Path,
    prometheus_url: str,
    monitor_csv: tuple[Path, ...],
    instance: str | None,
    wait: float,
    gpus: str | None,
    server: str | None,
    meters: MeterFile,
    dry_run: bool,
    quiet: bool,
) -> int:
    """Add energy to the finished result files of the MCPWorld client.

    DIR is where the client logs; every result_*.json below it is read. Exits with 0 where every result has its energy, with 1
    where some could not get one.
    """
    from rich.console import Console

    from joulebench.clients.prometheus import PrometheusApi
    from joulebench.mcpworld.backfill import Options
    from joulebench.mcpworld.backfill import backfill as backfill_files

    api = None if prometheus_url == settings.NO_URL else PrometheusApi(prometheus_url)
    try:
        devices = parse_devices(gpus, "--gpus") if gpus else ()
        report = backfill_files(
            Options(
                directory,
                list(monitor_csv),
                instance,
                dry_run,
                wait,
                devices,
                meters.meters,
                meters.emissions,
                server=server or None,
            ),
            api,
        )
    finally:
        if api is not None:
            api.close()
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
    for outcome in report.outcomes:
        if quiet and outcome.quality == "ok":
            continue
        joules = "-" if outcome.joules is None else f"{outcome.joules:,.1f} J"
        path = outcome.path.relative_to(directory) if directory.is_dir() else outcome.path
        line = f"{outcome.status:<12} {joules:>12}  {path}  {' '.join(outcome.reasons)}".rstrip()
        console.print(printable_text(line), markup=False)
    for note in report.notes:
        console.print(printable_text(f"note: {note}"), markup=False)
    counts = {outcome.status: report.count(outcome.status) for outcome in report.outcomes}
    summary = ", ".join(f"{number} {status.replace('_', ' ')}" for status, number in sorted(counts.items()))
    console.print(f"{len(report.outcomes)} files: {summary}" + (" (dry run: nothing was written)" if dry_run else ""))
    return 0 if report.all_measured else 1


@mcpworld_command.command("json-to-csv")
@click.option("-i", "--input-dir", type=options.DIRECTORY, default=".", metavar="DIR", help="Directory with result_*.json.")
@click.option("-o", "--output", type=options.FILE, default="benchmark_results.csv", metavar="FILE", help="The table.")
@click.option("-q", "--quiet", is_flag=True, help="Print only what went wrong.")
def json_to_csv(input_dir: Path, output: Path, quiet: bool) -> int:
    """Make one table of all result files below a directory.

    Exits with 0 where every file became a row, with 1 where some could not.
    """
    from joulebench.files import write_atomic
    from joulebench.mcpworld import tables

    if not input_dir.is_dir():
        raise UserError(f"--input-dir: {input_dir} is no directory; give the one with the result_*.json files")
    table = tables.benchmark_table(input_dir)
    for path, why in table.left_out:
        print(printable_text(f"left out: {path} {why}"), file=sys.stderr)
    if not table.rows:
        raise UserError(f"--input-dir: no result_*.json below {input_dir}; give the directory in which the client logs")
    write_atomic(output, tables.table_text(tables.COLUMNS, table.rows), option="--output")
    if not quiet:
        print(f"{output}: {len(table.rows)} rows, {len(tables.COLUMNS)} columns")
    return 1 if table.left_out else 0


@mcpworld_command.command("collect-metrics", short_help="Put a task's rows into the tables of its suite.")
@click.option("--result", type=options.FILE, metavar="FILE", help="result_*.json of the task, where there is one.")
@click.option("--task-id", required=True, metavar="ID", help="Full task id, such as vscode/task01_updateColorTheme.")
@click.option("--log-dir", required=True, metavar="DIR", help="Directory with the logs of the task; written into the tables.")
@click.option("--summary", type=options.FILE, required=True, metavar="FILE", help="Table of status and reason.")
@click.option("--metrics", type=options.FILE, required=True, metavar="FILE", help="Table of metrics.")
@click.option(
    "--fallback-status",
    default="unknown",
    metavar="STATUS",
    help="Status where no result has one; 'success' becomes 'missing'.",
)
@click.option("--fallback-reason", default="", show_default=False, metavar="TEXT", help="Reason where no result has a status.")
def collect_metrics(
    result: Path | None,
    task_id: str,
    log_dir: str,
    summary: Path,
    metrics: Path,
    fallback_status: str,
    fallback_reason: str,
) -> int:
    """Put a task's rows into the summary table and the metrics table of its suite."""
    from joulebench.mcpworld.tables import SuiteRow, put_suite_rows

    put_suite_rows(
        SuiteRow(
            task_id=task_id,
            log_dir=log_dir,
            summary=summary,
            metrics=metrics,
            result=result,
            fallback_status=fallback_status,
            fallback_reason=fallback_reason,
        )
    )
    return 0
