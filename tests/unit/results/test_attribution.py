"""Journal events as calls and tools, and the splits of energy as sections of a result."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joulebench.energy.calls import LlmCall
from joulebench.energy.estimator import window_energies
from joulebench.energy.phases import phase_energies
from joulebench.energy.trace import CounterTrace
from joulebench.results.attribution import (
    attribute_tasks,
    attributions_by_task,
    llm_calls,
    phase_results,
    task_timeline,
    tool_spans,
)
from joulebench.results.fetch import GpuSamples
from joulebench.results.task import GpuJoules, Task, TaskKey, TaskValues
from joulebench.schema.result import Event, Phases


def gpu(watts: float = 100.0, uuid: str = "u") -> GpuSamples:
    trace = CounterTrace()
    for i in range(1001):
        trace.append(i * 0.1, watts * i * 0.1)
    return GpuSamples("0", uuid, trace.curve(), method="counter")


def event(event_type: str, at: float, **fields: object) -> Event:
    return {"event_type": event_type, "timestamp": at, **fields}


def call(number: int, start: float, end: float | None, first: float | None = None, **told: object) -> list[Event]:
    events = [event("LLM_QUERY_START", start, call=number)]
    if end is not None:
        events.append(event("LLM_QUERY_END", end, call=number, **told))
    return events if first is None else [*events, event("LLM_FIRST_TOKEN_RECEIVED", first, call=number)]


def task(name: str, start: float, end: float | None, *events: Event) -> Task:
    return Task(TaskKey(name, "w"), TaskValues(start=start, end=end), {}, events=events)


def test_events_become_calls() -> None:
    told = {"ttft_seconds": 0.5, "prefill_seconds": 0.2, "decode_seconds": 1.0, "load_seconds": 0.1, "completion_tokens": 40}
    events = [*call(1, 1.0, 3.0, first=1.6, **told), *call(2, 4.0, 6.0, first=4.5), *call(3, 8.0, None)]
    assert llm_calls(events, 9.0) == [
        LlmCall(1.0, 3.0, 0.1, 0.2, 1.0, 0.5, None, 40.0),
        LlmCall(4.0, 6.0, ttft_seconds=0.5),
        LlmCall(8.0, 9.0),
    ]


def test_tools_that_never_ended_last_until_the_end() -> None:
    events = [event("TOOL_CALL_START", 2.0, tool_call=1), event("TOOL_CALL_END", 3.0, tool_call=1)]
    assert tool_spans([*events, event("TOOL_CALL_START", 8.0, tool_call=2)], 9.0) == [(2.0, 3.0), (8.0, 9.0)]


def phases(one: Task, joules: float | None, gpus: list[GpuSamples]) -> Phases:
    if one.window is None:
        return phase_results(one, joules, None, [])
    line = task_timeline(one, *one.window)
    wholes = [window_energies(gpu.energy, [one.window]) for gpu in gpus]
    parts = [phase_energies(gpu.energy, [line], whole)[0] for gpu, whole in zip(gpus, wholes, strict=True)]
    return phase_results(one, joules, line, parts)


def test_phases_are_scaled_to_the_joules_of_the_task() -> None:
    one = task("a", 10.0, 20.0, *call(1, 11.0, 15.0, first=12.0), event("TOOL_CALL_START", 18.0, tool_call=1))
    found = phases(one, 1530.0, [gpu(), gpu(50.0, "v")])
    by_phase = found.by_phase
    assert by_phase is not None
    assert found.scale == pytest.approx(1.02)
    assert {p: by_phase[p].seconds for p in ("decode", "prefill", "tool_wait", "other")} == pytest.approx(
        {"decode": 3.0, "prefill": 1.0, "tool_wait": 2.0, "other": 4.0}
    )
    assert by_phase["decode"].joules == pytest.approx(459.0)
    assert sum(p.joules or 0.0 for p in by_phase.values()) == pytest.approx(1530.0)


def test_seconds_are_known_without_any_counter() -> None:
    found = phases(task("a", 10.0, 20.0, *call(1, 11.0, 15.0)), None, [])
    assert (found.scale, found.by_phase is None) == (None, False)
    by_phase = found.by_phase or {}
    assert by_phase["llm_unsplit"].seconds == pytest.approx(4.0)
    assert {one.joules for one in by_phase.values()} == {None}
    assert phases(task("a", 10.0, 20.0), 5.0, [gpu()]) == Phases()
    assert phases(task("a", 10.0, None, *call(1, 11.0, 15.0)), 5.0, [gpu()]) == Phases()


def test_tasks_share_what_overlaps() -> None:
    tasks = [
        task("a", 10.0, 20.0, *call(1, 11.0, 20.0)),
        task("b", 15.0, 25.0, *call(1, 15.0, 24.0)),
        task("alone", 30.0, 31.0),
        task("unfinished", 29.0, None),
    ]
    found = {key.task_id: one for key, one in attributions_by_task(attribute_tasks(tasks, [gpu(), gpu(50.0, "v")])).items()}
    assert set(found) == {"a", "b", "alone"}
    assert (found["a"].total.attributed or 0) + (found["b"].total.attributed or 0) == pytest.approx(15 * 150.0)
    assert (found["alone"].method, found["alone"].overlap_fraction) == ("exclusive", 0.0)
    assert found["a"].overlap_fraction == pytest.approx(0.5)


def test_shares_are_unknown_without_a_counter() -> None:
    pair = [task("a", 1.0, 3.0), task("b", 2.0, 4.0)]
    found = attributions_by_task(attribute_tasks(pair, []))[TaskKey("a", "w")]
    assert (found.overlap_fraction, found.total.attributed) == (0.5, None)
    assert attribute_tasks([], [gpu()]) == []


def test_a_gpu_is_shared_by_the_tasks_that_ran_on_it_and_no_others() -> None:
    def on(name: str, uuid: str) -> Task:
        return replace(task(name, 10.0, 20.0), exporter_energy=(GpuJoules("0", uuid, 1.0, 1.0, 1.0),), exporter_source="nvml")

    shared = attribute_tasks([on("a", "u"), on("b", "u"), on("c", "v")], [gpu(), gpu(60.0, "v"), GpuSamples("0", "silent")])
    found = attributions_by_task(shared)
    assert {key.task_id: one.overlap_fraction for key, one in found.items()} == {"a": 1.0, "b": 1.0, "c": 0.0}
    assert {key.task_id: one.total.attributed for key, one in found.items()} == pytest.approx(
        {"a": 500.0, "b": 500.0, "c": 600.0}
    )


def test_the_shares_of_a_run_balance() -> None:
    tasks = [
        task("a", 10.0, 20.0, *call(1, 11.0, 20.0)),
        task("b", 15.0, 25.0, *call(1, 15.0, 24.0)),
        task("alone", 30.0, 31.0),
    ]
    (group,) = attribute_tasks(tasks, [gpu()], {"u": 40.0})
    balance = group.balances["u"]
    given = sum(share.gpus["u"].attributed or 0.0 for share in group.shares.values())
    assert (group.start, group.end) == (10.0, 31.0)
    assert [balance.joules, balance.shared_idle, balance.unattributed, balance.withheld] == pytest.approx([2100, 200, 500, 0])
    assert given + 700.0 == pytest.approx(2100.0)
    assert balance.residual == pytest.approx(0.0, abs=1e-6)


def on_part(name: str, start: float, end: float, share: float | None, mig: str | None = None) -> Task:
    """On a part of GPU u by the exporter's answer: shared with another server, or a MIG instance of it."""
    reasons = ("gpu_shared",) if mig is None else ("mig_estimated",)
    joules = None if share is None else 100.0 * (end - start) * share
    parent = None if mig is None else "u"
    part = GpuJoules("0", mig or "u", joules, 0.0, 1000.0, reasons=reasons, share=share, parent=parent)
    return replace(task(name, start, end), exporter_energy=(part,), exporter_source="nvml")


