"""NVML through the unmodified binding: what each card and driver says, and what is absent where it says nothing."""

from __future__ import annotations

import pytest

from joulebench.errors import GpuLost, GpuUnavailable
from joulebench.gpu.nvml import NvmlSource
from joulebench.units import Bytes
from tests.fakes.nvml import (
    SCRIPT_VARIABLE,
    Answer,
    During,
    FakeGpu,
    FakeGpuScript,
    Fault,
    OnCalls,
    Process,
    calls,
    fails,
    field_answers,
    field_fails,
    gone,
    load,
)
from tests.fakes.nvml.script import HOPPER, HW_POWER_BRAKE, HW_THERMAL, SW_POWER_CAP, SW_THERMAL
from tests.unit.gpu.rig import Play

FIELDS = "nvmlDeviceGetFieldValues"
GETTER = "nvmlDeviceGetTotalEnergyConsumption"
UNKNOWN_ERROR = 999
RISING = ((0.0, 50.0), (0.5, 300.0))


def test_a_fast_read_is_one_call_and_gives_joules_and_watts(play: Play) -> None:
    rig = play(FakeGpu(power=RISING, base_mj=7_000_000))
    rig.clock.advance(1.234)
    before = calls(FIELDS, 0)
    reading = rig.source.devices()[0].read_counters()
    assert calls(FIELDS, 0) == before + 1
    assert calls(GETTER, 0) == calls("nvmlDeviceGetPowerUsage", 0) == calls("nvmlDeviceGetCurrentClocksEventReasons", 0) == 0
    assert reading.energy == pytest.approx(7000 + 25 + 0.7 * 300)
    assert reading.power == pytest.approx(300)


def test_cards_are_named_and_told_apart(play: Play) -> None:
    rig = play(FakeGpu(uuid="GPU-a", name="NVIDIA H100 PCIe", arch=HOPPER), FakeGpu(uuid="GPU-b", power=((0.0, 70.0),)))
    rig.clock.advance(1.0)
    first, second = (gpu.identity for gpu in rig.source.devices())
    assert (first.index, first.uuid, first.name, first.architecture) == (0, "GPU-a", "NVIDIA H100 PCIe", "Hopper")
    assert (second.index, second.uuid, second.architecture, second.driver_version) == (1, "GPU-b", "Ada", "580.95.05")
    assert rig.source.devices()[0].read_counters().power == pytest.approx(50)
    assert rig.source.devices()[1].read_counters().power == pytest.approx(70)


def test_names_that_are_no_text_cost_nothing_else(play: Play) -> None:
    odd, other = FakeGpu(name="Card \udcff\udcfe", processes=[Process(4_000_001, name="\udcb5torrent")]), FakeGpu(name="Karte Ü")
    rig = play(odd, other)
    assert [device.identity.name for device in rig.source.devices()] == ["Card \ufffd\ufffd", "Karte Ü"]
    assert rig.source.process_name(4_000_001) == "\ufffdtorrent"
    rig.run(3)
    assert all(gpu.up and gpu.energy is not None for gpu in rig.monitor.snapshot())


@pytest.mark.parametrize(
    ("faults", "getter_calls"),
    [
        ((field_fails(191),), 0),
        ((field_fails(191), field_fails(83)), 1),
        ((fails(FIELDS),), 1),
        ((field_fails(191, OnCalls(1, 2)), field_fails(83)), 0),
    ],
    ids=["field 83", "getter", "getter alone", "probed again"],
)
def test_the_counter_is_found_by_the_way_that_this_driver_has(play: Play, faults: tuple[Fault, ...], getter_calls: int) -> None:
    rig = play(FakeGpu(power=RISING, base_mj=0, faults=faults))
    rig.clock.advance(2.0)
    assert rig.source.devices()[0].read_counters().energy == pytest.approx(25 + 1.5 * 300)
    assert calls(GETTER, 0) == getter_calls


def test_a_card_without_a_counter_has_no_energy_but_power(play: Play) -> None:
    rig = play(FakeGpu(faults=(field_fails(191), field_fails(83), fails(GETTER))))
    rig.clock.advance(2.0)
    reading = rig.source.devices()[0].read_counters()
    assert reading.energy is None
    assert reading.power == pytest.approx(50)


def test_power_of_an_old_driver_is_the_one_second_average(play: Play) -> None:
    rig = play(FakeGpu(power=RISING, faults=(field_fails(186),)))
    rig.clock.advance(1.0)
    assert rig.source.devices()[0].read_counters().power == pytest.approx(0.5 * 50 + 0.5 * 300)


