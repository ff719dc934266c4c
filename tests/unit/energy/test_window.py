"""The verdicts on a window, each on a trace small enough to work out by hand."""

from __future__ import annotations

from itertools import accumulate, pairwise
from random import Random

import numpy as np
import pytest

from joulebench.energy.estimator import window_energies
from joulebench.energy.trace import CounterTrace
from joulebench.energy.window import WindowEnergy, total, window_energy


def trace_of(*points: tuple[float, float], uncertainty: float = 0.0) -> CounterTrace:
    trace = CounterTrace()
    for at, joules in points:
        trace.append(at, joules, uncertainty)
    return trace


def steady(watts: float = 100.0, until: float = 10.0, step: float = 0.1, uncertainty: float = 0.0) -> CounterTrace:
    return trace_of(*((i * step, 5.0 + watts * i * step) for i in range(round(until / step) + 1)), uncertainty=uncertainty)


def test_steady_power_is_exact() -> None:
    result = window_energy(steady(), 2.03, 7.56)
    assert result.joules == pytest.approx(553.0)
    assert result.low == pytest.approx(540.0)
    assert result.high == pytest.approx(560.0)
    assert (result.samples, result.coverage, result.resets) == (55, 1.0, 0)
    assert result.longest_gap == pytest.approx(0.1)
    assert (result.quality, result.reasons, result.method) == ("ok", (), "counter")


def test_an_edge_is_split_by_the_power_on_both_sides() -> None:
    # Idle at 60 W, then 300 W from t = 1.04: the step around it holds 4 * 0.6 + 6 * 3 = 20.4 J.
    trace = trace_of((0.8, 0.0), (0.9, 6.0), (1.0, 12.0), (1.1, 32.4), (1.2, 62.4), (1.3, 92.4))
    task = window_energy(trace, 1.04, 1.3).joules
    assert task == pytest.approx(30.0 + 30.0 + 18.0)


def test_a_side_that_kept_steady_tells_the_split_where_the_other_side_is_a_mixture() -> None:
    # Waiting at 90 W, a prefill of 330 W from t = 1.05 to the edge at 1.13, then decode at 280 W. Step by step: 9, 9, then
    # 0.05 * 90 + 0.05 * 330 = 21, then 0.03 * 330 + 0.07 * 280 = 29.5, then 28 and 28 J.
    trace = trace_of((0.8, 0.0), (0.9, 9.0), (1.0, 18.0), (1.1, 39.0), (1.2, 68.5), (1.3, 96.5), (1.4, 124.5))
    decode = window_energy(trace, 1.13, 1.4).joules
    assert decode == pytest.approx(0.27 * 280.0, rel=2e-3)
    # The neighbours' own ratio alone would be 3 J off: 29.5 * 7 * 280 / (3 * 210 + 7 * 280) + 56.
    assert decode != pytest.approx(78.3, abs=1.0)


def test_energy_only_rises_with_time_whatever_power_does_around_a_step() -> None:
    random = Random(8)
    for _ in range(300):
        watts = [random.choice((0.0, 60.0, 300.0, random.uniform(0.0, 700.0))) for _ in range(5)]
        joules = list(accumulate((0.1 * one for one in watts), initial=0.0))
        trace = trace_of(*((0.1 * i, one) for i, one in enumerate(joules)))
        spent = [window_energy(trace, 0.1, 0.2 + 0.001 * i).joules or 0.0 for i in range(101)]
        assert all(later >= earlier - 1e-9 for earlier, later in pairwise(spent))
        assert spent[0] == pytest.approx(0.1 * watts[1], abs=1e-6)
        assert spent[-1] == pytest.approx(0.1 * (watts[1] + watts[2]), abs=1e-6)


def test_uncertain_change_times_widen_the_bounds_only() -> None:
    sure, unsure = window_energy(steady(), 2.005, 3.995), window_energy(steady(uncertainty=0.01), 2.005, 3.995)
    assert unsure.joules == pytest.approx(sure.joules)
    assert [sure.low, sure.high] == pytest.approx([180.0, 200.0])
    assert [unsure.low, unsure.high] == pytest.approx([180.0, 220.0])


