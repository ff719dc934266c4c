"""The fake is itself held against its truth: a counter that is exact at its steps and blind between them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from tests.fakes.nvml import MIG_3G, MIG_4G, BusyFile, FakeGpu, FakeGpuScript, Process, VirtualClock, build, calls
from tests.fakes.nvml.curve import integral
from tests.fakes.nvml.script import HOPPER
from tests.unit.gpu.rig import Play


def test_the_counter_is_the_exact_integral_at_its_last_step(play: Play) -> None:
    power = ((0.0, 61.7), (0.73, 300.1), (2.2, 111.3))
    rig = play(FakeGpu(power=power, loop=3.1, step=0.1, phase=0.04, base_mj=0))
    for _ in range(400):
        rig.clock.advance(0.0173)
        shown = rig.source.devices()[0].read_counters().energy
        steps = int((rig.now - 0.04) / 0.1 + 1e-9)
        expected = rig.truth(0, 0.04 + steps * 0.1) if rig.now >= 0.04 else 0.0
        assert shown == pytest.approx(expected, abs=0.002)


def test_instant_power_of_a_part_time_sensor_is_the_end_of_the_step_only(play: Play) -> None:
    power = ((0.0, 100.0), (0.98, 500.0), (1.0, 100.0))
    rig = play(FakeGpu(power=power, sensor_window=0.025), FakeGpu(power=power, sensor_window=0.1))
    rig.clock.advance(1.01)
    assert rig.source.devices()[0].read_counters().power == pytest.approx(0.2 * 100 + 0.8 * 500)
    assert rig.source.devices()[1].read_counters().power == pytest.approx(0.8 * 100 + 0.2 * 500)


def test_a_part_time_counter_misses_what_its_sensor_misses(play: Play) -> None:
    square = ((0.0, 400.0), (0.05, 100.0))
    rig = play(FakeGpu(power=square, loop=0.1, counter_window=0.025, base_mj=0))
    rig.clock.advance(10.05)
    assert rig.truth(0, 10) == pytest.approx(2500)
    assert rig.source.devices()[0].read_counters().energy == pytest.approx(1000, rel=0.02)


def test_busy_lines_ahead_of_time_and_as_it_happens_are_one_curve(tmp_path: Path, play: Play) -> None:
    rig = play(FakeGpu(power=((0.0, 50.0),), base_mj=0), FakeGpu(power=((0.0, 50.0),), base_mj=0), busy=True)
    assert rig.busy is not None
    rig.busy.draw(0, 200.0, at_unix=rig.script.origin_unix + 1.0)
    rig.busy.draw(0, 50.0, at_unix=rig.script.origin_unix + 1.5)
    rig.clock.advance(2.0)
    rig.busy.draw(1, 80.0)
    rig.clock.advance(1.0)
    assert rig.source.devices()[0].read_counters().energy == pytest.approx(50 * 2.5 + 200 * 0.5, abs=0.002)
    assert rig.source.devices()[1].read_counters().energy == pytest.approx(50 * 2 + 80, abs=0.002)
    assert rig.truth(0, 3) == pytest.approx(225)
    assert rig.script.joules(1, rig.script.origin_unix, rig.script.origin_unix + 3) == pytest.approx(180, abs=1e-4)


def test_the_truth_of_a_loop_is_that_of_its_rounds() -> None:
    points = ((0.0, 10.0), (1.0, 30.0))
    assert integral(points, 0.0, 6.0, loop=2.0) == pytest.approx(120)
    assert integral(points, 0.5, 2.5, loop=2.0) == pytest.approx(40)
    assert integral(points, -1.0, 0.5) == pytest.approx(15)


def test_a_build_can_leave_symbols_out_and_is_kept() -> None:
    library = build(("nvmlDeviceGetFieldValues",))
    # In a process of its own: this one may have loaded the whole library, whose symbols are global.
    load = f"import ctypes; library = ctypes.CDLL({str(library)!r})"
    code = f"{load}; library.nvmlDeviceGetPowerUsage; library.nvmlDeviceGetFieldValues"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "undefined symbol: nvmlDeviceGetFieldValues" in done.stderr
    assert build(("nvmlDeviceGetFieldValues",)) == library != build()


def test_asking_for_the_calls_of_an_unknown_function_is_an_error(play: Play) -> None:
    play(FakeGpu())
    with pytest.raises(KeyError, match="nvmlDeviceGetFanSpeed"):
        calls("nvmlDeviceGetFanSpeed", 0)


def test_a_script_names_the_clock_and_the_busy_file_it_was_made_with(tmp_path: Path) -> None:
    clock = VirtualClock(tmp_path / "clock", monotonic=5.0, unix=1000.0)
    script = FakeGpuScript([FakeGpu()], clock=clock, busy=BusyFile(tmp_path / "busy", clock))
    text = script.write(tmp_path / "script").read_text()
    assert "origin_unix 1000.0" in text
    assert "origin_mono 5.0" in text
    assert f"clock {tmp_path / 'clock'}" in text
    assert f"busy {tmp_path / 'busy'}" in text


def test_instances_of_a_gpu_are_what_nvml_says_of_them(play: Play) -> None:
    processes = [Process(11, mig=0), Process(12, mig=1), Process(13, mig=1)]
    card = FakeGpu(
        arch=HOPPER, migs=[replace(MIG_3G, activity=((0.0, 0.25),)), replace(MIG_4G, end=5.0)], processes=processes, gpm=True
    )
    rig = play(card, FakeGpu(arch=HOPPER))
    parent, other = (pynvml.nvmlDeviceGetHandleByIndex(index) for index in (0, 1))
    assert pynvml.nvmlDeviceGetMigMode(parent) == [1, 1]
    assert pynvml.nvmlDeviceGetMigMode(other) == [0, 0]
    instance = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, 0)
    assert pynvml.nvmlDeviceGetUUID(instance) == "MIG-fake-0-0"
    assert pynvml.nvmlDeviceGetName(instance) == "NVIDIA GeForce RTX 4090 MIG 3g.20gb"
    assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(instance)) == "GPU-fake-0"
    attributes = pynvml.nvmlDeviceGetAttributes_v2(instance)
    assert (attributes.multiprocessorCount, attributes.gpuInstanceSliceCount, attributes.memorySizeMB) == (42, 3, 20 * 1024)
    listed = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, 1))
    assert [(process.pid, process.gpuInstanceId) for process in listed] == [(12, 2), (13, 2)]
    assert len(pynvml.nvmlDeviceGetComputeRunningProcesses_v3(parent)) == 3
    for call in (pynvml.nvmlDeviceGetTotalEnergyConsumption, pynvml.nvmlDeviceGetUtilizationRates):
        with pytest.raises(pynvml.NVMLError, match="Not Supported"):
            call(instance)
    with pytest.raises(pynvml.NVMLError):
        pynvml.nvmlDeviceGetUtilizationRates(parent)
    rig.clock.advance(6.0)
    with pytest.raises(pynvml.NVMLError):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, 1)
