"""What a token and a call cost, and where no such figure may be given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from joulebench.results.calls import call_results, calls_exceed_task, efficiency
from joulebench.results.server_metrics import ServerMetrics
from joulebench.results.task import Task, TaskKey, TaskValues
from joulebench.schema.result import CallResult, Efficiency, Event, PhaseResult

PHASES = {
    "prefill": PhaseResult(seconds=1.0, joules=300.0, notes=["by_ttft"]),
    "decode": PhaseResult(seconds=3.0, joules=800.0, notes=[]),
    "tool_wait": PhaseResult(seconds=2.0, joules=120.0, notes=[]),
}


def call(number: int, start: float, end: float | None, joules: float | None = None, **told: object) -> tuple[Event, ...]:
    found: list[Event] = [{"event_type": "LLM_QUERY_START", "timestamp": start, "call": number, "model_name": "m"}]
    if end is not None:
        found.append({"event_type": "LLM_QUERY_END", "timestamp": end, "call": number, **told})
    if joules is not None:
        total = {"joules": joules, "low": joules - 1, "high": joules + 1, "quality": "ok", "reasons": []}
        found.append({"event_type": "CALL_ENERGY", "timestamp": 99.0, "call": number, "total": total})
    return tuple(found)


def task(*calls: tuple[Event, ...]) -> Task:
    events = tuple(event for one in calls for event in one)
    energy = tuple(event for event in events if event["event_type"] == "CALL_ENERGY")
    return Task(TaskKey("t", "w"), TaskValues(start=0.0, end=20.0), {}, events=events, call_energy=energy)


def rows(one: Task) -> list[CallResult]:
    return call_results(one, [], None, ServerMetrics())


def figures(one: Task, overlap: float | None = 0.0, phases: Any = PHASES) -> Efficiency:
    return efficiency(one, rows(one), phases, overlap)


WHOLE = {"prompt_tokens": 100, "prefill_seconds": 0.5, "decode_seconds": 1.5, "decode_tokens": 40}


def test_joules_of_a_token_are_those_of_its_phase() -> None:
    found = figures(task(call(1, 0, 5, 600.0, **WHOLE, cached_tokens=0), call(2, 8, 12, 500.0, **WHOLE, cached_tokens=75)))
    assert (found.joules_per_prompt_token, found.prompt_tokens, found.prompt_token_basis) == (300 / 125, 125, "computed")
    assert (found.joules_per_decode_token, found.joules_per_call, found.tool_wait_joules) == (10.0, 550.0, 120.0)
    assert found.notes["prefill"] == ["by_ttft"]


def test_a_cache_that_is_not_reported_makes_tokens_effective_ones() -> None:
    found = figures(task(call(1, 0, 5, **WHOLE, cached_tokens=10), call(2, 8, 12, **WHOLE)))
    assert (found.joules_per_prompt_token, found.prompt_token_basis) == (1.5, "effective")


@pytest.mark.parametrize("lacking", ["prompt_tokens", "decode_tokens"])
def test_tokens_that_one_call_does_not_tell_leave_no_figure(lacking: str) -> None:
    found = figures(task(call(1, 0, 5, **WHOLE), call(2, 8, 12, **{**WHOLE, lacking: None})))
    name = "joules_per_prompt_token" if lacking == "prompt_tokens" else "joules_per_decode_token"
    assert getattr(found, name) is None


def test_a_call_that_was_not_split_has_no_part_in_the_phases_and_none_in_their_tokens() -> None:
    found = figures(task(call(1, 0, 5, **WHOLE), call(2, 8, 12, prompt_tokens=900, completion_tokens=50)))
    assert (found.prompt_tokens, found.decode_tokens) == (100, 40)


def test_overlapping_tasks_have_no_figures_of_their_own() -> None:
    found = figures(task(call(1, 0, 5, 600.0, **WHOLE)), overlap=0.2)
    assert {getattr(found, name) for name in ("joules_per_prompt_token", "joules_per_decode_token", "joules_per_call")} == {None}
    assert found.reason == "overlap"


def test_without_a_journal_the_pushed_calls_stand() -> None:
    pushed = replace(task(), pushed_call_energy=(4, 1000.0))
    assert (figures(pushed, phases=None).joules_per_call, figures(pushed, phases=None).calls_with_energy) == (250.0, 4)
    assert figures(task(), phases=None).joules_per_call is None


def test_a_killed_task_has_the_energy_of_the_calls_that_its_journal_has() -> None:
    killed = replace(task(call(1, 0, 5, 600.0), call(2, 8, None)), values=TaskValues(start=0.0))
    assert killed.status == "unfinished"
    found = figures(killed, overlap=None, phases=None)
    assert (found.call_energy_joules, found.calls_with_energy, found.joules_per_call) == (600.0, 1, 600.0)
    assert figures(task(call(1, 0, 5)), phases=None).call_energy_joules is None


def test_a_call_that_never_ended_has_no_energy() -> None:
    (one,) = rows(task(call(1, 3.0, None)))
    assert (one.end, one.joules, one.energy_source) == (None, None, None)


def test_calls_cannot_take_more_than_their_task() -> None:
    apart = rows(task(call(1, 0, 5, 600.0), call(2, 8, 12, 500.0)))
    assert not calls_exceed_task(apart, 1098.0)
    assert calls_exceed_task(apart, 1097.0)
    assert not calls_exceed_task(apart, None)
    together = rows(task(call(1, 0, 9, 600.0), call(2, 8, 12, 500.0)))
    assert not calls_exceed_task(together, 700.0), "calls at the same time hold the same joules twice"


def test_calls_at_the_same_time_share_their_joules_or_have_none() -> None:
    """Four calls in a task of 340 J, each of whose windows holds 287 J: as journaled shares, and without them."""
    shares = [{"joules": 70.0 + number, "low": 0.0, "high": 290.0, "exclusive": False} for number in range(4)]
    calls = [call(number + 1, 0.1 * number, 9.0 + 0.1 * number, 287.0) for number in range(4)]
    shared = [
        tuple({**event, "share": share} if event["event_type"] == "CALL_ENERGY" else event for event in events)
        for events, share in zip(calls, shares, strict=True)
    ]
    found = rows(task(*shared))
    assert [one.joules for one in found] == [70.0, 71.0, 72.0, 73.0]
    assert {one.window_joules for one in found} == {287.0}
    assert {(one.quality, *one.reasons) for one in found} == {("suspect", "calls_overlap")}
    unknown = rows(task(*calls))
    assert [(one.joules, one.window_joules, one.quality) for one in unknown] == [(None, 287.0, "missing")] * 4
    assert figures(task(*shared), overlap=0.5).call_energy_joules == 286.0
    assert figures(task(*calls), overlap=0.5).call_energy_joules is None


def test_calls_at_the_same_time_without_journaled_shares_share_by_the_exporters_answers() -> None:
    """100 W until the second begins, 300 W together, 200 W after the first; as where two proxies answered one call each."""
    counted = {0.0: 1000.0, 2.0: 1200.0, 4.0: 1800.0, 6.0: 2200.0}

    def answered(number: int, start: float, end: float) -> tuple[Event, ...]:
        gpu = {"uuid": "u", "joules": counted[end] - counted[start], "end_joules": counted[end], "reasons": []}
        begun, ended, energy = call(number, start, end, counted[end] - counted[start])
        return begun, ended, {**energy, "start": start, "end": end, "gpus": [gpu]}

    both = rows(task(answered(1, 0.0, 4.0), answered(2, 2.0, 6.0)))
    assert [one.joules for one in both] == pytest.approx([200.0 + 300.0, 300.0 + 400.0])
    assert [(one.window_joules, one.energy_source, one.quality) for one in both] == [
        (800.0, "exporter", "suspect"),
        (1000.0, "exporter", "suspect"),
    ]
