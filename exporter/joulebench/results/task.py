"""A task of a run as journal and pushed metrics know it, and what the exporters answered for it.

None means that no source says; a count of 0 is a count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from joulebench.devices import DeviceName
from joulebench.schema.result import Event

LONGEST_SECONDS = 30 * 86400.0
"""A window longer than this is no task but a clock that was set, from 1970 say."""
UNFINISHED = "unfinished"
"""Status of a task without an end; never pushed, only concluded here."""
SAME_MOMENT_SECONDS = 6e-3
"""A store of 12 digits rounds a unix time to 10 ms where it has no offsets."""


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
