"""Eight unequal cards in one machine, some of which cannot say all: the others' joules stay exact, and the total stays honest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.fakes.nvml import MIG_3G, MIG_4G, FakeGpu
from tests.fakes.nvml.script import HOPPER, fails, field_fails
from tests.unit.exporter.test_whose_joules import Machine, machine  # noqa: F401 - a machine with its window API
from tests.unit.gpu.conftest import play  # noqa: F401 - the fixture that plays a script

SENSORLESS = "NVIDIA Thor"
UNKNOWN_ERROR = 999
COUNTERS = (191, 83)
GETTER, POWER_GETTER, INSTANT_POWER = "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage", 186
START, END = 4.0, 24.0

CARDS = {
    "exact": FakeGpu(power=((0.0, 300.0), (9.0, 410.0)), step=0.1),
    "fast counter": FakeGpu(name="NVIDIA RTX A5000", power=((0.0, 180.0), (13.0, 90.0)), step=0.02, limit=230.0),
    "small": FakeGpu(name="Tesla T4", power=((0.0, 31.0), (8.0, 68.0)), step=0.05, limit=70.0),
    "laptop": FakeGpu(name="NVIDIA GeForce RTX 3060 Laptop GPU", power=((0.0, 35.0),), step=0.1, limit=80.0),
    "divided": FakeGpu(
        name="NVIDIA H100 80GB HBM3",
        arch=HOPPER,
        power=((0.0, 420.0),),
        limit=700.0,
        mig_mode=True,
        migs=(replace(MIG_3G, uuid="MIG-3g"), replace(MIG_4G, uuid="MIG-4g")),
    ),
    "error on power": FakeGpu(
        power=((0.0, 250.0),),
        faults=(fails(POWER_GETTER, code=UNKNOWN_ERROR), field_fails(INSTANT_POWER, code=UNKNOWN_ERROR)),
    ),
    "without counter": FakeGpu(
        name="NVIDIA GeForce GTX 1080 Ti",
        power=((0.0, 140.0),),
        limit=250.0,
        faults=(*(field_fails(field) for field in COUNTERS), fails(GETTER)),
    ),
    "without sensor": FakeGpu(
        name=SENSORLESS, power=((0.0, 60.0),), faults=(fails("nvmlDeviceGetFieldValues"), fails(GETTER), fails(POWER_GETTER))
    ),
}
COUNTED = [name for name in CARDS if name not in ("without counter", "without sensor")]


@pytest.fixture
def box(machine: Callable[..., Machine]) -> Machine:  # noqa: F811
    made = machine(*CARDS.values())
    made.run(END + 2.0)
    return made


def test_the_joules_of_each_card_that_counts_are_exact(box: Machine) -> None:
    answers = dict(zip(CARDS, box.ask(START, END)["gpus"], strict=True))
    for index, name in enumerate(CARDS):
        truth = box.truth(START, END, (index,))
        if name in COUNTED:
            assert answers[name]["method"] == "counter", name
            assert answers[name]["joules"] == pytest.approx(truth, rel=0.003), name
            assert answers[name]["low"] <= truth <= answers[name]["high"], name
    integrated = answers["without counter"]
    assert (integrated["method"], integrated["low"], integrated["high"]) == ("power_integration", None, None)
    assert integrated["joules"] == pytest.approx(box.truth(START, END, (list(CARDS).index("without counter"),)), rel=0.01)


def test_a_card_that_cannot_be_measured_makes_the_total_unknown_and_not_smaller(box: Machine) -> None:
    answer = box.ask(START, END)
    assert answer["gpus"][-1]["joules"] is None
    assert (answer["total"]["joules"], answer["total"]["quality"]) == (None, "missing")
    counted = box.ask(START, END, gpus=",".join(str(list(CARDS).index(name)) for name in COUNTED))["total"]
    truth = box.truth(START, END, tuple(list(CARDS).index(name) for name in COUNTED))
    assert counted["joules"] == pytest.approx(truth, rel=0.002)
    assert counted["low"] <= truth <= counted["high"]


def test_an_error_on_power_is_counted_and_costs_no_other_reading(box: Machine) -> None:
    index = list(CARDS).index("error on power")
    state = box.rig.state(index)
    assert (state.up, state.power, state.energy_method) == (True, None, "counter")
    assert state.read_errors["power"] > 0
    others = [box.rig.state(number) for number in range(len(CARDS)) if number != index]
    assert all(not other.read_errors["power"] for other in others[:-1])
