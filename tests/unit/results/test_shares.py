"""How a window is given out: to phases of one task, and to tasks that ran together. Everything adds up to the counter."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from joulebench.energy.trace import CounterTrace
from joulebench.energy.window import energy_between
from joulebench.results import phases
from joulebench.results.attribution import attribute
from joulebench.results.task import Event, Task, TaskKey, TaskValues


def trace(watts: float = 100.0, until: float = 100.0) -> CounterTrace:
    made = CounterTrace()
    for i in range(round(until * 10) + 1):
        made.append(i * 0.1, watts * i * 0.1)
    return made


def event(event_type: str, at: float, **fields: object) -> Event:
    return {"event_type": event_type, "timestamp": at, **fields}


def call(number: int, start: float, end: float, first: float | None = None, **told: object) -> list[Event]:
    events = [event("LLM_QUERY_START", start, call=number), event("LLM_QUERY_END", end, call=number, **told)]
    return events if first is None else [*events, event("LLM_FIRST_TOKEN_RECEIVED", first, call=number)]


def seconds(events: list[Event], start: float = 0.0, end: float = 10.0) -> dict[str, float]:
    pieces = phases.intervals(events, start, end)
    return {phase: round(sum(b - a for a, b in some), 9) for phase, some in pieces.items() if some}


def test_a_streamed_call_is_split_at_its_first_token() -> None:
    assert seconds(call(1, 1.0, 6.0, first=3.0)) == {"prefill": 2.0, "decode": 3.0, "other": 5.0}


def test_a_call_that_the_server_timed_is_split_from_its_end() -> None:
    events = call(1, 1.0, 9.0, prefill_seconds=2.0, decode_seconds=3.0, load_seconds=1.0)
    assert seconds(events) == {"decode": 3.0, "prefill": 2.0, "load": 1.0, "other": 4.0}


def test_queueing_before_a_first_token_is_not_prefill() -> None:
    assert seconds(call(1, 1.0, 6.0, first=4.0, prefill_seconds=0.5)) == {"prefill": 0.5, "decode": 2.0, "other": 7.5}


def test_a_call_of_which_nothing_is_told_is_one_piece() -> None:
    assert seconds(call(1, 1.0, 6.0)) == {"llm": 5.0, "other": 5.0}


def test_tools_and_calls_that_never_ended_last_until_the_end() -> None:
    events = [event("TOOL_CALL_START", 2.0, tool_call=1), event("TOOL_CALL_END", 3.0, tool_call=1)]
    events += [event("TOOL_CALL_START", 8.0, tool_call=2), event("LLM_QUERY_START", 9.0, call=1)]
    assert seconds(events) == {"tool": 2.0, "llm": 1.0, "other": 7.0}


def test_a_moment_belongs_to_one_phase_however_many_calls_overlap() -> None:
    random = Random(5)
    for _ in range(50):
        events = []
        for number in range(random.randint(1, 6)):
            cuts = sorted(random.uniform(-2, 12) for _ in range(3))
            events += call(number, cuts[0], cuts[2], first=random.choice([None, cuts[1]]))
            a, b = sorted(random.uniform(-2, 12) for _ in range(2))
            events += [event("TOOL_CALL_START", a, tool_call=number), event("TOOL_CALL_END", b, tool_call=number)]
        pieces = phases.intervals(events, 0.0, 10.0)
        cut = sorted(piece for some in pieces.values() for piece in some)
        assert cut[0][0] == 0.0
        assert cut[-1][1] == 10.0
        assert all(one[1] == other[0] for one, other in itertools.pairwise(cut))
        joules = phases.energy(pieces, [trace(), trace(37.0)])
        assert joules is not None
        assert sum(joules.values()) == pytest.approx(1370.0)


def test_no_phases_where_the_counter_does_not_reach() -> None:
    assert phases.energy(phases.intervals([], 0.0, 10.0), [trace(until=9.0)]) is None


def task(name: str, start: float, end: float | None, *calls: tuple[float, float]) -> Task:
    events = [e for number, (a, b) in enumerate(calls) for e in call(number, a, b)]
    return Task(TaskKey(name, "w"), TaskValues(start=start, end=end), {}, events=tuple(events))


def test_a_task_alone_is_exclusive() -> None:
    found = attribute([task("a", 1.0, 2.0), task("b", 2.0, 3.0), task("c", 5.0, None)], [trace()])
    assert {key.task_id: one.method for key, one in found.items()} == {"a": "exclusive", "b": "exclusive"}


def test_energy_goes_by_calls_in_flight_and_evenly_without() -> None:
    found = attribute([task("a", 0.0, 10.0, (2.0, 8.0)), task("b", 4.0, 14.0, (5.0, 7.0), (6.0, 9.0))], [trace()])
    a, b = found[TaskKey("a", "w")], found[TaskKey("b", "w")]
    # 0-4 a alone; 4-5 a calls; 5-6 one call each; 6-7 one of three; 7-8 one each; 8-9 b calls; 9-10 nobody; then b alone.
    assert a.attributed == pytest.approx(400 + 100 + 50 + 100 / 3 + 50 + 0 + 50)
    assert a.attributed is not None
    assert b.attributed == pytest.approx(1400 - a.attributed)
    assert [a.lower, a.upper, b.lower, b.upper] == pytest.approx([400, 1000, 400, 1000])
    assert [a.overlap_fraction, b.overlap_fraction] == pytest.approx([0.6, 0.6])


def test_shares_of_many_tasks_add_up_to_the_counter() -> None:
    random = Random(8)
    tasks = []
    for number in range(40):
        start = random.uniform(1, 80)
        end = start + random.uniform(0.1, 15)
        calls = [tuple(sorted(random.uniform(start - 1, end + 1) for _ in range(2))) for _ in range(3)]
        tasks.append(task(str(number), start, end, *((a, b) for a, b in calls)))
    tasks += [task("alone", 97.0, 99.0)]
    traces = [trace(), trace(250.0)]
    found = attribute(tasks, traces)
    shared = [one for one in found.values() if one.method != "exclusive"]
    spans = sorted(t.window for t in tasks if t.window and found[t.key].method != "exclusive")
    covered, reach = 0.0, 0.0
    for start, end in spans:
        covered += max(end - max(start, reach), 0.0)
        reach = max(reach, end)
    assert sum(one.attributed or 0.0 for one in shared) == pytest.approx(350.0 * covered)
    for one in shared:
        assert one.lower is not None
        assert one.attributed is not None
        assert one.upper is not None
        assert one.lower - 1e-9 <= one.attributed <= one.upper + 1e-9
        assert 0 <= one.overlap_fraction <= 1


def test_shares_are_unknown_without_a_counter() -> None:
    pair = [task("a", 1.0, 3.0), task("b", 2.0, 4.0)]
    for traces in ([], [trace(until=2.5)]):
        found = attribute(pair, traces)[TaskKey("a", "w")]
        assert (found.method, found.attributed, found.overlap_fraction) == ("calls_in_flight", None, 0.5)


def test_three_in_a_chain_overlap_only_their_neighbours() -> None:
    chain = [task("a", 1.0, 3.0), task("b", 2.0, 5.0), task("c", 4.0, 6.0)]
    found = attribute(chain, [trace()])
    assert [found[t.key].overlapping_tasks for t in chain] == [1, 2, 1]
    assert sum(found[t.key].attributed or 0.0 for t in chain) == pytest.approx(energy_between(trace(), [(1.0, 6.0)]))
