"""The tasks of a run, as pushed metrics and journal know them together, field by field.

The journal is written before anything is pushed, so where both have a value it counts; only a journal that lost its end yields
to the store. Where they differ both are kept, and neither is averaged away. None means that the source does not say; a count of 0
is a count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields

from joulebench.devices import DeviceName, parse_devices, parse_server
from joulebench.errors import UserError
from joulebench.parsing import as_dict, as_list, as_name
from joulebench.results.journal import Journal
from joulebench.results.pushed import PushedTask
from joulebench.results.task import (
    SAME_MOMENT_SECONDS,
    ExporterAnswer,
    ServingOwner,
    Task,
    TaskKey,
    TaskValues,
    ValueDisagreement,
)
from joulebench.schema import events as event_types

SAME_RELATIVE = 1e-6

_ENERGY_EVENTS = (event_types.TASK_ENERGY, event_types.CALL_ENERGY)


def merge_sources(journal: Journal, pushed: Mapping[TaskKey, PushedTask]) -> list[Task]:
    """Every task that either source knows, by start."""
    tasks = [_merge_task(key, journal, pushed.get(key)) for key in {*journal.tasks, *pushed}]
    return sorted(tasks, key=lambda task: (task.values.start is None, task.values.start or 0.0, task.key))


def _merge_task(key: TaskKey, journal: Journal, pushed: PushedTask | None) -> Task:
    events, own = journal.tasks.get(key), journal.values.get(key)
    run = journal.run_starts.get(key.worker, {})
    pushed_values = pushed.values if pushed else None
    # Of a task that the proxy counted, what is given here says more than the journal.
    is_incomplete = pushed is not None and pushed.counted_by_proxy
    if pushed_values is not None and key in journal.proxied and not is_incomplete:
        # What the benchmark pushed of calls and tools lacks those that only the proxy recorded.
        pushed_values = TaskValues(**{name: getattr(pushed_values, name) for name in _OF_THE_TASK})
    devices = as_dict(run.get("devices")) or (pushed.devices if pushed else {})
    values, sources, disagreements = _merge_values(own, pushed_values, is_incomplete=is_incomplete)
    answer = journal.exporter_energy.get(key, ExporterAnswer())
    if is_incomplete and own is not None and not _same("end", values.end, own.end):
        # It was asked for the requests that the journal has.
        answer = ExporterAnswer()
    return Task(
        key=key,
        values=values,
        sources=sources,
        disagreements=disagreements,
        events=tuple(event for event in events or () if event["event_type"] not in _ENERGY_EVENTS),
        exporter_energy=answer.gpus or (pushed.energy if pushed else ()),
        exporter_source=answer.source,
        device_basis=answer.basis,
        missing_hosts=answer.missing_hosts,
        declared_devices=_declared_devices(devices),
        owner=_serving_owner(devices),
        task_energy=answer.event,
        call_energy=tuple(event for event in events or () if event["event_type"] == event_types.CALL_ENERGY),
        energy_parts=answer.parts,
        pushed_call_energy=pushed.call_energy if pushed else None,
        counted_by_proxy=pushed.counted_by_proxy if pushed else False,
        gateway_clock_offset=pushed.gateway_clock_offset if pushed else None,
        used_gpus=pushed.used_gpus if pushed else frozenset(),
        ran_elsewhere=pushed.ran_elsewhere if pushed else False,
        reasons=pushed.reasons if pushed else (),
        run_version=as_name(run.get("version")),
        run_configuration=as_dict(run.get("configuration")),
    )


def _declared_devices(devices: Mapping[str, object]) -> tuple[DeviceName, ...]:
    """The GPUs that a run named; none where a journal has what is no name."""
    names = [name for name in as_list(devices.get("gpus")) if isinstance(name, str)]
    try:
        return parse_devices(names, "devices") if names else ()
    except UserError:
        return ()


def _serving_owner(devices: Mapping[str, object]) -> ServingOwner:
    address, job = as_name(devices.get("server")), as_name(devices.get("job"))
    try:
        return ServingOwner(parse_server(address) if address is not None else None, job)
    except ValueError:
        return ServingOwner(None, job)


def _merge_values(
    own: TaskValues | None, pushed: TaskValues | None, *, is_incomplete: bool = False
) -> tuple[TaskValues, dict[str, str], tuple[ValueDisagreement, ...]]:
    """(values, source of each, disagreements). ``own``: of the journal; ``is_incomplete``: it lacks calls that ``pushed`` has."""
    chosen: dict[str, object] = {}
    sources: dict[str, str] = {}
    disagreements: list[ValueDisagreement] = []
    truncated = is_incomplete or (own is not None and pushed is not None and own.end is None and pushed.end is not None)
    for name in _VALUE_NAMES:
        a, b = getattr(own, name, None), getattr(pushed, name, None)
        if a is None and b is None:
            continue
        if a is None or b is None:
            chosen[name] = b if a is None else a
            sources[name] = "prometheus" if a is None else "journal"
        elif _same(name, a, b):
            chosen[name], sources[name] = a, "both"
        else:
            chosen[name], sources[name] = (b, "prometheus") if truncated else (a, "journal")
            disagreements.append(ValueDisagreement(name, a, b))
    return TaskValues(**chosen), sources, tuple(disagreements)  # type: ignore[arg-type]


def _same(name: str, a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, int | float):
        if name in ("start", "end"):
            return abs(a - b) <= SAME_MOMENT_SECONDS
        return math.isclose(a, b, rel_tol=SAME_RELATIVE, abs_tol=1e-9)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return {k: n for k, n in a.items() if n} == {k: n for k, n in b.items() if n}
    return a == b


_OF_THE_TASK = ("task_name", "model_name", "suite", "start", "end", "duration", "status", "success", "reason")
_VALUE_NAMES = tuple(one.name for one in fields(TaskValues))
