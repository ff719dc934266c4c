"""``joulebench proxy``: the metering reverse proxy, a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import logging
import signal
import sys
from typing import TYPE_CHECKING

from joulebench import settings
from joulebench.cli import logs
from joulebench.clock import SystemClock
from joulebench.errors import UserError

if TYPE_CHECKING:
    from joulebench.proxy.server import Options

log = logging.getLogger(__name__)

MAX_TASKS = 2000
MAX_TOP_LOGPROBS = 20
SWITCH_INTERVAL = 0.0002
"""Seconds for which a thread that counts may keep the interpreter from the thread that passes bytes on."""

COLLECT_EVERY = 20_000
"""Objects made and not freed; a request makes some hundred, nearly all of which go without a collection."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--upstream",
        metavar="URL",
        help=f"the model server, without /v1 (default: $OLLAMA_HOST, else {settings.DEFAULT_OLLAMA_URL})",
    )
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        default=settings.DEFAULT_PROXY_ADDRESS,
        help="where clients reach the model server through the proxy (default: %(default)s)",
    )
    parser.add_argument(
        "--web.listen-address",
        dest="metrics_listen",
        metavar="HOST:PORT",
        default=settings.DEFAULT_PROXY_METRICS_ADDRESS,
        help="where /metrics and /healthz are served (default: %(default)s)",
    )
    parser.add_argument(
        "--add-logprobs",
        dest="add_logprobs",
        metavar="N",
        type=int,
        default=0,
        help="ask the model server for logprobs with N alternatives in requests that declare tools, and take them out of the"
        " reply again: gives the confidence of tool calls, and may cost speed (default: %(default)s, ask for none)",
    )
    parser.add_argument(
        "--no-add-usage",
        dest="add_usage",
        action="store_false",
        help="do not ask OpenAI-compatible servers for the token counts of a stream; without them streams have none",
    )
    parser.add_argument(
        "--exporter.url",
        dest="exporter_url",
        metavar="URL",
        help="the exporter that is asked for energy"
        f" (default: ${settings.ENV_EXPORTER_URL}, else {settings.DEFAULT_EXPORTER_URL})",
    )
    parser.add_argument("--no-energy", dest="no_energy", action="store_true", help="do not ask for energy")
    parser.add_argument(
        "--tasks",
        metavar="N",
        type=int,
        default=200,
        help="tasks that have series; beyond that those that were idle longest are dropped (default: %(default)s)",
    )
    logs.configure(parser)


def run(args: argparse.Namespace) -> int:
    if importlib.util.find_spec("aiohttp") is None:
        raise UserError("the proxy needs aiohttp, not installed here; install with: pip install 'joulebench[proxy]'")
    logs.begin(args)
    sys.setswitchinterval(SWITCH_INTERVAL)
    asyncio.run(_serve(args, _options(args)))
    return 0


def _options(args: argparse.Namespace) -> Options:
    from joulebench.proxy.server import Options

    if not 1 <= args.tasks <= MAX_TASKS:
        raise UserError(f"--tasks: {args.tasks} is not between 1 and {MAX_TASKS}")
    if not 0 <= args.add_logprobs <= MAX_TOP_LOGPROBS:
        raise UserError(f"--add-logprobs: {args.add_logprobs} is not between 0 and {MAX_TOP_LOGPROBS}")
    upstream = settings.ollama_url() if args.upstream is None else settings.http_url(args.upstream, "--upstream")
    if upstream.endswith("/v1"):
        raise UserError(f"--upstream: give {upstream.removesuffix('/v1')}; clients keep the /v1 in their own base URL")
    return Options(
        upstream=upstream,
        listen=settings.listen_address(args.listen, "--listen"),
        metrics_listen=settings.listen_address(args.metrics_listen),
        add_usage=args.add_usage,
        add_logprobs=args.add_logprobs,
        max_tasks=args.tasks,
    )


async def _serve(args: argparse.Namespace, options: Options) -> None:
    from joulebench.clients.exporter import ExporterApi
    from joulebench.proxy.server import ProxyServer

    energy_api = None
    if not args.no_energy:
        given = args.exporter_url or settings.from_env(settings.ENV_EXPORTER_URL, settings.DEFAULT_EXPORTER_URL)
        energy_api = ExporterApi(settings.http_url(given, "--exporter.url"))
    server = ProxyServer(options, SystemClock(), energy_api)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await server.start()
    # What is there now stays: without it, each full collection would look through all of it and hold a token up meanwhile.
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY)
    try:
        print(f"metrics on {server.metrics_url}", file=sys.stderr)  # noqa: T201
        print(f"listening on {server.url}, for {options.upstream}", file=sys.stderr, flush=True)  # noqa: T201
        await stopped.wait()
        log.info("stopping")
    finally:
        await server.stop()
