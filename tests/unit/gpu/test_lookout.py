"""A counter is looked at shortly before each change it announces, earlier where looks come late, always where it is unsure."""

from __future__ import annotations

from random import Random

import pytest

from joulebench.gpu.lookout import LONGEST_STEP, Beat, Lookout

POLL = 0.02


def test_without_a_beat_or_with_a_long_one_every_poll_looks() -> None:
    lookout = Lookout(POLL)
    assert lookout.plan(0.9, 1.0) == (0.0, 0.0)
    lookout.beat = Beat(1.0, 2 * LONGEST_STEP, 0.001)
    assert lookout.plan(0.9, 1.0) == (0.0, 0.0)


@pytest.mark.parametrize("beats", [0, 1, 7])
def test_it_rests_until_one_poll_and_a_little_before_the_next_change(beats: int) -> None:
    lookout = Lookout(POLL)
    lookout.beat = Beat(10.0, 0.1, 0.001)
    seen = 10.0 + beats * 0.1
    step, due = lookout.plan(seen - 0.009, seen + 0.011)
    assert step == 0.1
    assert seen + 0.1 - 2 * POLL < due < seen + 0.1 - POLL - 0.001


def test_a_change_found_after_a_long_time_leads_to_the_earlier_look() -> None:
    lookout = Lookout(POLL)
    lookout.beat = Beat(10.0, 0.1, 0.001)
    assert lookout.plan(9.9, 10.012) == lookout.plan(9.992, 10.012)


def test_late_looks_make_the_next_ones_earlier_and_punctual_ones_later_again() -> None:
    lookout = Lookout(POLL)
    lookout.beat = Beat(10.0, 0.1, 0.001)
    at_ease = lookout.plan(9.99, 10.01)[1]
    for _ in range(10):
        lookout.note(9.92, 10.0)
    wary = lookout.plan(9.99, 10.01)[1]
    assert at_ease - POLL < wary < at_ease - POLL / 2
    for _ in range(500):
        lookout.note(9.99, 10.01)
    assert lookout.plan(9.99, 10.01)[1] == at_ease


@pytest.mark.parametrize("late", [0.0, 0.004])
def test_two_looks_a_step_bracket_nearly_every_change_as_closely_as_all_of_them(late: float) -> None:
    """Looks on the beat of a thread that wakes up to ``late`` seconds late."""
    random = Random(1)
    period, step = 0.0193, 0.1007
    lookout = Lookout(period)
    due, wake, looks, seen_change, seen_at = 0.0, 0.0, 0, 0, 0.0
    wide = changes = 0
    while wake < 100.0:
        wake += period
        at = wake + random.uniform(0.0, late)
        if at < due:
            continue
        looks += 1
        change = int(at / step)
        if change > seen_change:
            changes += 1
            wide += at - seen_at > period + late + 1e-9
            lookout.note(seen_at, at)
            lookout.beat = Beat(change * step, step, 0.001)
            due = lookout.plan(seen_at, at)[1]
            seen_change = change
        seen_at = at
    assert wide < 0.05 * changes
    assert looks < 2.6 * changes
