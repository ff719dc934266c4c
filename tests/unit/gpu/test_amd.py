"""AMD GPUs by the unmodified package ``amdsmi`` over a fake libamd_smi.so with known joules, all on one clock of the test's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from joulebench import cli
from joulebench.energy.window import WindowEnergy
from joulebench.errors import GpuError, GpuLost, GpuUnavailable
from joulebench.gpu.amd import AmdSource
from joulebench.gpu.monitor import GpuMonitor
from joulebench.gpu.sources import count_amd_gpus, open_measured_source, open_or_await_source
from joulebench.units import Seconds
from tests.fakes.amdsmi import (
    BUSY,
    DRIVER_NOT_LOADED,
    HOME_VARIABLE,
    JOULES_PER_COUNT,
    NO_PERMISSION,
    NOT_SUPPORTED,
    SCRIPT_VARIABLE,
    AmdFault,
    AmdGpu,
    AmdScript,
    bound_names,
    build,
    wrapper_source,
)
from tests.fakes.nvml import VirtualClock

POLL = 0.02
AT_THE_CAP = ((0.0, 745.0),)
STEPS = ((0.0, 100.0), (4.0, 700.0), (6.5, 250.0))


class AmdRig:
    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, gpus: tuple[AmdGpu, ...], init: int) -> None:
        self.clock = VirtualClock(directory / "clock")
        self.script = AmdScript(gpus, self.clock, init)
        monkeypatch.setenv(HOME_VARIABLE, str(build()))
        monkeypatch.setenv(SCRIPT_VARIABLE, str(self.script.write(directory / "script")))
        self.source = AmdSource()
        self.monitor = GpuMonitor(self.source, self.clock, poll_period=POLL)
        self._polls = 0

    def run(self, until: float) -> None:
        while (due := self._polls * POLL) <= until + 1e-9:
            self.clock.advance_to(self.script.origin + due)
            self.monitor.poll()
            if self._polls % 50 == 0:
                self.monitor.poll_state()
            self._polls += 1

    def unix(self, seconds: float) -> float:
        return float(self.clock.unix()) - float(self.clock.monotonic()) + self.script.origin + seconds

    def window(self, start: float, end: float, gpu: int = 0) -> WindowEnergy:
        return self.monitor.window(self.unix(start), self.unix(end))[gpu][1]

    def throttled(self, start: float, end: float) -> dict[str, float | None]:
        return dict(self.monitor.throttled(self.unix(start), self.unix(end))[0][1])


Play = Callable[..., AmdRig]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    opened: list[AmdRig] = []

    def start(*gpus: AmdGpu, init: int = 0) -> AmdRig:
        opened.append(AmdRig(tmp_path, monkeypatch, gpus or (AmdGpu(),), init))
        return opened[-1]

    yield start
    for rig in opened:
        rig.source.close()


def test_the_counter_gives_the_known_joules_between_two_polls_of_it(play: Play) -> None:
    """To one count, 15 uJ: an update every millisecond falls on each poll."""
    rig = play(AmdGpu(power=STEPS))
    rig.run(1.0)
    before = rig.source.devices()[0].read_counters().energy
    rig.run(9.0)
    after = rig.source.devices()[0].read_counters().energy
    assert before is not None
    assert after is not None
    assert before == pytest.approx(1_000_000 * JOULES_PER_COUNT + 100.0, abs=2 * JOULES_PER_COUNT)
    assert after - before == pytest.approx(rig.script.joules(0, 1.0, 9.0), abs=2 * JOULES_PER_COUNT)


def test_windows_are_within_their_guaranteed_bounds(play: Play) -> None:
    rig = play(AmdGpu(power=STEPS), AmdGpu(power=((0.0, 60.0),), uuid="75ff74a0-0000-1000-8000-000000000000", name="MI210"))
    rig.run(12.0)
    for start, end in ((1.013, 9.317), (1.5, 6.0), (4.1, 11.9)):
        found, truth = rig.window(start, end), rig.script.joules(0, start, end)
        assert (found.quality, found.method) == ("ok", "counter"), (start, found)
        assert found.low is not None
        assert found.high is not None
        assert found.low - 0.01 <= truth <= found.high + 0.01
        assert found.joules == pytest.approx(truth, rel=0.02)
    other = rig.window(2.0, 4.0, gpu=1)
    assert other.joules == pytest.approx(120.0, rel=0.02)
    first, second = rig.monitor.snapshot()
    assert (first.identity.source, first.identity.name, first.identity.architecture) == ("amd", "AMD Instinct MI300X", "gfx942")
    assert (first.identity.driver_version, second.identity.name, second.identity.index) == ("6.14.14", "MI210", 1)
    assert (rig.monitor.source_name, rig.monitor.expected_gpus) == ("amd", 2)


@pytest.mark.parametrize(("said", "joules"), [(15.3, 2.0**-16), (15.259, 2.0**-16), (0.0, 2.0**-16), (1000.0, 1e-3)])
def test_a_resolution_that_is_only_rounded_is_the_kernels_unit(play: Play, said: float, joules: float) -> None:
    rig = play(AmdGpu(power=((0.0, 0.0),), base_counts=1 << 20, resolution=said))
    assert rig.source.devices()[0].read_counters().energy == pytest.approx((1 << 20) * joules, rel=1e-6)


def test_the_state_has_every_value_in_base_units(play: Play) -> None:
    rig = play(AmdGpu())
    state = rig.source.devices()[0].read_state()
    values = (state.utilization, state.memory_used, state.memory_total, state.temperature, state.temperature_margin)
    assert list(values) == pytest.approx([0.4, 64 << 30, 192 << 30, 55.0, 45.0])
    assert [state.power_limit, rig.source.devices()[0].power_ceiling] == pytest.approx([750.0, 1125.0])
    assert state.failures == 0
    assert state.clock == {"graphics": 1.8e9, "sm": 1.8e9, "memory": 9e8}
    assert state.clock_max == {"graphics": 2.1e9, "sm": 2.1e9, "memory": 1.3e9}


def test_values_of_all_ones_are_absent(play: Play) -> None:
    absent = ("energy", "power", "mean_power", "residency", "bits", "activity", "memory", "cap", "temperature", "clock")
    device = play(AmdGpu(absent=absent)).source.devices()[0]
    counters, state = device.read_counters(), device.read_state()
    assert (counters.energy, counters.power, counters.throttle, counters.throttle_active) == (None, None, {}, {})
    assert (state.utilization, state.memory_used, state.memory_total, state.power_limit) == (None, None, None, None)
    assert (state.temperature, state.temperature_margin, state.clock, state.clock_max) == (None, None, {}, {})
    assert (device.power_ceiling, state.throttle_active, state.failures) == (None, {}, 0)


def test_older_cards_give_mean_power_and_the_edges_temperature(play: Play) -> None:
    device = play(AmdGpu(power=((0.0, 240.0),), absent=("power", "hotspot", "residency", "bits"))).source.devices()[0]
    state = device.read_state()
    assert [device.read_counters().power, state.temperature, state.temperature_margin] == pytest.approx([240.0, 45.0, 55.0])


def test_without_gpu_metrics_the_single_calls_stand_in(play: Play) -> None:
    faults = (AmdFault("amdsmi_get_gpu_metrics_info", NOT_SUPPORTED),)
    rig = play(AmdGpu(power=STEPS, faults=faults))
    rig.run(8.0)
    assert rig.window(2.0, 6.0).joules == pytest.approx(rig.script.joules(0, 2.0, 6.0), rel=0.01)
    assert rig.monitor.snapshot()[0].power == pytest.approx(250.0)


@pytest.mark.parametrize("absent", ["zero_energy", "energy"])
def test_without_an_accumulator_power_is_integrated(play: Play, absent: str) -> None:
    rig = play(AmdGpu(power=((0.0, 300.0),), absent=(absent, "bits")))
    rig.run(8.0)
    found = rig.window(2.0, 6.0)
    assert found.method == "power_integration"
    assert found.joules == pytest.approx(1200.0, rel=0.01)


def test_a_reset_of_the_accumulator_is_marked(play: Play) -> None:
    rig = play(AmdGpu(power=((0.0, 300.0),), resets=(5.0,)))
    rig.run(12.0)
    found = rig.window(3.0, 8.0)
    assert "reset" in found.reasons
    assert found.quality == "suspect"
    assert rig.window(8.0, 10.0).joules == pytest.approx(600.0, rel=0.01)
    assert rig.monitor.snapshot()[0].energy_resets == 1


def test_an_accumulator_that_wraps_around_is_never_charged(play: Play) -> None:
    """At 25 bits it begins anew after 512 J, at 12.8 s; what was used around that time is unknown, and marked."""
    rig = play(AmdGpu(power=((0.0, 40.0),), base_counts=0, wrap_bits=25))
    rig.run(20.0)
    assert "reset" in rig.window(11.0, 15.0).reasons
    assert rig.window(2.0, 5.0).joules == pytest.approx(120.0, rel=0.01)
    energy = rig.monitor.snapshot()[0].energy
    assert energy is not None
    assert 0 <= energy < 800


def test_throttled_time_is_counted_from_residencies(play: Play) -> None:
    """Half of the samples from 2 to 6 s, and all from 8 to 9 s by temperature."""
    rig = play(AmdGpu(power=AT_THE_CAP, ppt=((0.0, 0.0), (2.0, 0.5), (6.0, 0.0)), socket=((0.0, 0.0), (8.0, 1.0), (9.0, 0.0))))
    rig.run(8.5)
    assert rig.source.devices()[0].read_state().throttle_active == {
        "sw_power_cap": False,
        "sw_thermal": True,
        "hw_thermal": False,
    }
    rig.run(12.0)
    found = rig.throttled(1.0, 11.0)
    assert found["sw_power_cap"] == pytest.approx(2.0, abs=0.05)
    assert found["sw_thermal"] == pytest.approx(1.0, abs=0.05)
    assert found["hw_thermal"] == 0
    assert found["sync_boost"] is None
    assert rig.throttled(3.0, 5.0)["sw_power_cap"] == pytest.approx(1.0, abs=0.05)


def test_cards_without_residencies_give_their_throttle_bits(play: Play) -> None:
    hot, capped = float(1 << 36), float(1 << 0)
    bits = ((0.0, 0.0), (2.0, capped), (4.0, hot), (5.0, 0.0))
    rig = play(AmdGpu(power=AT_THE_CAP, bits=bits, absent=("residency",)))
    rig.run(8.0)
    found = rig.throttled(1.0, 7.0)
    assert found["sw_power_cap"] == pytest.approx(2.0, abs=0.05)
    assert found["sw_thermal"] == pytest.approx(1.0, abs=0.05)
    assert found["hw_thermal"] == 0


def test_a_value_that_may_not_be_read_takes_only_itself(play: Play) -> None:
    faults = (
        AmdFault("amdsmi_get_temp_metric", NO_PERMISSION),
        AmdFault("amdsmi_get_gpu_activity", BUSY),
        AmdFault("amdsmi_get_gpu_process_list", NO_PERMISSION),
    )
    device = play(AmdGpu(faults=faults)).source.devices()[0]
    state = device.read_state()
    assert (state.temperature, state.utilization, state.failures) == (None, None, 1)
    assert state.memory_total == pytest.approx(192 << 30)
    assert device.read_processes(Seconds(0.0)) is None
    assert device.read_residents() == {device.identity.uuid: None}


def test_a_gpu_that_fails_is_down_and_comes_back(play: Play) -> None:
    rig = play(AmdGpu(faults=(AmdFault("*", DRIVER_NOT_LOADED, 3.0, 5.0), AmdFault("*", BUSY, 8.0, 8.05))))
    rig.run(2.9)
    assert rig.monitor.snapshot()[0].up
    rig.clock.advance_to(rig.script.origin + 3.5)
    with pytest.raises(GpuLost, match=r"AMDSMI_STATUS_DRIVER_NOT_LOADED \(34\): the kernel module amdgpu is not loaded"):
        rig.source.devices()[0].read_counters()
    rig.run(4.0)
    assert not rig.monitor.snapshot()[0].up
    rig.run(8.02)
    with pytest.raises(GpuError, match="AMDSMI_STATUS_BUSY"):
        rig.source.devices()[0].read_counters()
    rig.run(10.0)
    assert rig.monitor.snapshot()[0].up


def test_processes_are_those_with_memory_on_the_gpu(play: Play) -> None:
    many = tuple((1000 + place, 1 << 20, f"p{place}") for place in range(300))
    rig = play(AmdGpu(processes=((41, 8 << 30, "vllm"), (42, 0, "compositor"))), replace(AmdGpu(processes=many), uuid="b"))
    first, second = rig.source.devices()
    assert [use.pid for use in first.read_processes(Seconds(0.0)) or ()] == [41]
    assert first.read_residents() == {first.identity.uuid: [41]}
    assert (rig.source.process_name(41), rig.source.process_name(42)) == ("vllm", None)
    assert len(second.read_residents()["b"] or ()) == 300


def test_cards_with_the_same_uuid_are_told_apart_by_their_bus(play: Play) -> None:
    uuids = [device.identity.uuid for device in play(AmdGpu(uuid="00ff"), AmdGpu(uuid="00ff")).source.devices()]
    assert uuids == ["00ff", "00ff-0000:04:00.0"]


def test_no_driver_no_permission_and_no_gpu_say_what_to_do(play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for init, message in ((DRIVER_NOT_LOADED, "kernel module amdgpu"), (NO_PERMISSION, "groups render and video")):
        with pytest.raises(GpuUnavailable, match=message):
            play(init=init)
    script = AmdScript((), VirtualClock(tmp_path / "other"))
    monkeypatch.setenv(SCRIPT_VARIABLE, str(script.write(tmp_path / "none")))
    waiting = AmdSource(required=False)
    assert (waiting.problem, waiting.devices()) == ("AMD SMI runs but knows no GPU", [])
    # A driver that is loaded later is found by the next look.
    script = AmdScript((AmdGpu(),), VirtualClock(tmp_path / "other"))
    monkeypatch.setenv(SCRIPT_VARIABLE, str(script.write(tmp_path / "later")))
    assert (waiting.scan(), waiting.problem, len(waiting.devices())) == ([], None, 1)
    waiting.close()


SERVE = ["exporter", "--web.listen-address", "127.0.0.1:0", "--gpu-source", "amd"]


@pytest.fixture
def _binding_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package binds its library once a process; here as if no test had imported it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "amdsmi"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delenv("ROCM_PATH", raising=False)


@pytest.mark.usefixtures("_binding_not_imported")
@pytest.mark.parametrize("command", [SERVE, ["monitor", "m.csv", "--gpu-source", "amd"]])
def test_without_the_library_amd_is_refused_in_one_line(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    assert cli.main(command) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "--gpu-source amd: AMD's library libamd_smi.so cannot be loaded" in err
    assert "install ROCm's package amd-smi-lib" in err


@pytest.mark.usefixtures("_binding_not_imported")
def test_a_library_that_the_package_does_not_fit_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(build(without=("amdsmi_get_violation_status",))))
    assert cli.main(SERVE) == 2
    err = capsys.readouterr().err
    assert f"the package amdsmi {metadata.version('amdsmi')} does not fit libamd_smi.so" in err
    assert "pip install /opt/rocm/share/amd_smi" in err


def card(drm: Path, name: str, vendor: str = "0x1002", vram: int = 64 << 30) -> None:
    device = drm / name / "device"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "mem_info_vram_total").write_text(f"{vram}\n")


def test_auto_takes_amd_where_nvml_has_no_gpu(play: Play, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    play().source.close()
    source = open_measured_source("auto", tmp_path)
    assert (source.name, len(source.devices()), caplog.text) == ("amd", 1, "")
    source.close()


def test_auto_without_any_gpu_says_why_for_those_that_the_kernel_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script = AmdScript((), VirtualClock(tmp_path / "clock"), init=NO_PERMISSION)
    monkeypatch.setenv(HOME_VARIABLE, str(build()))
    monkeypatch.setenv(SCRIPT_VARIABLE, str(script.write(tmp_path / "script")))
    with pytest.raises(GpuUnavailable) as without:
        open_measured_source("auto", tmp_path / "drm")
    assert "AMD" not in str(without.value)
    card(tmp_path / "drm", "card1")
    with pytest.raises(GpuUnavailable, match=r"; AMD GPUs: 1, but AMD SMI does not start: .*groups render and video"):
        open_measured_source("auto", tmp_path / "drm")
    source = open_or_await_source("auto", tmp_path / "drm")
    assert (source.name, source.devices()) == ("amd", [])
    assert "looking again from time to time" in caplog.text


def test_amd_gpus_of_the_kernel_are_cards_with_memory_of_their_own(tmp_path: Path) -> None:
    card(tmp_path, "card0", vram=512 << 20)
    card(tmp_path, "card1")
    card(tmp_path, "card1-DP-1")
    card(tmp_path, "card2", vendor="0x10de")
    (tmp_path / "card3" / "device").mkdir(parents=True)
    assert count_amd_gpus(tmp_path) == 1
    assert count_amd_gpus(tmp_path / "none") == 0


def test_the_fake_exports_all_that_the_package_binds() -> None:
    names = bound_names(wrapper_source())
    assert len(names) > 150
    assert {"amdsmi_init", "amdsmi_get_gpu_metrics_info", "amdsmi_get_energy_count"} <= set(names)
