"""Joules and costs on the dashboards are those of run.json, with one task and with four tasks at once.

What could go wrong and would be seen here: energy of overlapping tasks that counts several times, a task that is charged nothing,
tokens or prices that differ between PromQL and the result files.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from joulebench import Run, metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import SystemClock, wait_until
from joulebench.prices import load
from joulebench.stack.native import NativeStack, Ports
from joulebench.units import Seconds
from tests.contract.sources import ROOT, loaded
from tests.dashboard_queries import panels_of, queries_of
from tests.e2e.scene import joulebench
from tests.fakes import nvml
from tests.needs import need_program

pytestmark = pytest.mark.e2e

WATTS = (90.0, 210.0, 150.0)
STEADY_WATTS = 50.0
POWER_STEP = 0.4
"""Seconds for which the first GPU stays at a power, so that tasks begin and end at all of them."""
TASKS = 12
TOKENS: dict[str, Any] = {"prompt_tokens": 1000, "cached_tokens": 600, "completion_tokens": 80}
API_MODEL = "gpt-5-mini"
BOARDS = {name: loaded(ROOT / f"dashboards/{name}.json") for name in ("llm-live", "llm-tasks", "llm-cost")}
PRICE_FILE = ROOT / "prometheus/prices.yml"
TOLERANCE = 0.02


@dataclass(frozen=True)
class Played:
    """One run: its run.json, and a Prometheus that may be asked as of ``at``, for the ``seconds`` before."""

    summary: dict[str, Any]
    api: PrometheusApi
    run_id: str
    at: float
    seconds: int

    def panel(self, board: str, title: str, legend: str = "") -> float:
        """The single value of a panel's query; ``legend``: which of them, or the heading of a table's column."""
        (panel,) = [panel for panel in panels_of(BOARDS[board]) if panel["title"] == title]
        renamed: dict[str, str] = next(
            (s["options"]["renameByName"] for s in panel.get("transformations", []) if s["id"] == "organize"), {}
        )
        names = [renamed.get(f"Value #{t['refId']}", t["legendFormat"]) for t in panel["targets"]]
        values = {
            "run_id": self.run_id,
            "api_model": API_MODEL,
            "__range": f"{self.seconds}s",
            "__from": f"{(self.at - self.seconds) * 1000:.0f}",
            "__to": f"{self.at * 1000:.0f}",
        }
        exprs = [expr for found, expr in queries_of(BOARDS[board], values) if found == title]
        (series,) = self.api.query(exprs[names.index(legend) if legend else 0], time=Seconds(self.at))
        return series.points[-1][1]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NativeStack, nvml.BusyFile]]:
    for name in ("prometheus", "pushgateway"):
        need_program(name)
    directory = tmp_path_factory.mktemp("boards")
    busy = nvml.BusyFile(directory / "busy")
    gpus = nvml.FakeGpuScript(
        gpus=[nvml.FakeGpu(power=((0.0, WATTS[0]),)), nvml.FakeGpu(power=((0.0, STEADY_WATTS),), step=0.02)], busy=busy
    )
    native = NativeStack(directory / "stack", Ports.free(), with_exporter=False, with_alertmanager=False)
    with native:
        native.exporter_flags = ["--gpu-source", "nvml", "--no-ollama"]
        native.exporter_environment = nvml.environment(gpus.write(directory / "gpus"))
        native.started.append(native.exporter().start())
        api = PrometheusApi(native.prometheus_url)
        scraped = f'count({metrics.GPU_ENERGY.name}{{job="joulebench"}}) == 2 and on () count({metrics.PRICE_API.name}) > 0'
        assert wait_until(lambda: bool(api.query(scraped)), 30.0), "Prometheus does not scrape the fake GPUs"
        api.close()
        yield native, busy


@pytest.fixture(scope="module", params=[1, 4], ids=["one task at a time", "four tasks at once"])
def played(request: pytest.FixtureRequest, stack: tuple[NativeStack, nvml.BusyFile], tmp_path_factory: Any) -> Iterator[Played]:
    native, busy = stack
    at_once: int = request.param
    clock, runs, run_id = SystemClock(), tmp_path_factory.mktemp("runs"), f"boards-{at_once}"
    start = clock.unix()
    for number in range(200):
        busy.draw(0, WATTS[number % len(WATTS)], start + number * POWER_STEP)
    run = Run(
        model="m",
        run_id=run_id,
        runs_dir=runs,
        gateway_url=native.gateway_url,
        prometheus_url=native.prometheus_url,
        exporter_url=native.exporter_url,
    )
    with run:
        workers = [threading.Thread(target=_work, args=(run, first, at_once)) for first in range(at_once)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    joulebench("export", "--run-id", run_id, "--runs-dir", str(runs), "--prometheus-url", native.prometheus_url)
    at = clock.unix()
    summary = json.loads((Path(runs) / run_id / "run.json").read_text())
    api = PrometheusApi(native.prometheus_url)
    yield Played(summary, api, run_id, at, round(at - start) + 5)
    api.close()


def _work(run: Run, first: int, step: int) -> None:
    """Tasks that run at once are longer by as much: the edges of a run weigh less than what is tested."""
    for number in range(first, TASKS, step):
        with run.task(f"t{number}") as task:
            with task.call() as call:
                threading.Event().wait(step * (0.25 + 0.11 * (number % 5)))
                call.finish(**TOKENS)
            threading.Event().wait(step * 0.07 * (number % 3))
            if number % 3:
                task.succeed()
            else:
                task.fail("planned")


def test_run_json_knows_every_task(played: Played) -> None:
    totals = played.summary["totals"]
    assert (totals["tasks"], totals["tasks_with_joules"], totals["tasks_passed"]) == (TASKS, TASKS, 8)
    assert totals["joules"] > 200


@pytest.mark.parametrize(
    ("board", "title", "legend", "divide_by"),
    [
        ("llm-live", "Energy", "in tasks", 1),
        ("llm-live", "Joules per success", "", 8),
        ("llm-tasks", "Joules per success", "", 8),
        ("llm-tasks", "Models", "Joules per success", 8),
        ("llm-cost", "Energy inside and outside of tasks", "in tasks", 1),
        ("llm-cost", "Cost by model", "Energy", 1),
        ("llm-cost", "Cost by model", "Wh per task", 3600 * TASKS),
        ("llm-cost", "Cost by model", "Wh per 1k tokens", 3.6 * TASKS * (1000 + 80)),
        ("llm-cost", "Wh per 1,000 tokens", "all tokens", 3.6 * TASKS * (1000 + 80)),
        ("llm-cost", "Wh per 1,000 tokens", "completion tokens", 3.6 * TASKS * 80),
    ],
)
def test_joules_of_a_panel_are_those_of_run_json(played: Played, board: str, title: str, legend: str, divide_by: float) -> None:
    joules = played.summary["totals"]["joules"]
    assert played.panel(board, title, legend) == pytest.approx(joules / divide_by, rel=TOLERANCE)


def test_energy_in_tasks_is_part_of_all_energy_and_the_parts_add_up(played: Played) -> None:
    every = played.panel("llm-live", "Energy", "all GPUs")
    inside = played.panel("llm-cost", "Energy inside and outside of tasks", "in tasks")
    outside = played.panel("llm-cost", "Energy inside and outside of tasks", "outside of tasks")
    assert outside > 0
    assert inside + outside == pytest.approx(every)


@pytest.mark.parametrize(
    ("board", "title", "legend", "divide_by"),
    [
        ("llm-live", "Local cost", "", 1),
        ("llm-tasks", "Local cost", "", 1),
        ("llm-tasks", "Models", "Local cost", 1),
        ("llm-cost", "Local cost", "tasks", 1),
        ("llm-cost", "Local / API", "local", 1),
        ("llm-cost", "The same tokens elsewhere", "here, tasks", 1),
        ("llm-cost", "Cost by model", "Local cost", 1),
        ("llm-cost", "Cost by model", "Local per task", TASKS),
    ],
)
def test_local_cost_of_a_panel_is_the_joules_of_run_json_at_the_price_list(
    played: Played, board: str, title: str, legend: str, divide_by: float
) -> None:
    prices = load(PRICE_FILE)
    assert prices.electricity is not None
    assert prices.hardware is None, "the price list has a price of hardware now: add its part here"
    expected = played.summary["totals"]["joules"] * prices.electricity.per_unit * (prices.pue or 1)
    assert played.panel(board, title, legend) == pytest.approx(expected / divide_by, rel=TOLERANCE)


def test_what_tasks_cost_is_less_than_with_idle_time(played: Played) -> None:
    tasks, with_idle = (played.panel("llm-cost", "Local cost", legend) for legend in ("tasks", "with idle time"))
    assert tasks < with_idle


@pytest.mark.parametrize(
    ("board", "title", "legend", "divide_by"),
    [
        ("llm-live", "API cost", "", 1),
        ("llm-tasks", "Models", "API cost", 1),
        ("llm-cost", "API cost", "", 1),
        ("llm-cost", "Local / API", "API", 1),
        ("llm-cost", "Cost by model", "API per task", TASKS),
    ],
)
def test_api_cost_of_a_panel_is_that_of_the_tokens(played: Played, board: str, title: str, legend: str, divide_by: float) -> None:
    assert played.summary["totals"]["prompt_tokens"] == TASKS * TOKENS["prompt_tokens"]
    (price,) = [api.per_token for api in load(PRICE_FILE).api if api.model == API_MODEL]
    one = 400 * price["prompt"] + 600 * price["cached_prompt"] + 80 * price["completion"]
    assert played.panel(board, title, legend) == pytest.approx(TASKS * one / divide_by)


def test_the_growth_of_run_counters_is_what_tasks_are_charged(played: Played) -> None:
    """The graph of costs over time adds up counters of the run, the tiles the charges of tasks."""
    by_run = played.api.query(
        f'sum(last_over_time({metrics.RUN_CHARGED_ENERGY.name}{{run_id="{played.run_id}"}}[{played.seconds}s]))',
        time=Seconds(played.at),
    )
    by_task = played.panel("llm-live", "Energy", "in tasks")
    assert by_run[0].points[-1][1] == pytest.approx(by_task)
