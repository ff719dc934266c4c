"""The shipped example meters on a real Prometheus with known joules: sections, columns, and tasks at one time.

The CPU draws 40 W idle and 160 W while a task runs, in two packages; the memory 8 W; the wall
1.1 times GPUs, CPU, memory and 50 W.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from math import floor
from pathlib import Path
from typing import Any

import pytest

from joulebench.cli import main
from joulebench.clients.prometheus import PrometheusApi
from joulebench.meters import Meter, load_meters
from joulebench.metrics import HOST_ENERGY
from joulebench.results.export import Export, Options, export
from joulebench.schema import load_results
from tests.unit.results import scenario
from tests.unit.results.scenario import GPUS, RUN, TASKS, joules, watts
from tests.unit.results.store import START, Store, filled_prometheus
from tests.unit.results.test_export import Later

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parent.parent.parent.parent / "prometheus" / "meters.yml"
METERS = load_meters(EXAMPLES).meters
NODE, BMC = {"job": "node", "instance": "127.0.0.1:9100"}, {"job": "ipmi", "instance": "127.0.0.1:9290"}
EXPORTER = {"job": "joulebench", "instance": "127.0.0.1:18347"}
WRAPS = 262143.328850


def cpu_joules(start: float, end: float) -> float:
    """40 W, and 120 W more while a task runs: GPU 0 draws 60 W, and 240 W more then."""
    return 40.0 * (end - start) + (joules(0, start, end) - 60.0 * (end - start)) / 2


def cpu_watts(at: float) -> float:
    return 40.0 + (watts(0, at) - 60.0) / 2


def wall_watts(at: float) -> float:
    return 1.1 * (watts(0, at) + watts(1, at) + cpu_watts(at) + 8.0 + 50.0)


def wall_joules(start: float, end: float) -> float:
    return 1.1 * (joules(0, start, end) + joules(1, start, end) + cpu_joules(start, end) + 58.0 * (end - start))


def grid_grams(at: float) -> float:
    """400 g of CO2e for a kWh, and 200 g from the middle of the task ``plain``."""
    return 400.0 if at < sum(window("plain")) / 2 else 200.0


TRUTH: Mapping[str, Callable[[float, float], float]] = {
    "host_cpu": cpu_joules,
    "host_dram": lambda start, end: 8.0 * (end - start),
    "cpu_package": cpu_joules,
    "cpu_dram": lambda start, end: 8.0 * (end - start),
    "kepler_package": cpu_joules,
    "dcgm_energy": lambda start, end: joules(0, start, end) + joules(1, start, end),
    "dcgm_power": lambda start, end: joules(0, start, end) + joules(1, start, end),
    "ipmi": wall_joules,
    "redfish": wall_joules,
    "shelly_plug": wall_joules,
    "tasmota_plug": wall_joules,
    "ups": wall_joules,
}


def fill_meters(store: Store) -> None:
    """As their exporters would show it. Kepler and DCGM repeat their values for 5 s and 1 s; the plug counts whole watt-hours."""
    since = START - 60.0
    for second in range(-60, 181):
        at = START + second
        for job in ("node", "node-too"):
            # The first package is read in two ways.
            for index, reader in (("0", "intel-rapl"), ("1", "intel-rapl"), ("0", "intel-rapl-mmio")):
                zone = f"/sys/class/powercap/{reader}:{index}"
                value = (261_000.0 + (0.7 if index == "0" else 0.3) * cpu_joules(since, at)) % WRAPS
                store.add("node_rapl_package_joules_total", {**NODE, "job": job, "index": index, "path": zone}, at, value)
        for zone, value in (("package", 380_000.0 + cpu_joules(since, at)), ("dram", 90_000.0 + 8.0 * (at - since))):
            store.add(HOST_ENERGY.name, {**EXPORTER, "zone": zone, "package": "0"}, at, value)
        store.add("node_rapl_dram_joules_total", {**NODE, "index": "0"}, at, 14225.0 + 8.0 * (at - since))
        for zone, value in (("package", cpu_joules(since, START + floor(second / 5) * 5)), ("dram", 0.0)):
            store.add("kepler_node_cpu_joules_total", {**NODE, "zone": zone, "node_name": "127.0.0.1"}, at, 500.0 + value)
        for number, gpu in enumerate(GPUS):
            labels = {"job": "dcgm", "instance": "127.0.0.1:9400", "UUID": gpu["uuid"], "gpu": gpu["gpu"]}
            store.add("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", labels, at, float(round(1000 * joules(number, since, at))))
            store.add("DCGM_FI_DEV_POWER_USAGE", labels, at, watts(number, at))
        if second % 5 == 0:
            store.add("grid_grams", {"job": "grid", "zone": "DE"}, at, grid_grams(at))
            store.add("grid_grams", {"job": "grid", "zone": "FR"}, at, 50.0)
        power = wall_watts(at)
        for replica in ("a", "b"):
            store.add("ipmi_dcmi_power_consumption_watts", {**BMC, "prometheus_replica": replica}, at, power)
        store.add("shellyplug_power_load_current", {"job": "shelly", "instance": "10.0.0.7:9500"}, at, power)
        kilowatt_hours = 412.0 + wall_joules(since, at) // 3600 / 1000
        store.add("tasmota_energy_total_kwh", {"job": "tasmota", "instance": "10.0.0.8:9501"}, at, kilowatt_hours)
        if second % 15 == 0:
            store.add("network_ups_tools_ups_realpower", {"job": "nut", "instance": "ups:9199"}, at, power)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with filled_prometheus(tmp_path_factory.mktemp("prometheus"), scenario.fill, fill_meters) as running:
        yield running


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    scenario.write_journals(runs)
    return runs


class CountingApi(PrometheusApi):
    """Notes every query for the samples of a series."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.queries: list[str] = []

    def raw(self, expr: str, time: float) -> bytes:
        self.queries.append(expr)
        return super().raw(expr, time)


