"""Tasks of finished runs with their tool calls, outcomes, confidence measures and joules; and samples of levels of success.

Result files are preferred: they have joules from Prometheus, and which tasks overlapped. A run that was never exported is read
from its journals, with the joules that the exporter answered.

Each level of calls has the calls that passed the level before. A task's measure is that of its least confident call: one wrong
call is enough to fail. Beside the measures a task has a baseline that needs no confidence: whether all of its calls succeeded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from joulebench.errors import UserError
from joulebench.parsing import as_count, as_dict, as_float, as_name
from joulebench.results import journal
from joulebench.schema import TaskResult, events, find_result_files, iterate_readable_results
from joulebench.schema.result import RESULT_PATTERN, Event

SCORE = "score"
"""The single number of a call, beside its measures."""

MEASURES = (
    SCORE,
    "call_decision",
    "name_joint",
    "name_branch",
    "name_margin",
    "name_choice",
    "args_min",
    "args_geo",
    "sem_nll",
    "entropy_max",
    "naive_mean",
)
LOW_WHEN_CONFIDENT = ("sem_nll", "entropy_max")
NO_ERROR_SEEN = "no_error_seen"
"""The baseline of task success. What does not beat it is not worth its logprobs."""
NO_PROBABILITY = ("name_margin", *LOW_WHEN_CONFIDENT, NO_ERROR_SEEN)
"""Nats, and yes or no: they order calls, and neither Brier nor ECE can be said of them."""
KNOW_THE_DECLARED = (SCORE, "name_branch", "name_margin", "name_choice")
"""Worked out against the declared names (with one tool there is no choice, and all is 1), so they know whether a call's name is
declared. At the level that asks just this they would be graded on their own answer."""

WELL_FORMED, SCHEMA_VALID, TOOL_OK, TASK_SUCCESS = "well-formed", "schema-valid", "tool ok", "task success"
LEVELS = (WELL_FORMED, SCHEMA_VALID, TOOL_OK, TASK_SUCCESS)
_FAILED_AT: dict[str, tuple[str, ...]] = {
    WELL_FORMED: ("malformed", "undeclared"),
    SCHEMA_VALID: ("schema_invalid",),
    TOOL_OK: ("tool_error",),
}
"""Outcomes of metrics.TOOL_OUTCOMES that fail at each level of calls; a call that failed is not part of the levels below."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One tool call. ``llm_call``: number of the LLM call that made it. ``measures`` includes the score, if there is one.

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


def load_task_records(directories: Sequence[Path]) -> list[TaskRecord]:
    """All tasks of the runs. Raises UserError for a directory that holds no run."""
    records: list[TaskRecord] = []
    for directory in directories:
        results = iterate_readable_results([directory]) if any(find_result_files(directory)) else iter(())
        of_run = [_record_of_result(result, directory) for result in results]
        of_run = of_run or _without_shared_joules(_records_of_journals(directory))
        if not of_run:
            raise UserError(
                f"{directory}: neither {RESULT_PATTERN} nor {events.JOURNAL_PATTERN}; give the directory of a run, as runs/RUN_ID"
            )
        records += [replace(record, directory=directory) for record in of_run]
    return records


def _record_of_result(result: TaskResult, directory: Path) -> TaskRecord:
    meta = result.metadata
    record = _record_of_events(meta.run_id or directory.name, result.raw_events, result.call_energy, {})
    call_joules = {
        as_count(call.call) or 0: call.joules for call in result.calls if call.joules is not None
    } or record.call_joules
    status = result.computed_metrics.task_completion_status
    return replace(
        record,
        name=record.name or meta.task_name or meta.task_id or "",
        task_id=meta.task_id or record.task_id,
        worker=meta.worker or record.worker,
        model=meta.model_name or record.model,
        success=record.success if record.success is not None else status.success,
        joules=None if result.overlapped else result.measurement.joules,
        call_joules={} if result.overlapped else call_joules,
        simulated=result.measurement.simulated is True,
    )


def _records_of_journals(directory: Path) -> list[TaskRecord]:
    read = journal.load_journals(directory)
    runs = {str(event.get("worker")): event for event in read.run_events if event["event_type"] == events.RUN_START}
    records = []
    for key, of_task in read.tasks.items():
        run = runs.get(key.worker, {})
        records.append(_record_of_events(str(run.get("run_id", directory.name)), of_task, of_task, run))
    return records


