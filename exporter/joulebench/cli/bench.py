"""``joulebench bench`` and ``joulebench range``: agent tasks on a model, with everything that is measured pushed.

A model server is an OpenAI-compatible one, Ollama, or a model that is served here. Failed tasks are results: ``bench`` exits with
0 when the run was completed and with 1 when the server could not be reached at all. ``range`` runs each task in a process of its
own, with a monitor beside it, and goes on where an earlier start ended.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from joulebench import settings
from joulebench.cli import options
from joulebench.clock import Clock, SystemClock
from joulebench.errors import OllamaError, UserError
from joulebench.gpu import sources

if TYPE_CHECKING:
    from joulebench.bench.stage import Work
    from joulebench.bench.suites import Suite
    from joulebench.bench.task_range.runner import Paths
    from joulebench.llm.chat import ChatModel, ToolMode
    from joulebench.llm.client import RequestSettings
    from joulebench.push.run import Run

EMBEDDED_MAX_TOKENS = 80
MAX_TOKENS = 512
MAX_SHOWN_MODELS = 20
NONE = "none"
LOAD_TIMEOUT_SECONDS = 600.0
OLLAMA_DEFAULT = f"[default: $OLLAMA_HOST, else {settings.DEFAULT_OLLAMA_URL}]"


@dataclass(frozen=True, slots=True)
class BenchFlags:
    """The values of the command line, by the names of ``bench_command``'s options."""

    base_url: str | None
    ollama_url: str | None
    embedded: bool
    gguf: Path | None
    model: str | None
    suite: str
    examples: int | None
    tasks: str
    tool_mode: ToolMode | None
    no_stream: bool
    logprobs: str
    repeat: int
    workers: int
    temperature: float
    max_tokens: int | None
    context: int | None
    task_timeout: float | None
    idle_seconds: float
    warm_up: bool
    api_key_env: str | None
    run_id: str | None
    infrastructure_tag: str | None
    gateway_url: str
    prometheus_url: str
    exporter_url: str
    gpus: str | None
    server: str | None
    runs_dir: Path
    no_progress: bool

    @property
    def served_here(self) -> bool:
        return self.embedded or self.gguf is not None

    @property
    def model_server(self) -> str | None:
        """The address by which an exporter finds the GPUs that serve; None for one served on this CPU."""
        if self.server or self.served_here:
            return self.server
        return self.base_url or self.ollama_url or settings.ollama_url()

    def require_one_server(self) -> None:
        """Raises UserError where two model servers are named."""
        given = {
            "--base-url": self.base_url,
            "--ollama-url": self.ollama_url,
            "--embedded": self.embedded,
            "--gguf": self.gguf,
        }
        _require_at_most_one(given)


def _require_at_most_one(given: Mapping[str, object]) -> None:
    named = [flag for flag, value in given.items() if value]
    if len(named) > 1:
        raise UserError(f"{named[1]}: not allowed with {named[0]}; name one model server")


