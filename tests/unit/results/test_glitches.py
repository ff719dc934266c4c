"""An export from a Prometheus that stored readings which cannot be true: they are left out, counted and named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.results.export import Export, Options, export
from tests.needs import need_program
from tests.unit.results import scenario
from tests.unit.results.scenario import GPUS, RUN
from tests.unit.results.store import START, Store, prometheus
from tests.unit.results.test_export import Later, rows, truth

pytestmark = pytest.mark.e2e

JOBS = ("joulebench", "joulebench-energy")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Export]:
    for name in ("prometheus", "promtool"):
        need_program(name)
    store, runs = Store(), tmp_path_factory.mktemp("runs")
    scenario.fill(store)
    for quarter in range(48, 52):
        at = START + quarter / 4
        for job in JOBS[quarter % 4 != 0 :]:
            labels = {"job": job, "instance": "127.0.0.1:18347", **GPUS[0]}
            value, _ = scenario.counter(0, at - 0.004)
            store.add(metrics.GPU_ENERGY, labels, at, value - 9_000_000.0)
    full = {"job": "joulebench", "instance": "127.0.0.1:18347", **GPUS[0]}
    for metric, value in (
        (metrics.GPU_UTILIZATION, 8083349.05),
        (metrics.GPU_POWER, 4294967.295),
        (metrics.GPU_TEMPERATURE, 4294967295.0),
        (metrics.GPU_MEMORY_USED, -1.0),
    ):
        store.add(metric, full, START + 12.0, value)
    scenario.write_journals(runs)
    with prometheus(tmp_path_factory.mktemp("prometheus"), store.openmetrics()) as url:
        yield export(Options(RUN, runs), PrometheusApi(url), Later())


def test_a_counter_that_dips_and_returns_costs_no_joule(exported: Export) -> None:
    row = rows(exported)["plain"]
    assert row["total_energy_joules"] == pytest.approx(truth("plain"), rel=0.01)
    assert row["energy_low_joules"] <= truth("plain") <= row["energy_high_joules"]
    assert (row["counter_resets"], row["quality"]) == (0, "suspect")
    assert "glitch" in row["reasons"].split(";")


def test_other_tasks_are_not_blamed(exported: Export) -> None:
    assert [name for name, row in rows(exported).items() if "glitch" in str(row["reasons"])] == ["plain"]


def test_gauges_that_cannot_be_true_are_not_taken_in(exported: Export) -> None:
    row = rows(exported)["plain"]
    assert row["max_gpu_util_pct"] <= 100
    assert row["max_power_w"] < 1000
    assert row["max_temp_c"] < 100
    assert row["min_vram_mb"] > 0


def test_what_was_left_out_is_counted(exported: Export) -> None:
    (note,) = [note for note in exported.notes if "cannot be true" in note]
    assert "GPU-aaaa" in note
    assert "1 of joulebench_gpu_utilization_ratio" in note
    assert "of joulebench_gpu_energy_joules_total" in note