def test_both_edges_in_one_step() -> None:
    result = window_energy(steady(), 2.02, 2.05)
    assert result.joules == pytest.approx(3.0)
    assert result.low == 0.0
    assert result.high == pytest.approx(10.0)
    assert (result.quality, result.reasons, result.samples) == ("short", ("short",), 0)


def test_a_window_of_no_length_has_no_energy() -> None:
    result = window_energy(steady(), 2.02, 2.02)
    assert (result.joules, result.low) == (0.0, 0.0)
    assert result.quality == "short"
    with pytest.raises(ValueError, match="before its start"):
        window_energy(steady(), 2.0, 1.0)


@pytest.mark.parametrize(
    ("start", "end", "reason"), [(-5.0, 5.0, "uncovered_start"), (5.0, 15.0, "uncovered_end"), (5.0, 10.6, "uncovered_end")]
)
def test_what_is_not_covered_is_not_invented(start: float, end: float, reason: str) -> None:
    result = window_energy(steady(), start, end)
    assert (result.joules, result.high) == (None, None)
    assert result.low == pytest.approx(500.0)
    assert (result.quality, result.reasons) == ("missing", (reason,))
    assert result.coverage == pytest.approx(5.0 / (end - start))


def test_a_sliver_that_is_not_covered_leaves_a_suspect_estimate() -> None:
    result = window_energy(steady(), 5.0, 10.05)
    assert result.joules == pytest.approx(500.0)
    assert result.high is None
    assert (result.quality, result.reasons) == ("suspect", ("uncovered_end",))


@pytest.mark.parametrize(("start", "end"), [(-1.3, 58.0), (2.0, 60.2)])
def test_a_part_is_not_told_as_the_whole_however_long_it_is(start: float, end: float) -> None:
    result = window_energy(steady(until=60.0), start, end)
    assert result.coverage == pytest.approx(1.0, abs=0.025)
    assert (result.joules, result.high, result.quality) == (None, None, "missing")
    assert result.low == pytest.approx(5800.0), "what is known stays known"


@pytest.mark.parametrize(
    ("trace", "reasons"),
    [
        (trace_of(), ("no_samples",)),
        (trace_of((3.0, 1.0)), ("uncovered_start", "uncovered_end")),
        (trace_of((0.0, 1.0), (1.0, 2.0)), ("uncovered_end",)),
        (trace_of((8.0, 1.0), (9.0, 2.0)), ("uncovered_start",)),
    ],
)
def test_nothing_known(trace: CounterTrace, reasons: tuple[str, ...]) -> None:
    result = window_energy(trace, 2.0, 5.0)
    assert (result.joules, result.low, result.high, result.coverage) == (None, None, None, 0.0)
    assert (result.quality, result.reasons) == ("missing", reasons)


def test_a_counter_that_falls_begins_an_epoch() -> None:
    trace = CounterTrace()
    for i in range(51):
        trace.append(i * 0.1, 1000.0 + 10.0 * i)
    for i in range(51, 101):
        trace.append(i * 0.1, 10.0 * (i - 51))
    across = window_energy(trace, 1.0, 9.0)
    assert trace.resets == 1
    assert across.joules == pytest.approx(790.0)
    assert across.low == pytest.approx(790.0)
    assert across.high is None
    assert (across.quality, across.reasons, across.resets) == ("suspect", ("reset",), 1)
    assert across.coverage == pytest.approx(7.9 / 8.0)
    after = window_energy(trace, 6.0, 9.0)
    assert after.joules == pytest.approx(300.0)
    assert (after.quality, after.resets) == ("ok", 0)


def test_a_long_reset_leaves_only_a_lower_bound() -> None:
    trace = trace_of(*((t, 100.0 * t) for t in range(5)), *((t, 100.0 * (t - 8)) for t in range(8, 12)))
    result = window_energy(trace, 1.0, 11.0)
    assert result.joules is None
    assert result.low == pytest.approx(600.0)
    assert (result.quality, result.reasons) == ("missing", ("reset",))