@click.command("bench")
@click.option("--base-url", type=options.URL, help="OpenAI-compatible server, such as http://127.0.0.1:8000/v1.")
@click.option("--ollama-url", type=options.URL, help=f"Ollama server.  {OLLAMA_DEFAULT}")
@click.option("--embedded", is_flag=True, help="Serve SmolLM2-135M in this process (needs xllamacpp).")
@click.option(
    "--gguf",
    type=options.FILE,
    help="Serve this model file in this process (needs xllamacpp), with the chat template that the file holds.",
)
@click.option("--model", metavar="NAME", help="Model to run, by the name that the server gives it.")
@click.option(
    "--suite",
    default="files",
    metavar="NAME|PATH|bfcl:CATEGORY[:N]",
    help="Shipped suite, YAML file, or the first N tasks of a category of the Berkeley Function Calling Leaderboard (needs"
    " bfcl-eval): simple, multiple, parallel, ..., multi_turn_base.",
)
@click.option(
    "--examples",
    type=options.Number(int, 0, 3),
    help="Earlier turns answered by a call, put in front of each bfcl question. The benchmark has none; small models call no tool"
    " without them.  [default: 0, 3 with --embedded and --gguf]",
)
@click.option("--tasks", default="*", metavar="GLOB[,GLOB]", help="Only tasks whose id matches one of the globs.")
@click.option(
    "--tool-mode",
    type=click.Choice(["native", "prompt"]),
    help="native: the server renders and parses tools; prompt: tools are text in the prompt, parsed here, so that time to first"
    " token and logprobs survive on servers that drop them.  [default: native, prompt with --embedded and --gguf]",
)
@click.option("--no-stream", is_flag=True, help="Request replies in one piece: time to first token is not measured.")
@click.option(
    "--logprobs",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    help="Request logprobs, which the confidence of tool calls needs. auto: measure with the warm-up what they cost, and go"
    " without where a call takes over a quarter longer; on with --embedded, --gguf and --no-warm-up.",
)
@click.option("--repeat", type=options.POSITIVE, default=1, help="How many times the suite is run.")
@click.option("--workers", type=options.POSITIVE, default=1, help="Number of tasks that run at the same time.")
@click.option("--temperature", type=options.Number(float, 0, 5, name="T"), default=0.0, help="Sampling temperature.")
@click.option(
    "--max-tokens",
    type=options.POSITIVE,
    help=f"Longest reply.  [default: {MAX_TOKENS}, {EMBEDDED_MAX_TOKENS} with --embedded and --gguf]",
)
@click.option(
    "--context",
    type=options.Number(int, 1, name="TOKENS"),
    help="Longest conversation, tools and reply included; a task that does not fit ends as an error and not as a failure of the"
    " model.  [default: what the suite needs with --embedded and --gguf, what the server decides with Ollama]",
)
@click.option("--task-timeout", type=options.POSITIVE_SECONDS, help="Timeout of every task.  [default: what the suite says]")
@click.option(
    "--idle-seconds",
    type=options.SECONDS,
    default=3.0,
    help="How long idle power is measured before and after the tasks, with the model loaded; 0 disables it.",
)
@click.option(
    "--warm-up/--no-warm-up",
    default=True,
    help="Make one uncounted call before the first task: it loads the model and fills the prefix cache.",
)
@click.option("--api-key-env", metavar="NAME", help="Environment variable that holds the server's API key.")
@click.option(
    "--run-id", envvar=settings.ENV_RUN_ID, show_envvar=True, metavar="ID", help="Name of the run.  [default: made from the time]"
)
@options.infrastructure_option()
@options.gateway_option()
@options.prometheus_option("Prometheus, which confirms that it has scraped what was pushed.")
@options.exporter_option("The exporter that answers how many joules a task took; several for a model on several hosts.")
@options.gpus_option()
@options.server_option("Address by which an exporter finds the GPUs that serve.  [default: the model server's]")
@options.runs_dir_option()
@click.option("--no-progress", is_flag=True, help="Print a line for each task instead of the live table.")
def bench_command(**flags: Any) -> int:
    """Run a suite of agent tasks on one model and push their metrics."""
    from rich.console import Console

    from joulebench.bench.agent import Agent
    from joulebench.bench.display import progress, summary
    from joulebench.bench.idle import quiet_around
    from joulebench.bench.runner import run_suite
    from joulebench.push.run import Run

    given = BenchFlags(**flags)
    given.require_one_server()
    clock = SystemClock()
    console = Console(highlight=False, soft_wrap=True)

    def say(text: str) -> None:
        console.print(text, markup=False)

    examples = _examples(given)
    suite = _suite(given.suite, examples).only(given.tasks)
    planned = len(suite.tasks) * given.repeat
    context_tokens = _context_tokens(given, suite.context_tokens)
    with _model(given, clock, context_tokens) as model:
        configuration = {
            "suite": given.suite,
            "examples": examples,
            "context_tokens": context_tokens,
            "infrastructure_tag": given.infrastructure_tag,
        }
        pushing = Run(
            model.name,
            suite.name,
            run_id=given.run_id,
            gateway_url=given.gateway_url,
            prometheus_url=given.prometheus_url,
            exporter_url=given.exporter_url,
            gpus=given.gpus,
            server=given.model_server,
            runs_dir=given.runs_dir,
            planned_tasks=planned,
            configuration={
                **model.configuration,
                **{name: value for name, value in configuration.items() if value is not None},
            },
            clock=clock,
        )
        try:
            with pushing as run_:
                say(f"run {run_.run_id}: {planned} tasks of suite {suite.name} on {model.name}")
                agent = Agent(run_, model, clock, given.task_timeout)
                with (
                    quiet_around(
                        run_,
                        model,
                        suite.tasks[-1],
                        clock,
                        say,
                        idle_seconds=given.idle_seconds,
                        warm_up=given.warm_up,
                        measure_logprobs=given.logprobs == "auto" and given.warm_up and not given.served_here,
                    ),
                    progress(console, planned, not given.no_progress) as listener,
                ):
                    outcomes = run_suite(
                        agent, suite, listener, run_.directory / "transcripts", repeat=given.repeat, workers=given.workers
                    )
        except KeyboardInterrupt:
            say(f"interrupted; results of the tasks so far: {_export_command(pushing, given)}")
            raise
        for note in model.notes:
            say(f"note: {note}")
    say(summary(outcomes))
    say(f"results: {_export_command(pushing, given)}")
    return 1 if all(outcome.unreachable for outcome in outcomes) else 0


