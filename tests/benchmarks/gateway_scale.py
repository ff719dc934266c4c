"""Twenty benchmarks at once through one Pushgateway: its groups, the time of a push, and whether all is read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clients.pushgateway import Pushgateway
from joulebench.stack.native import NativeStack, Ports
from tests.benchmarks.report import Report

BENCHMARKS, TASKS = 20, 10
PUSH_SECONDS = "pushgateway_http_push_duration_seconds"
TOTALS = {
    "calls": (metrics.TASK_LLM_CALLS.name, ""),
    "prompt_tokens": (metrics.TASK_TOKENS.name, ',token="prompt"'),
    "completion_tokens": (metrics.TASK_TOKENS.name, ',token="completion"'),
    "tools": (metrics.TASK_TOOL_CALLS.name, ',outcome="ok"'),
}


def run(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="joulebench-bench-") as name:
        stack = NativeStack(Path(name) / "stack", Ports.free(), with_exporter=False, with_alertmanager=False)
        with stack:
            _run(report, stack, Path(name) / "runs")


def _run(report: Report, stack: NativeStack, runs: Path) -> None:
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.e2e.loss_worker"),
                *("main", str(TASKS), f"fleet-{number}", str(runs), stack.gateway_url, stack.prometheus_url),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "JOULEBENCH_EXPORTER_URL": "none"},
        )
        for number in range(BENCHMARKS)
    ]
    gateway, ended, groups = Pushgateway(stack.gateway_url), threading.Event(), [0]

    def count_groups() -> None:
        while not ended.wait(0.5):
            groups.append(len(gateway.groups()))

    counting = threading.Thread(target=count_groups)
    counting.start()
    try:
        done = [json.loads(process.communicate(timeout=300)[0]) for process in processes]
    finally:
        ended.set()
        counting.join()
    api = PrometheusApi(stack.prometheus_url)
    equal = 0
    for number, tasks in enumerate(done):
        for field, (series, matchers) in TOTALS.items():
            found = api.query(f'last_over_time({series}{{run_id="fleet-{number}"{matchers}}}[10m])')
            read = {series.labels["task_id"]: series.points[-1][1] for series in found}
            equal += read == {task["task_id"]: task[field] for task in tasks}
    api.close()
    report.heading(f"{BENCHMARKS} benchmarks at once through one Pushgateway")
    report.say(
        f"{BENCHMARKS * TASKS} tasks of 0.05 to 2 s, each with 1 to 5 calls; most groups at once {max(groups)}, left at the end"
        f" {len(gateway.groups())}; {_push_times(stack.gateway_url)}."
        f" Read back exactly: {equal} of {BENCHMARKS * len(TOTALS)} counts of all tasks of a benchmark."
    )


def _push_times(url: str) -> str:
    """From the Pushgateway's own summary of what it was sent."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        families = text_string_to_metric_families(response.read().decode())
    times = {
        float(sample.labels["quantile"]): sample.value
        for family in families
        if family.name == PUSH_SECONDS
        for sample in family.samples
        if sample.labels.get("method") == "put" and "quantile" in sample.labels
    }
    return "a push takes it " + ", ".join(
        f"{1000 * seconds:.1f} ms (p{100 * quantile:g})" for quantile, seconds in times.items() if quantile >= 0.5
    )
