"""The counter's memory: a ring that forgets, counted epochs, a clock that steps back, readers beside the writer."""

from __future__ import annotations

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
        view = trace.view(last - 2.0, last)
        assert len(view.at) == len(view.joules) == len(view.uncertainty)
        assert all(joules == pytest.approx(at * 10.0) for at, joules in zip(view.at, view.joules, strict=True))
        checked += 1
    writer.join()
    assert checked > 0