def test_zero_watts_and_a_sporadic_refusal_are_gaps_not_readings(play: Play) -> None:
    rig = play(FakeGpu(faults=(field_answers(186, 0, During(1, 2)), field_fails(191, During(1, 2)))))
    rig.clock.advance(1.5)
    reading = rig.source.devices()[0].read_counters()
    assert reading.power is None
    assert reading.energy is None
    rig.clock.advance(1.0)
    reading = rig.source.devices()[0].read_counters()
    assert reading.power == pytest.approx(50)
    assert reading.energy == pytest.approx(1000 + 2.5 * 50)


THROTTLED = (
    (0.0, 0.0),
    (1.0, SW_THERMAL),
    (1.001, 0.0),
    (2.0, HW_THERMAL),
    (2.5, HW_POWER_BRAKE),
    (2.75, SW_POWER_CAP),
    (3.0, 0.0),
)


@pytest.mark.parametrize(
    ("driver", "ids"),
    [
        ("575.51.03", 251),
        ("580.65.06", 251),
        ("580.82.07", 269),
        ("580.105.08", 269),
        ("590.44.01", 269),
    ],
)
def test_throttle_counters_are_asked_by_the_ids_of_the_driver(play: Play, driver: str, ids: int) -> None:
    # The other numbering means power smoothing, and answers with a number that is no time.
    other = 520 - ids
    wrong = tuple(field_answers(other + offset, 4e12) for offset in range(3))
    rig = play(FakeGpu(reasons=THROTTLED, faults=wrong), driver=driver)
    rig.clock.advance(5.0)
    reading = rig.source.devices()[0].read_counters()
    assert reading.throttle == pytest.approx(
        {"sw_power_cap": 0.25, "sync_boost": 0.0, "sw_thermal": 0.001, "hw_thermal": 0.5, "hw_power_brake": 0.25, "other": 0.0},
        abs=1e-8,
    )
    assert reading.thermal == pytest.approx(0.501)
    assert reading.throttle_active == {}


@pytest.mark.parametrize("driver", ["570.86.16", "580.76.05", "not a version"])
def test_where_the_ids_are_not_known_the_bits_are_read_instead(play: Play, driver: str) -> None:
    wrong = tuple(field_answers(field, 4e12) for field in (251, 252, 253, 269, 270, 271))
    rig = play(FakeGpu(reasons=THROTTLED, faults=wrong), driver=driver)
    rig.clock.advance(2.2)
    reading = rig.source.devices()[0].read_counters()
    assert reading.throttle == pytest.approx({"sw_power_cap": 0.0, "sync_boost": 0.0})
    assert reading.thermal == pytest.approx(0.201)
    assert [reason for reason, active in reading.throttle_active.items() if active] == ["hw_thermal"]


def test_a_slow_read_is_in_base_units(play: Play) -> None:
    card = FakeGpu(
        power=((0.0, 50.0), (1.0, 250.0)),
        temperature=((0.0, 40.0), (1.0, 61.0)),
        memory_used=((0.0, float(3 << 30)),),
        clock_mhz=((0.0, 2100.0),),
        reasons=((0.0, SW_POWER_CAP),),
    )
    rig = play(card)
    rig.clock.advance(2.0)
    slow = rig.source.devices()[0].read_state()
    assert slow.utilization == pytest.approx(0.5)
    assert (slow.memory_used, slow.memory_total) == pytest.approx((3 << 30, 24 << 30))
    assert (slow.temperature, slow.temperature_margin, slow.power_limit) == pytest.approx((61, 97 - 61, 450))
    assert slow.clock == {"graphics": 2.1e9, "sm": 2.1e9, "memory": 10.501e9}
    assert slow.clock_max == {"graphics": 3.105e9, "sm": 3.105e9, "memory": 10.501e9}
    assert [reason for reason, active in slow.throttle_active.items() if active] == ["sw_power_cap"]
    assert slow.failures == 0


def test_the_margin_of_a_card_without_an_absolute_threshold_is_its_own(play: Play) -> None:
    rig = play(FakeGpu(margin=True, slowdown=87, temperature=((0.0, 80.0),)))
    assert rig.source.devices()[0].read_state().temperature_margin == pytest.approx(7)
    assert calls("nvmlDeviceGetTemperatureThreshold", 0) == 0


