"""Whose joules: small cases by hand, the conservation rules on random ones, and shared work whose true owners are known."""

from __future__ import annotations

from itertools import pairwise
from math import fsum
from random import Random
from time import perf_counter

import pytest

from joulebench.energy.attribution import Attribution, attribute
from joulebench.energy.bins import TaskWork, activities, bins
from joulebench.energy.calls import LlmCall
from joulebench.energy.curve import Curve
from joulebench.energy.ledger import METHODS, Share
from joulebench.energy.token_weights import TokenWeights, exclusive_stretches, fit
from joulebench.energy.trace import CounterTrace
from joulebench.energy.window import window_energy
from tests.unit.energy.truth import START, Machine, metered, random_power


def steady(watts: float = 100.0, until: float = 40.0, step: float = 0.1) -> CounterTrace:
    trace = CounterTrace()
    for i in range(round(until / step) + 1):
        trace.append(i * step, 7.0 + watts * i * step)
    return trace


def columns(share: Share) -> tuple[float | None, ...]:
    found = (share.lower, share.attributed, share.fully_loaded, share.upper)
    return tuple(None if joules is None else round(joules, 6) for joules in found)


def shares(found: Attribution) -> dict[str, tuple[float | None, ...]]:
    return {task.key: columns(task.total) for task in found.tasks}


def methods(found: Attribution) -> dict[str, str]:
    return {task.key: task.method for task in found.tasks}


def timed(start: float, end: float, prefill: float, decode: float, tokens: tuple[float, float] | None = None) -> LlmCall:
    prefilled, decoded = tokens or (None, None)
    return LlmCall(start, end, None, prefill, decode, None, prefilled, decoded)


A = TaskWork("a", 0.0, 10.0, [LlmCall(2.0, 8.0)])
B = TaskWork("b", 6.0, 16.0, [LlmCall(7.0, 15.0)])


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


def random_tasks(random: Random, start: float, end: float, most: int) -> list[TaskWork]:
    """Never more than ``most`` windows at once; calls of every kind, some of them beyond the window."""
    tasks = []
    for lane in range(most):
        at = start + random.uniform(0, 3)
        while at < end - 1:
            stop = min(at + 0.05 * 300.0 ** random.random(), end)
            calls = [random_call(random, at, stop) for _ in range(random.randint(0, 5))]
            tasks.append(TaskWork(f"{lane}-{at}", at, stop, random.choice([calls, calls, calls, None])))
            at = stop + random.choice([0.0, random.uniform(0, 2)])
    return tasks


def random_call(random: Random, start: float, end: float) -> LlmCall:
    a, b = sorted(random.uniform(start - 0.3, end + 0.3) for _ in range(2))

    def maybe(most: float) -> float | None:
        return random.choice([None, 0.0, random.uniform(0, most)])

    seconds = b - a
    times = (maybe(0.2 * seconds), maybe(0.5 * seconds), maybe(0.9 * seconds), maybe(0.6 * seconds))
    return LlmCall(a, b, *times, maybe(4000), maybe(500))


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_every_joule_is_given_out_once(most: int) -> None:
    random = Random(most)
    worst = 0.0
    seen: set[str] = set()
    for _ in range(12):
        machine = random_power(random, 90.0)
        traces = {gpu: metered(machine, random, step) for gpu, step in (("0", 0.1), ("1", 0.02))}
        first = max(trace.first_at or 0.0 for trace in traces.values())
        last = min(trace.last_at or 0.0 for trace in traces.values())
        tasks = random_tasks(random, first, last, most)
        found = attribute(
            traces,
            tasks,
            span=(first, last),
            idle_watts={"0": random.choice([None, 0.0, 60.0, 400.0]), "1": 60.0},
            weights=random.choice([None, TokenWeights(0.1, 3.0)]),
            serialized=random.random() < 0.5,
            min_bin=random.choice([0.0, 0.05, 1.0]),
        )
        seen.update(methods(found).values())
        for gpu, trace in traces.items():
            balance = found.gpus[gpu]
            own = [task.gpus[gpu] for task in found.tasks]
            device = window_energy(trace, first, last).joules
            assert device is not None
            given = fsum((*(share.attributed or 0.0 for share in own), balance.shared_idle or 0.0, balance.unattributed or 0.0))
            loaded = fsum((*(share.fully_loaded or 0.0 for share in own), balance.unattributed or 0.0))
            assert given == pytest.approx(device, rel=1e-6)
            assert loaded == pytest.approx(device, rel=1e-6)
            assert balance.withheld == 0.0
            worst = max(worst, abs(given - device) / device)
            for task, share in zip(tasks, own, strict=True):
                assert None not in columns(share)
                rising = [share.lower or 0.0, share.attributed or 0.0, share.fully_loaded or 0.0, share.upper or 0.0]
                assert all(a <= b + 1e-6 for a, b in pairwise(rising))
                assert share.upper == pytest.approx(window_energy(trace, task.start, task.end).joules, abs=1e-6)
        for result in found.tasks:
            assert (result.method == "exclusive") == (result.overlap_fraction == 0.0)
            assert 0.0 <= result.overlap_fraction <= 1.0
    assert seen <= set(METHODS)
    assert ("exclusive" in seen) if most == 1 else len(seen) >= 3
    print(f"\n{most} at once: worst residual {worst:.1e} of the device")  # noqa: T201


