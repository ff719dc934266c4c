"""What the benchmark itself must get right before it may judge anything: its truth, its windows, its statistics."""

from __future__ import annotations

import pytest

from tests.benchmarks import windows
from tests.benchmarks.curve import IDLE, agent_curve
from tests.benchmarks.methods import Estimate
from tests.benchmarks.statistics import coverage, errors, percentile
from tests.benchmarks.windows import CLASSES, Planned, Taken
from tests.fakes.nvml.curve import integral


@pytest.mark.parametrize("ramp", [0.0, 0.1])
def test_the_truth_is_the_integral_of_what_the_fake_gpu_plays(ramp: float) -> None:
    curve = agent_curve(3, 40.0, ramp)
    for start, end in ((0.0, 40.0), (2.5, 2.51), (7.3, 31.9)):
        assert curve.joules(start, end) == pytest.approx(integral(curve.points, start, end))


def test_power_reaches_the_same_levels_with_and_without_a_ramp() -> None:
    at_once, ramped = agent_curve(3, 40.0), agent_curve(3, 40.0, 0.05)
    assert ramped.tasks == at_once.tasks
    assert {watts for _, watts in ramped.points} >= {IDLE, 330.0}
    assert ramped.joules(0.0, 40.0) == pytest.approx(at_once.joules(0.0, 40.0), rel=0.02)


def test_every_window_begins_where_power_changes_and_lies_in_one_task() -> None:
    curves = [agent_curve(seed, 40.0) for seed in (1, 2)]
    planned = windows.plan(curves, seed=1)
    assert len({one.id for one in planned}) == len(planned)
    for one in planned:
        changes = {at for at, _ in curves[one.gpu].points}
        assert one.start in changes
        assert any(task.start <= one.start < one.end <= task.end + 0.6 for task in curves[one.gpu].tasks)


def test_a_full_run_has_enough_windows_of_each_length() -> None:
    taken = [taken_at(one) for one in windows.plan([agent_curve(1000 + gpu, 75.0) for gpu in range(8)], seed=1)]
    assert len(taken) >= 400
    assert [sum(map(length.holds, taken)) >= 50 for length in CLASSES] == [True] * len(CLASSES)


def taken_at(plan: Planned) -> Taken:
    return Taken(plan, plan.start, plan.end, plan.start, plan.end)


def test_errors_count_what_a_method_does_not_know_apart() -> None:
    short = CLASSES[0]
    taken = [taken_at(Planned(number, 0, "call", 0.0, 0.3)) for number in range(3)]
    found = errors({0: Estimate(110.0), 1: Estimate(95.0), 2: Estimate(None)}, taken, dict.fromkeys(range(3), 100.0), short)
    assert found is not None
    assert (found.windows, found.unknown) == (2, 1)
    assert (found.median, found.p95, found.bias) == pytest.approx((7.5, 10.0, 2.5))


def test_coverage_counts_windows_with_both_bounds() -> None:
    taken = [taken_at(Planned(number, 0, "call", 0.0, 0.3)) for number in range(3)]
    answers = {0: Estimate(100.0, 90.0, 120.0), 1: Estimate(100.0, 101.0, 111.0), 2: Estimate(100.0, 90.0, None)}
    found = coverage(answers, taken, dict.fromkeys(range(3), 100.0), CLASSES[0])
    assert found is not None
    assert (found.share, found.windows) == (0.5, 2)
    assert found.width == pytest.approx(20.0)


def test_percentile_is_a_value_that_was_seen() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([float(one) for one in range(1, 101)], 95) == 95.0
    assert percentile([7.0], 99) == 7.0
