"""``run.json``: what is true of the whole run and of no single task: models, idle power, the balance of each GPU, totals.

The balance is the test that no joule was attributed twice or lost: shares, energy that no task caused, shared idle, what other
servers used and what is withheld from tasks without a share must add up to the counter. ``residual`` is what they miss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from joulebench.energy.allocation import GpuBalance
from joulebench.parsing import as_float, as_int, sum_or_none
from joulebench.results.attribution import AttributionGroup
from joulebench.results.gpu_stats import ratio
from joulebench.results.journal import Journal
from joulebench.results.task_energy import IdlePower, idle_power_as_json
from joulebench.results.task_result import ExportContext
from joulebench.schema import events
from joulebench.schema.computed_metrics import CompletionStatus, TokenUsage
from joulebench.schema.result import SCHEMA_VERSION, EmissionResult, Event, Metadata, MeterResult, TaskResult

Record = dict[str, Any]

TOLERATED_RESIDUAL = 1e-3
"""Share of a GPU's joules; what is above it is a defect, not rounding."""
UNSTEADY_IDLE = 0.2
"""Idle measurements further apart than this share of the lowest do not describe one state of the machine."""


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """What the record of the run needs of a task; the results of a long run would fill the memory."""

    metadata: Metadata
    status: CompletionStatus
    tokens: TokenUsage
    attributed: float | None
    meters: Mapping[str, MeterResult] = field(default_factory=dict)
    emissions: Mapping[str, EmissionResult] = field(default_factory=dict)

    @classmethod
    def of(cls, result: TaskResult) -> TaskSummary:
        computed = result.computed_metrics
        return cls(
            result.metadata,
            computed.task_completion_status,
            computed.llm_token_usage,
            result.attribution.attributed,
            result.meters,
            result.emissions,
        )


def run_result(
    context: ExportContext,
    journal: Journal,
    groups: Sequence[AttributionGroup],
    tasks: Sequence[TaskSummary],
    notes: Sequence[str],
) -> Record:
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": context.run_id,
        "joulebench_version": context.version,
        "benchmark_joulebench_versions": _distinct(task.metadata.benchmark_joulebench_version for task in tasks),
        "start_unix": min(_known(task.metadata.session_start_unix for task in tasks), default=None),
        "end_unix": max(_known(task.metadata.session_end_unix for task in tasks), default=None),
        "suites": _distinct(task.metadata.suite for task in tasks),
        "models": _distinct(task.metadata.model_name for task in tasks),
        "workers": _distinct(task.metadata.worker for task in tasks),
        "planned_tasks": planned_tasks(journal),
        "totals": _totals(tasks),
        "gpus": _gpus(context, groups),
        "meters": _meters(tasks),
        "emissions": _emissions(tasks),
        "warm_ups": _of_type(journal.run_events, events.WARM_UP),
        "push_state": _of_type(journal.run_events, events.PUSH_STATE),
        "notes": list(notes),
    }


def attribution_residual(groups: Sequence[AttributionGroup]) -> tuple[float, float] | None:
    """(joules that the parts of all GPUs miss, joules of their counters); None where no counter is known."""
    known = [(one.residual, one.joules) for one in _balances(groups) if one.residual is not None and one.joules is not None]
    return (sum(abs(missed) for missed, _ in known), sum(joules for _, joules in known)) if known else None


def run_notes(groups: Sequence[AttributionGroup], power: Mapping[str, IdlePower]) -> list[str]:
    """What a user should know of the run as a whole."""
    found = []
    missed = attribution_residual(groups)
    if missed is not None and missed[0] > TOLERATED_RESIDUAL * missed[1]:
        found.append(f"the shares of the tasks miss {missed[0]:.1f} J of the {missed[1]:.1f} J that the GPUs counted")
    for uuid, one in power.items():
        if one.spread > UNSTEADY_IDLE * one.watts:
            measured = ", ".join(f"{m['label']} {m['watts']:.1f} W" for m in one.measurements)
            found.append(f"idle power of {uuid} was not steady ({measured}); the lowest is used")
    return found