def shared_work(random: Random, lanes: int, seconds: float) -> tuple[Machine, list[TaskWork], dict[str, float]]:
    """A batching server without economies: 0.02 J for a prefill token and 1.5 J for a decode token, whoever else is there."""
    tasks: list[TaskWork] = []
    truth: dict[str, float] = {}
    changes: list[tuple[float, float]] = [(START, 60.0)]
    for lane in range(lanes):
        now = START + 2.0 + lane
        while now < START + seconds:
            start, calls, joules = now, [], 0.0
            for _ in range(random.randint(1, 4)):
                prefill, decode = random.uniform(0.1, 0.6), random.uniform(0.5, 4.0)
                prefilled, decoded = prefill * random.uniform(4000, 10000), decode * random.uniform(40, 110)
                for at, length, watts in (
                    (now, prefill, 0.02 * prefilled / prefill),
                    (now + prefill, decode, 1.5 * decoded / decode),
                ):
                    changes += [(at, watts), (at + length, -watts)]
                calls.append(timed(now, now + prefill + decode, prefill, decode, (prefilled, decoded)))
                joules += 0.02 * prefilled + 1.5 * decoded
                now += prefill + decode + random.uniform(0.1, 0.8)
            tasks.append(TaskWork(f"{lane}-{len(tasks)}", start, now, calls))
            truth[tasks[-1].key] = joules
            now += random.uniform(0.2, 6.0)
    changes.sort()
    times: list[float] = []
    pieces: list[float] = []
    power = 0.0
    for at, change in changes:
        power += change
        if times and times[-1] == at:
            pieces[-1] = max(power, 0.0)
        else:
            times.append(at)
            pieces.append(max(power, 0.0))
    return Machine([*times, times[-1] + 10.0], pieces), tasks, truth


def test_weights_are_learnt_from_single_tasks_and_give_the_work_to_its_owners() -> None:
    random = Random(8)
    machine, tasks, truth = shared_work(random, 3, 600.0)
    trace = metered(machine, random, 0.1)
    found = attribute({"0": trace}, tasks, idle_watts={"0": 60.0})
    weights = found.gpus["0"].weights
    assert weights is not None
    print(f"\nprefill {weights.prefill:.4f} J (true 0.02), decode {weights.decode:.3f} J (true 1.5)")  # noqa: T201
    assert weights.decode == pytest.approx(1.5, rel=0.05)
    assert weights.prefill == pytest.approx(0.02, rel=0.1)
    assert methods(found).keys() == truth.keys()
    worst = {}
    bare = [TaskWork(task.key, task.start, task.end, [LlmCall(c.start, c.end) for c in task.calls or ()]) for task in tasks]
    equal = attribute({"0": trace}, bare, idle_watts={"0": 60.0})
    for name, result in (("by tokens", found), ("equal share", equal)):
        errors = []
        for task, share in zip(tasks, result.tasks, strict=True):
            alone = 60.0 * (1 - share.overlap_fraction) * (task.end - task.start)
            assert share.total.attributed is not None
            errors.append(abs(share.total.attributed - alone - truth[task.key]) / truth[task.key])
        worst[name] = sorted(errors)[int(0.95 * len(errors))]
        print(f"{name:<12} n={len(errors)}  p95 error of work {worst[name]:.2%}")  # noqa: T201
    assert worst["by tokens"] <= 0.03
    assert worst["by tokens"] < worst["equal share"] / 3