def _export_command(run: Run, flags: BenchFlags) -> str:
    export = ["--run-id", run.run_id, "--runs-dir", str(run.directory.parent)]
    if flags.prometheus_url != settings.DEFAULT_PROMETHEUS_URL:
        export += ["--prometheus-url", flags.prometheus_url]
    return f"joulebench export {shlex.join(export)}"


def _examples(flags: BenchFlags) -> int | None:
    """Returns None where the suite takes no examples."""
    from joulebench.bench.bfcl import suite as bfcl

    if flags.suite.startswith(bfcl.PREFIX):
        return flags.examples if flags.examples is not None else (3 if flags.served_here else 0)
    if flags.examples is not None:
        raise UserError("--examples: only bfcl suites take them; leave it out")
    return None


def _suite(name: str, examples: int | None) -> Suite[Work]:
    from joulebench.bench import suites
    from joulebench.bench.bfcl import suite as bfcl

    return suites.load(name) if examples is None else bfcl.load(name, examples)


def _context_tokens(flags: BenchFlags, needed: int) -> int | None:
    """Returns the tokens of each conversation, None where the server decides. ``needed``: what the suite needs."""
    if flags.base_url and flags.context is not None:
        raise UserError("--context: a server at --base-url has the context that it was started with; leave --context out")
    return flags.context or (needed if flags.served_here else None)


@contextmanager
def _model(flags: BenchFlags, clock: Clock, context_tokens: int | None) -> Iterator[ChatModel]:
    """Yields the model that the flags name, on a server that answers."""
    from joulebench.bench import embedded
    from joulebench.llm.client import OpenAIChat
    from joulebench.llm.http import ModelServerHttp

    if flags.served_here:
        server = embedded.EmbeddedModel(flags.workers, flags.gguf, context_tokens or embedded.CONTEXT_TOKENS)
        if flags.model not in (None, server.name):
            raise UserError(f"--model: this serves {server.name} only; leave --model out")
        with server:
            sampling = _request_settings(flags, "prompt", EMBEDDED_MAX_TOKENS)
            yield OpenAIChat(
                ModelServerHttp(server.base_url, clock), server.name, clock, **sampling, extra=embedded.REQUEST_SETTINGS
            )
        return
    if flags.base_url:
        if not flags.model:
            raise UserError("--model: name the model that the server at --base-url should run")
        http = ModelServerHttp(flags.base_url, clock, _api_key(flags.api_key_env))
        names = http.model_names()
        if names and flags.model not in names:
            # Some servers (llama.cpp, gateways) take any name, so this is no error.
            shown = ", ".join(names[:MAX_SHOWN_MODELS]) + (", ..." if len(names) > MAX_SHOWN_MODELS else "")
            _say(f"--model: the server at {http.base_url} does not list {flags.model!r}; it lists {shown}")
        yield OpenAIChat(http, flags.model, clock, **_request_settings(flags))
        return
    yield _ollama(flags, clock, context_tokens)


def _request_settings(flags: BenchFlags, tool_mode: ToolMode = "native", max_tokens: int = MAX_TOKENS) -> RequestSettings:
    """``tool_mode`` and ``max_tokens`` apply where the command line names none."""
    return {
        "tool_mode": flags.tool_mode or tool_mode,
        "stream": not flags.no_stream,
        "temperature": flags.temperature,
        "max_tokens": flags.max_tokens or max_tokens,
        "logprobs": flags.logprobs != "off",
    }


