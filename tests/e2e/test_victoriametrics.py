"""A run through VictoriaMetrics in the place of Prometheus: it scrapes exporter and Pushgateway, and the export asks it.

What could go wrong and would be seen here: values kept to 12 digits (a change time is then true to 5 ms only, and so are pushed
starts and ends), its own idea of how long a value lasts, answers that lag 30 s behind, samples thinned out by its deduplication,
queries that it reads differently.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import wait_until
from joulebench.results import queries
from joulebench.stack import programs
from joulebench.stack.data_files import data_path
from joulebench.stack.native import NativeStack, Ports
from joulebench.stack.process import Program, free_port
from joulebench.stack.prometheus_config import readdressed
from tests.e2e.scene import (
    PlannedTask,
    PowerScript,
    Scene,
    bench_arguments,
    fake_gpus,
    joulebench,
    read_results,
    start_exporter,
    write_suite,
)
from tests.fakes.model_server import ModelServer
from tests.needs import need_program

pytestmark = pytest.mark.e2e

TASKS = [
    PlannedTask("long", 5.3, 0.95),
    PlannedTask("short", 0.5, 0.45),
    PlannedTask("middle", 2.2, 0.8, passes=False),
]
RUN_ID = "victoria"
DEDUPLICATED = "-dedup.minScrapeInterval=1s"
"""As where two replicas write to one store: of the fine job, every fourth sample is left."""


@dataclass
class Victoria:
    url: str
    whole: Scene
    alone: Scene
    """Exported without the journal: all of it comes from the store."""
    sparse: Scene
    """From a second store, which scraped the same and deduplicates."""


@pytest.fixture(scope="module")
def victoria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victoria]:
    if programs.find("victoriametrics") is None:
        pytest.skip("victoria-metrics is not installed; 'joulebench stack fetch victoriametrics' downloads it where apt has it")
    need_program("pushgateway")
    directory = tmp_path_factory.mktemp("victoria")
    gpus = fake_gpus(directory)
    assert gpus.busy is not None
    suite = write_suite(directory / "suite.yaml", TASKS)
    # The fields of a stack without its Prometheus, whose port VictoriaMetrics takes.
    stack = NativeStack(directory / "stack", Ports.free(), with_exporter=False, with_alertmanager=False)
    stack.directory.mkdir()
    with ModelServer(PowerScript(gpus.busy, TASKS)) as server:
        try:
            stack.started.append(stack.pushgateway().start())
            start_exporter(stack, gpus, directory, server.ollama_url)
            sparse_port = free_port()
            stack.started.append(victoriametrics(stack, stack.ports.prometheus).start())
            stack.started.append(victoriametrics(stack, sparse_port, DEDUPLICATED).start())
            urls = [stack.prometheus_url, f"http://127.0.0.1:{sparse_port}"]
            for url in urls:
                await_scrapes(url)
            joulebench(*bench_arguments(stack, server, suite, RUN_ID, directory / "whole"))
            journals = directory / "whole" / RUN_ID
            shutil.copytree(journals, directory / "sparse" / RUN_ID)
            (directory / "alone" / RUN_ID).mkdir(parents=True)
            scenes = []
            for name, url in (("whole", urls[0]), ("alone", urls[0]), ("sparse", urls[1])):
                runs = directory / name
                joulebench("export", "--run-id", RUN_ID, "--runs-dir", str(runs), "--prometheus-url", url, "--gpus", "0,1")
                scenes.append(read_results(Scene(gpus, {task.task_id: task for task in TASKS}, runs / RUN_ID)))
            yield Victoria(stack.prometheus_url, *scenes)
        finally:
            stack.stop()


def victoriametrics(stack: NativeStack, port: int, *flags: str) -> Program:
    exporter = f"127.0.0.1:{stack.ports.exporter}"
    targets = {
        "joulebench": exporter,
        "joulebench-energy": exporter,
        "joulebench-pushgateway": f"127.0.0.1:{stack.ports.pushgateway}",
    }
    config = readdressed(yaml.safe_load(data_path("prometheus/prometheus.yml").read_text()), targets, None, None)
    path = stack.directory / "victoriametrics.yml"
    path.write_text(yaml.safe_dump(config))
    argv = [
        str(programs.require("victoriametrics")),
        f"-promscrape.config={path}",
        "-promscrape.config.strictParse=false",  # rules and alerting are another program's there
        f"-storageDataPath={stack.directory / f'victoriametrics-{port}'}",
        f"-httpListenAddr=127.0.0.1:{port}",
        "-loggerLevel=WARN",
        *flags,
    ]
    log = stack.directory / "logs" / f"victoriametrics-{port}.log"
    return Program("victoriametrics", argv, log, f"http://127.0.0.1:{port}/health")


def await_scrapes(url: str) -> None:
    api = PrometheusApi(url)
    scraped = f'count({metrics.GPU_ENERGY.name}{{job="joulebench-energy"}}) == 2'
    assert wait_until(lambda: bool(api.query(scraped)), 40.0), "VictoriaMetrics does not scrape both fake GPUs"
    api.close()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task_id)
def test_its_samples_alone_tell_the_true_energy(victoria: Victoria, task: PlannedTask) -> None:
    scene = victoria.whole
    alone, truth = scene.records[task.task_id]["measurement"]["energy_prometheus"], scene.joules(task.task_id)
    assert alone["low"] <= truth <= alone["high"]
    if task.seconds >= 5:
        assert alone["joules"] == pytest.approx(truth, rel=0.01)


def test_thinned_out_samples_tell_less_but_nothing_wrong(victoria: Victoria) -> None:
    for task in TASKS:
        measured = victoria.sparse.records[task.task_id]["measurement"]
        sparse, truth = measured["energy_prometheus"], victoria.sparse.joules(task.task_id)
        fine = victoria.whole.records[task.task_id]["measurement"]["energy_prometheus"]
        assert sparse["low"] <= truth <= sparse["high"]
        assert sparse["high"] - sparse["low"] > fine["high"] - fine["low"]
        assert set(measured["reasons"]) <= {"short"}, task.task_id


def test_both_readers_agree_and_the_verdict_is_that_of_the_exporter(victoria: Victoria) -> None:
    for task in TASKS:
        measured = victoria.whole.records[task.task_id]["measurement"]
        assert measured["energy_source"] == "exporter"
        assert measured["low_joules"] <= victoria.whole.joules(task.task_id) <= measured["high_joules"]
        assert set(measured["reasons"]) <= {"short"}, task.task_id
        assert measured["disagreements"] == []


def test_what_was_pushed_comes_back(victoria: Victoria) -> None:
    assert set(victoria.alone.rows) == {task.task_id for task in TASKS}
    for task in TASKS:
        row, whole = victoria.alone.rows[task.task_id], victoria.whole.rows[task.task_id]
        same = (
            "task_name",
            "model_name",
            "status",
            "success",
            "llm_call_count",
            "total_prompt_tokens",
            "total_completion_tokens",
        )
        assert {name: row[name] for name in same} == {name: whole[name] for name in same}
        assert row["sources"] == "prometheus"
        for name in ("start_timestamp_seconds", "end_timestamp_seconds"):
            # From a whole second and an offset, which keep their digits.
            assert float(row[name]) == pytest.approx(float(whole[name]), abs=1e-4)
        assert float(row["total_energy_joules"]) == pytest.approx(float(whole["total_energy_joules"]), rel=1e-6)


def test_every_gauge_has_its_samples(victoria: Victoria) -> None:
    for task in TASKS:
        hardware = victoria.whole.records[task.task_id]["gpu_hardware_metrics"]
        assert hardware["sample_count"] >= int(task.seconds) - 1
        if task.seconds >= 2:
            assert hardware["avg_gpu_util_pct"] is not None
        assert victoria.whole.rows[task.task_id]["throttled_seconds"] == "0"


def test_every_query_of_the_export_is_understood(victoria: Victoria) -> None:
    api = PrometheusApi(victoria.url)
    texts = [*queries.of_run(600.0, RUN_ID), queries.runs(600.0), queries.oldest_energy_sample()]
    for metric in queries.RAW_METRICS:
        texts += [queries.raw(metric, 60.0, {}), queries.changed(metric, 60.0, {}), queries.fell_below_1(metric, 60.0, {})]
        texts.append(queries.counted(metric, 60.0, {}))
    for text in texts:
        api.query(text)
    assert not api.warnings
    api.close()


def test_nothing_is_left_on_the_pushgateway(victoria: Victoria) -> None:
    """The benchmark deletes a group once the store has shown its end."""
    (journal,) = victoria.whole.run_directory.glob("journal-*.jsonl")
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    (state,) = [event for event in events if event["event_type"] == "PUSH_STATE"]
    assert (state["groups_left"], state["groups_unpushed"], state["failures"]) == (0, 0, 0)
