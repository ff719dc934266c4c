"""Whose joules by what was worked on: tokens, time in a queue, and the bins in which work is summed."""

from __future__ import annotations

from math import fsum

import pytest

from joulebench.energy.attribution import attribute
from joulebench.energy.bins import TaskWork, activities, bins
from joulebench.energy.calls import LlmCall
from joulebench.energy.token_weights import TokenWeights
from joulebench.energy.trace import CounterTrace
from tests.unit.energy.attributed import columns, methods, shares, steady, timed
from tests.unit.energy.truth import Machine


def test_shared_time_is_split_by_tokens_where_they_are_known() -> None:
    a = TaskWork("a", 0.0, 10.0, [timed(0.0, 10.0, 4.0, 6.0, (400.0, 60.0))])
    b = TaskWork("b", 0.0, 10.0, [timed(0.0, 10.0, 2.0, 8.0, (100.0, 240.0))])
    found = attribute({"0": steady()}, [a, b], weights=TokenWeights(0.1, 1.0))
    # Rates of work: a 10 and then 10, b 5 until t = 2 and then 30.
    assert shares(found)["a"][1] == pytest.approx(200.0 * 10 / 15 + 800.0 * 10 / 40)
    assert methods(found) == {"a": "by_tokens", "b": "by_tokens"}
    assert found.gpus["0"].weights == TokenWeights(0.1, 1.0)
    unknown = TaskWork("b", 0.0, 10.0, [timed(0.0, 10.0, 2.0, 8.0)])
    found = attribute({"0": steady()}, [a, unknown], weights=TokenWeights(0.1, 1.0))
    assert shares(found)["a"][1] == pytest.approx(500.0)
    assert methods(found) == {"a": "equal_share", "b": "equal_share"}


def test_tokens_of_a_call_that_nobody_split_are_spread_over_it() -> None:
    a = TaskWork("a", 0.0, 10.0, [LlmCall(0.0, 10.0, prefill_tokens=100.0, decode_tokens=20.0)])
    b = TaskWork("b", 0.0, 10.0, [LlmCall(0.0, 10.0, decode_seconds=5.0, prefill_tokens=300.0, decode_tokens=30.0)])
    found = attribute({"0": steady()}, [a, b], weights=TokenWeights(0.1, 1.0))
    assert shares(found)["a"][1] == pytest.approx(500.0 * 15 / 45 + 500.0 * 15 / 45)
    assert methods(found) == {"a": "by_tokens", "b": "by_tokens"}


def test_a_model_load_is_work_without_tokens() -> None:
    a = TaskWork("a", 0.0, 10.0, [LlmCall(0.0, 10.0, 10.0, 0.0, 0.0, None, 5.0, 5.0)])
    b = TaskWork("b", 0.0, 10.0, [timed(0.0, 10.0, 0.0, 10.0, (0.0, 100.0))])
    found = attribute({"0": steady()}, [a, b], weights=TokenWeights(0.1, 1.0))
    assert shares(found)["a"][1] == pytest.approx(500.0)


def two_in_a_queue(known: bool) -> list[TaskWork]:
    """One server, one call at a time: a runs from 1 to 6, b waits for it from 1.5 and runs from 6 to 9."""
    first = timed(1.0, 6.0, 1.0, 4.0)
    second = timed(1.5, 9.0, 1.0, 2.0) if known else LlmCall(1.5, 9.0)
    return [TaskWork("a", 0.0, 7.0, [first]), TaskWork("b", 1.0, 10.0, [second])]


@pytest.mark.parametrize(("known", "serialized"), [(True, True), (True, False), (False, True)])
def test_time_in_the_queue_is_not_charged(known: bool, serialized: bool) -> None:
    machine = Machine([0.0, 1.0, 6.0, 9.0, 20.0], [60.0, 300.0, 200.0, 60.0])
    trace = CounterTrace()
    for i in range(101):
        trace.append(i * 0.1, machine.energy(i * 0.1))
    found = attribute({"0": trace}, two_in_a_queue(known), idle_watts={"0": 60.0}, serialized=serialized)
    a, b = found.tasks
    # Shared from 1 to 7. Alone: a from 0 to 1, b from 7 to 10.
    assert columns(a.total)[1] == pytest.approx(60.0 + 5 * 240.0)
    assert columns(b.total)[1] == pytest.approx(140.0 + 2 * 200.0 + 60.0)
    assert {a.method, b.method} == {"by_execution"}