def _ollama(flags: BenchFlags, clock: Clock, context_tokens: int | None) -> ChatModel:
    from joulebench.llm.client import OllamaChat
    from joulebench.llm.http import ModelServerHttp
    from joulebench.ollama.inventory import OllamaApi

    url = flags.ollama_url or settings.ollama_url()
    inventory = OllamaApi(url)
    try:
        available = inventory.inventory().available or ()
    except OllamaError as error:
        if flags.ollama_url:
            raise
        raise UserError(
            f"no Ollama answers at {url} ({error}). Start it, or choose another model server: --ollama-url URL --model NAME,"
            " --base-url URL --model NAME (OpenAI-compatible), or --embedded (a small model, served here)"
        ) from error
    finally:
        inventory.close()
    listing = ", ".join(available) or "none; fetch one with 'ollama pull NAME'"
    if not flags.model:
        raise UserError(f"--model: name a model of the Ollama at {url}; it has {listing}")
    if flags.model not in available and f"{flags.model}:latest" not in available:
        raise UserError(f"--model: the Ollama at {url} has no {flags.model!r}; it has {listing}")
    options = {} if context_tokens is None else {"num_ctx": context_tokens}
    return OllamaChat(
        ModelServerHttp(url, clock, _api_key(flags.api_key_env)), flags.model, clock, **_request_settings(flags), extra=options
    )


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"--api-key-env: the environment variable {variable} is not set")
    return key


@dataclass(frozen=True, slots=True)
class RangeFlags:
    """The values of the command line, by the names of ``range_command``'s options."""

    suite: str
    first: str
    last: str
    model: tuple[str, ...]
    models_file: Path | None
    tag: str
    run_id: str | None
    base_url: str | None
    ollama_url: str | None
    embedded: bool
    infrastructure_tag: str | None
    task_timeout: float | None
    kill_after: float
    interval: float
    monitor: str
    no_load: bool
    gateway_url: str | None
    exporter_url: str | None
    prometheus_url: str
    runs_dir: Path
    bench: str


@click.command("range")
@click.argument("suite", metavar="SUITE")
@click.argument("first", metavar="[FROM]", default="1")
@click.argument("last", metavar="[TO]", default="last")
@click.option(
    "--model", multiple=True, metavar="NAME", help="Model to run; may be repeated.  [default: $MODEL, or each of $MODELS]"
)
@click.option("--models-file", type=options.FILE, help="File with one model a line, # for comments.")
@click.option(
    "--tag",
    default="",
    show_default=False,
    metavar="TAG",
    help="Front part of the run ids, TAG-MODEL.  [default: the suite's name]",
)
@click.option("--run-id", metavar="ID", help="With one model: the run to begin or to resume.")
@options.infrastructure_option()
@click.option("--base-url", type=options.URL, help="OpenAI-compatible server.")
@click.option("--ollama-url", type=options.URL, help=f"Ollama server.  {OLLAMA_DEFAULT}")
@click.option("--embedded", is_flag=True, help="Serve the small embedded model.")
@click.option("--task-timeout", type=options.POSITIVE_SECONDS, help="Timeout of every task.  [default: what the suite says]")
@click.option(
    "--kill-after",
    type=options.SECONDS,
    default=30.0,
    help="Grace period of a task's process after its timeout, before it is killed.",
)
@click.option("--interval", type=options.POSITIVE_SECONDS, default=0.25, help="Time between two rows of the monitor.")
@click.option(
    "--monitor", type=click.Choice([*sources.CHOICES, NONE]), default=sources.AUTO, help="Source of the monitor's GPUs."
)
@click.option("--no-load", is_flag=True, help="Neither load nor unload models of an Ollama.")
@options.gateway_option("Pushgateway of the benchmark.", default=None)
@options.exporter_option("Exporter of the benchmark.", default=None)
@options.prometheus_option("Prometheus for the last export, or 'none'.")
@options.runs_dir_option()
@click.option(
    "--bench", default="", show_default=False, metavar="FLAGS", help="Further flags of 'joulebench bench', as one argument."
)
def range_command(**flags: Any) -> int:
    """Run tasks FROM to TO of SUITE (a shipped suite or a YAML file) on each model, with a monitor beside each task.

    Exits with 0 when every task is done, 1 when some are left (start again to go on), 130 or 143 when interrupted.
    """
    from joulebench.bench import suites
    from joulebench.bench.task_range.runner import PlannedTask, TaskRangeRunner
    from joulebench.push import ids
    from joulebench.schema.client_identity import clean_model_name

    given = RangeFlags(**flags)
    _require_at_most_one({"--base-url": given.base_url, "--ollama-url": given.ollama_url, "--embedded": given.embedded})
    suite = suites.load(given.suite)
    first, last = _numbers(given.first, given.last, len(suite.tasks))
    tasks = [PlannedTask(task.id, given.task_timeout or task.timeout_seconds) for task in suite.tasks[first - 1 : last]]
    models = _models(given)
    if given.run_id and len(models) > 1:
        raise UserError("--run-id: one run cannot hold several models; leave it out, or give one --model")
    interrupted, received = threading.Event(), [0]
    _end_by_signals(interrupted, received)
    complete = True
    for model in models:
        if interrupted.is_set():
            break
        run_id = ids.path_part(given.run_id or f"{given.tag or suite.name}-{clean_model_name(model)}", "--run-id")
        paths = _paths(given, suite.name, model, run_id)
        _say(f"run {run_id}: tasks {first} to {last} of suite {suite.name} on {model}; results in {paths.directory}")
        try:
            with _loaded(given, model):
                complete &= TaskRangeRunner(paths, SystemClock(), interrupted, _say).run(tasks)
        except OllamaError as error:
            _say(f"{model} cannot be loaded: {error}")
            complete = False
    if received[0]:
        return 128 + received[0]
    return 0 if complete else 1


