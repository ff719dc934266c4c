"""Weights of tokens: learnt from tasks alone, they give shared work to its owners, which are known here; else there are none."""

from __future__ import annotations

from random import Random

import pytest

from joulebench.energy.attribution import attribute
from joulebench.energy.bins import TaskWork, activities, bins
from joulebench.energy.calls import LlmCall
from joulebench.energy.token_weights import TokenWeights, exclusive_stretches, fit
from tests.unit.energy.attributed import methods, steady, timed
from tests.unit.energy.truth import START, Machine, metered


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
        return fit(steady(watts, until).curve(), exclusive_stretches(bins(tasks, work, (0.0, 40.0), 0.05), work), 60.0)

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
