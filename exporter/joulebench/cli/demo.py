"""``joulebench demo``: the main job once, by the commands a user would type, on free ports, with nothing left running.

Where no Ollama answers, a small real model is served here; where no NVML is usable, GPUs are simulated, and everything that
comes out says so.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console

from joulebench import settings
from joulebench.bench import suites
from joulebench.bench.embedded import gguf
from joulebench.clock import SystemClock
from joulebench.errors import GpuUnavailable, OllamaError
from joulebench.stack.native import NativeStack, Ports

BLOCK = 3
"""Tasks of a run before it is the turn of the next."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs-dir", type=Path, default=Path(settings.DEFAULT_RUNS_DIR), help="default: %(default)s")
    parser.add_argument("--tasks", default=None, help="only tasks whose id matches this glob")
    parser.add_argument("--model", default=None, help="model of the local Ollama (default: its first, else the embedded one)")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE.gguf",
        help="run the model twice and this one (needs xllamacpp), in turns, and compare the model with itself and with this one",
    )


def run(args: argparse.Namespace) -> int:
    console = Console(highlight=False, soft_wrap=True)
    gpu_source = _gpu_source(console)
    if args.against is not None:
        gguf(args.against)
    model_flags = _model_flags(args.model, console)
    stamp = datetime.fromtimestamp(SystemClock().unix(), tz=timezone.utc).strftime("%Y%m%d-%H%M%S")
    first = f"demo-{stamp}"
    directory = args.runs_dir / first
    models = {first: model_flags}
    if args.against is not None:
        models |= {f"{first}-again": model_flags, f"{first}-against": ["--gguf", str(args.against)]}
    exporter_flags = ["--gpu-source", gpu_source, *(["--simulated.gpus=2"] if gpu_source == "simulated" else [])]
    with NativeStack(directory / "stack", Ports.free(), exporter_flags) as stack:
        console.print(
            f"Prometheus {stack.prometheus_url}, Pushgateway {stack.gateway_url}, exporter {stack.exporter_url}/metrics"
        )
        servers = ["--gateway-url", stack.gateway_url, "--exporter-url", stack.exporter_url]
        places = {
            run_id: ["--run-id", run_id, "--runs-dir", str(args.runs_dir), "--prometheus-url", stack.prometheus_url]
            for run_id in models
        }
        benches = [
            ["bench", *models[run_id], *places[run_id], *servers, *tasks]
            for run_id, tasks in _order(list(models), args.tasks or "*")
        ]
        for command in (*benches, *(["export", *places[run_id]] for run_id in models)):
            code = _joulebench(command, console)
            if code != 0:
                return code
    if args.against is not None:
        _compared([args.runs_dir / run_id for run_id in models], console)
    console.print(f"\nresults       {directory / 'results.csv'} and one result_*.json a task beside it")
    console.print(f"event journal {directory}/journal-*.jsonl")
    console.print(f"logs and TSDB {directory / 'stack'}")
    if gpu_source == "simulated":
        console.print(
            "energy here is SIMULATED (no usable NVML): tokens, times and confidences are real, joules, watts and degrees are not"
        )
    console.print("next: 'joulebench up' for a stack that stays, then 'joulebench bench --help'")
    return 0


def _order(runs: list[str], glob: str) -> Iterator[tuple[str, list[str]]]:
    """(run, flags) of each benchmark to start. Several runs take turns, in blocks of tasks and each block the other way round.

    A machine that others use or that grows hot is slower at one time than at another: were one run made after the other, this
    would be told as a difference between them.
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
    """The first against itself and against the other; what cannot be compared is told there and is no failure of the demo."""
    first, again, other = map(str, runs)
    for command in (["compare", first, again], ["compare", first, other], ["report", first, other]):
        _joulebench(command, console)


def _gpu_source(console: Console) -> str:
    from joulebench.gpu.nvml import NvmlSource

    try:
        NvmlSource().close()
    except GpuUnavailable as error:
        console.print(f"no usable NVML here ({error}): GPUs are simulated")
        return "simulated"
    return "nvml"


def _model_flags(model: str | None, console: Console) -> list[str]:
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
        return ["--embedded"]
    return ["--ollama-url", url, "--model", model]


def _joulebench(command: list[str], console: Console) -> int:
    console.print(f"\n$ joulebench {shlex.join(command)}")
    return subprocess.run([sys.executable, "-m", "joulebench.cli", *command], check=False).returncode
