"""Takes the edges of planned windows at their moments, with Zeus' ``ZeusMonitor`` live at each of them.

Run as ``python window_edges.py PLAN [--without-zeus]``; PLAN is JSON: ``[[id, gpu, begin, end], ...]`` in CLOCK_MONOTONIC
seconds. Writes one JSON line for each window as it ends: ``[id, begin, end, begin_unix, end_unix, joules]``, with the moments
at which the calls were really made. One thread makes all calls; each lasts microseconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

BEGIN, END = 1, 0  # ends sort first where two edges meet, as they do between adjacent windows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=Path)
    parser.add_argument("--without-zeus", action="store_true")
    arguments = parser.parse_args()
    plan: list[tuple[int, int, float, float]] = json.loads(arguments.plan.read_text())
    monitors = {} if arguments.without_zeus else zeus_monitors({gpu for _, gpu, _, _ in plan})
    edges = sorted(edge for number, gpu, begin, end in plan for edge in ((begin, BEGIN, number, gpu), (end, END, number, gpu)))
    began: dict[int, tuple[float, float]] = {}
    for at, edge, number, gpu in edges:
        time.sleep(max(0.0, at - time.monotonic()))
        monitor = monitors.get(gpu)
        before = time.monotonic()
        joules = None if monitor is None else call(monitor, edge, str(number))
        after = time.monotonic()
        moment = (before + after) / 2
        unix = moment + (time.time() - time.monotonic())
        if edge == BEGIN:
            began[number] = (moment, unix)
        else:
            row = [number, began[number][0], moment, began[number][1], unix, joules]
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


def zeus_monitors(gpus: set[int]) -> dict[int, Any]:
    from zeus.monitor import ZeusMonitor  # type: ignore[import-not-found]

    return {gpu: ZeusMonitor(gpu_indices=[gpu], cpu_indices=[]) for gpu in gpus}


def call(monitor: Any, edge: int, name: str) -> float | None:
    """There is no framework in this process whose queued work could be waited for, as with any model server."""
    if edge == BEGIN:
        monitor.begin_window(name, sync_execution=False)
        return None
    return float(monitor.end_window(name, sync_execution=False).total_energy)


if __name__ == "__main__":
    main()
