"""The recorder on the fake library: what it asks, what it says of a card, and what it does not say.

Its costs and times are those of a clock that the test moves, so they are exact; only the command runs in real time.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from joulebench.cli.diagnostics import RecordingProgress
from joulebench.errors import GpuUnavailable
from joulebench.gpu import nvml_calls
from joulebench.gpu.capture import (
    Capture,
    GpuCapture,
    PollSeries,
    capture_file_name,
    capture_json,
    mask_uuid,
    record_capture,
)
from joulebench.gpu.nvml import NvmlLibrary
from joulebench.gpu.reading import CounterReading
from joulebench.units import Joules, Watts
from tests.fakes.nvml import (
    SCRIPT_VARIABLE,
    During,
    Every,
    FakeGpu,
    FakeGpuScript,
    VirtualClock,
    calls,
    environment,
    fails,
    field_fails,
    gone,
    load,
    slow,
)
from tests.fakes.nvml.script import HOPPER

Record = Callable[..., Capture]


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    def record(*gpus: FakeGpu, seconds: float = 3.0, driver: str = "580.95.05", keep_uuid: bool = False) -> Capture:
        load()
        clock = VirtualClock(tmp_path / "clock")
        script = FakeGpuScript(gpus, driver=driver, clock=clock).write(tmp_path / "script")
        monkeypatch.setenv(SCRIPT_VARIABLE, str(script))
        library = NvmlLibrary()
        try:
            return record_capture(library, clock, clock.advance, seconds, label="load", keep_uuid=keep_uuid)
        finally:
            library.close()

    return record


def code_of(gpu: GpuCapture, function: str, *arguments: int) -> int:
    return next(call.code for call in gpu.calls if (call.function, tuple(call.arguments)) == (function, arguments))


def test_every_call_is_recorded_with_its_answer_or_its_error(recorded: Record) -> None:
    said = recorded(
        FakeGpu(arch=HOPPER, margin=True, temperature=((0.0, 50.0),), faults=(fails("nvmlDeviceGetPowerUsage", code=999),))
    )
    gpu = said.gpus[0]
    assert {call.function for call in gpu.calls} == {
        call.symbol for call in (nvml_calls.NAME, nvml_calls.ARCHITECTURE, *nvml_calls.READS)
    }
    answers = {call.function: call.answer for call in gpu.calls if call.code == 0}
    assert (answers["nvmlDeviceGetArchitecture"], answers["nvmlDeviceGetTemperatureV"]) == (9, 50)
    assert answers["nvmlDeviceGetMemoryInfo"] == {"total": 24 << 30, "free": (24 << 30) - (512 << 20), "used": 512 << 20}
    assert answers["nvmlDeviceGetMarginTemperature"] == 45
    assert code_of(gpu, "nvmlDeviceGetTemperatureThreshold", 1) == 3
    assert code_of(gpu, "nvmlDeviceGetPowerUsage") == 999
    assert all(call.answer is None for call in gpu.calls if call.code)


def test_every_field_is_recorded_with_its_type_or_its_error(recorded: Record) -> None:
    gpu = recorded(FakeGpu(faults=(field_fails(83, code=3),))).gpus[0]
    fields = {field.field: (field.code, field.type, field.value) for field in gpu.fields}
    assert set(fields) == {191, 83, 186, 75, 74, 76, 269, 270, 271, 194}
    assert fields[83] == (3, None, None)
    assert fields[186] == (0, 1, 50000)
    assert fields[191] == (0, 3, 1_000_000)


def test_a_driver_without_the_field_call_gives_every_field_that_error(recorded: Record) -> None:
    gpu = recorded(FakeGpu(faults=(fails("nvmlDeviceGetFieldValues", code=13),))).gpus[0]
    assert {field.code for field in gpu.fields} == {13}
    assert gpu.error is None
    assert gpu.energy is not None
    assert gpu.energy.changes > 20, "the getter still counts"


def test_nothing_is_asked_that_the_exporter_does_not_ask(recorded: Record) -> None:
    recorded(FakeGpu())
    asked = {"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID", "nvmlDeviceGetFieldValues"}
    asked |= {call.symbol for call in (nvml_calls.NAME, nvml_calls.ARCHITECTURE, *nvml_calls.READS)}
    assert all(calls(function, 0) > 0 for function in asked)
    assert calls("nvmlDeviceGetHandleByUUID", 0) == 0


def test_the_beat_of_the_counter_and_its_agreement_with_power_are_learned(recorded: Record) -> None:
    power = ((0.0, 100.0), (1.0, 300.0), (2.0, 120.0))
    honest, half = FakeGpu(power=power, phase=0.03), FakeGpu(power=power, phase=0.05, counter_gain=0.5, step=0.02)
    said = recorded(honest, half, seconds=10.0)
    for gpu, step, ratio in zip(said.gpus, (0.1, 0.02), (1.0, 0.5), strict=True):
        energy = gpu.energy
        assert energy is not None
        assert (energy.seconds, energy.poll_seconds) == pytest.approx((10.0, 0.005), rel=0.01)
        assert energy.step_seconds is not None
        assert energy.step_seconds.median == pytest.approx(step, abs=1e-4)
        assert energy.step_seconds.p95 - energy.step_seconds.p5 <= 0.0051
        assert energy.ratio == pytest.approx(ratio, rel=0.02)
        assert len(energy.series) == energy.changes == pytest.approx(10 / step, abs=2)
        assert energy.failures == []


def test_a_card_without_a_counter_has_a_series_of_power_and_no_step(recorded: Record) -> None:
    no_counter = (field_fails(191), field_fails(83), fails("nvmlDeviceGetTotalEnergyConsumption"))
    energy = recorded(FakeGpu(power=((0.0, 60.0), (1.0, 200.0)), faults=no_counter)).gpus[0].energy
    assert energy is not None
    assert (energy.changes, energy.step_seconds, energy.counter_joules, energy.ratio) == (0, None, None, None)
    assert [row[1:] for row in energy.series] == [(None, 200.0)]


def test_the_cost_of_a_call_is_its_time(recorded: Record) -> None:
    def slow_call(name: str) -> FakeGpu:
        return FakeGpu(faults=(slow(0.002, Every(1), name),))

    gpu = recorded(slow_call("nvmlDeviceGetMemoryInfo_v2")).gpus[0]
    costs = {call.function: call.microseconds for call in gpu.calls}
    cost = costs["nvmlDeviceGetMemoryInfo_v2"]
    assert cost is not None
    assert (cost.median, cost.p5, cost.p95) == pytest.approx((2000, 2000, 2000))
    assert gpu.energy is not None
    assert gpu.energy.slow_read_microseconds is not None
    assert gpu.energy.slow_read_microseconds.median == pytest.approx(2000)
    gpu = recorded(slow_call("nvmlDeviceGetFieldValues")).gpus[0]
    assert gpu.energy is not None
    assert gpu.energy.fast_read_microseconds is not None
    assert gpu.energy.fast_read_microseconds.median == pytest.approx(2000)


def test_a_card_that_gets_lost_meanwhile_is_told_and_not_pressed(recorded: Record) -> None:
    energy = recorded(FakeGpu(faults=(gone(1.0, 2.2),)), FakeGpu(), seconds=4.0).gpus[0].energy
    assert energy is not None
    assert sum(int(failure.split()[0]) for failure in energy.failures) == 3
    assert "GPU is lost" in energy.failures[0]
    assert energy.counter_joules is not None
    assert (energy.power_joules, energy.ratio) == (None, None), "nobody integrated over the gap"


def test_a_card_that_the_sensor_cannot_take_says_why(recorded: Record) -> None:
    said = recorded(FakeGpu(faults=(gone(0.0, 1e9),)), FakeGpu(faults=(fails("nvmlDeviceGetUUID", During(), 999),)), FakeGpu())
    reasons = [gpu.error for gpu in said.gpus]
    assert reasons[0] is not None
    assert "nvmlDeviceGetHandleByIndex: GPU is lost" in reasons[0]
    assert reasons[1] is not None
    assert "nvmlDeviceGetUUID" in reasons[1]
    assert reasons[2] is None
    assert [gpu.energy is None for gpu in said.gpus] == [True, True, False]
    assert [len(gpu.calls) > 0 for gpu in said.gpus] == [False, True, True]


def test_a_driver_without_a_gpu_has_nothing_to_record(recorded: Record) -> None:
    with pytest.raises(GpuUnavailable, match="knows no GPU"):
        recorded()


def test_uuids_are_masked_the_same_way_each_time_unless_they_are_to_be_kept(recorded: Record) -> None:
    card = FakeGpu(uuid="GPU-0a1b2c3d-0000-4000-8000-000000000001")
    first, second = capture_json(recorded(card)), capture_json(recorded(card))
    assert first == second
    assert "0a1b2c3d" not in first
    assert json.loads(first)["gpus"][0]["uuid"] == mask_uuid("GPU-0a1b2c3d-0000-4000-8000-000000000001")
    assert mask_uuid("GPU-a") != mask_uuid("GPU-b")
    assert recorded(card, keep_uuid=True).gpus[0].uuid == card.uuid


def test_a_file_is_named_by_cards_driver_and_label(recorded: Record) -> None:
    h100, ada = FakeGpu(name="NVIDIA H100 80GB HBM3"), FakeGpu()
    assert capture_file_name(recorded(ada)) == "nvidia-geforce-rtx-4090__580.95.05__load.json"
    assert capture_file_name(recorded(h100, h100)) == "2x-nvidia-h100-80gb-hbm3__580.95.05__load.json"
    assert capture_file_name(recorded(h100, ada)).startswith("2x-nvidia-h100-80gb-hbm3+nvidia-geforce-rtx-4090__")


def test_the_text_is_json_with_rows_on_one_line(recorded: Record) -> None:
    text = capture_json(recorded(FakeGpu()))
    assert json.loads(text)["format"] == "joulebench-capture"
    rows = [line.strip().rstrip(",") for line in text.splitlines() if line.strip().startswith("[")]
    assert len(rows) > 20
    assert all(len(json.loads(row)) == 3 for row in rows)


def test_too_few_polls_claim_nothing() -> None:
    series = PollSeries(0.0)
    series.observe(0.0, 0.001, CounterReading(Joules(1.0), Watts(50.0)))
    said = series.capture()
    assert (said.polls, said.changes, said.series) == (1, 0, [])
    assert [said.step_seconds, said.fast_read_microseconds, said.counter_joules, said.power_joules, said.ratio] == [None] * 5


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_on_a_terminal_and_nothing_elsewhere() -> None:
    for stream, shown in ((Terminal(), "\rrecording: 3 of 10 s\r\033[K"), (io.StringIO(), "")):
        progress = RecordingProgress(stream, 10.0)
        progress.show(3.2)
        progress.end()
        assert stream.getvalue() == shown


def command(directory: Path, *flags: str, script: Path | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("LD_LIBRARY_PATH", SCRIPT_VARIABLE)}
    variables = {**clean, **(environment(script) if script else {})}
    argv = [sys.executable, "-m", "joulebench.cli", "record-capture", *flags]
    return subprocess.run(argv, cwd=directory, env=variables, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_writes_a_file_and_says_where(tmp_path: Path) -> None:
    script = FakeGpuScript([FakeGpu()]).write(tmp_path / "script")
    done = command(tmp_path, "--seconds=2", "--label=idle", script=script)
    assert (done.returncode, done.stderr) == (0, "")
    written = tmp_path / "nvidia-geforce-rtx-4090__580.95.05__idle.json"
    assert done.stdout.startswith(f"wrote {written.name}: 1 GPU, UUIDs are masked")
    said = json.loads(written.read_text(encoding="utf-8"))
    assert (said["origin"], said["label"]) == ("recorded", "idle")
    assert said["binding"].startswith("nvidia-ml-py ")
    assert said["gpus"][0]["energy"]["step_seconds"]["median"] == pytest.approx(0.1, abs=0.02)
    before = written.read_text(encoding="utf-8")
    again = command(tmp_path, "--seconds=2", f"--out={written.name}", script=script)
    assert (again.returncode, again.stdout) == (2, "")
    assert f"{written.name} exists; name another file" in again.stderr
    assert written.read_text(encoding="utf-8") == before


def test_the_command_without_nvml_gives_the_reason_and_exit_code_1(tmp_path: Path) -> None:
    done = command(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no NVIDIA driver is installed" in done.stderr


@pytest.mark.parametrize("seconds", ["1", "601", "nan"])
def test_a_length_out_of_bounds_is_refused(tmp_path: Path, seconds: str) -> None:
    done = command(tmp_path, f"--seconds={seconds}")
    assert done.returncode == 2
    assert "is not a number of seconds between 2 and 600" in done.stderr
