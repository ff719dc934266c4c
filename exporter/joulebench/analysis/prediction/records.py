"""Tasks of finished runs with their tool calls, outcomes, confidence measures and joules, from result files or journals.

Result files are preferred: they know joules from Prometheus and which tasks overlapped. A run that was never exported is read
from its journals, with the joules that the exporter answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from joulebench.analysis import result_files
from joulebench.errors import UserError
from joulebench.parsing import as_float, as_int, as_name
from joulebench.results import journal
from joulebench.schema.events import JOURNAL_PATTERN

SCORE = "score"
"""The single number of a call, beside its measures."""

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One tool call. ``llm_call``: number of the model's call that made it. ``measures`` holds the score too, if there is one.

    ``tool``: as the model named it, which is any text where it was not declared. ``number``: of the call within its task.
    """

    outcome: str
    measures: Mapping[str, float]
    llm_call: int | None
    at: float
    tool: str = ""
    number: int | None = None


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """``joules`` is None where not known, or where another task ran at the same time, whose joules are in it too."""

    run: str
    name: str
    model: str
    success: bool | None
    start: float | None
    end: float | None
    calls: tuple[CallRecord, ...]
    joules: float | None
    call_joules: Mapping[int, float]
    simulated: bool
    task_id: str = ""
    worker: str = ""
    directory: Path | None = None


def read(directories: Sequence[Path]) -> list[TaskRecord]:
    """All tasks of the runs. Raises UserError for a directory that holds no run."""
    found: list[TaskRecord] = []
    for directory in directories:
        of_run = list(_from_results(directory)) or _alone_only(_from_journals(directory))
        if not of_run:
            raise UserError(
                f"{directory}: neither result_*.json nor {JOURNAL_PATTERN}; give the directory of a run, as runs/RUN_ID"
            )
        found += [replace(task, directory=directory) for task in of_run]
    return found


def _from_results(directory: Path) -> Iterator[TaskRecord]:
    for path, record in result_files.read(directory):
        try:
            events, metadata, measured = record["raw_events"], record["metadata"], record["measurement"]
            overlap = (record.get("attribution") or {}).get("overlap_fraction")
        except AttributeError as error:
            raise result_files.wrong(path, repr(error)) from error
        task = _task(str(metadata["run_id"]), events, record.get("call_energy") or (), {})
        calls = {
            as_int(one.get("call")) or 0: joules
            for one in record.get("calls", ())
            if (joules := as_float(one.get("joules"))) is not None
        }
        yield replace(
            task,
            task_id=as_name(metadata.get("task_id")) or task.task_id,
            worker=as_name(metadata.get("worker")) or task.worker,
            model=as_name(metadata.get("model_name")) or task.model,
            joules=None if overlap else as_float(measured.get("joules")),
            call_joules={} if overlap else calls or task.call_joules,
            simulated=measured.get("simulated") is True,
        )


def _from_journals(directory: Path) -> list[TaskRecord]:
    found = journal.load_journals(directory)
    runs = {str(event.get("worker")): event for event in found.run_events if event["event_type"] == "RUN_START"}
    tasks = []
    for key, events in found.tasks.items():
        run = runs.get(key.worker, {})
        tasks.append(_task(str(run.get("run_id", directory.name)), events, events, run))
    return tasks


def _task(run_id: str, events: Sequence[Event], energy: Iterable[Event], run: Event) -> TaskRecord:
    start, end = _last(events, "TASK_START"), _last(events, "TASK_END")
    success = end.get("success")
    whole, sources = None, set()
    by_call: dict[int, float] = {}
    for event in energy:
        if event["event_type"] not in ("TASK_ENERGY", "CALL_ENERGY"):
            continue
        joules = as_float((event.get("total") or {}).get("joules"))
        sources.add(event.get("source"))
        if event["event_type"] == "TASK_ENERGY":
            whole = joules
        elif joules is not None and (call := as_int(event.get("call"))) is not None:
            by_call[call] = joules
    return TaskRecord(
        run=run_id,
        name=as_name(start.get("task_name")) or as_name(start.get("task_id")) or "",
        model=as_name(start.get("model_name")) or as_name(run.get("model_name")) or "unknown",
        success=success if isinstance(success, bool) else None,
        start=as_float(start.get("timestamp")),
        end=as_float(end.get("timestamp")),
        calls=tuple(_calls(events)),
        joules=whole,
        call_joules=by_call,
        simulated="simulated" in sources,
        task_id=as_name(start.get("task_id")) or "",
        worker=as_name(start.get("worker")) or "",
    )


def _calls(events: Sequence[Event]) -> Iterator[CallRecord]:
    ends = {event.get("tool_call"): event for event in events if event["event_type"] == "TOOL_CALL_END"}
    for event in events:
        if event["event_type"] != "TOOL_CALL_START" or event.get("tool_call") not in ends:
            continue
        told = event.get("confidence_measures")
        measures = {name: value for name, one in (told or {}).items() if (value := as_float(one)) is not None}
        if (score := as_float(event.get("confidence"))) is not None:
            measures[SCORE] = score
        outcome = as_name(ends[event.get("tool_call")].get("outcome")) or ""
        called, tool = as_int(event.get("call")), as_name(event.get("tool_name")) or ""
        yield CallRecord(outcome, measures, called, float(event["timestamp"]), tool, as_int(event.get("tool_call")))


def _alone_only(tasks: Sequence[TaskRecord]) -> list[TaskRecord]:
    """Without the joules of tasks that shared their time with another."""
    return [replace(one, joules=None, call_joules={}) if _shared(one, tasks) else one for one in tasks]


def _shared(one: TaskRecord, tasks: Sequence[TaskRecord]) -> bool:
    if one.start is None or one.end is None:
        return True
    begin, end = one.start, one.end
    others = (task for task in tasks if task is not one and task.start is not None and task.end is not None)
    return any(task.start < end and task.end > begin for task in others if task.start is not None and task.end is not None)


def _last(events: Sequence[Event], event_type: str) -> Event:
    return next((event for event in reversed(events) if event["event_type"] == event_type), {})