def test_a_gap_at_an_edge_is_told_and_one_inside_is_not() -> None:
    trace = trace_of(*((i * 0.1, 10.0 * i) for i in (*range(50), *range(70, 200))))
    at_edge = window_energy(trace, 6.0, 15.0)
    assert (at_edge.quality, at_edge.reasons) == ("suspect", ("gap", "short"))
    assert at_edge.longest_gap == pytest.approx(2.1)
    inside = window_energy(trace, 1.0, 15.0)
    assert inside.joules == pytest.approx(1400.0)
    assert inside.quality == "ok"
    assert inside.longest_gap == pytest.approx(2.1)


def test_integrated_power_has_no_guaranteed_bounds() -> None:
    result = window_energy(steady(step=0.02), 1.0, 3.0, method="power_integration")
    assert result.joules == pytest.approx(200.0)
    assert (result.low, result.high, result.method, result.quality) == (None, None, "power_integration", "ok")


def test_an_idle_counter_that_stands_still_gives_zero_joules() -> None:
    result = window_energy(trace_of(*((i * 0.1, 50.0) for i in range(100))), 2.0, 5.0)
    assert (result.joules, result.low, result.high, result.quality) == (0.0, 0.0, 0.0, "ok")


def test_two_gpus_add_up_and_one_unknown_makes_the_sum_unknown() -> None:
    one, other = window_energy(steady(), 2.0, 4.0), window_energy(steady(watts=50.0), 2.0, 4.0)
    both = total([one, other])
    assert [both.joules, both.low, both.high] == pytest.approx([300.0, 300.0, 300.0])
    assert (both.method, both.quality, both.samples) == ("counter", "ok", one.samples + other.samples)
    lost = window_energy(CounterTrace(), 2.0, 4.0, method="power_integration")
    broken = total([one, lost])
    assert (broken.joules, broken.low, broken.high) == (None, None, None)
    assert (broken.method, broken.quality, broken.reasons, broken.coverage) == ("mixed", "missing", ("no_samples",), 0.0)
    assert total([]) == WindowEnergy(None, None, None, "none", 0, None, 0.0, 0, "missing", ("no_gpu",))


def test_intervals_use_the_same_curve_as_windows() -> None:
    trace = trace_of((0.0, 0.0), (1.0, 60.0), (2.0, 160.0), (3.0, 460.0), (4.0, 500.0))
    cuts = [0.3, 1.2, 1.7, 2.9, 3.6]
    whole = window_energy(trace, cuts[0], cuts[-1]).joules
    assert trace.curve().energy(cuts[:-1], cuts[1:]).sum() == pytest.approx(whole, abs=1e-9)
    assert np.isnan(trace.curve().energy([3.0], [4.5])).all()
    assert np.isnan(CounterTrace().curve().energy([0.0], [1.0])).all()


@pytest.mark.parametrize("seed", range(20))
def test_ten_thousand_windows_at_once_are_as_many_one_by_one(seed: int) -> None:
    random = Random(seed)
    trace = CounterTrace()
    at = joules = 0.0
    for i in range(400):
        at += 0.1 if random.random() < 0.98 else random.uniform(0.3, 3.0)
        joules = random.uniform(0.0, 5.0) if seed % 3 == 0 and i == 250 else joules + random.uniform(0.0, 30.0)
        trace.append(at, joules, random.choice((0.0, 0.01, 0.15)))
    starts = [random.uniform(-2.0, at + 1.0) for _ in range(300)]
    windows = [(start, start + random.choice((0.0, 0.03, 0.5, 7.0))) for start in starts]
    for method in ("counter", "power_integration"):
        together = window_energies(trace.curve(), windows, method=method)
        assert together == [window_energies(trace.curve(), [window], method=method)[0] for window in windows]
        for known in together:
            assert known.joules is None or known.low is None or known.low - 1e-9 <= known.joules
            assert known.joules is None or known.high is None or known.joules <= known.high + 1e-9
