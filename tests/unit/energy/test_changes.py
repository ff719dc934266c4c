"""Energies at times at which power may change, on power that is known; whatever the times are, no joule is lost or invented."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from joulebench.energy.changes import joules_at_changes
from joulebench.energy.curve import EnergyCurve
from joulebench.energy.trace import CounterTrace
from joulebench.energy.window import adjacent_energies
from tests.unit.energy.truth import START, Machine, metered, random_power


def counted(machine: Machine, step: float = 0.1) -> EnergyCurve:
    at = np.arange(START, machine.times[-1], step)
    return EnergyCurve(at, np.array([machine.energy(time) for time in at]), np.zeros(len(at)))


@pytest.mark.parametrize(
    ("at", "watts"), [((1.02, 1.06), (100.0, 400.0, 200.0)), ((1.05, 1.15, 1.25), (100.0, 400.0, 150.0, 300.0))]
)
def test_changes_in_one_step_or_in_neighbouring_steps_are_estimated_together(
    at: tuple[float, ...], watts: tuple[float, ...]
) -> None:
    changes = [START + time for time in at]
    machine = Machine([START, *changes, START + 3.0], list(watts))
    curve = counted(machine)
    truth = [machine.energy(time) for time in changes]
    assert joules_at_changes(curve, np.array(changes)) == pytest.approx(truth, abs=0.05)
    assert np.abs(curve.joules_at(changes) - truth).max() > 4.0, "each by itself is split as if the others were not there"


def test_a_time_that_is_alone_is_read_from_the_curve() -> None:
    machine = Machine([START, START + 1.07, START + 3.0], [100.0, 400.0])
    curve = counted(machine)
    times = np.array([START + 1.07, START + 2.03])
    assert joules_at_changes(curve, times).tolist() == curve.joules_at(times).tolist()


@pytest.mark.parametrize("seed", range(20))
def test_energy_never_falls_and_keeps_every_change_of_the_counter(seed: int) -> None:
    """Power jumps anywhere, and the times have nothing to do with it; some are closer together than a clock can tell."""
    random = Random(seed)
    machine = random_power(random, 30.0)
    trace = metered(machine, random, random.choice([0.02, 0.05, 0.1]))
    curve = trace.curve()
    some = [random.uniform(START, START + 31.0) for _ in range(random.randint(2, 400))]
    times = np.unique([*some, *(time + random.choice([1e-7, 1e-4, 2e-3]) for time in some)])
    found = joules_at_changes(curve, times)
    assert np.isfinite(found).all()
    together = np.argsort(np.concatenate((curve.at, times)), kind="stable")
    assert (np.diff(np.concatenate((curve.joules, found))[together]) >= -1e-6).all()


@pytest.mark.parametrize("seed", range(10))
def test_parts_add_up_to_the_window_and_lie_inside_their_bounds(seed: int) -> None:
    random = Random(100 + seed)
    machine = random_power(random, 20.0)
    trace = metered(machine, random, 0.1)
    edges = sorted(random.uniform(START + 2.0, START + 16.0) for _ in range(random.randint(3, 60)))
    changes = sorted(random.uniform(edges[0], edges[-1]) for _ in range(random.randint(0, 60)))
    (whole,) = adjacent_energies(trace, [edges[0], edges[-1]])
    parts = adjacent_energies(trace, edges, changes=changes)
    assert sum(part.joules or 0.0 for part in parts) == pytest.approx(whole.joules, abs=1e-6)
    for part, start, end in zip(parts, edges, edges[1:], strict=False):
        assert part.joules is not None
        assert part.low is not None
        assert part.high is not None
        assert part.low - 1e-6 <= part.joules <= part.high + 1e-6
        assert part.low - 0.01 <= machine.between(start, end) <= part.high + 0.01


def test_a_counter_with_a_reset_or_without_values_is_read_as_it_is() -> None:
    trace = CounterTrace()
    for i in range(40):
        trace.append(START + 0.1 * i, 10.0 * i, new_epoch=i == 20)
    curve = trace.curve()
    times = np.array([START + 1.93, START + 1.96, START + 1.99])
    assert joules_at_changes(curve, times).tolist() == curve.joules_at(times).tolist()
    nothing = CounterTrace().curve()
    assert joules_at_changes(nothing, times).tolist() == [0.0, 0.0, 0.0]
