"""``joulebench up``: the stack on this machine without containers, left running until ``joulebench down``.

Programs that are not installed are downloaded first. Alertmanager may be missing: then no alert is sent, and the command says so.
"""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

from rich.console import Console

from joulebench import settings
from joulebench.errors import ProcessError, UserError
from joulebench.gpu.simulated import SCENARIOS
from joulebench.stack import state
from joulebench.stack.fetch import fetch_missing
from joulebench.stack.native import NativeStack, Ports

DEFAULT_DIRECTORY = ".joulebench"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", type=Path, default=Path(DEFAULT_DIRECTORY), help="for data and logs (default: %(default)s)")
    parser.add_argument("--gpu-source", choices=("auto", "nvml", "simulated"), default="auto", help="passed to the exporter")
    parser.add_argument(
        "--simulated-scenario",
        choices=SCENARIOS,
        help="with --gpu-source simulated: two GPUs, both well (steady), or the second one too hot now and then (overheating) or"
        " for 45 s every five minutes, so that alerts fire and resolve (recovering)",
    )
    parser.add_argument("--prometheus-port", type=int, default=9090, help="default: %(default)s")
    parser.add_argument("--pushgateway-port", type=int, default=9091, help="default: %(default)s")
    parser.add_argument("--alertmanager-port", type=int, default=9093, help="default: %(default)s")
    parser.add_argument("--exporter-port", type=int, default=settings.EXPORTER_PORT, help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    directory: Path = args.dir
    alive = [one for one in state.load(directory) if one.alive]
    if alive:
        raise UserError(f"{', '.join(one.name for one in alive)} already run from {directory}; 'joulebench down' ends them")
    ports = Ports(args.prometheus_port, args.pushgateway_port, args.alertmanager_port, args.exporter_port)
    for name, port in zip(("prometheus", "pushgateway", "alertmanager", "exporter"), _port_list(ports), strict=True):
        _require_free(port, f"--{name}-port")
    flags = _exporter_flags(args.gpu_source, args.simulated_scenario)
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
    for one in started:
        console.print(f"{one.name:<13} {one.url}")
    for name, reason in stack.absent.items():
        console.print(f"{name} does not run, so no alert is sent: {unavailable.get(name, reason)}", markup=False)
    console.print(f"data and logs in {stack.directory}; end with: joulebench down --dir {directory}")
    return 0


def _exporter_flags(gpu_source: str, scenario: str | None) -> list[str]:
    if scenario is None:
        return ["--gpu-source", gpu_source]
    if gpu_source != "simulated":
        raise UserError("--simulated-scenario: needs --gpu-source simulated beside it; measured GPUs follow no script")
    return ["--gpu-source", gpu_source, "--simulated.gpus=2", f"--simulated.scenario={scenario}"]


def _port_list(ports: Ports) -> tuple[int, int, int, int]:
    return ports.prometheus, ports.pushgateway, ports.alertmanager, ports.exporter


def _require_free(port: int, flag: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise UserError(f"{flag}: port {port} of 127.0.0.1 cannot be used ({error}); give another one") from error