@pytest.fixture(scope="module")
def exported(url: str, runs_dir: Path) -> tuple[Export, CountingApi]:
    api = CountingApi(url)
    return export(Options(RUN, runs_dir, meters=METERS), api, Later()), api


@pytest.fixture(scope="module")
def records(exported: tuple[Export, CountingApi]) -> dict[str, dict[str, Any]]:
    loaded = [json.loads(path.read_text(encoding="utf-8")) for path in exported[0].json_paths]
    return {record["metadata"]["task_id"]: record for record in loaded}


def window(task_id: str) -> tuple[float, float]:
    task = next(task for task in TASKS if task.task_id == task_id)
    assert task.end is not None
    return START + task.start, START + task.end


@pytest.mark.parametrize("task_id", [task.task_id for task in TASKS if task.end is not None])
@pytest.mark.parametrize("meter", METERS, ids=lambda meter: meter.name)
def test_bounds_hold_for_every_task(records: dict[str, dict[str, Any]], meter: Meter, task_id: str) -> None:
    found, truth = records[task_id]["meters"][meter.name], TRUTH[meter.name](*window(task_id))
    assert found["scope"] == meter.scope
    assert found["low_joules"] is None or found["low_joules"] <= truth
    assert found["high_joules"] is None or found["high_joules"] >= truth
    if found["joules"] is None:
        assert found["quality"] == "missing"


@pytest.mark.parametrize("name", ["cpu_package", "cpu_dram"])
@pytest.mark.parametrize("task_id", ["plain", "only in journal", "only/in:store", "=cmd()"])
def test_counters_scraped_every_second_are_right_within_1_percent(
    records: dict[str, dict[str, Any]], name: str, task_id: str
) -> None:
    found = records[task_id]["meters"][name]
    assert found["joules"] == pytest.approx(TRUTH[name](*window(task_id)), rel=0.01)
    assert found["counter_resets"] == 0


def test_what_is_scraped_or_read_twice_counts_once_and_packages_are_added(records: dict[str, dict[str, Any]]) -> None:
    found = records["plain"]["meters"]["cpu_package"]
    assert (found["series"], found["hosts"]) == (2, ["127.0.0.1:9100"])
    assert records["plain"]["meters"]["shelly_plug"]["hosts"] == ["*"]
    assert records["plain"]["meters"]["ipmi"]["series"] == 1, "what two replicas of Prometheus scraped counts once"


def test_tasks_at_one_time_share_what_the_meter_counted(records: dict[str, dict[str, Any]]) -> None:
    for name, error in (("cpu_package", 0.01), ("shelly_plug", 0.1)):
        both = [records[task_id]["meters"][name] for task_id in ("together a", "together b")]
        together = TRUTH[name](window("together a")[0], window("together b")[1])
        assert sum(one["attributed_joules"] for one in both) == pytest.approx(together, rel=error)
        assert sum(one["joules"] for one in both) > 1.2 * together
        assert all("overlap" in one["reasons"] for one in both)
    assert records["plain"]["meters"]["cpu_package"]["overlap_fraction"] == 0


def test_a_meter_without_series_is_missing_and_noted(exported: tuple[Export, CountingApi], records: dict[str, Any]) -> None:
    found = records["plain"]["meters"]["redfish"]
    assert (found["joules"], found["quality"], found["reasons"]) == (None, "missing", ["no_samples"])
    without = [note for note in exported[0].notes if "Prometheus has no series" in note]
    assert [note.partition(":")[0] for note in without] == ["meter redfish"]


