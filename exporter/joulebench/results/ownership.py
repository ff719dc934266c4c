"""Which GPUs each task ran on: those that the exporter beside its worker named.

A Prometheus may hold many machines. A task whose own question was not answered ran where its worker's other tasks ran, or
where all others of the run did; only where nobody was told anything is it not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from joulebench.results.task import Task, TaskKey

NO_SOURCE = "none"
"""An exporter that answers without having any GPU."""

Gpus = frozenset[str]


def own_gpus(tasks: Sequence[Task]) -> Mapping[TaskKey, Gpus | None]:
    """uuids by task; empty where there is none to run on, None where it is not known."""
    told = {task.key: found for task in tasks if (found := _told(task)) is not None}
    of_run = frozenset(told.values())
    of_worker = {
        worker: frozenset(gpus for key, gpus in told.items() if key.worker == worker) for worker in {key.worker for key in told}
    }
    return {task.key: told.get(task.key, _agreed(of_worker.get(task.key.worker, of_run))) for task in tasks}


def _told(task: Task) -> Gpus | None:
    if task.exporter_energy:
        return frozenset(answer.uuid for answer in task.exporter_energy)
    return frozenset() if task.exporter_source == NO_SOURCE else None


def _agreed(answers: frozenset[Gpus]) -> Gpus | None:
    return next(iter(answers)) if len(answers) == 1 else None