def test_what_a_card_does_not_support_is_absent_and_nothing_else_is(play: Play) -> None:
    unsupported = (
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetMaxClockInfo",
        "nvmlDeviceGetTemperatureThreshold",
    )
    rig = play(FakeGpu(faults=tuple(fails(name) for name in unsupported)))
    slow = rig.source.devices()[0].read_state()
    assert [slow.utilization, slow.memory_used, slow.memory_total, slow.power_limit, slow.temperature_margin] == [None] * 5
    assert slow.clock == slow.clock_max == {}
    assert slow.temperature == pytest.approx(40)
    assert slow.failures == 0


def test_older_calls_stand_in_for_newer_ones(play: Play) -> None:
    newer = ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons")
    rig = play(FakeGpu(reasons=((0.0, HW_THERMAL),), faults=tuple(fails(name) for name in newer)))
    slow = rig.source.devices()[0].read_state()
    assert (slow.memory_used, slow.temperature) == pytest.approx((512 << 20, 40))
    assert slow.throttle_active["hw_thermal"]


def test_a_call_that_fails_unexpectedly_is_counted_and_costs_only_its_own_value(play: Play) -> None:
    rig = play(FakeGpu(faults=(fails("nvmlDeviceGetEnforcedPowerLimit", code=UNKNOWN_ERROR),)))
    slow = rig.source.devices()[0].read_state()
    assert slow.power_limit is None
    assert slow.temperature == pytest.approx(40)
    assert slow.failures == 1


def test_a_lost_gpu_raises_and_answers_again_by_a_new_handle(play: Play) -> None:
    rig = play(FakeGpu(faults=(gone(1.0, 2.0),)), FakeGpu())
    rig.clock.advance(1.5)
    device = rig.source.devices()[0]
    for read in (device.read_counters, device.read_state):
        with pytest.raises(GpuLost, match="lost"):
            read()
    assert rig.source.devices()[1].read_counters().energy == pytest.approx(1000 + 1.5 * 50)
    rig.clock.advance(1.0)
    assert rig.source.devices()[0].read_counters().energy == pytest.approx(1000 + 2.5 * 50)


def test_a_card_that_cannot_be_named_is_left_out_and_the_others_stay(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    rig = play(FakeGpu(faults=(gone(0.0, 10.0),)), FakeGpu(uuid="GPU-b"))
    assert [gpu.identity.uuid for gpu in rig.source.devices()] == ["GPU-b"]
    assert "GPU 0" in caplog.text
    rig.run(12)
    assert (rig.state().identity.index, rig.state().up) == (1, True)
    assert rig.window(2.0, 8.0).joules == pytest.approx(rig.truth(2.0, 8.0, gpu=1), rel=0.01)


@pytest.mark.parametrize(("code", "reason"), [(9, "not loaded"), (18, "reboot"), (999, "Unknown Error")])
def test_a_driver_that_does_not_start_says_why(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, code: int, reason: str
) -> None:
    load()
    script = FakeGpuScript([FakeGpu()], init=code).write(tmp_path_factory.mktemp("nvml") / "script")
    monkeypatch.setenv(SCRIPT_VARIABLE, str(script))
    with pytest.raises(GpuUnavailable, match=reason):
        NvmlSource()


def test_a_driver_without_a_gpu_is_no_source(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    load()
    monkeypatch.setenv(SCRIPT_VARIABLE, str(FakeGpuScript([]).write(tmp_path_factory.mktemp("nvml") / "script")))
    with pytest.raises(GpuUnavailable, match="knows no GPU"):
        NvmlSource()


WITH_RESERVED = Answer("nvmlDeviceGetMemoryInfo_v2", [24 << 30, 640 << 20, 20 << 30, 3 << 30])
FIRST_VERSION = Answer("nvmlDeviceGetMemoryInfo_v2", code=13)
"""The library of an older driver has no such symbol."""


@pytest.mark.parametrize(("answers", "reserved"), [(WITH_RESERVED, Bytes(640 << 20)), (FIRST_VERSION, None)])
def test_reserved_memory_is_known_by_the_second_version_of_the_call_only(
    play: Play, answers: Answer, reserved: Bytes | None
) -> None:
    rig = play(FakeGpu(answers=[answers]))
    assert rig.source.devices()[0].read_state().memory_reserved == reserved


@pytest.mark.parametrize(("bits", "active"), [(0x1, []), (0x103, []), (0x400, ["other"]), (0x404, ["sw_power_cap", "other"])])
def test_a_throttle_reason_that_is_not_known_here_is_never_shown_as_none(play: Play, bits: int, active: list[str]) -> None:
    rig = play(FakeGpu(reasons=((0.0, float(bits)),)))
    reasons = rig.source.devices()[0].read_state().throttle_active
    assert [reason for reason, is_active in reasons.items() if is_active] == active
