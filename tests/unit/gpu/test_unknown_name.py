"""A card that its driver has no name for: its own limits count, and nothing is taken from tables of cards."""

from __future__ import annotations

import pytest

from joulebench.analysis.bottlenecks.roofline import CARDS
from joulebench.doctor.reference_ranges import board_power
from joulebench.gpu.nvml_calls import has_part_time_sensor
from joulebench.gpu.plausibility import DEFAULT_POWER_CEILING
from tests.fakes.nvml import FakeGpu, Fault, fails, field_answers
from tests.unit.gpu.rig import Play, Rig

NO_NAME = fails("nvmlDeviceGetName")
NAMES: dict[str, tuple[Fault, ...]] = {"NVIDIA Graphics Device": (), "Graphics Device": (), "unknown": (NO_NAME,)}
NO_LIMITS = (fails("nvmlDeviceGetPowerManagementLimitConstraints"), fails("nvmlDeviceGetEnforcedPowerLimit"))
UNKNOWN_ARCHITECTURE = 99
POWER = 186

each_name = pytest.mark.parametrize("name", NAMES)


def started(play: Play, name: str, *faults: Fault) -> Rig:
    gpu = FakeGpu(name=name, arch=UNKNOWN_ARCHITECTURE, power=((0.0, 100.0),), limit=300.0, faults=(*NAMES[name], *faults))
    rig = play(gpu)
    rig.run(5.0)
    return rig


@each_name
def test_a_card_without_a_name_is_measured_under_its_own_limits(play: Play, name: str) -> None:
    rig = started(play, name)
    device = rig.source.devices()[0]
    assert (device.identity.name, device.identity.architecture) == (name, "unknown")
    assert device.power_ceiling == pytest.approx(1.5 * 300)
    assert rig.window(2, 4).joules == pytest.approx(200, rel=0.01)


@each_name
def test_without_limits_there_is_no_ceiling_of_its_own(play: Play, name: str) -> None:
    rig = started(play, name, *NO_LIMITS)
    assert rig.source.devices()[0].power_ceiling is None
    assert rig.state().state.power_limit is None
    assert rig.state().power == pytest.approx(100)


@each_name
def test_without_limits_a_power_that_no_gpu_has_is_no_reading(play: Play, name: str) -> None:
    rig = started(play, name, *NO_LIMITS, field_answers(POWER, 1000 * (DEFAULT_POWER_CEILING + 1)))
    assert rig.state().power is None


@each_name
def test_no_table_knows_a_card_without_a_name(name: str) -> None:
    assert board_power(name) is None
    assert name not in CARDS
    assert not has_part_time_sensor(name, "unknown")
