"""Energy of the same windows by every method, on GPUs whose joules are known, in one run."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from joulebench.clients.exporter import ExporterApi
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import Clock
from joulebench.results.fetch import fetch_samples
from joulebench.stack.native import NativeStack, Ports
from tests.benchmarks import accuracy_report, environments, windows
from tests.benchmarks.curve import Curve
from tests.benchmarks.methods import API, API_LATER, LINEAR, NAIVE, PROMETHEUS, ZEUS, Answers, live_edges, ours_api, prometheus
from tests.benchmarks.report import Report
from tests.benchmarks.result import Result
from tests.benchmarks.scene import Scene, agent_curves
from tests.benchmarks.windows import Taken

BEFORE_THE_CURVE = 3.0
"""Seconds for the meter to learn the counter's step and for the subprocess to start."""
AFTER_THE_CURVE = 2.0
"""Seconds until Prometheus has scraped what lies after the last window."""


def run(report: Report, clock: Clock, *, seconds: float, seed: int, ramp: float) -> None:
    zeus = environments.install(environments.ZEUS, "zeus.monitor")
    curves = agent_curves(seed, seconds, ramp)
    with tempfile.TemporaryDirectory(prefix="joulebench-bench-") as directory:
        result = _measure(Path(directory), clock, curves, seed, zeus)
    accuracy_report.tell(report, result, zeus, ramp)


def _measure(directory: Path, clock: Clock, curves: Sequence[Curve], seed: int, zeus: environments.Peer) -> Result:
    scene = Scene(directory, seed)
    planned = windows.plan(curves, seed)
    flags = ("--gpu-source=nvml", "--no-ollama")
    with NativeStack(
        directory / "stack", Ports.free(), flags, exporter_environment=scene.environment, with_alertmanager=False
    ) as stack:
        begin = clock.monotonic() + BEFORE_THE_CURVE
        scene.play(curves, begin)
        asker = ours_api.LiveAsker(stack.exporter_url, clock)
        python = None if zeus.bin is None else zeus.bin / "python"
        taken, zeus_answers = live_edges.run(
            planned, begin, directory, {**os.environ, **scene.environment}, zeus_python=python, ended=asker.ask
        )
        asker.close()
        threading.Event().wait(AFTER_THE_CURVE)
        taken.sort(key=lambda window: window.plan.id)
        truth = {one.plan.id: curves[one.plan.gpu].joules(one.start - begin, one.end - begin) for one in taken}
        api = ExporterApi(stack.exporter_url)
        later = {one.plan.id: ours_api.ask(api, one.plan.gpu, one.start_unix, one.end_unix) for one in taken}
        additivity = [ours_api.additive(api, gpu, edges) for gpu, edges in _task_edges(taken, curves, begin)]
        answers: dict[str, Answers] = {API: asker.answers, API_LATER: later, **_from_prometheus(stack, taken)}
    if zeus_answers:
        answers[ZEUS] = zeus_answers
    return Result(taken, truth, answers, additivity, asker.errors)


def _from_prometheus(stack: NativeStack, taken: Sequence[Taken]) -> dict[str, Answers]:
    api = PrometheusApi(stack.prometheus_url)
    stored = fetch_samples(api, [(one.start_unix, one.end_unix) for one in taken])
    power = prometheus.one_second_points(api, prometheus.POWER, taken)
    counter = prometheus.one_second_points(api, prometheus.COUNTER, taken)
    return {
        PROMETHEUS: prometheus.ours(stored, taken),
        NAIVE: prometheus.naive_sum(power, taken),
        LINEAR: prometheus.linear_counter(counter, taken),
    }


def _task_edges(taken: Sequence[Taken], curves: Sequence[Curve], begin: float) -> list[tuple[int, list[float]]]:
    """(GPU, unix times) of each task with two calls or more: its start, the starts of its later calls, its end."""
    found: list[tuple[int, list[float]]] = []
    for task in (one for one in taken if one.plan.kind == "task"):
        inner = [
            one.start_unix
            for one in taken
            if one.plan.gpu == task.plan.gpu and one.plan.kind == "call" and task.plan.start < one.plan.start < task.plan.end
        ]
        if inner:
            found.append((task.plan.gpu, [task.start_unix, *sorted(inner), task.end_unix]))
    return found
