"""The tasks of a run, as pushed metrics and journal know them together, field by field.

The journal is written before anything is pushed, so where both have a value it counts; only a journal that lost its end yields
to the store. Where they differ both are kept, and neither is averaged away. None means that the source does not say; a count of 0
is a count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from joulebench.devices import DeviceName, parse_devices, parse_server
from joulebench.errors import UserError
from joulebench.parsing import as_dict, as_list, as_name
from joulebench.schema import events as event_types
from joulebench.schema.result import Event

if TYPE_CHECKING:
    from joulebench.results.journal import Journal
    from joulebench.results.pushed import PushedTask

LONGEST_SECONDS = 30 * 86400.0
"""A window longer than this is no task but a clock that was set, from 1970 say."""
UNFINISHED = "unfinished"
"""Status of a task without an end; never pushed, only concluded here."""


class TaskKey(NamedTuple):
    """The primary key of a result row, beside the run id."""

    task_id: str
    worker: str


_NOTHING_KNOWN: Mapping[str, float] = MappingProxyType({})


class GpuJoules(NamedTuple):
    """Window energy of one GPU as the exporter answered it. ``method`` to ``reasons`` only where the journal kept them.

    ``throttled``: seconds by reason, those that the exporter knew; none of an exporter of an earlier version.
    """

    gpu: str
    uuid: str
    joules: float | None
    low: float | None
    high: float | None
    method: str | None = None
    samples: int | None = None
    quality: str | None = None
    reasons: tuple[str, ...] = ()
    throttled: Mapping[str, float] = _NOTHING_KNOWN
    host: str | None = None
    share: float | None = None
    longest_gap: float | None = None
    role: str | None = None
    clock_offset: float | None = None
    clock_uncertainty: float | None = None
    parent: str | None = None


class PartEnergy(NamedTuple):
    """Energy of all devices of a task over a part of its window; bounds None where one of them has none."""

    start: float
    end: float
    joules: float
    low: float | None
    high: float | None


class ExporterAnswer(NamedTuple):
    """What the exporters answered for the window of a task, and for its ``parts`` between changes of phase.

    ``source``: nvml, amd, simulated, mixed, none; None where none was asked.
    ``basis``: how the devices are known. ``missing_hosts``: exporters that should be part of the total and did not answer.
    ``event``: the TASK_ENERGY that holds it.
    """

    gpus: tuple[GpuJoules, ...] = ()
    source: str | None = None
    basis: str | None = None
    missing_hosts: tuple[str, ...] = ()
    parts: tuple[PartEnergy, ...] = ()
    event: Event | None = None


@dataclass(frozen=True, slots=True)
class ServingOwner:
    """Whose processes served a task: the model server at (host, port), or a Slurm job. None: not known."""

    server: tuple[str, int] | None = None
    job: str | None = None


@dataclass(frozen=True, slots=True)
class ObservedDevice:
    """A GPU or MIG instance that the server of a task used in its window, by the stored owner series.

    ``host``: the scrape target. ``parent``: UUID of the GPU that a MIG instance is a part of. ``is_shared``: others used it
    in the window, too. ``share``: the part of the GPU's energy that counts for a MIG instance, None where that is unknown.
    """

    gpu: str
    uuid: str
    host: str | None = None
    parent: str | None = None
    is_shared: bool = False
    share: float | None = None

    @property
    def counter(self) -> str:
        """UUID of the GPU whose energy counter has its joules."""
        return self.parent or self.uuid


@dataclass(frozen=True, slots=True)
class TaskValues:
    """Times in unix seconds, durations in seconds. ``tool_calls``: by outcome.

    ``answered_calls``: those whose durations ``llm_seconds`` adds up; None where these are all calls.
    """

    task_name: str | None = None
    model_name: str | None = None
    suite: str | None = None
    start: float | None = None
    end: float | None = None
    duration: float | None = None
    status: str | None = None
    success: bool | None = None
    reason: str | None = None
    llm_calls: int | None = None
    llm_errors: int | None = None
    answered_calls: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    llm_seconds: float | None = None
    ttft_count: int | None = None
    ttft_seconds: float | None = None
    prefill_seconds: float | None = None
    decode_seconds: float | None = None
    decode_tokens: int | None = None
    load_seconds: float | None = None
    tool_calls: Mapping[str, int] | None = None
    tool_seconds: float | None = None
    confidence_count: int | None = None
    confidence_sum: float | None = None
    confidence_min: float | None = None
    confidence_max: float | None = None


@dataclass(frozen=True, slots=True)
class ValueDisagreement:
    field: str
    journal: object
    prometheus: object


@dataclass(frozen=True, slots=True)
class Task:
    """A task as both sources have it. ``sources``: field -> prometheus, journal or both, for fields that are known.

    ``pushed_call_energy``: calls whose joules were known, and their sum, as pushed. ``device_basis`` and ``missing_hosts``: of
    the exporters' answer, which ``task_energy`` holds. ``declared_devices``: those that the run named. ``owner``: whose
    processes served it, by what the run said; ``observed_devices``: those that the owner used, where nothing better is known.
    ``used_gpus`` to ``reasons``: see ``PushedTask``.
    """

    key: TaskKey
    values: TaskValues
    sources: Mapping[str, str]
    disagreements: tuple[ValueDisagreement, ...] = ()
    events: tuple[Event, ...] = ()
    exporter_energy: tuple[GpuJoules, ...] = ()
    exporter_source: str | None = None
    device_basis: str | None = None
    missing_hosts: tuple[str, ...] = ()
    declared_devices: tuple[DeviceName, ...] = ()
    owner: ServingOwner = ServingOwner()
    observed_devices: tuple[ObservedDevice, ...] = ()
    task_energy: Event | None = None
    call_energy: tuple[Event, ...] = ()
    energy_parts: tuple[PartEnergy, ...] = ()
    pushed_call_energy: tuple[int, float] | None = None
    counted_by_proxy: bool = False
    gateway_clock_offset: float | None = None
    used_gpus: frozenset[str] = frozenset()
    ran_elsewhere: bool = False
    reasons: tuple[str, ...] = ()
    run_version: str | None = None
    run_configuration: Mapping[str, object] = field(default_factory=dict)

    @property
    def window(self) -> tuple[float, float] | None:
        """(start, end), None while either is unknown or they contradict each other."""
        start, end = self.values.start, self.values.end
        return None if start is None or end is None or not 0 <= end - start <= LONGEST_SECONDS else (start, end)

    @property
    def status(self) -> str:
        return self.values.status or (UNFINISHED if self.values.end is None else "unknown")


SAME_MOMENT_SECONDS = 6e-3
"""A store of 12 digits rounds a unix time to 10 ms where it has no offsets."""
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