def _paths(flags: RangeFlags, suite_name: str, model: str, run_id: str) -> Paths:
    from joulebench.bench.task_range.runner import Paths

    bench = ["--embedded"] if flags.embedded else ["--model", model]
    for flag, value in (
        ("--base-url", flags.base_url),
        ("--ollama-url", flags.ollama_url),
        ("--gateway-url", flags.gateway_url),
        ("--exporter-url", flags.exporter_url),
        ("--prometheus-url", flags.prometheus_url),
        ("--infrastructure-tag", flags.infrastructure_tag),
    ):
        if value:
            bench += [flag, value]
    return Paths(
        suite=flags.suite,
        suite_name=suite_name,
        run_id=run_id,
        model=model,
        runs_dir=flags.runs_dir.resolve(),
        bench=[*bench, *_further(flags.bench)],
        prometheus_url=None if flags.prometheus_url == settings.NO_URL else flags.prometheus_url,
        monitor=None if flags.monitor == NONE else [f"{flags.interval:g}", "--gpu-source", flags.monitor, "--per-gpu"],
        health=_health(flags),
        kill_after=flags.kill_after,
    )


def _further(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"--bench: {text!r} cannot be split into flags ({error}); quote it as a shell would") from error


def _health(flags: RangeFlags) -> str | None:
    if flags.embedded:
        return None
    return f"{flags.base_url}/models" if flags.base_url else f"{flags.ollama_url or settings.ollama_url()}/api/version"


@contextmanager
def _loaded(flags: RangeFlags, model: str) -> Iterator[None]:
    """The model in an Ollama's memory, and out of it again where it was not there before. Raises OllamaError."""
    from joulebench.ollama.inventory import OllamaApi
    from joulebench.ollama.models import OllamaModels

    if flags.no_load or flags.embedded or flags.base_url:
        yield
        return
    url = flags.ollama_url or settings.ollama_url()
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


def _models(flags: RangeFlags) -> list[str]:
    if flags.embedded:
        from joulebench.bench import embedded

        return [embedded.MODEL_NAME]
    names = list(flags.model)
    if flags.models_file:
        try:
            lines = flags.models_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--models-file: {flags.models_file} cannot be read ({error}); give a file with a model a line"
            ) from error
        names += [name for line in lines if (name := line.partition("#")[0].strip())]
    names = names or os.environ.get("MODELS", "").replace(",", " ").split() or os.environ.get("MODEL", "").split()
    if not names:
        raise UserError("--model: name the model to run, or set MODEL or MODELS")
    return list(dict.fromkeys(names))


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
    print(line, file=sys.stderr, flush=True)
