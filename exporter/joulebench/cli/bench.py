"""``joulebench bench``: run a suite of agent tasks on one model and push everything that is measured.

One of three servers answers: an OpenAI-compatible one, Ollama, or the embedded model. Failed tasks are results: the exit code is
0 when the run was completed, 1 when the server could not be reached at all, 2 for bad input.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from joulebench import settings
from joulebench.clock import Clock, SystemClock
from joulebench.errors import OllamaError, UserError

if TYPE_CHECKING:
    from joulebench.bench.stage import Work
    from joulebench.bench.suites import Suite
    from joulebench.llm.chat import ChatModel, ToolMode
    from joulebench.llm.client import RequestSettings

EMBEDDED_MAX_TOKENS = 80
MAX_TOKENS = 512


def configure(parser: argparse.ArgumentParser) -> None:
    server = parser.add_mutually_exclusive_group()
    server.add_argument("--base-url", metavar="URL", help="OpenAI-compatible server, such as http://127.0.0.1:8000/v1")
    server.add_argument("--ollama-url", metavar="URL", help="Ollama server (default: OLLAMA_HOST, else http://127.0.0.1:11434)")
    server.add_argument("--embedded", action="store_true", help="serve SmolLM2-135M here (needs xllamacpp)")
    server.add_argument(
        "--gguf",
        type=Path,
        metavar="FILE",
        help="serve this model file here (needs xllamacpp), as --embedded is, with the file's own chat template",
    )
    parser.add_argument("--model", metavar="NAME", help="model to run, as the server names it")
    parser.add_argument(
        "--suite",
        default="files",
        metavar="NAME|PATH|bfcl:CATEGORY[:N]",
        help="shipped suite, YAML file, or the first N tasks of a category of the Berkeley Function Calling Leaderboard"
        " (needs bfcl-eval): simple, multiple, parallel, ..., multi_turn_base (default: %(default)s)",
    )
    parser.add_argument(
        "--examples",
        type=int,
        choices=range(4),
        metavar="N",
        help="past turns answered by a call, in front of each bfcl question, 0 to 3: the benchmark has none, small models call"
        " no tool without (default: 0, 3 with --embedded and --gguf)",
    )
    parser.add_argument("--tasks", default="*", metavar="GLOB[,GLOB]", help="only tasks whose id matches one of them")
    parser.add_argument(
        "--tool-mode",
        choices=("native", "prompt"),
        help="native: the server renders and parses tools; prompt: tools are text in the prompt, parsed here, so that time to"
        " first token and logprobs survive on servers that drop one of them (default: native, prompt with --embedded and --gguf)",
    )
    parser.add_argument("--no-stream", action="store_true", help="ask for whole replies: no time to first token is measured")
    parser.add_argument("--repeat", type=_positive, default=1, metavar="N", help="run the suite N times (default: %(default)s)")
    parser.add_argument("--workers", type=_positive, default=1, metavar="N", help="tasks at the same time (default: %(default)s)")
    parser.add_argument("--temperature", type=_temperature, default=0.0, help="default: %(default)s")
    parser.add_argument(
        "--max-tokens",
        type=_positive,
        metavar="N",
        help=f"longest reply (default: {MAX_TOKENS}, {EMBEDDED_MAX_TOKENS} with --embedded and --gguf)",
    )
    parser.add_argument(
        "--context",
        type=_positive,
        metavar="TOKENS",
        help="longest conversation, tools and reply included (default: what the suite needs with --embedded and --gguf, what the"
        " server decides with Ollama); a task that does not fit ends as an error and not as a failure of the model",
    )
    parser.add_argument("--task-timeout", type=_seconds, metavar="SECONDS", help="for every task (default: what the suite says)")
    parser.add_argument(
        "--idle-seconds",
        type=_duration,
        default=3.0,
        metavar="SECONDS",
        help="measure idle power for so long before and after the tasks, with the model loaded; 0: not (default: %(default)s)",
    )
    parser.add_argument(
        "--warm-up",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="one call before the first task that counts for none: it loads the model and fills the prefix cache",
    )
    parser.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the server's API key")
    parser.add_argument("--run-id", metavar="ID", help="default: made from the time")
    parser.add_argument(
        "--gateway-url", metavar="URL", help=f"Pushgateway, 'none' for none (default: {settings.DEFAULT_GATEWAY_URL})"
    )
    parser.add_argument("--prometheus-url", metavar="URL", help=f"default: {settings.DEFAULT_PROMETHEUS_URL}")
    parser.add_argument("--exporter-url", metavar="URL", help=f"default: {settings.DEFAULT_EXPORTER_URL}")
    parser.add_argument("--runs-dir", metavar="DIR", help=f"default: {settings.DEFAULT_RUNS_DIR}")
    parser.add_argument("--no-progress", action="store_true", help="a line for each task instead of the live table")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from joulebench.bench.agent import Agent
    from joulebench.bench.display import progress, summary
    from joulebench.bench.idle import quiet_around
    from joulebench.bench.runner import run_suite
    from joulebench.push.run import Run

    clock = SystemClock()
    console = Console(highlight=False, soft_wrap=True)

    def tell(text: str) -> None:
        console.print(text, markup=False)

    examples = _examples(args)
    suite = _suite(args.suite, examples).only(args.tasks)
    planned = len(suite.tasks) * args.repeat
    context_tokens = _context_tokens(args, suite.context_tokens)
    with _model(args, clock, context_tokens) as model:
        given = {"suite": args.suite, "examples": examples, "context_tokens": context_tokens}
        pushing = Run(
            model.name,
            suite.name,
            run_id=args.run_id,
            gateway_url=args.gateway_url or settings.from_env(settings.ENV_GATEWAY_URL, settings.DEFAULT_GATEWAY_URL),
            prometheus_url=args.prometheus_url or settings.from_env(settings.ENV_PROMETHEUS_URL, settings.DEFAULT_PROMETHEUS_URL),
            exporter_url=args.exporter_url or settings.from_env(settings.ENV_EXPORTER_URL, settings.DEFAULT_EXPORTER_URL),
            runs_dir=args.runs_dir,
            planned_tasks=planned,
            configuration={**model.configuration, **{name: value for name, value in given.items() if value is not None}},
            clock=clock,
        )
        with pushing as run_:
            tell(f"run {run_.run_id}: {planned} tasks of suite {suite.name} on {model.name}")
            agent = Agent(run_, model, clock, args.task_timeout)
            with (
                quiet_around(run_, model, suite.tasks[-1], clock, tell, idle_seconds=args.idle_seconds, warm_up=args.warm_up),
                progress(console, planned, not args.no_progress) as listener,
            ):
                outcomes = run_suite(
                    agent, suite, listener, run_.directory / "transcripts", repeat=args.repeat, workers=args.workers
                )
        for note in model.notes:
            tell(f"note: {note}")
    tell(summary(outcomes))
    places = ["--run-id", run_.run_id, "--runs-dir", str(run_.directory.parent)]
    if args.prometheus_url:
        places += ["--prometheus-url", args.prometheus_url]
    tell(f"results: joulebench export {shlex.join(places)}")
    return 1 if all(outcome.unreachable for outcome in outcomes) else 0


def _examples(args: argparse.Namespace) -> int | None:
    """None where the suite takes none."""
    from joulebench.bench.bfcl import suite as bfcl

    if args.suite.startswith(bfcl.PREFIX):
        return args.examples if args.examples is not None else (3 if _served_here(args) else 0)
    if args.examples is not None:
        raise UserError("--examples: only bfcl suites take them; leave it out")
    return None


def _suite(name: str, examples: int | None) -> Suite[Work]:
    from joulebench.bench import suites
    from joulebench.bench.bfcl import suite as bfcl

    return suites.load(name) if examples is None else bfcl.load(name, examples)


def _context_tokens(args: argparse.Namespace, needed: int) -> int | None:
    """Of each conversation; None where the server decides. ``needed``: by the suite."""
    if args.base_url and args.context is not None:
        raise UserError("--context: a server at --base-url has the context that it was started with; leave --context out")
    return args.context or (needed if _served_here(args) else None)


def _served_here(args: argparse.Namespace) -> bool:
    return args.embedded or args.gguf is not None


@contextmanager
def _model(args: argparse.Namespace, clock: Clock, context_tokens: int | None) -> Iterator[ChatModel]:
    """The model that was asked for, on a server that answers."""
    from joulebench.bench import embedded
    from joulebench.llm.client import OpenAIChat
    from joulebench.llm.http import ModelServerHttp

    if _served_here(args):
        server = embedded.EmbeddedModel(args.workers, args.gguf, context_tokens or embedded.CONTEXT_TOKENS)
        if args.model not in (None, server.name):
            raise UserError(f"--model: this serves {server.name} only; leave --model out")
        with server:
            settings_ = _request_settings(args, "prompt", EMBEDDED_MAX_TOKENS)
            yield OpenAIChat(
                ModelServerHttp(server.base_url, clock), server.name, clock, **settings_, extra=embedded.REQUEST_SETTINGS
            )
        return
    if args.base_url:
        if not args.model:
            raise UserError("--model: name the model that the server at --base-url should run")
        http = ModelServerHttp(settings.http_url(args.base_url, "--base-url"), clock, _api_key(args.api_key_env))
        http.check_reachable("/models")
        yield OpenAIChat(http, args.model, clock, **_request_settings(args))
        return
    yield _ollama(args, clock, context_tokens)


def _request_settings(args: argparse.Namespace, tool_mode: ToolMode = "native", max_tokens: int = MAX_TOKENS) -> RequestSettings:
    """``tool_mode`` and ``max_tokens`` where the command line names none."""
    return {
        "tool_mode": args.tool_mode or tool_mode,
        "stream": not args.no_stream,
        "temperature": args.temperature,
        "max_tokens": args.max_tokens or max_tokens,
    }


def _ollama(args: argparse.Namespace, clock: Clock, context_tokens: int | None) -> ChatModel:
    from joulebench.llm.client import OllamaChat
    from joulebench.llm.http import ModelServerHttp
    from joulebench.ollama.inventory import OllamaApi

    url = settings.http_url(args.ollama_url, "--ollama-url") if args.ollama_url else settings.ollama_url()
    inventory = OllamaApi(url)
    try:
        available = inventory.inventory().available or ()
    except OllamaError as error:
        if args.ollama_url:
            raise
        raise UserError(
            f"no Ollama answers at {url} ({error}). Start it, or choose another model server: --ollama-url URL --model NAME,"
            " --base-url URL --model NAME (OpenAI-compatible), or --embedded (a small model, served here)"
        ) from error
    finally:
        inventory.close()
    listing = ", ".join(available) or "none; fetch one with 'ollama pull NAME'"
    if not args.model:
        raise UserError(f"--model: name a model of the Ollama at {url}; it has {listing}")
    if args.model not in available and f"{args.model}:latest" not in available:
        raise UserError(f"--model: the Ollama at {url} has no {args.model!r}; it has {listing}")
    options = {} if context_tokens is None else {"num_ctx": context_tokens}
    return OllamaChat(
        ModelServerHttp(url, clock, _api_key(args.api_key_env)), args.model, clock, **_request_settings(args), extra=options
    )


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"--api-key-env: the environment variable {variable} is not set")
    return key


def _positive(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not a whole number above 0")
    return int(value)


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{value!r} is not a number of seconds above 0")
    return seconds


def _duration(value: str) -> float:
    return 0.0 if value.strip() in ("0", "0.0") else _seconds(value)


def _temperature(value: str) -> float:
    try:
        temperature = float(value)
    except ValueError:
        temperature = -1.0
    if not 0 <= temperature <= 5:
        raise argparse.ArgumentTypeError(f"{value!r} is not a temperature between 0 and 5")
    return temperature
