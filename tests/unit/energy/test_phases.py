"""What a window's energy was spent on: small windows by hand, random ones by the rules, agent work against known joules."""

from __future__ import annotations

from math import fsum
from random import Random
from statistics import median

import pytest

from joulebench.energy.calls import LlmCall
from joulebench.energy.phases import PHASES, Phase, PhaseEnergy, Span, phase_energy, timeline, total_phases
from joulebench.energy.trace import CounterTrace
from joulebench.energy.window import total, window_energy
from tests.unit.energy.truth import START, Machine, metered, random_power

CALL = LlmCall(2.0, 12.0, load_seconds=2.0, prefill_seconds=1.0, decode_seconds=5.0)


def steady(watts: float = 100.0, until: float = 30.0, step: float = 0.1) -> CounterTrace:
    trace = CounterTrace()
    for i in range(round(until / step) + 1):
        trace.append(i * step, 7.0 + watts * i * step)
    return trace


def spans(*rows: tuple[str, float, float]) -> tuple[Span, ...]:
    return tuple(Span(*row) for row in rows)


def rounded(phase: Phase) -> Phase:
    seconds = None if phase.seconds is None else round(phase.seconds, 6)
    return Phase(seconds, None if phase.joules is None else round(phase.joules, 6), phase.notes)


def joules(found: PhaseEnergy) -> dict[str, float | None]:
    return {name: phase.joules for name, phase in found.phases.items() if phase.seconds != 0}


def test_a_window_is_cut_into_its_phases() -> None:
    line = timeline(0.0, 20.0, [CALL], [(13.0, 16.0)])
    assert line.spans == spans(
        ("other", 0.0, 4.0),
        ("load", 4.0, 6.0),
        ("prefill", 6.0, 7.0),
        ("decode", 7.0, 12.0),
        ("other", 12.0, 13.0),
        ("tool_wait", 13.0, 16.0),
        ("other", 16.0, 20.0),
    )
    found = phase_energy(steady(), line)
    expected = {"decode": 500.0, "prefill": 100.0, "load": 200.0, "tool_wait": 300.0, "other": 900.0}
    assert joules(found) == {name: pytest.approx(value) for name, value in expected.items()}
    assert found.whole.joules == pytest.approx(2000.0)
    assert found.phases["llm_unsplit"] == Phase(0.0, 0.0, low=0.0, high=0.0)
    assert all(phase.notes == () for phase in found.phases.values())


def test_what_runs_in_parallel_counts_once_and_by_priority() -> None:
    other = LlmCall(4.0, 10.0, prefill_seconds=4.0, decode_seconds=1.0)
    line = timeline(0.0, 20.0, [CALL, other, LlmCall(3.0, 14.0)], [(0.0, 13.0), (1.0, 16.0), (1.0, 16.0)])
    assert line.spans == spans(
        ("tool_wait", 0.0, 3.0),
        ("llm_unsplit", 3.0, 4.0),
        ("load", 4.0, 5.0),
        ("prefill", 5.0, 7.0),
        ("decode", 7.0, 12.0),
        ("llm_unsplit", 12.0, 14.0),
        ("tool_wait", 14.0, 16.0),
        ("other", 16.0, 20.0),
    )


def test_what_lies_outside_the_window_is_not_the_windows() -> None:
    line = timeline(5.0, 9.0, [CALL, LlmCall(20.0, 30.0, ttft_seconds=1.0)], [(0.0, 5.0), (8.0, 40.0), (9.0, 8.0)])
    assert line.spans == spans(("load", 5.0, 6.0), ("prefill", 6.0, 7.0), ("decode", 7.0, 9.0))
    assert timeline(5.0, 5.0, [CALL]).spans == ()
    with pytest.raises(ValueError, match="before its start"):
        timeline(5.0, 4.0, [])


def test_a_part_that_no_call_tells_of_is_unknown_and_one_that_some_tell_of_is_partial() -> None:
    one = phase_energy(steady(), timeline(0.0, 20.0, [LlmCall(2.0, 10.0, ttft_seconds=3.0)]))
    assert one.phases["load"] == Phase(None, None, ("not_reported",))
    assert rounded(one.phases["prefill"]) == Phase(3.0, 300.0, ("by_ttft",))
    assert rounded(one.phases["decode"]) == Phase(5.0, 500.0, ("by_ttft",))
    two = phase_energy(steady(), timeline(0.0, 20.0, [CALL, LlmCall(13.0, 18.0)]))
    assert rounded(two.phases["llm_unsplit"]) == Phase(5.0, 500.0)
    assert {name: two.phases[name].notes for name in ("decode", "prefill", "load")} == dict.fromkeys(
        ("decode", "prefill", "load"), ("partial",)
    )
    blind = phase_energy(steady(), timeline(0.0, 20.0, [LlmCall(13.0, 18.0)]))
    assert blind.phases["decode"] == blind.phases["prefill"] == Phase(None, None, ("not_reported",))
    idle = phase_energy(steady(), timeline(0.0, 20.0, []))
    assert idle.phases["decode"] == Phase(0.0, 0.0, low=0.0, high=0.0)
    assert idle.phases["other"].joules == pytest.approx(2000.0)


