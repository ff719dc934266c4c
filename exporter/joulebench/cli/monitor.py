"""``joulebench monitor``: GPU and container readings to a CSV until it is told to stop."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from joulebench.clock import Clock, SystemClock
from joulebench.errors import GpuUnavailable, UserError

if TYPE_CHECKING:
    from joulebench.gpu.reading import GpuSource
    from joulebench.mcpworld.container import ContainerPoller

SHORTEST_INTERVAL = 0.02
NO_CONTAINER = "none"
PRIORITY = -10


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", type=Path, metavar="OUTPUT.csv", help="continued where it exists with the same columns")
    parser.add_argument(
        "interval", type=float, nargs="?", default=1.0, metavar="INTERVAL", help="seconds between rows (default: %(default)s)"
    )
    parser.add_argument(
        "--per-gpu", action="store_true", help="append columns of each GPU, with its energy counter watched at 50 Hz"
    )
    parser.add_argument(
        "--container", default="ollama", metavar="NAME", help="Docker container to watch, or 'none' (default: %(default)s)"
    )
    parser.add_argument("--cgroup", type=Path, metavar="DIR", help="watch this cgroup instead of a container")
    parser.add_argument(
        "--gpu-source",
        choices=("auto", "nvml", "simulated"),
        default="auto",
        help="auto goes on without GPU columns where there is no GPU; invented GPUs say so in every row (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from joulebench.gpu.monitor import GpuMonitor
    from joulebench.mcpworld.monitor import CsvMonitor

    if not SHORTEST_INTERVAL <= args.interval <= 3600:
        raise UserError(f"INTERVAL: {args.interval:g} is not between {SHORTEST_INTERVAL:g} and 3600 seconds")
    clock = SystemClock()
    with suppress(OSError):
        # Rows keep their beat beside a benchmark that takes all CPUs; where that is not allowed, some come late.
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    with ExitStack() as stack:
        source = _source(args.gpu_source)
        energy = None
        if source is not None:
            stack.callback(source.close)
            if args.per_gpu:
                # A source of its own: one card's reading is for one thread at a time.
                watched = (
                    source if source.name == "simulated" else stack.enter_context(closing(_source(args.gpu_source) or source))
                )
                energy = GpuMonitor(watched, clock, ring_seconds=60.0)
        container = _container(args, clock)
        monitor = CsvMonitor(args.output, source, clock, interval=args.interval, container=container, energy=energy)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # What was ignored for us, as nohup does it, stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, monitor.stop)
        if container is not None:
            container.start()
            stack.callback(container.stop)
        if energy is not None:
            energy.start()
            stack.callback(energy.stop)
        print(f"monitor: {args.output}, a row every {args.interval:g} s", file=sys.stderr, flush=True)  # noqa: T201
        monitor.run()
    return 0


def _source(wanted: str) -> GpuSource | None:
    if wanted == "simulated":
        from joulebench.gpu.simulated import SimulatedSource

        return SimulatedSource()
    from joulebench.gpu.nvml import NvmlSource

    try:
        return NvmlSource()
    except GpuUnavailable as error:
        if wanted == "nvml":
            raise
        print(f"monitor: no GPU columns: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return None


def _container(args: argparse.Namespace, clock: Clock) -> ContainerPoller | None:
    from joulebench.mcpworld.container import Cgroup, ContainerPoller, DockerContainer

    if args.cgroup is not None:
        if not (args.cgroup / "cpu.stat").exists():
            raise UserError(f"--cgroup: {args.cgroup} has no cpu.stat; give a cgroup v2 directory below /sys/fs/cgroup")
        return ContainerPoller(Cgroup(args.cgroup), clock)
    return None if args.container == NO_CONTAINER else ContainerPoller(DockerContainer(args.container), clock)
