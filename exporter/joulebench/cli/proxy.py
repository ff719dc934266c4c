"""``joulebench proxy``: the metering reverse proxy, in a process of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from joulebench import settings
from joulebench.cli import options
from joulebench.clock import SystemClock
from joulebench.devices import DeviceChoice
from joulebench.errors import UserError
from joulebench.llm.logprob_cost import AUTO_LOGPROBS

if TYPE_CHECKING:
    from joulebench.proxy.server import Options

log = logging.getLogger(__name__)


@click.command("proxy")
@click.option(
    "--upstream",
    type=options.URL,
    help=f"The model server, without /v1.  [default: $OLLAMA_HOST, else {settings.DEFAULT_OLLAMA_URL}]",
)
@click.option(
    "--listen",
    type=options.ADDRESS,
    default=settings.DEFAULT_PROXY_ADDRESS,
    help="Address at which clients reach the model server through the proxy.",
)
@click.option(
    "--web.listen-address",
    "metrics_listen",
    type=options.ADDRESS,
    default=settings.DEFAULT_PROXY_METRICS_ADDRESS,
    help="Address of /metrics and /healthz.",
)
@click.option(
    "--add-logprobs",
    type=options.NumberOrAuto(0, 20, AUTO_LOGPROBS),
    default=0,
    metavar="N|auto",
    help="Request logprobs with N alternatives where a request declares tools, and remove them from the reply again: gives the"
    " confidence of tool calls, and may cost speed. 0 requests none. auto measures on the first ten calls of a model what they"
    " cost, every other one with them, and requests them where a call takes at most a quarter longer.",
)
@click.option(
    "--no-add-usage",
    "add_usage",
    flag_value=False,
    default=True,
    help="Do not request the token counts of a stream from OpenAI-compatible servers; such streams then have none.",
)
@options.connections_option()
@click.option(
    "--exporter.url",
    "exporter_url",
    type=options.URL_LIST,
    envvar=settings.ENV_EXPORTER_URL,
    show_envvar=True,
    default=settings.DEFAULT_EXPORTER_URL,
    help="The exporter that answers how many joules a request took, or 'none'.",
)
@options.gpus_option()
@click.option("--no-energy", is_flag=True, help="Do not ask an exporter for energy.")
@click.option(
    "--tasks",
    "max_tasks",
    type=options.Number(int, 1, 2000),
    default=200,
    help="Largest number of tasks that have series; beyond it the tasks that were idle longest are dropped.",
)
@click.option(
    "--task-file",
    type=options.FILE,
    help="File with the run and task of requests that name none; 'joulebench run --task-file' keeps it to the task that runs.",
)
@click.option(
    "--reply-timeout",
    type=options.SECONDS,
    default=3600.0,
    help="Longest wait for the first byte of a reply: a model server may compute for minutes before it. The rest of the reply's"
    " head has 30 seconds, its body no limit.",
)
@options.runs_dir_option("Directory in which each run that requests name gets a journal; 'none' keeps no journals.")
@click.option(
    "--run-id",
    metavar="ID",
    default="",
    help="Run of requests that name none. Without it such requests are in the metrics and in no run.",
)
@options.log_level_option()
def proxy_command(
    upstream: str | None,
    exporter_url: str,
    gpus: str | None,
    no_energy: bool,
    runs_dir: Path,
    run_id: str,
    log_level: str,
    **flags: Any,
) -> int:
    """Measure every request to a model server by run and task, and pass its bytes on unchanged."""
    if importlib.util.find_spec("aiohttp") is None:
        raise UserError("the proxy needs aiohttp, not installed here; install with: pip install 'joulebench[proxy]'")
    options.begin_logging(log_level)
    from joulebench.proxy.server import Options
    from joulebench.push import ids

    upstream = upstream or settings.ollama_url()
    if upstream.endswith("/v1"):
        raise UserError(f"--upstream: give {upstream.removesuffix('/v1')}; clients keep the /v1 in their own base URL")
    exporters = () if no_energy else settings.Endpoints.from_settings(exporter_url=exporter_url).exporters
    devices = DeviceChoice.from_settings(gpus, upstream, setting="--gpus")
    keeps_journals = str(runs_dir) != settings.NO_URL
    if run_id and not ids.is_path_part(run_id):
        raise UserError(f"--run-id: {run_id!r} must be 1 to 100 of A-Z a-z 0-9 . _ - and begin with a letter or digit")
    proxy_options = Options(upstream=upstream, runs_dir=runs_dir if keeps_journals else None, run_id=run_id, **flags)
    asyncio.run(_serve(proxy_options, exporters, devices))
    return 0


async def _serve(proxy_options: Options, exporters: tuple[settings.Url, ...], devices: DeviceChoice) -> None:
    from joulebench.clients.exporter import ExporterGroup
    from joulebench.proxy.server import ProxyServer

    clock = SystemClock()
    energy_api = ExporterGroup(exporters, devices, clock) if exporters else None
    if energy_api is not None:
        energy_api.check()
    server = ProxyServer(proxy_options, clock, energy_api, devices.as_json())
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await server.start()
    try:
        print(f"metrics on {server.metrics_url}", file=sys.stderr)
        print(f"listening on {server.url}, for {server.upstream.shown}", file=sys.stderr, flush=True)
        if proxy_options.runs_dir is not None:
            run = proxy_options.run_id or "RUN"
            name = "requests" if proxy_options.run_id else f"requests to {server.url}/run/RUN/task/TASK/..."
            print(
                f"{name} are recorded in {proxy_options.runs_dir}; their results: joulebench export --run-id {run}",
                file=sys.stderr,
            )
        await stopped.wait()
        log.info("stopping")
    finally:
        await server.stop()
        if energy_api is not None:
            energy_api.close()
