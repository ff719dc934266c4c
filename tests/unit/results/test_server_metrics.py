"""What a model server, the links of a card and a power limit did around tasks, against a Prometheus that was told the truth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.errors import QueryRefused
from joulebench.metrics import recorded
from joulebench.results import server_metrics
from joulebench.results.export import Export, Options, export
from joulebench.results.server_metrics import ServerMetrics, capped_clock, fetch_server_metrics, link_bytes, model_server
from joulebench.results.timeseries import TimeSeries
from joulebench.schema.result import ModelServer, SampleCounts
from tests.contract.sources import rules
from tests.needs import need_program
from tests.unit.results import scenario
from tests.unit.results.scenario import GPUS, RUN
from tests.unit.results.store import START, Store, prometheus
from tests.unit.results.test_export import Later

pytestmark = pytest.mark.e2e

MODEL = "qwen3:8b"
SIZE, VRAM = 10_000_000_000, 6_900_000_000
BYTES_PER_SECOND = {("pcie", "tx"): 3e6, ("pcie", "rx"): 9e6}
"""Of GPU 0, by its counter; GPU 1 counts nothing."""
CAPPED = (START + 11.0, START + 15.0)
"""When GPU 0 is at its power limit, in task ``plain``, and its clock at 1.5 of 2 GHz."""


def fill(store: Store) -> None:
    exporter = {"job": "joulebench", "instance": "127.0.0.1:18347"}
    server = {"job": "vllm", "instance": "127.0.0.1:8000", "model": MODEL, "server": "vllm"}
    for second in range(-30, 121):
        at = START + second
        loaded = {
            metrics.OLLAMA_MODEL_SIZE: SIZE,
            metrics.OLLAMA_MODEL_VRAM: VRAM,
            metrics.OLLAMA_MODEL_OFFLOAD: VRAM / SIZE,
            metrics.OLLAMA_MODEL_CONTEXT: 8192,
            metrics.OLLAMA_MODEL_KV_CACHE: 1 << 30,
            metrics.OLLAMA_MODEL_LOADS: 1,
        }
        for metric, value in loaded.items():
            store.add(metric, {**exporter, "model": MODEL}, at, float(value))
        gpu = {**exporter, **GPUS[0]}
        for (link, direction), rate in BYTES_PER_SECOND.items():
            store.add(metrics.GPU_LINK_BYTES, {**gpu, "link": link, "direction": direction}, at, rate * (second + 30))
        held = min(max(at - CAPPED[0], 0.0), CAPPED[1] - CAPPED[0])
        store.add(metrics.GPU_THROTTLE_SECONDS, {**gpu, "reason": "sw_power_cap"}, at, held)
        clock = 1.5e9 if CAPPED[0] <= at < CAPPED[1] else 2e9
        store.add(metrics.GPU_CLOCK, {**gpu, "clock": "sm"}, at, clock)
        store.add(metrics.GPU_MEMORY_TOTAL, gpu, at, 24.0 * 2**30)
        store.add(metrics.GPU_POWER_LIMIT, gpu, at, 450.0 if second < 50 else 400.0)
        store.add(metrics.GPU_CLOCK_MAX, {**gpu, "clock": "sm"}, at, 2e9)
        if second % 5 == 0:
            store.add(recorded.SERVER_KV_CACHE, server, at, 0.25 if 10 <= second < 17 else 0.0)
            store.add(recorded.SERVER_RUNNING, server, at, 1.0)
            store.add(recorded.SERVER_WAITING, server, at, 2.0 if second < 40 else 0.0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Export]:
    for name in ("prometheus", "promtool"):
        need_program(name)
    store, runs = Store(), tmp_path_factory.mktemp("runs")
    scenario.fill(store)
    fill(store)
    scenario.write_journals(runs)
    with prometheus(tmp_path_factory.mktemp("prometheus"), store.openmetrics()) as url:
        yield export(Options(RUN, runs), PrometheusApi(url), Later())


def record(exported: Export, task_id: str) -> Mapping[str, Any]:
    name = next(str(row["result_file"]) for row in exported.rows if row["task_id"] == task_id)
    loaded: dict[str, Any] = json.loads((exported.csv_path.parent / name).read_text(encoding="utf-8"))
    return loaded


def test_the_server_s_memory_is_told_by_task(exported: Export) -> None:
    told = record(exported, "plain")["model_server"]
    assert told == {
        "size_bytes": SIZE,
        "vram_bytes": VRAM,
        "offload_ratio": pytest.approx(0.69),
        "context_tokens": 8192,
        "kv_cache_bytes": 1 << 30,
        "loads": 0.0,
        "kv_cache_ratio_max": 0.25,
        "running_requests": 1.0,
        "running_requests_max": 1.0,
        "waiting_requests": 2.0,
        "samples": {"memory": 6, "queue": 1},
    }


def test_a_task_shorter_than_a_scrape_is_told_by_the_nearest_sample(exported: Export) -> None:
    told = record(exported, "short")["model_server"]
    assert told["offload_ratio"] == pytest.approx(0.69)
    assert told["waiting_requests"] is None


def test_a_call_has_the_use_of_the_cache_that_was_seen_while_it_ran(exported: Export) -> None:
    calls = record(exported, "plain")["calls"]
    assert [call["kv_cache_ratio"] for call in calls] == [None, None]
    told = {recorded.SERVER_KV_CACHE: ((5.0, 0.25), (10.0, 0.5)), recorded.SERVER_RUNNING: ((5.0, 1.0), (10.0, 2.0))}
    servers = ServerMetrics(servers={(name, MODEL): {"a": TimeSeries.of(points)} for name, points in told.items()})
    assert servers.of_call(MODEL, 4.0, 6.0) == (0.25, 1.0)
    assert servers.of_call(MODEL, 4.0, 10.0) == (0.5, 2.0)
    assert servers.of_call(MODEL, 6.0, 9.0) == (None, None)


def test_bytes_over_a_link_are_those_of_the_window(exported: Export) -> None:
    first, second = record(exported, "plain")["per_gpu"]
    seconds = 16.412 - 10.037
    assert (first["memory_total_bytes"], second["memory_total_bytes"]) == (24 * 2**30, None)
    assert set(first["link_bytes"]) == {"pcie"}
    for direction in ("tx", "rx"):
        moved, truth = first["link_bytes"]["pcie"][direction], BYTES_PER_SECOND["pcie", direction] * seconds
        assert moved["bytes"] == pytest.approx(truth, rel=0.001)
        assert moved["low"] < truth < moved["high"]
    assert second["link_bytes"] == {}


def test_a_gpu_has_the_highest_power_limit_that_it_enforced_or_none(exported: Export) -> None:
    assert [gpu["power_limit_w"] for gpu in record(exported, "plain")["per_gpu"]] == [450.0, None]


def test_the_clock_at_the_power_limit_is_told_where_there_was_one(exported: Export) -> None:
    first, second = record(exported, "plain")["per_gpu"]
    capped = first["power_capped_clock"]
    assert capped["max_hz"] == 2e9
    assert 1.5e9 <= capped["capped_hz"] < 1.65e9
    assert capped["capped_low_hz"] == 1.5e9
    assert second["power_capped_clock"] is None
    assert record(exported, "=cmd()")["per_gpu"][0]["power_capped_clock"] is None


def test_the_table_has_the_server_and_the_links(exported: Export) -> None:
    row = next(row for row in exported.rows if row["task_id"] == "plain")
    assert (row["model_size_bytes"], row["model_vram_bytes"], row["model_context_tokens"]) == (SIZE, VRAM, 8192)
    assert row["server_waiting_requests"] == 2.0
    # GPU 1 does not count, so there is no sum.
    assert row["pcie_tx_bytes"] is None


def test_of_two_servers_of_a_model_it_is_not_known_which_worked() -> None:
    told = {"a": TimeSeries.of([(1.0, 5.0)]), "b": TimeSeries.of([(1.0, 7.0)])}
    servers = ServerMetrics(servers={(metrics.OLLAMA_MODEL_SIZE.name, MODEL): dict(told)})
    assert model_server(servers, MODEL, 0.0, 2.0).size_bytes is None
    servers.servers[metrics.OLLAMA_MODEL_SIZE.name, MODEL].pop("b")
    assert model_server(servers, MODEL, 0.0, 2.0).size_bytes == 5.0


def test_a_model_without_a_tag_is_the_latest_one() -> None:
    name = metrics.OLLAMA_MODEL_SIZE.name
    servers = ServerMetrics(servers={(name, "llama3:latest"): {"a": TimeSeries.of([(1.0, 5.0)])}})
    assert model_server(servers, "llama3", 0.0, 2.0).size_bytes == 5.0


def test_recorded_names_are_recorded() -> None:
    assert set(server_metrics.RECORDED) <= {rule["record"] for rule in rules("record")}


def test_a_run_without_servers_has_no_values(tmp_path: Path) -> None:
    assert link_bytes(ServerMetrics(), "GPU-aaaa", 0.0, 1.0) == {}
    assert model_server(ServerMetrics(), MODEL, 0.0, 1.0) == ModelServer(samples=SampleCounts(memory=0, queue=0))


class Stubborn:
    """A store that loads no more than ``most`` seconds at once, in front of one that does."""

    def __init__(self, api: PrometheusApi, most: float) -> None:
        self.api, self.most, self.refused = api, most, 0

    def _check(self, expr: str) -> None:
        if (found := re.search(r"\[(\d+)ms\]", expr)) and int(found[1]) > 1000 * self.most + 1:
            self.refused += 1
            raise QueryRefused("too many samples")

    def query(self, expr: str, time: float | None = None) -> Any:
        self._check(expr)
        return self.api.query(expr, time)

    def raw(self, expr: str, time: float) -> bytes:
        self._check(expr)
        return self.api.raw(expr, time)

    def columns(self, body: bytes, expr: str) -> Any:
        return self.api.columns(body, expr)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusApi]:
    need_program("promtool")
    store = Store()
    fill(store)
    with prometheus(tmp_path_factory.mktemp("alone"), store.openmetrics()) as url:
        yield PrometheusApi(url)


def test_what_a_store_refuses_at_once_is_asked_for_in_parts(api: PrometheusApi) -> None:
    windows = [(START, START + 100.0)]
    whole = fetch_server_metrics(api, windows, {}, ())
    stubborn = Stubborn(api, 60.0)
    parts = fetch_server_metrics(cast(PrometheusApi, stubborn), windows, {}, ())
    assert stubborn.refused > 0
    assert {key: list(points) for key, points in parts.links.items()} == {
        key: list(points) for key, points in whole.links.items()
    }
    size = metrics.OLLAMA_MODEL_SIZE.name
    assert list(parts.server(size, MODEL)) == list(whole.server(size, MODEL)) != []
    assert parts.memory == whole.memory
    with pytest.raises(QueryRefused):
        fetch_server_metrics(cast(PrometheusApi, Stubborn(api, 1.0)), windows, {}, ())


def test_an_idle_clock_at_the_edges_of_a_load_is_no_clock_at_the_power_limit() -> None:
    """The clock is read half a second before its scrape, so that at 10 s it is still the idle one, and at 15 s no longer."""
    seconds = [float(second) for second in range(31)]
    clocks = TimeSeries.of([(at, 1.5e9 if 10.5 <= at < 16 else 3e8) for at in seconds])
    cap = TimeSeries.of([(at, min(max(at - 9.7, 0.0), 5.0)) for at in seconds])
    found = capped_clock(ServerMetrics(clocks={"GPU-a": clocks}), "GPU-a", cap, 0.0, 30.0)
    assert found is not None
    assert (found.capped_hz, found.capped_low_hz, found.samples) == (1.5e9, 1.5e9, 4)
    resting = TimeSeries.of([(at, 212.0) for at in seconds])
    assert capped_clock(ServerMetrics(clocks={"GPU-a": clocks}), "GPU-a", resting, 0.0, 30.0) is None