def test_idle_is_a_floor_beside_the_phases() -> None:
    line = timeline(0.0, 20.0, [CALL])
    found, bare = phase_energy(steady(), line, 60.0), phase_energy(steady(), line)
    assert (found.idle_joules, round(found.active_joules or 0.0, 6), found.idle_reason) == (1200.0, 800.0, None)
    assert (bare.idle_joules, bare.active_joules, bare.idle_reason) == (None, None, "unknown")
    assert found.phases == bare.phases
    below = phase_energy(steady(), line, 101.0)
    assert (below.idle_joules, below.active_joules, below.idle_reason) == (2020.0, None, "below_idle")
    lost = phase_energy(CounterTrace(), line, 60.0)
    assert (lost.idle_joules, lost.active_joules, lost.idle_reason) == (None, None, "no_whole")


def test_a_phase_too_short_for_the_counter_has_a_value_and_says_so() -> None:
    def notes(seconds: float, step: float) -> tuple[str, ...]:
        line = timeline(1.0, 9.0, [LlmCall(2.0, 8.0, load_seconds=0.0, prefill_seconds=seconds, decode_seconds=3.0)])
        phase = phase_energy(steady(step=step), line).phases["prefill"]
        assert phase.joules == pytest.approx(100.0 * seconds)
        return phase.notes

    assert (notes(0.19, 0.1), notes(0.21, 0.25), notes(1.0, 1.0)) == (("short",),) * 3
    # Two steps, whose bounds are as wide as one; then twelve.
    assert (notes(0.21, 0.1), notes(1.21, 0.1)) == (("short",), ())
    # Many short stretches do not make a long one.
    many = [LlmCall(i, i + 0.5, load_seconds=0.0, prefill_seconds=0.1, decode_seconds=0.3) for i in range(1, 9)]
    found = phase_energy(steady(), timeline(0.0, 10.0, many))
    assert rounded(found.phases["prefill"]) == Phase(0.8, 80.0, ("short",))
    assert found.phases["decode"].notes == ()


def test_what_the_trace_does_not_reach_is_unknown_and_the_rest_is_not() -> None:
    found = phase_energy(steady(until=9.0), timeline(0.0, 20.0, [CALL], [(13.0, 16.0)]))
    assert found.whole.joules is None
    assert rounded(found.phases["load"]) == Phase(2.0, 200.0)
    assert rounded(found.phases["prefill"]) == Phase(1.0, 100.0)
    assert rounded(found.phases["decode"]) == Phase(5.0, None, ("uncovered_end",))
    assert rounded(found.phases["tool_wait"]) == Phase(3.0, None, ("uncovered_end",))
    assert found.phases["llm_unsplit"] == Phase(0.0, 0.0, low=0.0, high=0.0)
    lost = phase_energy(CounterTrace(), timeline(0.0, 20.0, [CALL]))
    assert rounded(lost.phases["decode"]) == Phase(5.0, None, ("no_samples",))
    sliver = phase_energy(steady(until=11.9), timeline(0.0, 12.0, [CALL]))
    assert rounded(sliver.phases["decode"]) == Phase(5.0, 490.0, ("uncovered_end",))


def test_a_reset_and_a_gap_are_told_where_they_lie() -> None:
    trace = CounterTrace()
    for i in range(301):
        if not 62 <= i <= 75:
            trace.append(i * 0.1, 10.0 * (i if i <= 100 else i - 101))
    found = phase_energy(trace, timeline(0.0, 20.0, [CALL]))
    assert found.phases["decode"].notes == ("reset", "gap", "short")
    assert found.phases["prefill"].notes == ("gap", "short")
    assert found.phases["load"].notes == ()
    assert found.phases["decode"].joules is not None


