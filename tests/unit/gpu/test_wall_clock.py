from __future__ import annotations

from pathlib import Path

import pytest

from joulebench.gpu.wall_clock import WallClock
from tests.fakes.nvml import VirtualClock

UNIX, MONO = 1_700_000_000.0, 1000.0


@pytest.fixture
def clock(tmp_path: Path) -> VirtualClock:
    return VirtualClock(tmp_path / "clock", monotonic=MONO, unix=UNIX)


def watched(clock: VirtualClock, wall: WallClock, seconds: float, drift: float = 0.0) -> None:
    for _ in range(int(seconds / 0.02)):
        clock.advance(0.02)
        clock.step_wall(drift * 0.02)
        wall.compare()


def test_without_a_step_the_two_clocks_map_onto_each_other(clock: VirtualClock) -> None:
    wall = WallClock(clock, 3600)
    watched(clock, wall, 10)
    window = wall.window(UNIX + 2, UNIX + 5)
    assert (window.start, window.end, window.touches_step) == (MONO + 2, MONO + 5, False)
    assert wall.unix(MONO + 3) == UNIX + 3
    assert wall.steps == 0


def test_a_drift_is_followed_and_is_no_step(clock: VirtualClock) -> None:
    wall = WallClock(clock, 3600)
    watched(clock, wall, 20, drift=500e-6)
    window = wall.window(UNIX, UNIX + 20.01)
    assert window.end == pytest.approx(MONO + 20, abs=0.001)
    assert not window.touches_step
    assert wall.steps == 0


def test_a_time_that_a_step_skipped_is_the_moment_of_the_step(clock: VirtualClock) -> None:
    wall = WallClock(clock, 3600)
    watched(clock, wall, 10)
    clock.step_wall(5)
    watched(clock, wall, 10)
    window = wall.window(UNIX + 12, UNIX + 20)
    assert window.start == pytest.approx(MONO + 10, abs=0.03)
    assert window.end == pytest.approx(MONO + 15)
    assert (window.touches_step, window.skipped) == (True, True)
    assert not wall.window(UNIX + 8, UNIX + 20).skipped, "only the edges count"


def test_a_time_that_was_shown_twice_is_the_later_one_and_marked(clock: VirtualClock) -> None:
    wall = WallClock(clock, 3600)
    watched(clock, wall, 10)
    clock.step_wall(-5)
    watched(clock, wall, 10)
    window = wall.window(UNIX + 6, UNIX + 9)
    assert (window.start, window.end) == pytest.approx((MONO + 11, MONO + 14))
    assert window.touches_step


def test_a_time_that_was_shown_twice_but_lies_ahead_now_is_the_earlier_one(clock: VirtualClock) -> None:
    wall = WallClock(clock, 3600)
    watched(clock, wall, 10)
    clock.step_wall(-5)
    watched(clock, wall, 0.5)
    window = wall.window(UNIX + 6, UNIX + 9)
    assert (window.start, window.end) == pytest.approx((MONO + 6, MONO + 9))
    assert window.touches_step


def test_old_offsets_are_forgotten(clock: VirtualClock) -> None:
    wall = WallClock(clock, keep_seconds=5)
    for _ in range(50):
        clock.step_wall(1)
        watched(clock, wall, 1)
    assert wall.steps == 50
    assert wall.entries <= 7
