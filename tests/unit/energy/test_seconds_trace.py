"""Throttled seconds of a window, from readings of counters whose every second the test knows."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest

from joulebench.energy.seconds_trace import MAX_GAPS, SPACING, TOLERANCE, SecondsTrace

POLL = 0.02
Spans = Sequence[tuple[float, float]]


def held(spans: Spans, start: float, end: float) -> float:
    return sum(max(min(end, until) - max(start, since), 0.0) for since, until in spans)


def read(spans: Spans, until: float, skipped: Callable[[float], bool] = lambda _: False) -> SecondsTrace:
    """A trace of a counter that was read every ``POLL`` seconds from 0 on, but for moments that were ``skipped``."""
    trace, since, value = SecondsTrace(0.0, 0.0, 100_000), 0.0, 0.0
    for step in range(1, round(until / POLL) + 1):
        at = step * POLL
        if skipped(at):
            continue
        now = held(spans, 0.0, at)
        if now != value:
            trace.append(since, at, now)
        since, value = at, now
    return trace


LONG = [(3.333, 17.77), (40.001, 40.009), (50.0, 50.5)]


@pytest.mark.parametrize(
    ("start", "end"),
    [(0.0, 3.0), (5.0, 6.0), (0.0, 60.0), (3.0, 3.4), (17.0, 18.0), (17.7, 17.8), (40.0, 40.02), (30.0, 45.0), (50.1, 55.0)],
)
def test_a_window_has_the_seconds_that_lie_in_it(start: float, end: float) -> None:
    trace = read(LONG, 60.0)
    assert trace.between(start, end) == pytest.approx(held(LONG, start, end), abs=2 * (TOLERANCE + POLL / 4))
    assert len(trace) < 20


def test_windows_that_adjoin_add_up() -> None:
    trace = read(LONG, 60.0)
    parts = [trace.between(start, end) or 0.0 for start, end in pairwise([0.0, 3.4, 5.0, 17.1, 40.005, 50.2, 60.0])]
    assert sum(parts) == pytest.approx(trace.between(0.0, 60.0))


def test_a_counter_that_grows_for_hours_takes_a_few_points() -> None:
    trace = read([(1.0, 3000.0)], 3600.0)
    assert len(trace) <= 5
    assert trace.between(500.0, 1500.0) == pytest.approx(1000.0, abs=2 * TOLERANCE)


@pytest.mark.parametrize("longest", [0.03, 0.08, 0.5])
def test_clocks_that_are_held_down_and_let_go_all_the_time_cost_bounded_memory(longest: float) -> None:
    dice, at, spans = random.Random(7), 0.0, []
    while at < 60.0:
        since = at + dice.uniform(0.005, longest)
        at = since + dice.uniform(0.005, longest)
        spans.append((since, at))
    trace = read(spans, 60.0)
    assert len(trace) < 20 * 60
    for _ in range(200):
        start = dice.uniform(0.0, 55.0)
        end = start + dice.uniform(0.05, 5.0)
        assert trace.between(start, end) == pytest.approx(held(spans, start, end), abs=2 * (SPACING + POLL) / 4)


def test_a_short_time_without_a_reading_hides_little() -> None:
    trace = read([(5.0, 8.0)], 10.0, skipped=lambda at: 4.94 < at < 5.06)
    assert trace.between(0.0, 5.0) == pytest.approx(0.0, abs=0.04)


def test_a_window_that_ends_where_nobody_looked_for_long_is_not_known_and_one_around_it_is() -> None:
    trace = read([(5.0, 8.0)], 20.0, skipped=lambda at: 4.0 < at < 7.0)
    assert trace.between(0.0, 5.5) is None
    assert trace.between(5.5, 9.0) is None
    assert trace.between(3.0, 9.0) == pytest.approx(3.0, abs=0.01)
    assert trace.between(0.0, 3.9) == 0.0
    assert trace.between(7.1, 7.6) == pytest.approx(0.5, abs=0.02)


def test_what_nobody_looked_at_is_known_where_the_counter_says_that_nothing_or_all_of_it_was_held() -> None:
    rested = read([(9.0, 9.5)], 10.0, skipped=lambda at: 2.0 < at < 6.0)
    assert rested.between(1.0, 4.0) == 0.0
    all_held = read([(1.0, 9.0)], 10.0, skipped=lambda at: 2.0 < at < 6.0)
    assert all_held.between(3.0, 4.0) == pytest.approx(1.0, abs=2 * TOLERANCE)


def test_a_counter_that_falls_begins_anew_and_the_time_between_is_lost() -> None:
    trace = SecondsTrace(0.0, 100.0, 100)
    trace.append(1.0, 2.0, 101.0)
    trace.append(4.0, 5.0, 0.5)
    trace.append(6.0, 7.0, 1.5)
    assert trace.between(1.0, 3.0) == pytest.approx(1.0)
    assert trace.between(3.0, 8.0) is None
    assert trace.between(5.5, 8.0) == pytest.approx(1.0)
    assert trace.latest == 1.5


def test_before_the_first_reading_and_where_it_was_lost_nothing_is_known() -> None:
    trace = SecondsTrace(10.0, 5.0, 100)
    trace.lose(12.0, 14.0)
    assert trace.between(9.0, 11.0) is None
    assert trace.between(10.0, 12.0) == 0.0
    assert trace.between(11.0, 13.0) is None
    assert trace.between(14.0, 20.0) == 0.0


def test_the_oldest_is_forgotten_and_then_not_known() -> None:
    trace = SecondsTrace(0.0, 0.0, 8)
    for second in range(1, 100):
        trace.append(second - 0.5, float(second), second * 0.5)
    assert len(trace) <= 10
    assert trace.between(1.0, 99.0) is None
    assert trace.between(97.5, 99.0) == pytest.approx(1.0)


def test_of_very_many_losses_the_oldest_end_what_is_known() -> None:
    trace = SecondsTrace(0.0, 0.0, 8)
    for second in range(MAX_GAPS + 1):
        trace.lose(second + 0.2, second + 0.4)
    assert trace.between(0.1, 0.15) is None
    assert trace.between(1.0, 1.2) == 0.0


def test_a_reading_that_is_not_later_is_left_out() -> None:
    trace = SecondsTrace(5.0, 1.0, 8)
    trace.append(4.0, 5.0, 3.0)
    assert (len(trace), trace.between(5.0, 6.0)) == (1, 0.0)
