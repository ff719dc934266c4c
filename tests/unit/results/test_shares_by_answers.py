"""Shares of overlapping tasks by the exporter's answers for each of them; stored samples stand in by name.

Four tasks take turns at a server that answers one call at a time. The truth is power times seconds of each task's own calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from random import Random

import pytest

from joulebench.energy.attribution import TaskAttribution
from joulebench.gpu.sampler import GpuSampler
from joulebench.results.attribution import AttributionGroup, attribute_tasks
from joulebench.results.fetch import GpuSamples
from joulebench.results.journal import curve_readings, exporter_energy
from joulebench.results.task import Task, TaskKey, TaskValues
from joulebench.results.task_result import ExportContext, task_results
from joulebench.schema.reasons import Reason
from joulebench.schema.result import Event, TaskResult
from tests.unit.energy.live import KnownGpu, SetClock, polls, sampler_of
from tests.unit.energy.truth import EXPORTER_POLL, START, Machine, Timers
from tests.unit.results.test_phases import SETTLED, energy_event, stored

WATTS, SECONDS = (380.0, 260.0, 180.0, 120.0), (0.31, 0.27, 0.37, 0.23)
"""Power during a call of each task, and how long the call takes."""
IDLE, TURNS = 60.0, 8
BEGIN = START + SETTLED + 0.0317


def call_windows(task: int) -> list[tuple[float, float]]:
    first = BEGIN + sum(SECONDS[:task])
    return [(start, start + SECONDS[task]) for start in (first + turn * sum(SECONDS) for turn in range(TURNS))]


def true_share(task: int) -> float:
    return TURNS * SECONDS[task] * (WATTS[task] - IDLE)


@cache
def polled() -> tuple[Machine, GpuSampler]:
    changes = [(start, WATTS[task]) for task in range(len(WATTS)) for start, _ in call_windows(task)]
    changes = [(START, IDLE), *sorted(changes), (call_windows(3)[-1][1], IDLE)]
    used = Machine([*(at for at, _ in changes), changes[-1][0] + SETTLED], [watts for _, watts in changes])
    gpu = KnownGpu(used, SetClock(), Random(3), Timers(0.1, 0.0003, 0.0, EXPORTER_POLL, 0.0006))
    sampler = sampler_of(gpu)
    for _ in polls(gpu, sampler):
        pass
    return used, sampler


def tasks(workers: Sequence[str] = ("w",) * 4) -> list[Task]:
    """Tasks whose windows are almost the same, each with the exporter's answer for its own changes of phase."""
    _, sampler = polled()
    found = []
    for number, worker in enumerate(workers):
        start, end = BEGIN - 0.01 - 0.001 * number, call_windows(3)[-1][1] + 0.01
        events: list[Event] = [{"event_type": "TASK_START", "timestamp": start}]
        edges = [start]
        for call, (begin, done) in enumerate(call_windows(number)):
            timed = {"decode_seconds": done - begin, "decode_tokens": 50}
            events.append({"event_type": "LLM_QUERY_START", "timestamp": begin, "call": call})
            events.append({"event_type": "LLM_QUERY_END", "timestamp": done, "call": call, **timed})
            edges += [begin, done]
        events.append({"event_type": "TASK_END", "timestamp": end})
        answer = exporter_energy([energy_event("TASK_ENERGY", sampler, [*edges, end]), events[-1]])
        task = Task(TaskKey(f"t{number}", worker), TaskValues(start=start, end=end), {}, events=tuple(events))
        task = replace(task, exporter_energy=answer.gpus, exporter_source="nvml", energy_parts=answer.parts)
        found.append(replace(task, task_energy=answer.event))
    return found


def samples(sensor_lag: float = 0.0) -> list[GpuSamples]:
    return [GpuSamples("0", "u", stored(polled()[0]), method="counter", source="nvml", sensor_lag=sensor_lag)]


def attributed(some: Sequence[Task], gpus: Sequence[GpuSamples]) -> tuple[AttributionGroup, list[TaskAttribution]]:
    (group,) = attribute_tasks(some, gpus, {"u": IDLE})
    return group, [group.shares[task.key] for task in some]


def worst_error(shares: Sequence[TaskAttribution]) -> float:
    known = [share.total.attributed or 0.0 for share in shares]
    return max(abs(joules / true_share(task) - 1) for task, joules in enumerate(known))


def assert_conserved(group: AttributionGroup, shares: Sequence[TaskAttribution], *, rel: float = 1e-3) -> None:
    balance = group.balances["u"]
    rest = (balance.shared_idle or 0.0) + (balance.unattributed or 0.0) + (balance.withheld or 0.0)
    assert sum(share.total.attributed or 0.0 for share in shares) + rest == pytest.approx(balance.joules, rel=1e-9)
    assert balance.joules == pytest.approx(polled()[0].between(group.start, group.end), rel=rel)


