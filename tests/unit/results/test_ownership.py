"""Whose GPUs a task ran on, where Prometheus knows more machines than the benchmark's."""

from __future__ import annotations

from joulebench.results.attribution import gpus_by_task
from joulebench.results.task import GpuJoules, Task, TaskKey, TaskValues


def task(task_id: str, worker: str, *uuids: str, source: str | None = "nvml") -> Task:
    energy = tuple(GpuJoules("0", uuid, 1.0, 1.0, 1.0) for uuid in uuids)
    return Task(TaskKey(task_id, worker), TaskValues(), {}, exporter_energy=energy, exporter_source=source)


def test_an_answer_names_them_even_where_there_is_none() -> None:
    found = gpus_by_task([task("a", "w", "x", "y"), task("b", "w"), task("c", "v", source="none")])
    assert list(found.values()) == [frozenset("xy"), frozenset("xy"), frozenset()]


def test_a_task_without_an_answer_goes_by_its_worker_then_by_its_run() -> None:
    found = gpus_by_task([task("a", "w", "x"), task("b", "v", "y"), task("c", "w", source=None), task("d", "u", source=None)])
    assert found[TaskKey("c", "w")] == frozenset("x")
    assert found[TaskKey("d", "u")] is None, "two machines, and it is not known which"
    assert gpus_by_task([task("a", "w", "x"), task("d", "u", source=None)])[TaskKey("d", "u")] == frozenset("x")


def test_without_any_answer_nothing_is_known() -> None:
    assert gpus_by_task([task("a", "w", source=None)]) == {TaskKey("a", "w"): None}
