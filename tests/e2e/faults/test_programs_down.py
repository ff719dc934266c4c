"""Programs that die or are not there while a healthy card works: the result is whole where it can be and says where it is not.

One machine, one task after another: Prometheus killed and started again in the middle of a task, then no Pushgateway, then no
Prometheus either.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from joulebench import Run, metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import SystemClock, wait_until
from joulebench.stack.native import NativeStack, Ports
from tests.e2e.faults.hosts import PERIOD, PULSES
from tests.e2e.faults.results import Results, Scrape, TaskResult, export, scrape
from tests.fakes import nvml
from tests.needs import need_program

pytestmark = pytest.mark.e2e

PROMETHEUS_KILLED, NO_GATEWAY, NO_PROMETHEUS = "prometheus-killed", "no-gateway", "no-prometheus"
PAUSE = threading.Event()


@dataclass
class Place:
    """``told``: what each run's journal says of its pushes."""

    stack: NativeStack
    gpus: nvml.FakeGpuScript
    runs: Path
    results: dict[str, Results] = field(default_factory=dict)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: dict[str, Scrape] = field(default_factory=dict)

    def run(self, name: str) -> Run:
        return Run(
            model="m",
            run_id=name,
            worker="w",
            runs_dir=self.runs,
            gateway_url=self.stack.gateway_url,
            prometheus_url=self.stack.prometheus_url,
            exporter_url=self.stack.exporter_url,
            drain_seconds=3.0,
        )

    def journal(self, name: str) -> Path:
        return self.runs / name / "journal-w.jsonl"

    def finish(self, name: str) -> None:
        self.seen[name] = scrape(self.stack.exporter_url)
        self.results[name] = export(name, self.runs, self.stack.prometheus_url, "--wait=5")
        lines = self.journal(name).read_text().splitlines()
        (self.told[name],) = (event for event in map(json.loads, lines) if event["event_type"] == "PUSH_STATE")

    def task(self, name: str) -> TaskResult:
        return self.results[name]["one"]

    def joules(self, result: TaskResult) -> float:
        return self.gpus.joules(0, *result.window)


def wait_for_low_power(gpus: nvml.FakeGpuScript) -> None:
    """Until power has been low for a moment and stays so for another."""
    at = (SystemClock().unix() - gpus.origin_unix) % PERIOD
    PAUSE.wait((0.3 - at) % PERIOD)


def one_task(place: Place, name: str, seconds: float = 2.0) -> None:
    with place.run(name) as run:
        wait_for_low_power(place.gpus)
        with run.task("one") as task:
            with task.call() as call:
                PAUSE.wait(seconds - 0.05)
                call.finish(prompt_tokens=100, completion_tokens=50)
            task.succeed()
    place.finish(name)


def kill_prometheus_in_a_task(place: Place) -> None:
    prometheus, api = place.stack.named("prometheus"), PrometheusApi(place.stack.prometheus_url)
    with place.run(PROMETHEUS_KILLED) as run:
        wait_for_low_power(place.gpus)
        with run.task("one") as task:
            with task.call() as call:
                PAUSE.wait(1.3)
                prometheus.kill()
                PAUSE.wait(1.0)
                prometheus.start()
                # It takes Prometheus some seconds more to scrape its first target.
                scraped = f"timestamp({metrics.GPU_ENERGY.name}) > {SystemClock().unix()}"
                assert wait_until(lambda: bool(api.query(scraped)), 20.0)
                wait_for_low_power(place.gpus)
                call.finish(prompt_tokens=100, completion_tokens=50)
            task.succeed()
    api.close()
    place.finish(PROMETHEUS_KILLED)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    for name in ("prometheus", "pushgateway"):
        need_program(name)
    directory = tmp_path_factory.mktemp("programs-down")
    gpus = nvml.FakeGpuScript([nvml.FakeGpu(power=PULSES, loop=PERIOD, temperature=((0.0, 61.0),), phase=0.04)])
    stack = NativeStack(
        directory / "stack",
        Ports.free(),
        exporter_flags=["--gpu-source=nvml", "--no-ollama"],
        exporter_environment=nvml.environment(gpus.write(directory / "gpus")),
        with_alertmanager=False,
    )
    with stack:
        place = Place(stack, gpus, directory / "runs")
        assert wait_until(lambda: (scrape(stack.exporter_url).value(metrics.GPU_ENERGY_STEP, gpu=0) or 0) > 0, 10.0)
        kill_prometheus_in_a_task(place)
        stack.named("pushgateway").stop()
        one_task(place, NO_GATEWAY)
        stack.named("prometheus").stop()
        one_task(place, NO_PROMETHEUS)
        yield place