def test_a_meter_is_asked_for_once_for_all_tasks(exported: tuple[Export, CountingApi]) -> None:
    queries = exported[1].queries
    for meter in METERS:
        # One chunk of an hour, or the edge of the next where a meter needs hours around its windows.
        asked = [query for query in queries if query.startswith(f"{meter.query}[")]
        assert 1 <= len(asked) <= 3, asked


def test_columns_follow_the_meters_and_stay(url: str, runs_dir: Path, exported: tuple[Export, CountingApi]) -> None:
    rows = {row["task_id"]: row for row in csv.DictReader(exported[0].csv_path.read_text(encoding="utf-8").splitlines())}
    truth = cpu_joules(*window("plain"))
    assert float(rows["plain"]["meter_cpu_package_joules"]) == pytest.approx(truth, rel=0.01)
    assert rows["plain"]["meter_cpu_package_quality"] == "short"
    assert rows["plain"]["meter_ups_scope"] == "rack"
    loaded = {result.metadata.task_id: result for result in load_results([exported[0].csv_path.parent])}
    assert loaded["plain"].meters["cpu_package"].joules == pytest.approx(truth, rel=0.01)
    before = exported[0].csv_path.read_bytes()
    again = export(Options(RUN, runs_dir, meters=METERS), PrometheusApi(url), Later())
    assert again.csv_path.read_bytes() == before


def test_the_command_reads_the_file(url: str, runs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "meters.yml"
    path.write_text(
        "meters: [{name: cpu, query: 'node_rapl_package_joules_total{path!~\".*mmio.*\"}', kind: counter, unit: joules,"
        " scope: cpu, interval_seconds: 1, max_watts: 600, wraps_at: 262143.328850}]",
        encoding="utf-8",
    )
    arguments = ["export", "--run-id", RUN, "--runs-dir", str(runs_dir), "--prometheus-url", url, "--gateway-url", "none"]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--meters", str(path)]) == 0
    (result,) = (one for one in load_results([tmp_path / "out"]) if one.metadata.task_id == "plain")
    assert result.meters["cpu"].joules == pytest.approx(cpu_joules(*window("plain")), rel=0.01)
    path.write_text("meters: [{name: cpu}]", encoding="utf-8")
    capsys.readouterr()
    assert main([*arguments, "--meters", str(path)]) == 2
    assert "entry 1 (cpu): lacks the setting" in capsys.readouterr().err


def test_the_command_writes_carbon_and_water_by_the_file(url: str, runs_dir: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "meters.yml", tmp_path / "out"
    arguments = ["export", "--run-id", RUN, "--runs-dir", str(runs_dir), "--prometheus-url", url, "--gateway-url", "none"]
    arguments += ["--out", str(out), "--meters", str(path)]
    found = {}
    for selector in ('grid_grams{zone="DE"}', "grid_grams", "no_grams"):
        path.write_text(
            f"emissions: {{carbon: {{query: '{selector}', interval_seconds: 5, source: grid, of: gpu}},"
            " water: {litres_per_kwh: 1.8, source: plant, date: 2026-10-01, of: gpu}}",
            encoding="utf-8",
        )
        assert main(arguments) == 0
        (result,) = (one for one in load_results([out]) if one.metadata.task_id == "plain")
        found[selector] = result.emissions["carbon"]
    truth = grams_of_plain()
    carbon, water = found['grid_grams{zone="DE"}'], result.emissions["water"]
    assert carbon.low is not None
    assert carbon.high is not None
    assert carbon.low <= truth <= carbon.high
    assert (carbon.factor_low, carbon.factor_high) == (200.0, 400.0)
    assert carbon.joules == result.charged_joules
    assert water.amount == pytest.approx((result.charged_joules or 0.0) / 3.6e6 * 1.8)
    assert (found["grid_grams"].amount, found["grid_grams"].reasons[-1]) == (None, "several_factors")
    assert (found["no_grams"].amount, found["no_grams"].reasons[-1]) == (None, "no_factor")
    rows = {row["task_id"]: row for row in csv.DictReader((out / "results.csv").read_text(encoding="utf-8").splitlines())}
    assert (rows["plain"]["carbon_grams"], rows["plain"]["water_source"], rows["plain"]["water_date"]) == (
        "",
        "plant",
        "2026-10-01",
    )


def grams_of_plain() -> float:
    """What the GPUs of the task took in each half of it, each at its own factor."""
    start, end = window("plain")
    middle = (start + end) / 2
    halves = ((400.0, start, middle), (200.0, middle, end))
    return sum(grams * joules(number, since, until) for grams, since, until in halves for number in range(len(GPUS))) / 3.6e6