def _record_of_events(run_id: str, of_task: Sequence[Event], energies: Iterable[Event], run: Event) -> TaskRecord:
    start, end = _last(of_task, events.TASK_START), _last(of_task, events.TASK_END)
    success = end.get("success")
    total, sources = None, set()
    by_call: dict[int, float] = {}
    for event in energies:
        if event["event_type"] not in (events.TASK_ENERGY, events.CALL_ENERGY):
            continue
        joules = as_float(as_dict(event.get("total")).get("joules"))
        sources.add(as_name(event.get("source")))
        if event["event_type"] == events.TASK_ENERGY:
            total = joules
        elif joules is not None and (call := as_count(event.get("call"))) is not None:
            by_call[call] = joules
    return TaskRecord(
        run=run_id,
        name=as_name(start.get("task_name")) or as_name(start.get("task_id")) or "",
        model=as_name(start.get("model_name")) or as_name(run.get("model_name")) or "unknown",
        success=success if isinstance(success, bool) else None,
        start=as_float(start.get("timestamp")),
        end=as_float(end.get("timestamp")),
        calls=tuple(_calls(of_task)),
        joules=total,
        call_joules=by_call,
        simulated="simulated" in sources,
        task_id=as_name(start.get("task_id")) or "",
        worker=as_name(start.get("worker")) or "",
    )


def _calls(of_task: Sequence[Event]) -> Iterator[CallRecord]:
    ends = {event.get("tool_call"): event for event in of_task if event["event_type"] == events.TOOL_CALL_END}
    for event in of_task:
        if event["event_type"] != events.TOOL_CALL_START or event.get("tool_call") not in ends:
            continue
        given = as_dict(event.get("confidence_measures"))
        measures = {name: value for name, each in given.items() if (value := as_float(each)) is not None}
        if (score := as_float(event.get("confidence"))) is not None:
            measures[SCORE] = score
        yield CallRecord(
            outcome=as_name(ends[event.get("tool_call")].get("outcome")) or "",
            measures=measures,
            llm_call=as_count(event.get("call")),
            at=as_float(event.get("timestamp")) or 0.0,
            tool=as_name(event.get("tool_name")) or "",
            number=as_count(event.get("tool_call")),
        )


def _without_shared_joules(records: Sequence[TaskRecord]) -> list[TaskRecord]:
    """Tasks that shared their time with another have no joules of their own."""
    return [replace(each, joules=None, call_joules={}) if _shared(each, records) else each for each in records]


def _shared(record: TaskRecord, records: Sequence[TaskRecord]) -> bool:
    if record.start is None or record.end is None:
        return True
    return any(
        other.start < record.end and other.end > record.start
        for other in records
        if other is not record and other.start is not None and other.end is not None
    )


def _last(of_task: Sequence[Event], event_type: str) -> Event:
    return next((event for event in reversed(of_task) if event["event_type"] == event_type), {})


@dataclass(frozen=True, slots=True)
class Sample:
    """``group``: the task's name. Repetitions of a task are no independent evidence, so they stay together."""

    group: str
    good: bool
    measures: Mapping[str, float]


def samples(tasks: Sequence[TaskRecord], level: str) -> list[Sample]:
    """Calls whose tokens were not located are samples without measures."""
    if level == TASK_SUCCESS:
        return [sample for task in tasks if task.success is not None and (sample := task_sample(task)) is not None]
    before = [outcome for name in LEVELS[: LEVELS.index(level)] for outcome in _FAILED_AT[name]]
    calls = [(task.name, call) for task in tasks for call in task.calls if call.outcome not in before]
    return [Sample(name, call.outcome not in _FAILED_AT[level], call.measures) for name, call in calls]


def task_sample(task: TaskRecord) -> Sample | None:
    """None without a call. A task of unknown outcome is not good, and serves for predicting only."""
    return Sample(task.name, task.success is True, _of_task(task)) if task.calls else None


def measures_of(level: str) -> tuple[str, ...]:
    return (*MEASURES, NO_ERROR_SEEN) if level == TASK_SUCCESS else MEASURES


def confidence_order(measure: str, value: float) -> float:
    """``value`` with its sign turned where more means less confidence."""
    return -value if measure in LOW_WHEN_CONFIDENT else value


def _of_task(task: TaskRecord) -> dict[str, float]:
    return {
        **_lowest(call.measures for call in task.calls),
        NO_ERROR_SEEN: float(all(call.outcome == "ok" for call in task.calls)),
    }


def _lowest(measures: Iterable[Mapping[str, float]]) -> dict[str, float]:
    lowest: dict[str, float] = {}
    for of_call in measures:
        for name, value in of_call.items():
            if name not in lowest or confidence_order(name, value) < confidence_order(name, lowest[name]):
                lowest[name] = value
    return lowest
