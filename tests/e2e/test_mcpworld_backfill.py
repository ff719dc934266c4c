"""37 result files of a client that knew nothing of us, filled from a real Prometheus whose joules are known.

The counter of each GPU is the integral of its power, stored as an exporter's scrapes would have left it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from math import floor
from pathlib import Path

import pandas
import pytest

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.mcpworld import client_names
from joulebench.mcpworld.backfill import Options, backfill
from tests.e2e.scene import joulebench
from tests.fakes import mcpworld_tree
from tests.fakes.mcpworld_tree import START, STEADY_WATTS, Tree
from tests.needs import need_program
from tests.unit.results.store import Store, prometheus

pytestmark = pytest.mark.e2e

UNREADABLE, UNSEEN = {7, 8}, {30}
SCRAPE = 0.25
CPU_WATTS = 40.0
CPU = """
meters:
  - {name: cpu, query: node_cpu_joules_total, kind: counter, unit: joules, scope: cpu, interval_seconds: 1, max_watts: 99}
emissions:
  carbon: {grams_per_kwh: 360, source: contract, date: 2026-10-01, of: cpu}
"""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tree, str]]:
    for name in ("prometheus", "promtool"):
        need_program(name)
    directory = tmp_path_factory.mktemp("backfill")
    tree = mcpworld_tree.make(directory / "logs")
    store = Store()
    fill(store, tree)
    with prometheus(directory, store.openmetrics()) as url:
        yield tree, url


def fill(store: Store, tree: Tree) -> None:
    points = tree.power()
    joules, place, last = 0.0, 0, START
    for step in range(int((tree.end + 20 - START) / SCRAPE)):
        at = START + step * SCRAPE
        changed = floor((at - 0.004) * 10) / 10
        while last < changed:
            while place + 1 < len(points) and points[place + 1][0] <= last:
                place += 1
            until = min(changed, points[place + 1][0] if place + 1 < len(points) else changed)
            joules += points[place][1] * (until - last)
            last = until
        if step % 4 == 0:
            store.add("node_cpu_joules_total", {"job": "node", "instance": "127.0.0.1:9100"}, at, CPU_WATTS * (at - START))
        labels = {"job": "joulebench-energy", "instance": "127.0.0.1:18347"}
        for gpu, value in (("0", joules), ("1", STEADY_WATTS * (changed - START))):
            own = {**labels, "gpu": gpu, "uuid": f"GPU-{gpu}"}
            store.add(metrics.GPU_ENERGY, own, at, round(5000 + value, 3))
            store.add(metrics.GPU_ENERGY_SAMPLE_TIMESTAMP, own, at, changed)
            store.add(metrics.GPU_ENERGY_SAMPLE_UNCERTAINTY, own, at, 0.02)
            if step % 4 == 0:
                store.add(metrics.GPU_POWER, own, at, points[place][1] if gpu == "0" else STEADY_WATTS)
                info = {
                    "name": "Test GPU",
                    "architecture": "x",
                    "driver_version": "1",
                    "source": "nvml",
                    "energy_method": "counter",
                }
                store.add(metrics.GPU_INFO, {**own, **info}, at, 1.0)


def test_all_is_filled_once_within_its_bounds_and_a_second_time_changes_nothing(scene: tuple[Tree, str], tmp_path: Path) -> None:
    tree, url = scene
    dry = joulebench("backfill", str(tree.root), "--prometheus-url", url, "--dry-run", check=False)
    assert all(one.path.read_bytes().decode("utf-8", "surrogatepass") == one.text for one in tree.made)
    first = joulebench("backfill", str(tree.root), "--prometheus-url", url, check=False)
    assert (dry.returncode, first.returncode) == (1, 1)
    assert "37 files: 2 failed, 34 filled, 1 not measured" in first.stdout
    for one in tree.made:
        if one.index in UNREADABLE | UNSEEN:
            continue
        found = json.loads(one.path.read_text(encoding="utf-8-sig"))
        truth, measured = tree.joules(*one.headline), found["measurement"]
        assert list(found["gpu_hardware_metrics"]) == list(client_names.HARDWARE_KEYS)
        assert measured["joules"] == pytest.approx(truth, rel=0.01), one.index
        assert measured["low_joules"] <= truth <= measured["high_joules"], one.index
        assert (measured["telemetry"], measured["energy_source"], measured["simulated"]) == ("prometheus", "prometheus", False)
        assert found["gpu_hardware_metrics"]["avg_container_cpu_pct"] is None
    before = {one.path: one.path.read_bytes() for one in tree.made}
    again = joulebench("backfill", str(tree.root), "--prometheus-url", url, check=False)
    assert "34 unchanged" in again.stdout
    assert {one.path: one.path.read_bytes() for one in tree.made} == before
    out = tmp_path / "benchmark_results.csv"
    joulebench("json-to-csv", "-i", str(tree.root), "-o", str(out), check=False)
    frame = pandas.read_csv(out)
    assert len(frame) == 35
    assert int(frame["gpu_total_energy_joules"].notna().sum()) == 34
    assert not (frame["gpu_total_energy_joules"] == 0).any()


def test_meters_fill_their_section_too_and_a_second_time_changes_nothing(scene: tuple[Tree, str], tmp_path: Path) -> None:
    tree, url = scene
    logs, meters = tmp_path / "logs", tmp_path / "meters.yml"
    shutil.copytree(tree.root, logs)
    meters.write_text(CPU, encoding="utf-8")
    arguments = ["backfill", str(logs), "--prometheus-url", url, "--meters", str(meters)]
    assert "34 filled" in joulebench(*arguments, check=False).stdout
    for one in tree.made:
        if one.index in UNREADABLE | UNSEEN:
            continue
        path = logs / one.path.relative_to(tree.root)
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        found, carbon = document["meters"]["cpu"], document["emissions"]["carbon"]
        truth = CPU_WATTS * (one.headline[1] - one.headline[0])
        assert (found["scope"], found["hosts"]) == ("cpu", ["127.0.0.1:9100"])
        assert found["joules"] == pytest.approx(truth, rel=0.01), one.index
        assert found["low_joules"] <= truth <= found["high_joules"], one.index
        assert carbon["amount"] == pytest.approx(found["attributed_joules"] / 3.6e6 * 360), one.index
        assert (carbon["source"], carbon["date"], carbon["of"]) == ("contract", "2026-10-01", "cpu")
    assert "34 unchanged" in joulebench(*arguments, check=False).stdout


def test_a_prometheus_that_is_gone_costs_nothing_that_is_known(scene: tuple[Tree, str]) -> None:
    tree, _ = scene
    before = {one.path: one.path.read_bytes() for one in tree.made}
    gone = backfill(Options(tree.root), PrometheusApi("http://127.0.0.1:9", patience=0.0))
    assert (gone.count("kept"), gone.count("filled")) == (34, 0)
    assert any("Prometheus failed" in note for note in gone.notes)
    assert {one.path: one.path.read_bytes() for one in tree.made} == before
