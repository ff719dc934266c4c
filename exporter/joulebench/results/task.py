"""What is known of one task, from either source, in one shape.

``None`` means that the source does not say. A count of 0 is a count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

Event: TypeAlias = dict[str, Any]
"""A journal line: flat, ``event_type`` and ``timestamp`` always there."""

LONGEST_SECONDS = 30 * 86400.0
"""A window longer than this is no task but a clock that was set, from 1970 say; nobody reads samples of years for it."""
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


@dataclass(frozen=True, slots=True)
class TaskValues:
    """Times in unix seconds, durations in seconds. ``tool_calls``: by outcome of the catalogue."""

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
class Disagreement:
    field: str
    journal: object
    prometheus: object


@dataclass(frozen=True, slots=True)
class Task:
    """A task as both sources tell it together. ``sources``: field -> prometheus, journal or both, for fields that are known.

    ``pushed_call_energy``: calls whose joules were known, and their sum, as pushed.
    """

    key: TaskKey
    values: TaskValues
    sources: Mapping[str, str]
    disagreements: tuple[Disagreement, ...] = ()
    events: tuple[Event, ...] = ()
    exporter_energy: tuple[GpuJoules, ...] = ()
    exporter_source: str | None = None
    call_energy: tuple[Event, ...] = ()
    pushed_call_energy: tuple[int, float] | None = None
    gateway_clock_offset: float | None = None
    run_version: str | None = field(default=None)
    run_configuration: Mapping[str, object] = field(default_factory=dict)

    @property
    def window(self) -> tuple[float, float] | None:
        """(start, end), None while either is unknown or they contradict each other."""
        start, end = self.values.start, self.values.end
        return None if start is None or end is None or not 0 <= end - start <= LONGEST_SECONDS else (start, end)

    @property
    def status(self) -> str:
        return self.values.status or (UNFINISHED if self.values.end is None else "unknown")