def test_without_server_times_the_queue_cannot_be_told_from_work() -> None:
    found = attribute({"0": steady(300.0)}, two_in_a_queue(False), idle_watts={"0": 60.0})
    assert shares(found)["b"][1] == pytest.approx(300.0 * 3 + 240.0 + 240.0 * 4.5 / 2)
    assert methods(found)["b"] == "equal_share"


def test_a_cancelled_call_in_the_queue_takes_nothing_from_the_one_that_runs() -> None:
    tasks = [TaskWork("a", 0.0, 10.0, [timed(0.0, 9.0, 1.0, 8.0)]), TaskWork("b", 0.0, 10.0, [LlmCall(2.0, 5.0)])]
    assert activities(tasks, serialized=True)[1] == []
    assert len(activities(tasks)[1]) == 1


def test_what_is_left_of_a_call_beside_certain_work_keeps_its_tokens() -> None:
    running = [timed(1.0, 3.0, 0.5, 1.5), timed(4.0, 6.0, 1.0, 1.0), timed(6.0, 7.0, 0.0, 1.0)]
    waiting = TaskWork("b", 0.0, 10.0, [LlmCall(2.0, 9.0, prefill_tokens=60.0, decode_tokens=30.0)])
    own = activities([TaskWork("a", 0.0, 10.0, running), waiting], serialized=True)[1]
    assert [(one.start, one.end) for one in own] == [(3.0, 4.0), (7.0, 9.0)]
    assert [one.prefill_tokens for one in own] == pytest.approx([20.0, 40.0])
    assert [one.decode_tokens for one in own] == pytest.approx([10.0, 20.0])
    later = TaskWork("b", 0.0, 10.0, [LlmCall(3.5, 9.0)])
    own = activities([TaskWork("a", 0.0, 10.0, running), later], serialized=True)[1]
    assert [(one.start, one.end) for one in own] == [(3.5, 4.0), (7.0, 9.0)]


def test_bins_are_cut_at_every_window_and_no_finer_than_asked() -> None:
    calls = [LlmCall(i * 0.01, i * 0.01 + 0.005) for i in range(1000)]
    tasks = [TaskWork("a", 0.0, 10.0, calls), TaskWork("b", 4.0, 6.001, [])]
    cut = bins(tasks, activities(tasks), (0.0, 12.0), 0.5)
    assert [(one.start, one.end, one.tasks) for one in cut] == [
        (0.0, 4.0, (0,)),
        (4.0, pytest.approx(4.5), (0, 1)),
        (pytest.approx(4.5), pytest.approx(5.0), (0, 1)),
        (pytest.approx(5.0), pytest.approx(5.5), (0, 1)),
        (pytest.approx(5.5), 6.001, (0, 1)),
        (6.001, 10.0, (0,)),
        (10.0, 12.0, ()),
    ]
    assert fsum(one.work[0].call_seconds for one in cut if one.work) == pytest.approx(5.0)


def test_a_short_rest_joins_the_bin_before_it_with_all_its_work() -> None:
    a = TaskWork("a", 0.0, 10.0, [timed(0.0, 9.5, 0.0, 9.5, (0.0, 95.0)), LlmCall(9.6, 10.0)])
    b = TaskWork("b", 0.0, 10.0, [timed(0.0, 10.0, 0.0, 10.0, (0.0, 50.0))])
    (only,) = bins([a, b], activities([a, b]), (0.0, 10.0), 1.0)
    assert (only.start, only.end, only.tasks) == (0.0, 10.0, (0, 1))
    assert [only.work[i].decode_tokens for i in (0, 1)] == pytest.approx([95.0, 50.0])
    assert [only.work[i].call_seconds for i in (0, 1)] == pytest.approx([9.9, 10.0])
    assert [only.work[i].known for i in (0, 1)] == [False, True]
