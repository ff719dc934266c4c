"""Real processes and real time: how the library is found, what an old one lacks, and the threads on the system clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from joulebench.clock import SystemClock, wait_until
from joulebench.gpu.monitor import GpuMonitor
from joulebench.gpu.nvml import NvmlSource
from tests.fakes.nvml import SCRIPT_VARIABLE, BusyFile, FakeGpu, FakeGpuScript, OnCalls, Process, environment, load, slow
from tests.fakes.nvml.script import HW_THERMAL

READ = """
import dataclasses, json
from joulebench.errors import GpuUnavailable
try:
    from joulebench.gpu.nvml import NvmlSource
    source = NvmlSource()
except GpuUnavailable as error:
    print(json.dumps({"unavailable": str(error)}))
else:
    fast, slow = source.devices()[0].read_counters(), source.devices()[0].read_state()
    print(json.dumps({"fast": fast._asdict(), "slow": dataclasses.asdict(slow)}))
"""


def in_a_process(code: str, variables: dict[str, str]) -> dict[str, Any]:
    clean = {name: value for name, value in os.environ.items() if name not in ("LD_LIBRARY_PATH", SCRIPT_VARIABLE)}
    done = subprocess.run([sys.executable, "-c", code], env={**clean, **variables}, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def read_with(script: Path, without: Sequence[str] = ()) -> dict[str, Any]:
    return in_a_process(READ, environment(script, without))


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return FakeGpuScript([FakeGpu(reasons=((0.0, HW_THERMAL),), temperature=((0.0, 83.0),))]).write(tmp_path / "script")


def test_the_unmodified_binding_finds_the_library_by_its_path(script: Path) -> None:
    read = read_with(script)
    assert read["fast"]["energy"] >= 1000
    assert read["fast"]["power"] == pytest.approx(50)
    assert read["slow"]["temperature_margin"] == 14


def test_an_old_driver_without_newer_functions_still_gives_every_value(script: Path) -> None:
    newer = (
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetTemperatureV",
        "nvmlDeviceGetMarginTemperature",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetArchitecture",
    )
    read = read_with(script, newer)
    assert read["fast"]["energy"] >= 1000
    assert read["fast"]["power"] == pytest.approx(50)
    assert read["fast"]["throttle_active"]["hw_thermal"]
    assert read["slow"]["memory_used"] == 512 << 20
    assert read["slow"]["temperature"] == 83
    assert read["slow"]["temperature_margin"] == 14
    assert read["slow"]["failures"] == 0


def test_a_driver_without_any_getter_reads_nothing_and_claims_nothing(script: Path) -> None:
    getters = (
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetEnforcedPowerLimit",
    )
    read = read_with(script, getters)
    assert read["fast"]["energy"] is read["fast"]["power"] is read["slow"]["utilization"] is read["slow"]["power_limit"] is None


WATCH = """
import json
from joulebench.gpu.nvml import NvmlSource
source = NvmlSource()
uses = source.devices()[0].read_processes(0.0)
print(json.dumps({"uses": uses and [use._asdict() for use in uses][:1], "name": source.process_name(4100000)}))
"""
UTILIZATION, COMPUTE, NAME = (
    "nvmlDeviceGetProcessUtilization",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlSystemGetProcessName",
)


@pytest.mark.parametrize(
    ("without", "sm", "name"),
    [
        ((), 0.4, "/opt/game"),
        ((UTILIZATION,), None, "/opt/game"),
        ((UTILIZATION, NAME), None, None),
    ],
)
def test_a_driver_that_lacks_a_process_call_is_asked_by_the_next(
    tmp_path: Path, without: Sequence[str], sm: float | None, name: str | None
) -> None:
    script = FakeGpuScript([FakeGpu(processes=[Process(4_100_000, start=-10.0, name="/opt/game")])]).write(tmp_path / "script")
    told = in_a_process(WATCH, environment(script, without))
    assert told["name"] == name
    assert (told["uses"][0]["pid"], told["uses"][0]["sm"], told["uses"][0]["at"] is None) == (4_100_000, sm, sm is None)


def test_a_driver_without_any_process_call_tells_nothing(script: Path) -> None:
    assert in_a_process(WATCH, environment(script, (UTILIZATION, COMPUTE, NAME))) == {"uses": None, "name": None}


def test_a_machine_without_the_library_says_so() -> None:
    assert "no NVIDIA driver is installed" in in_a_process(READ, {})["unavailable"]


def test_a_library_without_the_init_function_is_too_old(script: Path) -> None:
    assert "too old" in read_with(script, ("nvmlInitWithFlags",))["unavailable"]


def test_the_retired_package_of_the_same_name_is_told_apart(script: Path, tmp_path: Path) -> None:
    old = tmp_path / "site" / "pynvml"
    old.mkdir(parents=True)
    old.joinpath("__init__.py").write_text("class NVMLError(Exception): pass\ndef nvmlInit(): pass\n")
    answer = in_a_process(READ, {**environment(script), "PYTHONPATH": str(old.parent)})
    assert "shadows nvidia-ml-py" in answer["unavailable"]
    assert str(old) in answer["unavailable"]


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Live:
    return Live(tmp_path, monkeypatch)


class Live:
    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        self._monkeypatch = monkeypatch

    def monitor(self, *gpus: FakeGpu) -> tuple[GpuMonitor, NvmlSource, FakeGpuScript]:
        load()
        script = FakeGpuScript(gpus, busy=BusyFile(self._directory / "busy"))
        self._monkeypatch.setenv(SCRIPT_VARIABLE, str(script.write(self._directory / "script")))
        source = NvmlSource()
        return GpuMonitor(source, SystemClock()), source, script


def test_a_window_waits_for_the_counter_to_pass_its_end_and_no_longer(live: Live) -> None:
    clock = SystemClock()
    monitor, source, script = live.monitor(FakeGpu(power=((0.0, 60.0),)), FakeGpu(power=((0.0, 100.0),)))
    busy = script.busy
    assert busy is not None
    monitor.start()
    try:
        assert wait_until(lambda: monitor.is_settled(script.origin_unix + 0.5), 5.0)
        begin = busy.draw(0, 300.0)
        assert wait_until(lambda: monitor.is_settled(begin + 0.7), 5.0)
        end = busy.draw(0, 60.0)
        asked_at = clock.monotonic()
        assert wait_until(lambda: monitor.is_settled(end), 5.0, interval=0.01)
        waited = clock.monotonic() - asked_at
        first, second = (energy for _, energy in monitor.window(begin, end))
    finally:
        monitor.stop()
        source.close()
    assert waited < 1.0, "two counter steps are 0.2 s"
    assert first.coverage == second.coverage == 1.0
    truth = script.joules(0, begin, end)
    assert truth == pytest.approx(300 * (end - begin))
    assert first.joules == pytest.approx(truth, rel=0.1)
    assert first.low is not None
    assert first.high is not None
    assert first.low - 0.01 <= truth <= first.high + 0.01
    assert second.joules == pytest.approx(script.joules(1, begin, end), rel=0.1)


def test_stopping_does_not_wait_for_a_call_that_hangs(live: Live) -> None:
    clock = SystemClock()
    monitor, source, _ = live.monitor(FakeGpu(faults=(slow(4.0, OnCalls(5, 5)),)))
    monitor.start()
    # The first polls are read quickly, then one call does not come back; the stop outlives it.
    assert wait_until(lambda: monitor.snapshot()[0].polls >= 1, 5.0)
    threading.Event().wait(0.3)
    begun = clock.monotonic()
    monitor.stop()
    assert clock.monotonic() - begun < 2.5
    source.close()
