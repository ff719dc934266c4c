"""Whose joules: small cases by hand, of tasks alone, of tasks that share, and of what is not known."""

from __future__ import annotations

import pytest

from joulebench.energy.attribution import attribute
from joulebench.energy.bins import TaskWork
from joulebench.energy.calls import LlmCall
from joulebench.energy.token_weights import TokenWeights
from joulebench.energy.trace import CounterTrace
from joulebench.energy.window import window_energy
from tests.unit.energy.attributed import A, B, columns, methods, shares, steady


def test_a_task_alone_has_the_energy_of_its_window() -> None:
    trace = steady()
    tasks = [TaskWork("a", 1.03, 7.21, [LlmCall(2.0, 5.0)]), TaskWork("b", 7.21, 9.0), TaskWork("c", 12.0, 13.37, [])]
    found = attribute({"0": trace}, tasks, span=(0.0, 20.0), idle_watts={"0": 60.0})
    for task, share in zip(tasks, found.tasks, strict=True):
        window = window_energy(trace, task.start, task.end).joules
        assert share.gpus["0"] == share.total
        assert list(columns(share.total)) == pytest.approx([window] * 4)
        assert (share.overlap_fraction, share.method) == (0.0, "exclusive")
    balance = found.gpus["0"]
    assert balance.unattributed == pytest.approx(103.0 + 300.0 + 663.0)
    assert [balance.joules, balance.shared_idle, balance.withheld] == pytest.approx([2000.0, 0.0, 0.0])
    assert (balance.coverage, balance.weights, balance.reasons) == (1.0, None, ())


def test_shared_time_is_split_by_calls_in_flight_above_idle() -> None:
    found = attribute({"0": steady()}, [A, B], span=(0.0, 20.0), idle_watts={"0": 60.0})
    # Together from 6 to 10: 160 J above idle. From 6 to 7 only a has a call, from 7 to 8 both, from 8 to 10 only b.
    assert shares(found) == {"a": (600.0, 660.0, 780.0, 1000.0), "b": (600.0, 700.0, 820.0, 1000.0)}
    assert [task.overlap_fraction for task in found.tasks] == pytest.approx([0.4, 0.4])
    balance = found.gpus["0"]
    assert balance.shared_idle == pytest.approx(240.0)
    assert balance.unattributed == pytest.approx(400.0)
    # 20 J of 660 rest on the even split: too little to name.
    assert methods(found) == {"a": "by_execution", "b": "by_execution"}


def test_without_idle_power_shared_time_is_all_work() -> None:
    found = attribute({"0": steady()}, [A, B], span=(0.0, 20.0))
    assert shares(found) == {"a": (600.0, 750.0, 750.0, 1000.0), "b": (600.0, 850.0, 850.0, 1000.0)}
    assert found.gpus["0"].shared_idle == 0.0
    assert found.gpus["0"].reasons == ("idle_unknown",)
    assert methods(found) == {"a": "equal_share", "b": "equal_share"}


def test_idle_above_what_was_used_leaves_no_work_and_no_negative_joules() -> None:
    found = attribute({"0": steady(50.0)}, [A, B], idle_watts={"0": 60.0})
    assert shares(found) == {"a": (300.0, 300.0, 400.0, 500.0), "b": (300.0, 300.0, 400.0, 500.0)}


def test_a_task_whose_calls_are_not_known_counts_as_one_call() -> None:
    tasks = [TaskWork("a", 0.0, 10.0), TaskWork("b", 0.0, 10.0, [LlmCall(0.0, 10.0), LlmCall(0.0, 5.0)])]
    found = attribute({"0": steady()}, tasks)
    a, b = (task.total.attributed for task in found.tasks)
    assert a == pytest.approx(500.0 / 3 + 250.0)
    assert b == pytest.approx(1000.0 / 3 + 250.0)


def test_where_nobody_has_a_call_all_who_are_there_share_evenly() -> None:
    tasks = [TaskWork("a", 0.0, 10.0, []), TaskWork("b", 0.0, 10.0, []), TaskWork("c", 0.0, 5.0, [])]
    found = attribute({"0": steady()}, tasks, idle_watts={"0": 40.0})
    assert [round(task.total.attributed or 0.0, 6) for task in found.tasks] == [250.0, 250.0, 100.0]
    assert set(methods(found).values()) == {"equal_share"}


def test_a_window_that_the_trace_does_not_reach_has_no_share_and_its_joules_are_withheld() -> None:
    found = attribute({"0": steady(until=12.0)}, [A, B, TaskWork("c", 30.0, 31.0)], span=(0.0, 40.0), idle_watts={"0": 60.0})
    assert shares(found)["a"] == (600.0, 660.0, 780.0, 1000.0)
    b, c = found.tasks[1].total, found.tasks[2].total
    assert columns(b) == (200.0, None, None, None)
    assert columns(c) == (None, None, None, None)
    assert b.reasons == c.reasons == ("uncovered_end",)
    balance = found.gpus["0"]
    assert balance.withheld == pytest.approx(300.0)
    assert balance.joules == pytest.approx(660.0 + 300.0 + 240.0)
    assert balance.residual == pytest.approx(0.0, abs=1e-6)
    assert balance.coverage == pytest.approx(0.3)
    assert balance.reasons == ("uncovered_end",)


def test_a_gpu_without_samples_makes_the_sum_unknown_and_not_its_neighbour() -> None:
    found = attribute({"0": steady(), "1": CounterTrace()}, [A, B])
    a = found.tasks[0]
    assert columns(a.gpus["0"])[1] == 750.0
    assert columns(a.gpus["1"]) == columns(a.total) == (None, None, None, None)
    assert a.total.reasons == ("no_samples",)
    assert found.gpus["1"].joules is None
    assert found.gpus["1"].reasons == ("no_samples", "idle_unknown")
    assert columns(attribute({}, [A, B]).tasks[0].total) == (None, None, None, None)


def test_two_gpus_add_up_each_with_its_own_idle_power() -> None:
    found = attribute({"0": steady(100.0), "1": steady(50.0)}, [A, B], idle_watts={"0": 60.0, "1": None})
    a = found.tasks[0]
    assert columns(a.total)[1] == pytest.approx(660.0 + 375.0)
    # The weakest method of all GPUs counts.
    assert a.method == "equal_share"


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="task a does not fit"):
        attribute({}, [TaskWork("a", 2.0, 1.0)])
    with pytest.raises(ValueError, match=r"task a does not fit into 1\.0 to 5\.0"):
        attribute({}, [TaskWork("a", 0.0, 3.0)], span=(1.0, 5.0))
    with pytest.raises(ValueError, match="nor both 0"):
        TokenWeights(0.0, 0.0)
    with pytest.raises(ValueError, match="negative"):
        TokenWeights(-1.0, 2.0)
    assert attribute({"0": steady()}, []).tasks == ()
