"""Where the counter shows energy late, the export corrects its times by the calls of the run, and earlier answers by them."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from joulebench.energy.curve import EnergyCurve
from joulebench.energy.window import window_energy
from joulebench.results.attribution import correct_sensor_lag
from joulebench.results.fetch import GpuSamples, Samples
from joulebench.results.task import GpuJoules, Task, TaskKey, TaskValues
from joulebench.results.task_result import ExportContext, task_results
from joulebench.schema.reasons import Reason
from joulebench.schema.result import Event, TaskResult
from tests.unit.energy.truth import EXPORTER_POLL, START, Machine, Timers, agent_runs, meter

MACHINE = agent_runs(Random(5), 300.0)
MILLIJOULE = 0.001


def late_curve(lag: float) -> EnergyCurve:
    return meter(MACHINE, Random(6), Timers(0.1, 0.0003, lag, EXPORTER_POLL, 0.0006)).trace.curve()


def task_of(number: int, window: tuple[float, float], machine: Machine, curve: EnergyCurve) -> Task:
    """A task with its calls, for which the exporter answered by the curve as it is."""
    events: list[Event] = []
    for call, (start, end) in enumerate(turn for turn in machine.turns if window[0] <= turn[0] < window[1]):
        events.append({"event_type": "LLM_QUERY_START", "timestamp": start, "call": call})
        events.append({"event_type": "LLM_QUERY_END", "timestamp": end, "call": call, "status": "success"})
    answer = window_energy(curve, *window)
    gpu = GpuJoules("0", "u", answer.joules, answer.low, answer.high, "counter", answer.samples, answer.quality)
    task = Task(TaskKey(f"t{number}", "w"), TaskValues(start=window[0], end=window[1]), {}, events=tuple(events))
    return replace(task, exporter_energy=(gpu,), exporter_source="nvml")


def results(lag: float) -> list[tuple[TaskResult, float]]:
    curve = late_curve(lag)
    windows = [window for window in MACHINE.tasks if window[0] >= START + 15 and window[1] < MACHINE.times[-1] - 15]
    tasks = [task_of(number, window, MACHINE, curve) for number, window in enumerate(windows)]
    gpu = GpuSamples("0", "u", curve, method="counter", source="nvml")
    correct_sensor_lag([gpu], tasks)
    nothing = [None] * len(tasks)
    found = task_results(tasks, nothing, nothing, ExportContext("r", "0", Samples([gpu])))
    return [(result, MACHINE.between(*window)) for result, window in zip(found, windows, strict=True)]


def test_bounds_hold_in_every_task_although_the_counter_is_250_ms_late() -> None:
    found = results(0.25)
    assert len(found) > 30
    for result, truth in found:
        measurement = result.measurement
        assert Reason.SENSOR_LAG in measurement.reasons
        assert 0.2 <= (measurement.devices[0].sensor_lag_seconds or 0.0) <= 0.3
        assert (measurement.low_joules or 0.0) - MILLIJOULE <= truth <= (measurement.high_joules or 0.0) + MILLIJOULE


def test_a_counter_that_is_in_time_is_left_as_it_is() -> None:
    for result, _ in results(0.0):
        assert Reason.SENSOR_LAG not in result.measurement.reasons
        assert result.measurement.devices[0].sensor_lag_seconds is None
        assert result.measurement.energy_source == "exporter"