def test_overlapping_tasks_on_a_gpu_that_another_server_used_get_their_servers_part() -> None:
    """100 W; the server of both used 75 % of the GPU in the window of a, and 60 % in that of b."""
    (group,) = attribute_tasks([on_part("a", 10.0, 20.0, 0.75), on_part("b", 15.0, 25.0, 0.6)], [gpu()])
    shares = {key.task_id: share.total for key, share in group.shares.items()}
    assert (shares["a"].attributed, shares["b"].attributed) == pytest.approx((0.75 * 750.0, 0.6 * 750.0))
    assert [share.lower for share in shares.values()] == [0.0, 0.0]
    assert [share.upper for share in shares.values()] == pytest.approx([1000.0, 1000.0])
    balance = group.balances["u"]
    parts = [0.75 * 750.0, 0.6 * 750.0, balance.shared_idle, balance.unattributed, balance.withheld, balance.other_servers]
    assert balance.other_servers == pytest.approx(0.25 * 750.0 + 0.4 * 750.0)
    assert sum(part or 0.0 for part in parts) == pytest.approx(balance.joules) == pytest.approx(1500.0)
    assert balance.residual == pytest.approx(0.0, abs=1e-6)


def test_an_unknown_part_of_a_gpu_is_withheld_and_bounded() -> None:
    (group,) = attribute_tasks([on_part("a", 10.0, 20.0, None), on_part("b", 15.0, 25.0, 0.6)], [gpu()])
    shares = {key.task_id: share.total for key, share in group.shares.items()}
    assert (shares["a"].lower, shares["a"].attributed) == (0.0, None)
    assert shares["a"].upper == pytest.approx(1000.0)
    balance = group.balances["u"]
    assert (balance.withheld, balance.other_servers) == pytest.approx((750.0, 0.4 * 750.0))
    assert balance.residual == pytest.approx(0.0, abs=1e-6)


def test_overlapping_tasks_on_a_mig_instance_share_its_part_of_the_gpu() -> None:
    tasks = [on_part(name, start, start + 10.0, 0.5, "MIG-1") for name, start in (("a", 10.0), ("b", 15.0))]
    (group,) = attribute_tasks(tasks, [gpu(), gpu(60.0, "v")])
    assert [share.total.attributed for share in group.shares.values()] == pytest.approx([375.0, 375.0])
    assert set(group.balances) == {"u"}
    assert group.balances["u"].other_servers == pytest.approx(750.0)


def test_the_cache_makes_prefill_tokens_known() -> None:
    (one,) = llm_calls(call(1, 1.0, 3.0, prompt_tokens=100, cached_tokens=60), 9.0)
    assert one.prefill_tokens == 40
    (odd,) = llm_calls(call(1, 1.0, 3.0, prompt_tokens=100, cached_tokens=160), 9.0)
    assert odd.prefill_tokens is None