def _gpus(context: ExportContext, groups: Sequence[AttributionGroup]) -> list[Record]:
    named = {gpu.uuid: gpu for gpu in context.samples.gpus} if context.samples else {}
    uuids = dict.fromkeys([*(uuid for group in groups for uuid in group.balances), *context.idle])
    found = []
    for uuid in uuids:
        gpu, power = named.get(uuid), context.idle.get(uuid)
        found.append(
            {
                "gpu": gpu.gpu if gpu else None,
                "uuid": uuid,
                "name": gpu.name if gpu else None,
                "source": gpu.source if gpu else None,
                "energy_method": gpu.method if gpu else None,
                "idle": None if power is None else idle_power_as_json(power),
                "balances": [
                    {"start_unix": group.start, "end_unix": group.end, "tasks": len(group.shares), **asdict(group.balances[uuid])}
                    for group in groups
                    if uuid in group.balances
                ],
            }
        )
    return found


def _meters(tasks: Sequence[TaskSummary]) -> Record:
    """By name. The joules of meters are never added: one may be inside another."""
    return {
        name: {
            **{key: getattr(own[0], key) for key in ("scope", "kind")},
            "simulated": any(meter.simulated for meter in own),
            **_sums("joules", [meter.attributed_joules for meter in own], len(tasks)),
        }
        for name, own in _by_name(task.meters for task in tasks).items()
    }


def _emissions(tasks: Sequence[TaskSummary]) -> Record:
    """By kind; the factors are in the results of the tasks."""
    return {
        kind: {
            **{key: getattr(own[0], key) for key in ("unit", "of", "source", "date", "query")},
            "simulated": any(emission.simulated for emission in own),
            **_sums("amount", [emission.amount for emission in own], len(tasks)),
        }
        for kind, own in _by_name(task.emissions for task in tasks).items()
    }


Section = TypeVar("Section")


def _by_name(sections: Iterable[Mapping[str, Section]]) -> dict[str, list[Section]]:
    found: dict[str, list[Section]] = {}
    for section in sections:
        for name, value in section.items():
            found.setdefault(name, []).append(value)
    return found


def _sums(name: str, values: Sequence[float | None], tasks: int) -> Record:
    """The sum, null as soon as that of one task is not known, and the sum of those that are known."""
    known = _known(values)
    complete = tasks and len(known) == tasks
    return {
        f"tasks_with_{name}": len(known),
        name: sum(known) if complete else None,
        f"known_{name}": sum(known) if known else None,
    }


def _totals(tasks: Sequence[TaskSummary]) -> Record:
    """Joules are shares, so that the time of several tasks counts once; null as soon as those of one task are not known."""
    joules = _sums("joules", [task.attributed for task in tasks], len(tasks))
    passed = sum(task.status.success is True for task in tasks)
    return {
        "tasks": len(tasks),
        "tasks_by_status": dict(sorted(Counter(task.status.status for task in tasks).items())),
        "tasks_passed": passed,
        "prompt_tokens": sum_or_none(task.tokens.total_prompt_tokens for task in tasks),
        "completion_tokens": sum_or_none(task.tokens.total_completion_tokens for task in tasks),
        **joules,
        "joules_per_passed_task": ratio(joules["joules"], passed),
    }


def _balances(groups: Sequence[AttributionGroup]) -> Iterable[GpuBalance]:
    return (balance for group in groups for balance in group.balances.values())


def planned_tasks(journal: Journal) -> int | None:
    """Of all workers together; None where one of them does not say."""
    starts = (e for e in _of_type(journal.run_events, events.RUN_START) if e.get("recorded_by") != events.PROXY)
    planned = (as_float(event.get("planned_tasks")) for event in starts)
    return as_int(sum_or_none(planned))


def _of_type(run_events: Sequence[Event], event_type: str) -> list[Event]:
    return [event for event in run_events if event["event_type"] == event_type]


def _distinct(values: Iterable[Any]) -> list[Any]:
    return sorted({value for value in values if value is not None})


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
