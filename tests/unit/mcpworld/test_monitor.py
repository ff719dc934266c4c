"""Rows of the monitor from sources that answer, fail and lie; and the file that is left whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from joulebench.clock import SystemClock, wait_until
from joulebench.devices import parse_devices
from joulebench.errors import GpuLost, UserError
from joulebench.gpu.chosen_devices import ChosenDevices
from joulebench.gpu.monitor import GpuMonitor
from joulebench.gpu.reading import CounterReading, GpuIdentity, StateReading
from joulebench.gpu.simulated import SimulatedSource
from joulebench.mcpworld import telemetry
from joulebench.mcpworld.client_names import MONITOR_COLUMNS
from joulebench.mcpworld.container import ContainerPoller, Usage
from joulebench.mcpworld.monitor import CsvMonitor
from joulebench.mcpworld.telemetry import SampleSource
from joulebench.units import Bytes, Celsius, Joules, Ratio, Seconds, Watts


class Device:
    def __init__(self, source: Source, index: int) -> None:
        self._source = source
        self.power_ceiling = None
        self.power_averaging = Seconds(0.0)
        self.identity = GpuIdentity(index, f"GPU-{index}", "x", "y", "1")

    def read_counters(self) -> CounterReading:
        index = self.identity.index
        if index in self._source.gone:
            raise GpuLost("fell off the bus")
        return CounterReading(Joules(1000.0), None if index in self._source.silent else Watts(100.0 + index))

    def read_state(self) -> StateReading:
        index = self.identity.index
        return StateReading(Ratio(0.5 + 0.25 * index), Bytes(1 << 30), Bytes(2 << 30), Celsius(60.0 + index))

    def read_residents(self) -> dict[str, None]:
        return {}

    def read_processes(self, since: Seconds) -> None:
        return None


class Source:
    """Two GPUs; what ``gone`` names does not answer, what ``silent`` names has no power reading."""

    name = "nvml"

    def __init__(self) -> None:
        self.gone: set[int] = set()
        self.silent: set[int] = set()
        self._devices = [Device(self, index) for index in (0, 1)]

    def devices(self) -> Sequence[Device]:
        return self._devices

    def scan(self) -> Sequence[str]:
        return ()

    def process_name(self, pid: int) -> None:
        return None

    def close(self) -> None: ...


def make(path: Path, source: Source | SimulatedSource | None, **options: object) -> CsvMonitor:
    return CsvMonitor(path, source, SystemClock(), interval=0.02, **options)  # type: ignore[arg-type]


def test_gpus_become_one_as_the_client_has_them(tmp_path: Path) -> None:
    monitor = make(tmp_path / "m.csv", Source())
    assert monitor.columns == MONITOR_COLUMNS
    assert monitor.row()[1:] == ["62.5", "2048", "61", "201", "", ""]


def test_a_missing_part_makes_no_sum(tmp_path: Path) -> None:
    source = Source()
    monitor = make(tmp_path / "m.csv", source)
    source.silent = {1}
    assert monitor.row()[1:] == ["62.5", "2048", "61", "", "", ""]
    source.gone = {0}
    assert monitor.row()[1:] == [""] * 6


def test_without_a_gpu_the_container_is_still_told(tmp_path: Path) -> None:
    usages = iter([Usage(10.0, 512.0 * 2**20), Usage(11.0, 600.0 * 2**20), None])

    class Meter:
        def read(self) -> Usage | None:
            return next(usages)

    now = [100.0]

    class Clock:
        def unix(self) -> Seconds:
            return Seconds(now[0])

        monotonic = unix

    poller = ContainerPoller(Meter(), Clock())
    monitor = CsvMonitor(tmp_path / "m.csv", None, Clock(), interval=1.0, container=poller)
    assert monitor.row() == ["100.000000", "", "", "", "", "", ""]
    poller.poll()
    now[0] += 2.0
    poller.poll()
    assert monitor.row() == ["102.000000", "", "", "", "", "50", "600"]
    poller.poll()
    now[0] += 3.5
    assert monitor.row()[5:] == ["", ""]


def run_for(monitor: CsvMonitor, path: Path, lines: int) -> None:
    thread = threading.Thread(target=monitor.run)
    thread.start()
    assert wait_until(lambda: path.read_text().count("\n") > lines, 5.0)
    monitor.stop()
    thread.join()


def test_a_log_is_continued_and_one_of_other_columns_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "m.csv"
    run_for(make(path, Source()), path, 3)
    rows = path.read_text().count("\n")
    with path.open("a") as file:
        file.write("1234.5,torn")
    run_for(make(path, Source()), path, rows + 3)
    text = path.read_text()
    assert text.count("timestamp") == 1
    log = telemetry.read_monitor_log(path)
    assert len(log.times) == text.count("\n") - 1
    path.write_text("timestamp,mine\n1,2\n")
    make(path, None)
    assert (tmp_path / "deep" / "m.csv.1").read_text() == "timestamp,mine\n1,2\n"


def test_invented_gpus_say_so_in_every_row_and_have_columns_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    source = SimulatedSource(2)
    energy = GpuMonitor(source, SystemClock(), ring_seconds=60.0)
    energy.start()
    assert wait_until(lambda: all(state.energy is not None for state in energy.snapshot()), 5.0)
    run_for(make(path, source, energy=energy), path, 20)
    energy.stop()
    log = telemetry.read_monitor_log(path)
    assert [(gpu.uuid, gpu.source, gpu.method) for gpu in log.samples.gpus] == [
        ("SIMULATED-0", "simulated", "counter"),
        ("SIMULATED-1", "simulated", "counter"),
    ]


def test_rows_of_chosen_gpus_are_of_these_and_name_them(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    chosen = ChosenDevices(Source(), parse_devices("GPU-1", "--gpus"), "--gpus")
    monitor = CsvMonitor(path, chosen, SystemClock(), interval=0.02, names_devices=True)
    assert monitor.row()[1:] == ["75", "1024", "61", "101", "", "", "1:GPU-1"]
    run_for(monitor, path, 4)
    log = telemetry.read_monitor_log(path)
    assert [(device.index, device.uuid) for device in log.devices] == [(1, "GPU-1")]
    source = SampleSource(telemetry.MONITOR_CSV, path.name, log.samples, log)
    for name in ("1", "GPU-1"):
        assert [gpu.uuid for gpu in source.of_devices(parse_devices(name, "--gpus")).samples.gpus] == ["GPU-1"]
    with pytest.raises(UserError, match=r"--gpus: 0 matches no GPU; there are: 1 \(GPU-1\)"):
        source.of_devices(parse_devices("0", "--gpus"))
    with pytest.raises(UserError, match=r"--gpus: 7 matches no GPU; there are: 0 \(GPU-0\), 1 \(GPU-1\)"):
        ChosenDevices(Source(), parse_devices("7", "--gpus"), "--gpus")


def test_a_log_of_all_gpus_together_cannot_be_charged_to_some(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    run_for(make(path, Source()), path, 4)
    log = telemetry.read_monitor_log(path)
    with pytest.raises(UserError, match=r"m\.csv has the sum over all GPUs"):
        SampleSource(telemetry.MONITOR_CSV, path.name, log.samples, log).of_devices(parse_devices("0", "--gpus"))
    both = ChosenDevices(Source(), parse_devices("0,1", "--gpus"), "--gpus")
    other = tmp_path / "both.csv"
    run_for(CsvMonitor(other, both, SystemClock(), interval=0.02, names_devices=True), other, 4)
    summed = telemetry.read_monitor_log(other)
    source = SampleSource(telemetry.MONITOR_CSV, other.name, summed.samples, summed)
    assert [gpu.uuid for gpu in source.of_devices(parse_devices("1,0", "--gpus")).samples.gpus] == ["GPU-0 GPU-1"]
    with pytest.raises(UserError, match=r"has only the sum over 0 \(GPU-0\), 1 \(GPU-1\); name all of them"):
        source.of_devices(parse_devices("1", "--gpus"))


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        make(tmp_path / "file" / "m.csv", None)
