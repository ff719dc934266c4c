"""``run.json``: what is true of the whole run and of no single task: models, idle power, the balance of each GPU, totals.

The balance is the test that no joule was given out twice or lost: shares, energy that no task caused, shared idle and what is
withheld from tasks without a share must add up to the counter. ``residual`` is what they miss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from joulebench.energy.ledger import GpuBalance
from joulebench.results import idle
from joulebench.results.hardware import ratio
from joulebench.results.idle import IdlePower
from joulebench.results.journal import Journal, number
from joulebench.results.record import SCHEMA_VERSION, Context, Record
from joulebench.results.shares import Books
from joulebench.results.task import Event

FILE_NAME = "run.json"
TOLERATED_RESIDUAL = 1e-3
"""Share of a GPU's joules; what is above it is a defect, not rounding."""
UNSTEADY_IDLE = 0.2
"""Idle measurements further apart than this share of the lowest do not describe one state of the machine."""


def summary(record: Record) -> Record:
    """What ``build`` needs of a record; all records of a long run would fill the memory."""
    computed = record["computed_metrics"]
    return {
        "metadata": record["metadata"],
        "attribution": {"attributed": record["attribution"]["attributed"]},
        "computed_metrics": {name: computed[name] for name in ("task_completion_status", "llm_token_usage")},
    }


def build(context: Context, held: Journal, books: Sequence[Books], records: Sequence[Record], notes: Sequence[str]) -> Record:
    starts = _numbers(record["metadata"]["session_start_unix"] for record in records)
    ends = _numbers(record["metadata"]["session_end_unix"] for record in records)
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": context.run_id,
        "joulebench_version": context.version,
        "benchmark_joulebench_versions": _distinct(record["metadata"]["benchmark_joulebench_version"] for record in records),
        "start_unix": min(starts, default=None),
        "end_unix": max(ends, default=None),
        "suites": _distinct(record["metadata"]["suite"] for record in records),
        "models": _distinct(record["metadata"]["model_name"] for record in records),
        "workers": _distinct(record["metadata"]["worker"] for record in records),
        "planned_tasks": _planned(held.run_events),
        "totals": _totals(records),
        "gpus": _gpus(context, books),
        "warm_ups": _of(held.run_events, "WARM_UP"),
        "push_state": _of(held.run_events, "PUSH_STATE"),
        "notes": list(notes),
    }


def residual(books: Sequence[Books]) -> tuple[float, float] | None:
    """(joules that the books of all GPUs miss, joules of their counters); None where no counter tells."""
    known = [(one.residual, one.joules) for one in _balances(books) if one.residual is not None and one.joules is not None]
    return (sum(abs(missed) for missed, _ in known), sum(joules for _, joules in known)) if known else None


def notes(books: Sequence[Books], power: Mapping[str, IdlePower]) -> list[str]:
    """What a user should hear of the run as a whole."""
    found = []
    missed = residual(books)
    if missed is not None and missed[0] > TOLERATED_RESIDUAL * missed[1]:
        found.append(f"the shares of the tasks miss {missed[0]:.1f} J of the {missed[1]:.1f} J that the GPUs counted")
    for uuid, one in power.items():
        if one.spread > UNSTEADY_IDLE * one.watts:
            measured = ", ".join(f"{m['label']} {m['watts']:.1f} W" for m in one.measurements)
            found.append(f"idle power of {uuid} was not steady ({measured}); the lowest is used")
    return found


def _gpus(context: Context, books: Sequence[Books]) -> list[Record]:
    named = {gpu.uuid: gpu for gpu in context.samples.gpus} if context.samples else {}
    uuids = dict.fromkeys([*(uuid for one in books for uuid in one.balances), *context.idle])
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
                "idle": None if power is None else idle.as_dict(power),
                "balances": [
                    {"start_unix": one.start, "end_unix": one.end, "tasks": len(one.shares), **asdict(one.balances[uuid])}
                    for one in books
                    if uuid in one.balances
                ],
            }
        )
    return found


def _totals(records: Sequence[Record]) -> Record:
    """Joules as given out, so that the time of several tasks counts once; null as soon as one task's are not known."""
    joules = [record["attribution"]["attributed"] for record in records]
    known = _numbers(joules)
    whole = sum(known) if records and len(known) == len(records) else None
    statuses = Counter(record["computed_metrics"]["task_completion_status"]["status"] for record in records)
    passed = sum(record["computed_metrics"]["task_completion_status"]["success"] is True for record in records)
    usage = [record["computed_metrics"]["llm_token_usage"] for record in records]
    return {
        "tasks": len(records),
        "tasks_by_status": dict(sorted(statuses.items())),
        "tasks_passed": passed,
        "prompt_tokens": _sum(one["total_prompt_tokens"] for one in usage),
        "completion_tokens": _sum(one["total_completion_tokens"] for one in usage),
        "tasks_with_joules": len(known),
        "joules": whole,
        "known_joules": sum(known) if known else None,
        "joules_per_passed_task": ratio(whole, passed),
    }


def _balances(books: Sequence[Books]) -> Iterable[GpuBalance]:
    return (balance for one in books for balance in one.balances.values())


def _planned(run_events: Sequence[Event]) -> int | None:
    """Of all workers together; None where one does not say."""
    planned = [number(event.get("planned_tasks")) for event in run_events if event["event_type"] == "RUN_START"]
    known = [value for value in planned if value is not None]
    return round(sum(known)) if known and len(known) == len(planned) else None


def _of(run_events: Sequence[Event], event_type: str) -> list[Event]:
    return [event for event in run_events if event["event_type"] == event_type]


def _distinct(values: Iterable[Any]) -> list[Any]:
    return sorted({value for value in values if value is not None})


def _numbers(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _sum(values: Iterable[int | None]) -> int | None:
    some = list(values)
    known = [value for value in some if value is not None]
    return sum(known) if known and len(known) == len(some) else None
