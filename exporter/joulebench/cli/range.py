"""``joulebench range``: tasks FROM to TO of a suite on one or several models, resumable, with a monitor beside each task."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from joulebench import settings
from joulebench.clock import SystemClock
from joulebench.errors import OllamaError, UserError

if TYPE_CHECKING:
    from joulebench.bench.task_range.work import Places

NONE = "none"
LOAD_TIMEOUT_SECONDS = 600.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", metavar="SUITE", help="shipped suite or YAML file")
    parser.add_argument("first", metavar="FROM", nargs="?", default="1", help="number of the first task (default: 1)")
    parser.add_argument(
        "last", metavar="TO", nargs="?", default="last", help="number of the last task (default: the suite's last)"
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="may be given several times (default: MODEL, or each of MODELS)",
    )
    parser.add_argument("--models-file", type=Path, metavar="FILE", help="a model a line, # for comments")
    parser.add_argument(
        "--tag", default="", metavar="TAG", help="front part of the run ids, TAG-MODEL (default: the suite's name)"
    )
    parser.add_argument("--run-id", metavar="ID", help="with one model: the run to begin or to go on with")
    server = parser.add_mutually_exclusive_group()
    server.add_argument("--base-url", metavar="URL", help="OpenAI-compatible server")
    server.add_argument("--ollama-url", metavar="URL", help="Ollama server (default: OLLAMA_HOST, else http://127.0.0.1:11434)")
    server.add_argument("--embedded", action="store_true", help="the small model that is served here")
    parser.add_argument("--task-timeout", type=float, metavar="SECONDS", help="for every task (default: what the suite says)")
    parser.add_argument(
        "--kill-after", type=float, default=30.0, metavar="SECONDS", help="patience with a runner that overstays (default: 30)"
    )
    parser.add_argument(
        "--interval", default="0.25", metavar="SECONDS", help="between rows of the monitor (default: %(default)s)"
    )
    parser.add_argument("--monitor", default="auto", choices=("auto", "nvml", "simulated", NONE), help="GPUs of the monitor")
    parser.add_argument("--no-load", action="store_true", help="neither load nor unload models of an Ollama")
    parser.add_argument("--gateway-url", metavar="URL", help="passed to the runner")
    parser.add_argument("--exporter-url", metavar="URL", help="passed to the runner")
    parser.add_argument("--prometheus-url", metavar="URL", help="for the last export, or 'none' (default: as for export)")
    parser.add_argument("--runs-dir", type=Path, metavar="DIR", help=f"default: {settings.DEFAULT_RUNS_DIR}")
    parser.add_argument("--bench", default="", metavar="FLAGS", help="further flags of 'joulebench bench', as one argument")


def run(args: argparse.Namespace) -> int:
    """0 when every task is done, 1 when some are left (start again to go on), 130 or 143 when interrupted."""
    from joulebench.bench import suites
    from joulebench.bench.task_range.work import Planned, Range
    from joulebench.mcpworld.identity import cleaned
    from joulebench.push import ids

    suite = suites.load(args.suite)
    first, last = _numbers(args.first, args.last, len(suite.tasks))
    tasks = [Planned(task.id, args.task_timeout or task.timeout_seconds) for task in suite.tasks[first - 1 : last]]
    models = _models(args)
    if args.run_id and len(models) > 1:
        raise UserError("--run-id: one run cannot hold several models; leave it out, or give one --model")
    interrupted, received = threading.Event(), [0]
    _end_by_signals(interrupted, received)
    complete = True
    for model in models:
        if interrupted.is_set():
            break
        run_id = ids.path_part(args.run_id or f"{args.tag or suite.name}-{cleaned(model)}", "--run-id")
        places = _places(args, suite.name, model, run_id)
        _say(f"run {run_id}: tasks {first} to {last} of suite {suite.name} on {model}; results in {places.directory}")
        try:
            with _loaded(args, model):
                complete &= Range(places, SystemClock(), interrupted, _say).run(tasks)
        except OllamaError as error:
            _say(f"{model} cannot be loaded: {error}")
            complete = False
    if received[0]:
        return 128 + received[0]
    return 0 if complete else 1


def _places(args: argparse.Namespace, suite_name: str, model: str, run_id: str) -> Places:
    from joulebench.bench.task_range.work import Places

    bench = ["--embedded"] if args.embedded else ["--model", model]
    prometheus = args.prometheus_url or settings.from_env(settings.ENV_PROMETHEUS_URL, settings.DEFAULT_PROMETHEUS_URL)
    for flag, value in (
        ("--base-url", args.base_url),
        ("--ollama-url", args.ollama_url),
        ("--gateway-url", args.gateway_url),
        ("--exporter-url", args.exporter_url),
        ("--prometheus-url", prometheus),
    ):
        if value:
            bench += [flag, value if value == settings.NO_URL else settings.http_url(value, flag)]
    return Places(
        suite=args.suite,
        suite_name=suite_name,
        run_id=run_id,
        model=model,
        runs_dir=(args.runs_dir or Path(settings.from_env(settings.ENV_RUNS_DIR, settings.DEFAULT_RUNS_DIR))).resolve(),
        bench=[*bench, *_further(args.bench)],
        prometheus_url=None if prometheus == settings.NO_URL else prometheus,
        monitor=None if args.monitor == NONE else [args.interval, "--gpu-source", args.monitor, "--per-gpu"],
        health=_health(args),
        kill_after=args.kill_after,
    )


def _further(flags: str) -> list[str]:
    try:
        return shlex.split(flags)
    except ValueError as error:
        raise UserError(f"--bench: {flags!r} cannot be split into flags ({error}); quote it as a shell would") from error


def _health(args: argparse.Namespace) -> str | None:
    if args.embedded:
        return None
    return f"{args.base_url.rstrip('/')}/models" if args.base_url else f"{_ollama_url(args)}/api/version"


def _ollama_url(args: argparse.Namespace) -> str:
    return settings.http_url(args.ollama_url, "--ollama-url") if args.ollama_url else settings.ollama_url()


@contextmanager
def _loaded(args: argparse.Namespace, model: str) -> Iterator[None]:
    """The model in an Ollama's memory, and out of it again where it was not there before. Raises OllamaError."""
    from joulebench.ollama.inventory import OllamaApi
    from joulebench.ollama.models import OllamaModels

    if args.no_load or args.embedded or args.base_url:
        yield
        return
    url = _ollama_url(args)
    api, models = OllamaApi(url), OllamaModels(url)
    try:
        before = {one.name for one in api.inventory().loaded or ()}
        models.load(model, LOAD_TIMEOUT_SECONDS)
        try:
            yield
        finally:
            if model not in before and f"{model}:latest" not in before:
                try:
                    models.unload(model)
                except OllamaError as error:
                    _say(f"{model} may still be loaded: {error}")
    finally:
        api.close()
        models.close()