@pytest.mark.parametrize("workers", [("w",) * 4, ("w0", "w1", "w2", "w3")])
def test_shares_by_answers_are_within_1_percent(workers: Sequence[str]) -> None:
    """Of several workers each knows its own changes of phase alone; their answers are of one curve."""
    group, shares = attributed(tasks(workers), samples())
    print(f"shares by answers: largest error {worst_error(shares):.2%}")  # noqa: T201
    assert worst_error(shares) <= 0.01
    assert [share.answered for share in shares] == pytest.approx([1.0] * 4)
    assert_conserved(group, shares)
    for task, share in enumerate(shares):
        assert (share.total.lower or 0.0) <= true_share(task) <= (share.total.upper or 0.0)


def test_shares_by_stored_samples_say_so_and_are_far_worse() -> None:
    group, shares = attributed([replace(task, task_energy=None) for task in tasks()], samples())
    print(f"shares by stored samples: largest error {worst_error(shares):.2%}")  # noqa: T201
    assert worst_error(shares) > 0.3
    assert [share.answered for share in shares] == [0.0] * 4
    assert_conserved(group, shares)


def test_answers_give_shares_where_no_sample_is_stored() -> None:
    group, shares = attributed(tasks(), [])
    assert worst_error(shares) <= 0.01
    assert_conserved(group, shares)


def source_of(some: Sequence[Task]) -> list[str | None]:
    _, shares = attributed(some, samples())
    context = ExportContext("r", "0", None)
    results: list[TaskResult] = list(task_results(some, [None] * len(some), shares, context))
    return [result.attribution.source for result in results]


def test_the_source_of_shares_is_named() -> None:
    whole, (first, *others) = tasks(), tasks()
    assert source_of(whole) == ["exporter"] * 4
    assert source_of([replace(task, task_energy=None) for task in whole]) == ["prometheus"] * 4
    assert source_of([replace(first, task_energy=None), *others]) == ["mixed"] * 4


def test_a_task_without_an_answer_leaves_the_shares_of_all_conserved() -> None:
    first, *others = tasks()
    group, shares = attributed([replace(first, task_energy=None), *others], samples())
    assert_conserved(group, shares)
    assert worst_error(shares) < 0.3


def with_end_joules(task: Task, more: float) -> Task:
    assert task.task_energy is not None
    gpus = [{**gpu, "end_joules": gpu["end_joules"] + more} for gpu in task.task_energy["gpus"]]
    return replace(task, task_energy={**task.task_energy, "gpus": gpus})


@pytest.mark.parametrize("more", [-1e6, 1e6])
def test_answers_of_an_exporter_that_counted_anew_are_never_subtracted_from_those_before(more: float) -> None:
    """As where a card without a counter is integrated from 0 again."""
    first, *others = tasks()
    group, shares = attributed([with_end_joules(first, more), *others], samples())
    assert_conserved(group, shares, rel=0.02)


def test_answers_from_before_the_lag_was_known_are_not_mixed_with_those_after() -> None:
    first, *others = tasks()
    assert first.task_energy is not None
    (gpu,) = first.task_energy["gpus"]
    corrected = replace(first, task_energy={**first.task_energy, "gpus": [{**gpu, "reasons": [Reason.SENSOR_LAG]}]})
    _, shares = attributed([corrected, *others], samples(sensor_lag=0.25))
    assert all(share.answered < 0.6 for share in shares)
    _, shares = attributed([corrected, *others], samples())
    assert [share.answered for share in shares] == pytest.approx([1.0] * 4)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"start": 1.0, "end": "x", "gpus": [{"uuid": "u", "joules": 1.0, "end_joules": 2.0}]},
        {"start": 1.0, "end": 2.0, "gpus": [7, {"uuid": "u", "joules": 1.0}, {"uuid": "u", "joules": None, "end_joules": 2.0}]},
        {"start": 1.0, "end": 2.0, "cuts": [0.5], "gpus": [{"uuid": "u", "end_joules": 2.0, "parts": [[1.0], [None]]}]},
    ],
)
def test_a_damaged_answer_has_no_readings(answer: Event) -> None:
    assert list(curve_readings(answer)) == []


def test_an_answer_gives_the_curve_at_its_edges_and_cuts() -> None:
    gpu = {
        "uuid": "u",
        "joules": 30.0,
        "end_joules": 100.0,
        "reasons": ["sensor_lag"],
        "parts": [[10.0, 9.0, 11.0], [20.0, 19.0, 21.0]],
    }
    answer = {"start": 5.0, "end": 8.0, "cuts": [1.0], "gpus": [gpu]}
    assert list(curve_readings(answer)) == [("u", [(5.0, 70.0, False), (6.0, 80.0, True), (8.0, 100.0, False)], True)]
    uncut = {**answer, "cuts": [], "gpus": [{**gpu, "parts": []}]}
    assert list(curve_readings(uncut)) == [("u", [(5.0, 70.0, False), (8.0, 100.0, False)], True)]
