"""What is computed for many windows at once is what one by one would find, to the last bit; what cannot be is left to that."""

from __future__ import annotations

from array import array
from random import Random

import pytest

from joulebench.energy.trace import CounterTrace
from joulebench.energy.window import cumulative, window_energy
from joulebench.results import ahead
from joulebench.results.ahead import Window
from joulebench.results.gauge_stats import stats
from joulebench.results.points import Columns

BEGIN = 1.7e9


def some_times(random: Random, count: int) -> array[float]:
    """Mostly even steps, some of them long, some jittered."""
    at = [BEGIN]
    for _ in range(count - 1):
        at.append(at[-1] + random.choice([0.1, 0.1, random.uniform(0.01, 0.3), 5.0 if random.random() < 0.02 else 0.1]))
    return array("d", at)


def some_trace(random: Random, at: array[float], resets: bool = False) -> CounterTrace:
    joules = [random.uniform(0.0, 1e6)]
    for _ in at[1:]:
        joules.append(joules[-1] + random.choice([0.0, 20.0, random.uniform(0.0, 100.0)]))
    if resets:
        joules[len(joules) // 2 :] = [one - joules[len(joules) // 2] for one in joules[len(joules) // 2 :]]
    trace = CounterTrace()
    trace.extend(at, array("d", joules), array("d", [random.choice([0.0, 0.01, random.uniform(0.0, 0.2)]) for _ in at]))
    return trace


def some_windows(random: Random, at: array[float]) -> list[Window]:
    """Inside and over the ends, on points, empty, and one within another."""
    found = []
    for _ in range(60):
        start = random.choice([random.uniform(at[0] - 0.2, at[-1] + 0.2), random.choice(at)])
        found.append((start, start + random.choice([0.0, 0.02, random.uniform(0.0, 3.0), random.uniform(0.0, 30.0)])))
    return [*found, (at[0], at[-1])]


@pytest.mark.parametrize("seed", range(60))
def test_energies_and_windows(seed: int) -> None:
    random = Random(seed)
    at = some_times(random, random.randint(2, 400))
    windows = some_windows(random, at)
    state = random.getstate()
    known = some_trace(random, at, resets=seed % 10 == 0)
    random.setstate(state)
    plain = some_trace(random, at, resets=seed % 10 == 0)
    for method in ("counter", "power_integration"):
        ahead.energies(known, (edge for window in windows for edge in window))
        ahead.windows(known, windows, method)
        for window in windows:
            assert repr(window_energy(known, *window, method=method)) == repr(window_energy(plain, *window, method=method))
    for edge in {edge for window in windows for edge in window}:
        assert cumulative(known.around(0, 0), edge) == cumulative(plain.around(0, 0), edge)
    assert bool(known.around(0, 0).windows) is (seed % 10 != 0), "a trace with a reset is left to be looked at one by one"


@pytest.mark.parametrize("seed", range(40))
def test_statistics(seed: int) -> None:
    random = Random(seed)
    at = some_times(random, random.randint(1, 400))
    windows = some_windows(random, at)
    values = [array("d", [random.choice([5.0, random.uniform(0.0, 300.0)]) for _ in at]) for _ in range(2)]
    known = [Columns(at, one) for one in values]
    ahead.statistics(known, windows)
    for one in known:
        assert one.known
        for window in windows:
            assert repr(stats(one, *window)) == repr(stats(Columns(at[:], one.value), *window))


def test_nothing_asked_is_nothing_known() -> None:
    empty, one = Columns(array("d"), array("d")), Columns(array("d", [1.0]), array("d", [2.0]))
    ahead.statistics([empty], [(0.0, 1.0)])
    ahead.statistics([one], [])
    ahead.statistics([one], [(5.0, 6.0)])
    ahead.windows(CounterTrace(), [(0.0, 1.0)], "counter")
    ahead.energies(CounterTrace(), [0.0])
    assert (empty.known, one.known) == ({}, {})
