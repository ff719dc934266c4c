"""Phases on power that steps with them: by stored samples alone, and where the exporter answered for every call."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from joulebench.energy.curve import EnergyCurve, Floats
from joulebench.results.fetch import GpuSamples, Samples
from joulebench.results.merge import GpuJoules, Task, TaskKey, TaskValues
from joulebench.results.task_result import ExportContext, task_results
from joulebench.schema.result import Event, TaskResult

SECONDS = {"prefill": 0.23, "decode": 0.81, "tool_wait": 0.27}
WATTS = {"prefill": 380.0, "decode": 260.0, "tool_wait": 70.0}
TURNS, START = 6, 50.03
SCRAPE = 0.25


def curve() -> tuple[EnergyCurve, Floats, Floats]:
    """The counter as Prometheus has it, every 250 ms; and E(t) itself as two columns."""
    spans = [(60.0, START), *((WATTS[phase], SECONDS[phase]) for _ in range(TURNS) for phase in SECONDS), (60.0, 30.0)]
    edges = np.concatenate(([0.0], np.cumsum([seconds for _, seconds in spans])))
    energy = np.concatenate(([0.0], np.cumsum([watts * seconds for watts, seconds in spans])))
    scrapes = np.arange(0.05, edges[-1], SCRAPE)
    return EnergyCurve(scrapes, np.interp(scrapes, edges, energy), np.full(len(scrapes), 0.01)), edges, energy


def result(*, answered: bool) -> tuple[TaskResult, dict[str, float]]:
    stored, edges, energy = curve()

    def used(start: float, end: float) -> float:
        after, before = np.interp([end, start], edges, energy)
        return float(after - before)

    events: list[Event] = [{"event_type": "TASK_START", "timestamp": START}]
    answers: list[Event] = []
    prefills: list[Event] = []
    at = START
    for turn in range(1, TURNS + 1):
        first, end = at + SECONDS["prefill"], at + SECONDS["prefill"] + SECONDS["decode"]
        events.append({"event_type": "LLM_QUERY_START", "timestamp": at, "call": turn})
        timed = {"prefill_seconds": SECONDS["prefill"], "decode_seconds": SECONDS["decode"], "decode_tokens": 50}
        events.append({"event_type": "LLM_QUERY_END", "timestamp": end, "call": turn, **timed})
        total: dict[str, object] = {"joules": used(at, end), "low": None, "high": None, "quality": "ok", "reasons": []}
        answers.append({"event_type": "CALL_ENERGY", "timestamp": end, "call": turn, "total": total})
        before: dict[str, object] = {"joules": used(at, first), "low": None, "high": None}
        prefills.append(
            {"event_type": "PREFILL_ENERGY", "timestamp": end, "call": turn, "start": at, "end": first, "total": before}
        )
        events.append({"event_type": "TOOL_CALL_START", "timestamp": end, "tool_call": turn})
        at = end + SECONDS["tool_wait"]
        events.append({"event_type": "TOOL_CALL_END", "timestamp": at, "tool_call": turn})
        assert first < end < at
    whole = used(START, at)
    task = Task(TaskKey("t", "w"), TaskValues(start=START, end=at), {}, events=tuple(events))
    if answered:
        gpu = GpuJoules("0", "u", whole, whole - 1, whole + 1, "counter", 70, "ok")
        task = replace(
            task, exporter_energy=(gpu,), exporter_source="nvml", call_energy=tuple(answers), prefill_energy=tuple(prefills)
        )
    context = ExportContext("r", "0", Samples([GpuSamples("0", "u", stored, method="counter", source="nvml")]))
    (found,) = task_results([task], [None], [None], context)
    return found, {phase: TURNS * WATTS[phase] * SECONDS[phase] for phase in SECONDS}


def phases(found: TaskResult) -> dict[str, float]:
    return {phase: one.joules or 0.0 for phase, one in (found.phases.by_phase or {}).items()}


def test_the_phases_of_a_task_whose_calls_the_exporter_saw_are_theirs() -> None:
    found, truth = result(answered=True)
    joules = phases(found)
    assert found.phases.source == "exporter"
    for phase, wanted in truth.items():
        assert joules[phase] == pytest.approx(wanted, rel=0.01)
    assert sum(joules.values()) == pytest.approx(sum(truth.values()), rel=1e-6)


def test_stored_samples_stand_in_and_say_so() -> None:
    found, truth = result(answered=False)
    joules = phases(found)
    assert found.phases.source == "prometheus"
    assert sum(joules.values()) == pytest.approx(sum(truth.values()), rel=0.02)
    for name in ("answered", "stored"):
        one, _ = result(answered=name == "answered")
        errors = {phase: f"{phases(one)[phase] / truth[phase] - 1:+.1%}" for phase in truth}
        print(f"{name}: {errors}")  # noqa: T201


def test_halves_and_fifths_add_up_to_the_joules_of_the_task() -> None:
    found, truth = result(answered=True)
    hardware = found.gpu_hardware_metrics
    assert hardware is not None
    halves = [hardware.energy_h1_joules, hardware.energy_h2_joules]
    fifths = [getattr(hardware, f"energy_q{part}_joules") for part in range(1, 6)]
    for parts in (halves, fifths):
        assert sum(part for part in parts if part is not None) == pytest.approx(sum(truth.values()), rel=1e-6)