def _models(args: argparse.Namespace) -> list[str]:
    if args.embedded:
        from joulebench.bench import embedded

        return [embedded.MODEL_NAME]
    found = list(args.model)
    if args.models_file:
        try:
            lines = args.models_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--models-file: {args.models_file} cannot be read ({error}); give a file with a model a line"
            ) from error
        found += [name for line in lines if (name := line.partition("#")[0].strip())]
    found = found or os.environ.get("MODELS", "").replace(",", " ").split() or os.environ.get("MODEL", "").split()
    if not found:
        raise UserError("--model: name the model to run, or set MODEL or MODELS")
    return list(dict.fromkeys(found))


def _numbers(first: str, last: str, count: int) -> tuple[int, int]:
    numbers = [count if text == "last" else int(text) if text.isdecimal() else 0 for text in (first, last)]
    if not 1 <= numbers[0] <= numbers[1] <= count:
        raise UserError(f"FROM TO: {first} {last} is no range of this suite; its tasks are 1 to {count}")
    return numbers[0], numbers[1]


def _end_by_signals(interrupted: threading.Event, received: list[int]) -> None:
    def interrupt(number: int, _: object) -> None:
        if interrupted.is_set():
            # Asked twice: whatever we are in the middle of ends now, and its children with it.
            raise KeyboardInterrupt
        received[0] = number
        interrupted.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