ALL = (PROMETHEUS_KILLED, NO_GATEWAY, NO_PROMETHEUS)


@pytest.mark.parametrize("name", ALL)
def test_energy_is_the_exporters_and_right_whatever_else_is_down(place: Place, name: str) -> None:
    result = place.task(name)
    truth, measured = place.joules(result), result.record["measurement"]
    assert place.seen[name].value(metrics.GPU_UP, gpu=0) == 1
    assert result.row["energy_source"] == "exporter"
    assert result.cell("total_energy_joules") == pytest.approx(truth, rel=0.01)
    assert measured["low_joules"] <= truth <= measured["high_joules"]
    assert result.cell("energy_exporter_joules") == result.cell("total_energy_joules")
    assert result.row["quality"] == "ok"


@pytest.mark.parametrize("name", ALL)
def test_what_the_benchmark_did_is_whole(place: Place, name: str) -> None:
    row = place.task(name).row
    assert (row["status"], row["success"], row["llm_call_count"]) == ("success", "True", "1")
    assert (row["total_prompt_tokens"], row["total_completion_tokens"]) == ("100", "50")
    assert [event["event_type"] for event in place.task(name).record["raw_events"]] == [
        "TASK_START",
        "LLM_QUERY_START",
        "LLM_QUERY_END",
        "TASK_END",
    ]


def test_the_gap_of_a_killed_prometheus_is_told(place: Place) -> None:
    result = place.task(PROMETHEUS_KILLED)
    gap = result.cell("energy_longest_gap_seconds")
    assert gap is not None
    assert gap < 1.0, "that of the exporter, whose energy it is"
    assert result.gpu(0)["power_w"]["longest_gap"] >= 1.0
    # It still stands beside the exporter's number: a counter loses nothing between two scrapes.
    assert result.cell("energy_prometheus_joules") == pytest.approx(place.joules(result), rel=0.03)
    assert "both" in result.row["sources"], "what was pushed was scraped after all"
    state = place.told[PROMETHEUS_KILLED]
    assert (state["groups_left"], state["groups_unpushed"]) == (0, 0)


def test_without_a_pushgateway_the_journal_is_the_source(place: Place) -> None:
    result = place.task(NO_GATEWAY)
    assert result.row["sources"] == "journal"
    assert set(result.record["measurement"]["sources"].values()) == {"journal"}
    assert result.row["clock_offset_seconds"] == ""
    state = place.told[NO_GATEWAY]
    assert state["failures"] > 0
    assert state["groups_unpushed"] == 2
    assert any(reason.startswith("gateway: ") for reason in state["reasons"])
    # Prometheus still knows the GPU.
    assert (result.cell("avg_temp_c"), result.reasons) == (61, set())
    assert result.cell("energy_prometheus_joules") == pytest.approx(place.joules(result), rel=0.03)


def test_without_prometheus_there_are_no_statistics_and_the_row_says_why(place: Place) -> None:
    result = place.task(NO_PROMETHEUS)
    row = result.row
    columns = ("avg_gpu_util_pct", "avg_vram_mb", "avg_temp_c", "min_temp_margin_c", "energy_prometheus_joules")
    assert [row[column] for column in columns] == [""] * len(columns)
    assert (row["throttled_seconds"], row["throttled_source"]) == ("0", "exporter"), "that one the exporter told"
    assert result.record["throttle"]["throttled_seconds_prometheus"] is None
    assert result.reasons == {"prometheus_failed"}
    assert row["sources"] == "journal"
    assert (result.gpu(0)["power_w"], result.gpu(0)["temp_c"]) == (None, None)
    assert result.record["measurement"]["energy_prometheus"] is None
    # The mean power is known all the same: from joules and seconds.
    assert result.cell("avg_power_w") == pytest.approx(place.joules(result) / (result.window[1] - result.window[0]), rel=0.01)
    assert "Prometheus failed" in place.results[NO_PROMETHEUS].said
