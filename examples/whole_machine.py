"""The built-in benchmark with joules of GPU, CPU and wall, and what they emit; CPU and wall meter are SIMULATED here.

    pip install 'joulebench[demo,report,analysis]'
    joulebench up --gpu-source simulated        # or a machine with a GPU
    python examples/whole_machine.py            # ends with runs/RUN_ID/report.html

Arguments go to ``joulebench bench``; without any it serves the small embedded model. Real meters need no code: name their series
in the file of --meters (docs/METERS.md), and leave the thread that pushes made-up numbers out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import requests
from prometheus_client import CollectorRegistry, Gauge, push_to_gateway

GATEWAY = os.environ.get("JOULEBENCH_GATEWAY_URL", "http://127.0.0.1:9091")
PROMETHEUS = os.environ.get("JOULEBENCH_PROMETHEUS_URL", "http://127.0.0.1:9090")
EXPORTER = os.environ.get("JOULEBENCH_EXPORTER_URL", "http://127.0.0.1:18347")
RUN_ID = f"whole-machine-{time.strftime('%Y%m%d-%H%M%S')}"
METERS = """
meters:
  - {name: cpu, query: example_cpu_watts, kind: gauge, unit: watts, scope: cpu,
     interval_seconds: 5, update_seconds: 1, max_watts: 400, host: "*", simulated: true}
  - {name: plug, query: example_wall_watts, kind: gauge, unit: watts, scope: wall,
     interval_seconds: 5, update_seconds: 1, max_watts: 3000, error_ratio: 0.01, host: "*", simulated: true}
emissions:
  carbon: {grams_per_kwh: 400, source: made up for this example, date: 2026-01-01, of: wall}
"""
CPU_IDLE, CPU_BUSY = 20.0, 120.0
OTHER_WATTS, EFFICIENCY = 60.0, 0.92
"""Watts of board and fans, and the share of what a power supply takes that it delivers."""


def push_simulated_meters(stopped: threading.Event) -> None:
    """Watts that follow the load of this machine's CPUs, once a second. No meter measures them."""
    registry = CollectorRegistry()
    cpu = Gauge("example_cpu_watts", "Simulated power of the CPUs.", registry=registry)
    wall = Gauge("example_wall_watts", "Simulated power at the wall.", registry=registry)
    while True:
        load = min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        cpu_watts = CPU_IDLE + (CPU_BUSY - CPU_IDLE) * load
        cpu.set(cpu_watts)
        wall.set((cpu_watts + gpu_watts() + OTHER_WATTS) / EFFICIENCY)
        push_to_gateway(GATEWAY, job="example_meters", registry=registry)
        if stopped.wait(1.0):
            return


def gpu_watts() -> float:
    """Present power of all GPUs, by the exporter."""
    text = requests.get(f"{EXPORTER}/metrics", timeout=5).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("joulebench_gpu_power_watts{"))


def wait_for_scrape(seconds: float = 60.0) -> None:
    """Until Prometheus has the wall meter's watts of a moment after this one."""
    since = time.time()
    while True:
        query = {"query": f"timestamp(example_wall_watts) > {since}"}
        if requests.get(f"{PROMETHEUS}/api/v1/query", params=query, timeout=5).json()["data"]["result"]:
            return
        if time.time() > since + seconds:
            sys.exit(f"{PROMETHEUS} has no example_wall_watts after {seconds:g} s: does it scrape the Pushgateway at {GATEWAY}?")
        time.sleep(0.5)


def joulebench(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "joulebench", *arguments], check=True)


def main() -> None:
    stopped = threading.Event()
    meters = threading.Thread(target=push_simulated_meters, args=(stopped,))
    meters.start()
    try:
        wait_for_scrape()
        joulebench("bench", "--run-id", RUN_ID, *(sys.argv[1:] or ["--embedded"]))
        wait_for_scrape()
    finally:
        stopped.set()
        meters.join()
    directory = Path("runs") / RUN_ID
    (directory / "meters.yml").write_text(METERS, encoding="utf-8")
    joulebench("export", "--run-id", RUN_ID, "--meters", str(directory / "meters.yml"))
    joulebench("report", str(directory))


if __name__ == "__main__":
    main()