def test_a_phase_that_lies_between_two_epochs_is_unknown() -> None:
    trace = CounterTrace()
    for i in (*range(60), *range(110, 301)):
        trace.append(i * 0.1, 10.0 * (i if i < 60 else i - 110))
    found = phase_energy(trace, timeline(0.0, 20.0, [CALL]))
    assert found.phases["decode"] == Phase(5.0, None, ("reset",))
    assert found.phases["prefill"] == Phase(1.0, None, ("reset",))
    assert found.phases["other"].joules is not None


def test_two_gpus_add_up_phase_by_phase() -> None:
    line = timeline(0.0, 20.0, [CALL])
    whole = total([window_energy(steady(watts), 0.0, 20.0) for watts in (100.0, 50.0)])
    both = total_phases([phase_energy(steady(100.0), line, 60.0), phase_energy(steady(50.0), line, 20.0)], whole)
    assert rounded(both.phases["decode"]) == Phase(5.0, 750.0)
    assert [both.idle_joules, both.active_joules] == pytest.approx([1600.0, 1400.0])
    half = total_phases([phase_energy(steady(100.0), line, 60.0), phase_energy(CounterTrace(), line)], total([]))
    assert rounded(half.phases["decode"]) == Phase(5.0, None, ("no_samples",))
    assert (half.idle_joules, half.active_joules, half.idle_reason) == (None, None, "unknown")
    none = total_phases([], total([]))
    assert (none.phases, none.idle_joules, none.active_joules, none.idle_reason) == ({}, None, None, "no_whole")


def random_call(random: Random, start: float, end: float) -> LlmCall:
    a, b = sorted(random.uniform(start - 1, end + 1) for _ in range(2))

    def maybe(share: float) -> float | None:
        return random.choice([None, 0.0, random.uniform(0, share * (b - a))])

    return LlmCall(a, b, maybe(0.2), maybe(0.5), maybe(0.9), maybe(0.6))


def test_phases_always_add_up_to_the_window() -> None:
    random = Random(11)
    trace = metered(random_power(random, 120.0), random, 0.1)
    for _ in range(400):
        start = random.uniform((trace.first_at or 0.0) + 1, (trace.last_at or 0.0) - 31)
        end = start + 0.05 * 600.0 ** random.random()
        calls = [random_call(random, start, end) for _ in range(random.randint(0, 6))]
        tools = [tuple(sorted(random.uniform(start, end) for _ in range(2))) for _ in range(random.randint(0, 4))]
        line = timeline(start, end, calls, [(a, b) for a, b in tools])
        found = phase_energy(trace, line)
        assert tuple(found.phases) == PHASES
        assert [span.start for span in line.spans] == [start, *(span.end for span in line.spans[:-1])]
        assert fsum(phase.seconds or 0.0 for phase in found.phases.values()) == pytest.approx(end - start, abs=1e-6)
        assert fsum(phase.joules or 0.0 for phase in found.phases.values()) == pytest.approx(found.whole.joules, abs=1e-6)


def test_phases_of_agent_work_against_known_joules() -> None:
    """The errors are printed (``pytest -s``); power jumps at every edge, which is when a counter is at its worst."""
    random = Random(5)
    times, watts, now = [START], [62.0], START + 5.0
    calls: list[LlmCall] = []
    for _ in range(400):
        prefill, decode = random.uniform(0.1, 1.2), random.uniform(0.3, 4.0)
        times += [now, now + prefill, now + prefill + decode]
        watts += [340.0, random.uniform(240, 290), 95.0]
        end = now + prefill + decode
        calls.append(LlmCall(now - 0.05, end, load_seconds=0.0, prefill_seconds=prefill, decode_seconds=decode))
        now = end + random.uniform(0.2, 1.0)
    machine = Machine([*times, now + 10.0], watts)
    trace = metered(machine, random, 0.1)
    print()  # noqa: T201
    for phase, least, goal in (("prefill", 0.1, 0.12), ("prefill", 0.5, 0.04), ("decode", 0.3, 0.04), ("decode", 1.0, 0.015)):
        errors = []
        for call in calls:
            line = timeline(call.start, call.end, [call])
            (span,) = (span for span in line.spans if span.phase == phase)
            if span.end - span.start >= least:
                found, truth = phase_energy(trace, line).phases[phase].joules, machine.between(span.start, span.end)
                assert found is not None
                errors.append(abs(found - truth) / truth)
        p95 = sorted(errors)[int(0.95 * len(errors))]
        print(f"{phase:<8} >= {least} s  n={len(errors)}  median {median(errors):.2%}  p95 {p95:.2%}")  # noqa: T201
        assert p95 <= goal