def test_weights_are_not_learnt_from_too_little_or_from_what_cannot_be_told_apart() -> None:
    def learn(calls: list[LlmCall], watts: float = 100.0, until: float = 40.0) -> TokenWeights | None:
        tasks = [TaskWork("a", 0.0, 40.0, calls)]
        work = activities(tasks)
        return fit(Curve(steady(watts, until), 0.0, 40.0), exclusive_stretches(bins(tasks, work, (0.0, 40.0), 0.05), work), 60.0)

    varied = [timed(i * 2.0, i * 2.0 + 1.0, 0.2, 0.8, (100.0 * (1 + i % 3), 30.0 - 2 * i)) for i in range(10)]
    same = [timed(i * 2.0, i * 2.0 + 1.0, 0.2, 0.8, (100.0, 30.0)) for i in range(10)]
    assert learn(varied) is not None
    assert learn(varied[:7]) is None
    assert learn(same) is None
    assert learn(varied, watts=50.0) is None
    assert learn([]) is None
    assert learn([LlmCall(i * 2.0, i * 2.0 + 1.0) for i in range(10)]) is None
    # 40 J each, with few tokens or with many of both kinds: a prefill token seems to give joules back, and weighs nothing.
    few, many = (0.0, 20.0), (1000.0, 40.0)
    weights = learn([timed(i * 2.0, i * 2.0 + 1.0, 0.2, 0.8, few if i < 5 else many) for i in range(10)])
    assert weights is not None
    assert [weights.prefill, weights.decode] == pytest.approx([0.0, 1.2])
    few, many = (100.0, 0.0), (200.0, 10.0)
    weights = learn([timed(i * 2.0, i * 2.0 + 1.0, 0.2, 0.8, few if i < 5 else many) for i in range(10)])
    assert weights is not None
    assert [weights.prefill, weights.decode] == pytest.approx([0.24, 0.0])
    # What lies where the trace does not reach teaches nothing.
    beyond = [timed(i * 2.0, i * 2.0 + 1.0, 0.2, 0.8, (100.0 * (1 + i % 3), 30.0 - i)) for i in range(14)]
    assert learn(beyond) is not None
    assert learn(beyond, until=15.0) == learn(beyond[:8]) is not None
    assert learn(beyond, until=14.0) is None


def test_only_unbroken_work_of_one_task_teaches_weights() -> None:
    alone = timed(0.5, 2.5, 0.5, 1.5, (10.0, 20.0))
    touching = [timed(3.0, 4.0, 0.5, 0.5, (1.0, 2.0)), timed(4.0, 5.0, 0.5, 0.5, (3.0, 4.0))]
    across, unknown = timed(7.0, 9.0, 1.0, 1.0, (5.0, 5.0)), timed(5.5, 6.5, 0.5, 0.5)
    tasks = [TaskWork("a", 0.0, 12.0, [alone, *touching, unknown, across]), TaskWork("b", 8.0, 10.0, [])]
    work = activities(tasks)
    found = exclusive_stretches(bins(tasks, work, (0.0, 12.0), 0.05), work)
    assert [(one.start, one.end, one.prefill_tokens, one.decode_tokens) for one in found] == [
        (0.5, 2.5, 10.0, 20.0),
        (3.0, 5.0, 4.0, 6.0),
    ]


def test_a_big_run_on_eight_gpus() -> None:
    """Prints its time (``pytest -s``); asserts only that nothing is lost."""
    random = Random(1)
    start, tasks = 0.0, []
    for lane in range(4):
        now = lane * 0.7
        for i in range(500):
            begin, calls = now, []
            for _ in range(6):
                prefill, decode = random.uniform(0.1, 0.3), random.uniform(0.2, 0.8)
                calls.append(timed(now, now + prefill + decode, prefill, decode, (1000 * prefill, 60 * decode)))
                now += prefill + decode + 0.2
            tasks.append(TaskWork(f"{lane}-{i}", begin, now, calls))
            now += random.uniform(0.0, 2.0)
    end = max(task.end for task in tasks)
    one = steady(250.0, end + 1.0)
    traces = {str(gpu): one for gpu in range(8)}
    began = perf_counter()
    found = attribute(traces, tasks, span=(start, end), idle_watts=dict.fromkeys(traces, 60.0))
    took = perf_counter() - began
    points = len(one)
    print(f"\n{len(tasks)} tasks, {6 * len(tasks)} calls, 8 GPUs of {points} points: {took:.2f} s")  # noqa: T201
    assert len(found.tasks) == 2000
    for balance in found.gpus.values():
        assert balance.residual == pytest.approx(0.0, abs=1e-6 * (balance.joules or 0.0))
