"""The counter's memory: a ring that forgets, counted epochs, a clock that steps back, readers beside the writer."""

from __future__ import annotations

from array import array
from threading import Event, Thread

import pytest

from joulebench.energy.trace import CounterTrace
from joulebench.energy.window import window_energy


def test_a_ring_keeps_at_least_its_capacity_and_stays_bounded() -> None:
    trace = CounterTrace(capacity=100)
    for i in range(1000):
        trace.append(i * 0.1, i * 10.0)
        assert len(trace) <= 126
    assert len(trace) >= 100
    assert trace.last_at == pytest.approx(99.9)
    assert window_energy(trace, 95.0, 99.0).joules == pytest.approx(400.0)
    assert window_energy(trace, 10.0, 99.0).joules is None


def test_an_epoch_is_forgotten_with_its_points_but_still_counted() -> None:
    trace = CounterTrace(capacity=20)
    for i in range(5):
        trace.append(float(i), 1000.0 + i)
    for i in range(5, 60):
        trace.append(float(i), float(i))
    assert trace.resets == 1
    result = window_energy(trace, 45.5, 57.5)
    assert result.joules == pytest.approx(12.0)
    assert (result.resets, result.quality) == (0, "ok")


def test_a_point_that_is_not_later_is_refused_and_counted() -> None:
    trace = CounterTrace()
    trace.append(10.0, 5.0)
    trace.append(10.0, 6.0)
    trace.append(9.0, 7.0)
    assert (len(trace), trace.refused, trace.resets) == (1, 2, 0)


def test_an_empty_trace_has_no_times() -> None:
    trace = CounterTrace()
    assert (len(trace), trace.first_at, trace.last_at) == (0, None, None)


def test_a_ring_of_one_point_cannot_hold_a_step() -> None:
    with pytest.raises(ValueError, match="cannot hold a step"):
        CounterTrace(capacity=1)


def test_readers_see_whole_points_while_the_ring_turns() -> None:
    trace = CounterTrace(capacity=50)
    for i in range(60):
        trace.append(i * 0.1, i * 1.0)
    done = Event()

    def write() -> None:
        for i in range(60, 20_000):
            trace.append(i * 0.1, i * 1.0)
        done.set()

    writer = Thread(target=write)
    writer.start()
    checked = 0
    while not done.is_set() or checked == 0:
        last = trace.last_at or 0.0
        view = trace.curve(last - 2.0, last)
        assert len(view.at) == len(view.joules) == len(view.uncertainty)
        assert all(joules == pytest.approx(at * 10.0) for at, joules in zip(view.at, view.joules, strict=True))
        checked += 1
    writer.join()
    assert checked > 0


def columns(*points: tuple[float, float]) -> tuple[array[float], array[float], array[float]]:
    return array("d", (t for t, _ in points)), array("d", (j for _, j in points)), array("d", [0.01] * len(points))


@pytest.mark.parametrize(
    "second",
    [
        [(2.0, 20.0), (3.0, 30.0), (4.0, 40.0)],
        [(3.0, 30.0), (3.0, 30.0), (4.0, 40.0)],
        [(3.0, 20.0), (4.0, 5.0), (5.0, 6.0)],
        [(3.0, 1.0), (4.0, 2.0)],
        [(5.0, 30.0), (4.0, 40.0), (6.0, 50.0)],
        [(0.5, 90.0), (1.0, 10.0)],
        [],
    ],
)
def test_many_points_at_once_are_as_many_one_by_one(second: list[tuple[float, float]]) -> None:
    first = [(1.0, 10.0), (2.0, 20.0)]
    single, many = CounterTrace(), CounterTrace()
    for at, joules in first + second:
        single.append(at, joules, 0.01)
    many.extend(*columns(*first))
    assert len(many.curve().at) == 2
    many.extend(*columns(*second))
    for column in ("at", "joules", "uncertainty", "epoch_starts"):
        assert list(getattr(many.curve(), column)) == list(getattr(single.curve(), column))
    assert (many.resets, many.refused) == (single.resets, single.refused)


def test_a_curve_does_not_change_when_points_are_appended() -> None:
    trace = CounterTrace()
    trace.extend(*columns((1.0, 10.0), (2.0, 20.0)))
    curve = trace.curve()
    trace.append(3.0, 30.0)
    assert list(curve.at) == [1.0, 2.0]
    assert list(trace.curve().at) == [1.0, 2.0, 3.0]
