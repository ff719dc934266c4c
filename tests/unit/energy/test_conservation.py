"""Whose joules: on random runs every joule is given out once, and a big run is soon done."""

from __future__ import annotations

from itertools import pairwise
from math import fsum
from random import Random
from time import perf_counter

import pytest

from joulebench.energy.allocation import METHODS
from joulebench.energy.attribution import attribute
from joulebench.energy.bins import TaskWork
from joulebench.energy.calls import LlmCall
from joulebench.energy.token_weights import TokenWeights
from joulebench.energy.window import window_energy
from tests.unit.energy.attributed import columns, methods, steady, timed
from tests.unit.energy.truth import metered, random_power


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
