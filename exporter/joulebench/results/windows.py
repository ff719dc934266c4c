"""The tasks of a run: what was pushed and what the journal holds, put together field by field.

The journal is written before anything is pushed, so where both speak it counts; only a journal that lost its end yields to
the store. Where they differ both are told, and neither is averaged away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields

from joulebench.results import from_journal
from joulebench.results.from_prometheus import PushedTask
from joulebench.results.journal import Journal, text
from joulebench.results.task import Disagreement, Event, Task, TaskKey, TaskValues

SAME_MOMENT_SECONDS = 6e-3
"""A store of 12 digits rounds a unix time to 10 ms where it has no offsets."""
SAME_RELATIVE = 1e-6

_ENERGY_EVENTS = ("TASK_ENERGY", "CALL_ENERGY")


def tasks(journal: Journal, pushed: Mapping[TaskKey, PushedTask]) -> list[Task]:
    """Every task that either source knows, by start."""
    runs = {str(event.get("worker", "")): event for event in journal.run_events if event["event_type"] == "RUN_START"}
    for key, events in journal.tasks.items():
        if key not in journal.values:
            journal.values[key] = from_journal.values(events, runs.get(key.worker, {}))
    found = [_task(key, journal, pushed.get(key), runs.get(key.worker, {})) for key in {*journal.tasks, *pushed}]
    return sorted(found, key=lambda task: (task.values.start is None, task.values.start or 0.0, task.key))


def _task(key: TaskKey, journal: Journal, pushed: PushedTask | None, run: Event) -> Task:
    events, ours = journal.tasks.get(key), journal.values.get(key)
    theirs = pushed.values if pushed else None
    values, sources, disagreements = _together(ours, theirs)
    energy, source = from_journal.exporter_energy(events) if events else ((), None)
    return Task(
        key=key,
        values=values,
        sources=sources,
        disagreements=disagreements,
        events=tuple(event for event in events or () if event["event_type"] not in _ENERGY_EVENTS),
        exporter_energy=energy or (pushed.energy if pushed else ()),
        exporter_source=source,
        call_energy=tuple(event for event in events or () if event["event_type"] == "CALL_ENERGY"),
        pushed_call_energy=pushed.call_energy if pushed else None,
        gateway_clock_offset=pushed.gateway_clock_offset if pushed else None,
        run_version=text(run.get("version")),
        run_configuration=configuration if isinstance(configuration := run.get("configuration"), dict) else {},
    )


def _together(ours: TaskValues | None, theirs: TaskValues | None) -> tuple[TaskValues, dict[str, str], tuple[Disagreement, ...]]:
    chosen: dict[str, object] = {}
    sources: dict[str, str] = {}
    disagreements: list[Disagreement] = []
    torn = ours is not None and theirs is not None and ours.end is None and theirs.end is not None
    for one in fields(TaskValues):
        a, b = getattr(ours, one.name, None), getattr(theirs, one.name, None)
        if a is None and b is None:
            continue
        if a is None or b is None:
            chosen[one.name] = b if a is None else a
            sources[one.name] = "prometheus" if a is None else "journal"
        elif _same(one.name, a, b):
            chosen[one.name], sources[one.name] = a, "both"
        else:
            chosen[one.name], sources[one.name] = (b, "prometheus") if torn else (a, "journal")
            disagreements.append(Disagreement(one.name, a, b))
    return TaskValues(**chosen), sources, tuple(disagreements)  # type: ignore[arg-type]


def _same(name: str, a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, int | float):
        if name in ("start", "end"):
            return abs(a - b) <= SAME_MOMENT_SECONDS
        return math.isclose(a, b, rel_tol=SAME_RELATIVE, abs_tol=1e-9)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return {k: n for k, n in a.items() if n} == {k: n for k, n in b.items() if n}
    return a == b
