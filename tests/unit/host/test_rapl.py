"""RAPL counters of a made-up sysfs with known joules: windows, wrap-around, falls, gaps, and zones that cannot be read."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from joulebench import metrics
from joulebench.energy.window import WindowEnergy
from joulebench.exporter.energy_api import EnergyApi
from joulebench.exporter.host_collector import HostCollector
from joulebench.host.monitor import HostMonitor
from joulebench.host.rapl import RaplZone, explain_failure, find_zones
from joulebench.metrics.families import Sheet
from tests.fakes.powercap import DRAM_RANGE, FakeZone
from tests.unit.exporter.snapshots import NOW, ManualClock

PERIOD = 0.025


class Machine:
    """Zones, a monitor and a clock that moves from poll to poll, a little out of beat."""

    def __init__(self, powercap: Path) -> None:
        self.powercap = powercap
        powercap.mkdir()
        self.clock = ManualClock()
        self.zones: list[FakeZone] = []
        self.monitor = HostMonitor(self.clock, powercap)
        self.seconds = 0.0
        self._jitter = random.Random(19)

    def add(self, directory: str, name: str, joules: Callable[[float], float], begin: int = 0, **more: int) -> FakeZone:
        zone = FakeZone(self.powercap / directory, name, joules, begin, **more)
        self.zones.append(zone)
        return zone

    def pass_time(self, seconds: float) -> None:
        self.seconds += seconds
        self.clock.wall += seconds
        self.clock.running += seconds

    def run(self, until: float) -> None:
        while self.seconds < until:
            self.pass_time(PERIOD * self._jitter.uniform(0.8, 1.3))
            for zone in self.zones:
                if (zone.directory / "energy_uj").exists():
                    # The counter is up to a millisecond old, as a real one.
                    zone.show(self.seconds - self._jitter.uniform(0, 0.001))
            self.monitor.poll()

    def window(self, start: float, end: float) -> Mapping[tuple[str, str], WindowEnergy]:
        return {(zone.kind, zone.package): energy for zone, energy in self.monitor.window(NOW + start, NOW + end)}

    def shown(self) -> Mapping[str, Mapping[tuple[str, str], float]]:
        sheet = Sheet()
        HostCollector(self.monitor).collect(sheet)
        return {
            family.name: {(sample.labels["zone"], sample.labels["package"]): sample.value for sample in family.samples}
            for family in sheet.families()
        }

    def joules(self) -> Mapping[tuple[str, str], float]:
        return self.shown().get(metrics.HOST_ENERGY.name.removesuffix("_total"), {})


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "powercap")


def busy(seconds: float) -> float:
    """60 W, and 240 W more from second 4 to 9."""
    return 60.0 * seconds + 240.0 * min(max(seconds - 4.0, 0.0), 5.0)


def steady(seconds: float) -> float:
    return 18.0 * seconds


def test_windows_over_wrap_arounds_have_the_true_joules_in_true_bounds(machine: Machine) -> None:
    package = machine.add("intel-rapl:0", "package-0", busy, begin=262_143_328_850 - 700_000_000)
    dram = machine.add("intel-rapl:0:0", "dram", steady, begin=DRAM_RANGE - 90_000_000, size=DRAM_RANGE)
    machine.run(14.0)
    assert int((package.directory / "energy_uj").read_text()) < package.begin, "wrapped around"
    assert int((dram.directory / "energy_uj").read_text()) < dram.begin
    for start in [1.0, 3.0, 4.3, 4.9, 5.7, 8.0, 9.1]:
        found = machine.window(start, start + 2.0)
        for zone, truth in ((("package", "0"), busy), (("dram", "0"), steady)):
            expected, energy = truth(start + 2.0) - truth(start), found[zone]
            assert energy.joules == pytest.approx(expected, rel=0.01), (zone, start)
            assert energy.low is not None
            assert energy.high is not None
            assert energy.low <= expected <= energy.high
            assert (energy.quality, energy.reasons, energy.resets) == ("ok", (), 0)


def test_the_shown_counter_is_exact_to_the_microjoule_over_many_wrap_arounds(machine: Machine) -> None:
    zone = machine.add("intel-rapl:0", "package-0", lambda seconds: 300.0 * seconds, size=1_500_000_000)
    machine.run(1.0)
    first, at_first = machine.joules()["package", "0"], zone.directory.joinpath("energy_uj").read_text()
    machine.run(21.0)
    last, at_last = machine.joules()["package", "0"], zone.directory.joinpath("energy_uj").read_text()
    wraps = 4
    assert round((last - first) * 1e6) == wraps * zone.size + int(at_last) - int(at_first)


def test_a_counter_that_begins_anew_adds_no_joules_and_says_so(machine: Machine) -> None:
    zone = machine.add("intel-rapl:0", "package-0", steady, begin=100_000_000_000)
    machine.run(12.0)
    # After a suspend: far from its highest value, the counter stands at 0.
    zone.begin = -round(steady(12.0) * 1e6)
    machine.run(24.0)
    energy = machine.window(10.0, 16.0)["package", "0"]
    assert "reset" in energy.reasons
    assert energy.quality == "suspect"
    assert energy.joules is not None
    assert energy.joules < 2 * steady(6.0)
    assert machine.window(18.0, 22.0)["package", "0"].joules == pytest.approx(steady(4.0), rel=0.01)


def test_wrap_arounds_that_nothing_read_make_a_reset_and_no_joules(machine: Machine) -> None:
    zone = machine.add("intel-rapl:0:0", "dram", steady, size=DRAM_RANGE)
    machine.run(8.0)
    machine.pass_time(60.0)
    assert machine.joules() == {}, "not repeated while it is not read"
    zone.begin = 5_000_000_000
    machine.run(80.0)
    assert "reset" in machine.window(6.0, 72.0)["dram", ""].reasons
    assert machine.window(74.0, 78.0)["dram", ""].joules == pytest.approx(steady(4.0), rel=0.01)


def test_a_zone_that_cannot_be_read_is_shown_without_joules(machine: Machine) -> None:
    machine.add("intel-rapl:0", "package-0", busy)
    second = machine.add("intel-rapl:1", "package-1", busy)
    (second.directory / "energy_uj").unlink()
    machine.run(6.0)
    assert [*machine.joules()] == [("package", "0")]
    shown = machine.shown()
    assert shown[metrics.HOST_ENERGY_UP.name] == {("package", "0"): 1.0, ("package", "1"): 0.0}
    assert shown[metrics.HOST_ENERGY_READ_ERRORS.name.removesuffix("_total")]["package", "1"] >= 1
    status, body = asyncio.run(
        EnergyApi(None, lambda: "none", machine.clock, 3600.0, host=machine.monitor).answer(
            f"start={NOW + 2}&end={NOW + 4}&scope=host"
        )
    )
    assert status == 200
    first, other = body["zones"]
    assert (first["joules"], first["problem"]) == (pytest.approx(120.0, rel=0.01), None)
    assert (other["joules"], other["quality"]) == (None, "missing")
    assert "energy_uj cannot be read: ENOENT" in other["problem"]
    assert body["totals"]["package"]["joules"] is None, "a sum without one package would pass for both"


def test_the_message_for_a_file_of_root_says_what_to_do(tmp_path: Path) -> None:
    zone = RaplZone("package", "0", tmp_path, None)
    message = explain_failure(zone, PermissionError(13, "Permission denied"))
    assert str(tmp_path / "energy_uj") in message
    assert "deploy/udev/60-joulebench-rapl.rules" in message


def test_a_memory_zone_that_never_counts_has_no_joules(machine: Machine) -> None:
    machine.add("intel-rapl:0:0", "dram", lambda _: 0.0)
    machine.run(4.0)
    assert machine.joules() == {}
    assert machine.window(1.0, 3.0)["dram", ""].joules is None
    assert machine.monitor.is_settled(NOW + 4.0), "nothing to wait for"


def test_parts_and_second_readers_of_a_package_are_left_out(machine: Machine) -> None:
    names = {
        "intel-rapl": "",
        "intel-rapl:0": "package-0-die-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-0-die-1",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
        "dtpm": "",
    }
    for directory, name in names.items():
        machine.add(directory, name, steady)
    found = [(zone.kind, zone.package, zone.directory.name) for zone in find_zones(machine.powercap)]
    assert found == [
        ("package", "0-die-0", "intel-rapl:0"),
        ("package", "0-die-1", "intel-rapl:1"),
        ("dram", "0-die-0", "intel-rapl:0:1"),
        ("psys", "", "intel-rapl:2"),
    ]


def test_a_machine_without_rapl_has_no_series_and_a_driver_that_comes_later_is_found(machine: Machine) -> None:
    shutil.rmtree(machine.powercap)
    machine.run(1.0)
    assert machine.shown() == {}
    machine.powercap.mkdir()
    machine.add("intel-rapl:0", "package-0", steady)
    machine.pass_time(60.0)
    machine.run(64.0)
    assert [*machine.joules()] == [("package", "0")]


@pytest.mark.parametrize(
    ("query", "complaint"), [("scope=wall", "scope='wall' is none of gpu, host"), ("scope=host&gpus=0", "leave out")]
)
def test_a_scope_that_cannot_be_meant_is_a_400(machine: Machine, query: str, complaint: str) -> None:
    api = EnergyApi(None, lambda: "none", machine.clock, 3600.0, host=machine.monitor)
    status, body = asyncio.run(api.answer(f"start={NOW - 5}&end={NOW}&{query}"))
    assert status == 400
    assert complaint in body["error"]


def test_an_exporter_that_reads_no_rapl_answers_without_zones(machine: Machine) -> None:
    api = EnergyApi(None, lambda: "none", machine.clock, 3600.0)
    status, body = asyncio.run(api.answer(f"start={NOW - 5}&end={NOW}&scope=host"))
    assert (status, body["zones"], body["totals"]) == (200, [], {})
