"""The journals of a run, and the values of its tasks from their events, counted as the pusher counts them.

Lines may be torn: what can be read is read, what cannot is counted.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path

from joulebench.errors import UserError
from joulebench.metrics import THROTTLE_REASONS, TOOL_ERROR, TOOL_OUTCOMES
from joulebench.parsing import as_dict, as_float, as_int, as_list, as_name, as_unix_time, decode_json, sum_or_none
from joulebench.results.proxied import join_proxied_tasks
from joulebench.results.task import SAME_MOMENT_SECONDS, ExporterAnswer, GpuJoules, PartEnergy, TaskKey, TaskValues
from joulebench.schema import events
from joulebench.schema.events import JOURNAL_PATTERN
from joulebench.schema.reasons import Reason
from joulebench.schema.result import Event


@dataclass(frozen=True, slots=True)
class Journal:
    """Events in the order in which each worker wrote them. ``damaged``: lines that are no event.

    ``values`` and ``exporter_energy`` (each GPU's energy of the window, and its source) are counted of a task's events;
    ``run_starts``: RUN_START by worker. ``proxied``: tasks of which the metering proxy recorded requests; ``proxied_requests``:
    how many, by the name that they gave the task.
    """

    tasks: Mapping[TaskKey, list[Event]]
    run_events: list[Event]
    damaged: int
    files: int
    values: Mapping[TaskKey, TaskValues] = field(default_factory=dict)
    exporter_energy: Mapping[TaskKey, ExporterAnswer] = field(default_factory=dict)
    run_starts: Mapping[str, Event] = field(default_factory=dict)
    proxied: frozenset[TaskKey] = frozenset()
    proxied_requests: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_proxied(self) -> bool:
        """Whether a proxy recorded anything of the run, be it only that it began."""
        return any(event.get("recorded_by") == events.PROXY for event in self.run_starts.values())


def load_journals(directory: Path) -> Journal:
    """All journals of one run; none at all is an empty journal. Raises UserError for one that cannot be read."""
    tasks: defaultdict[TaskKey, list[Event]] = defaultdict(list)
    run_events: list[Event] = []
    starts: dict[str, Event] = {}
    damaged = files = 0
    for path in sorted(directory.glob(JOURNAL_PATTERN)):
        files += 1
        # A proxy in a container that is restarted has the host and the process id of the one before, and counts from 1 again.
        began_again = 0
        for line in _lines(path):
            if not line.strip():
                continue
            event = parse_event(line)
            if event is None:
                damaged += 1
                continue
            worker = str(event.get("worker", ""))
            if event["event_type"] == events.RUN_START:
                began_again += worker in starts and event.get("recorded_by") == events.PROXY
            if began_again:
                worker = f"{worker}#{began_again}"
            if isinstance(task_id := event.get("task_id"), str):
                tasks[TaskKey(task_id, worker)].append(event)
                continue
            run_events.append(event)
            if event["event_type"] == events.RUN_START:
                starts[worker] = event
    joined, proxied = join_proxied_tasks(tasks, starts)
    by_proxies = [event for event in starts.values() if event.get("recorded_by") == events.PROXY]
    if by_proxies:
        starts.setdefault(events.PROXY, min(by_proxies, key=lambda event: float(event["timestamp"])))
    return Journal(
        joined,
        run_events,
        damaged,
        files,
        {key: _values(key, some, starts) for key, some in joined.items()},
        {key: exporter_energy(some) for key, some in joined.items()},
        starts,
        proxied,
        _count_requests(tasks, {worker for worker, event in starts.items() if event in by_proxies}),
    )


def _count_requests(tasks: Mapping[TaskKey, Sequence[Event]], proxies: Collection[str]) -> Mapping[str, int]:
    counts: Counter[str] = Counter()
    for key, task_events in tasks.items():
        if key.worker in proxies:
            counts[key.task_id] += sum(event["event_type"] == events.LLM_QUERY_END for event in task_events)
    return counts


def _values(key: TaskKey, task_events: Sequence[Event], run_starts: Mapping[str, Event]) -> TaskValues:
    run = run_starts.get(key.worker, {})
    values = task_values(task_events, run)
    if run.get("recorded_by") == events.PROXY and values.tool_calls is not None:
        # Whether a tool failed is for the benchmark alone to see.
        known = {outcome: count for outcome, count in values.tool_calls.items() if outcome != TOOL_ERROR}
        return replace(values, tool_calls=known)
    return values


def iterate_events(directory: Path, wanted: Callable[[bytes], bool]) -> Iterator[Event]:
    """Events of the lines that are ``wanted``, none of them kept. A journal that is a link to some other place is left out."""
    for path in sorted(directory.glob(JOURNAL_PATTERN)):
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as lines:
            for line in lines:
                if wanted(line) and (event := parse_event(line)) is not None:
                    yield event


def closed_workers(directory: Path, now: float, idle_seconds: float) -> frozenset[str]:
    """Workers whose journal no process holds open any more, and which wrote nothing for ``idle_seconds`` before ``now``.

    They have ended or died. A worker of another host, whose journal is not here, is not among them: it may still run.
    """
    found = set()
    for path in directory.glob(JOURNAL_PATTERN):
        # A journal that is being written is locked; a file system without locks leaves it open, so nothing is released.
        with suppress(OSError), path.open("rb") as journal:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if now - os.fstat(journal.fileno()).st_mtime > idle_seconds:
                found.add(path.stem.removeprefix("journal-"))
    return frozenset(found)


def known_runs(runs_dir: Path) -> list[str]:
    """Runs that have a journal in ``runs_dir``."""
    return sorted({path.parent.name for path in runs_dir.glob(f"*/{JOURNAL_PATTERN}")})


def _lines(path: Path) -> Iterator[bytes]:
    if not path.is_file():
        raise UserError(f"--runs-dir: {path} cannot be read (no regular file); move it away")
    try:
        with path.open("rb") as lines:
            yield from lines
    except OSError as error:
        raise UserError(f"--runs-dir: {path} cannot be read ({error.strerror}); mend it or move it away") from error


def parse_event(line: bytes) -> Event | None:
    """The event of one line; None for a line that is none."""
    try:
        event = decode_json(line, keep_surrogates=True)
    except ValueError:
        return None
    return event if events.is_event(event) and as_unix_time(event.get("timestamp")) is not None else None


def task_values(task_events: Sequence[Event], run: Mapping[str, object]) -> TaskValues:
    """``run``: the worker's RUN_START, for what a task event leaves out."""
    start = _last(task_events, events.TASK_START)
    end = _last(task_events, events.TASK_END)
    calls = [event for event in task_events if event["event_type"] == events.LLM_QUERY_END]
    tools = [event for event in task_events if event["event_type"] == events.TOOL_CALL_END]
    outcomes = Counter(as_name(event.get("outcome")) for event in tools)
    scores = _scores(task_events)
    ttfts = _numbers(calls, "ttft_seconds")
    timed = [c for c in calls if as_float(c.get("decode_seconds")) is not None and as_int(c.get("decode_tokens")) is not None]
    success = end.get("success")
    return TaskValues(
        task_name=as_name(start.get("task_name")),
        model_name=as_name(start.get("model_name")) or as_name(run.get("model_name")),
        suite=as_name(start.get("suite")) or as_name(run.get("suite")),
        start=as_float(start.get("timestamp")),
        end=as_float(end.get("timestamp")),
        duration=as_float(end.get("duration_seconds")),
        status=as_name(end.get("status")),
        success=success if isinstance(success, bool) else None,
        reason=as_name(end.get("reason")),
        llm_calls=sum(event["event_type"] == events.LLM_QUERY_START for event in task_events),
        llm_errors=sum(call.get("status") == "error" for call in calls),
        prompt_tokens=_count_total(_numbers(calls, "prompt_tokens")),
        completion_tokens=_count_total(_numbers(calls, "completion_tokens")),
        llm_seconds=_total(_numbers(calls, "duration_seconds")),
        ttft_count=len(ttfts),
        ttft_seconds=_total(ttfts),
        prefill_seconds=_total(_numbers(calls, "prefill_seconds")),
        decode_seconds=_total(_numbers(timed, "decode_seconds")),
        decode_tokens=_count_total(_numbers(timed, "decode_tokens")),
        load_seconds=_total(_numbers(calls, "load_seconds")),
        tool_calls={outcome: outcomes[outcome] for outcome in TOOL_OUTCOMES},
        tool_seconds=_total(_numbers(tools, "duration_seconds")),
        confidence_count=len(scores),
        confidence_sum=_total(scores),
        confidence_min=min(scores, default=None),
        confidence_max=max(scores, default=None),
    )


def exporter_energy(task_events: Sequence[Event]) -> ExporterAnswer:
    """The exporters' answer for the whole task; the last one counts, unless the task has ended later than its window."""
    answer = _last(task_events, events.TASK_ENERGY)
    asked_until, end = as_float(answer.get("end")), as_float(_last(task_events, events.TASK_END).get("timestamp"))
    if asked_until is not None and end is not None and asked_until < end - SAME_MOMENT_SECONDS:
        return ExporterAnswer()
    return ExporterAnswer(
        gpus=tuple(_gpu(row) for row in as_list(answer.get("gpus")) if isinstance(row, dict)),
        source=as_name(answer.get("source")),
        basis=as_name(answer.get("basis")),
        missing_hosts=tuple(host for host in as_list(answer.get("missing_hosts")) if isinstance(host, str)),
        parts=energy_parts(answer),
        event=answer or None,
    )


def energy_parts(answer: Event) -> tuple[PartEnergy, ...]:
    """Energies between the cuts of an answered window; none unless every device has its joules in each part."""
    start, end = as_float(answer.get("start")), as_float(answer.get("end"))
    cuts = [as_float(cut) for cut in as_list(answer.get("cuts"))]
    rows = [as_list(row.get("parts")) for row in as_list(answer.get("gpus")) if isinstance(row, dict)]
    if start is None or end is None or not cuts or not rows or any(len(row) != len(cuts) + 1 for row in rows):
        return ()
    edges = [start, *(start + cut for cut in cuts if cut is not None), end]
    if len(edges) != len(cuts) + 2 or any(a > b for a, b in pairwise(edges)):
        return ()
    parts = []
    for (since, until), by_device in zip(pairwise(edges), zip(*rows, strict=True), strict=True):
        values = [[as_float(value) for value in as_list(part)] for part in by_device]
        if any(len(value) != len(("joules", "low", "high")) for value in values):
            return ()
        joules, low, high = (sum_or_none(column) for column in zip(*values, strict=True))
        if joules is None:
            return ()
        parts.append(PartEnergy(since, until, joules, low, high))
    return tuple(parts)


def curve_readings(answer: Event) -> Iterator[tuple[str, Sequence[tuple[float, float, bool]], bool]]:
    """(UUID, readings of its energy curve, whether they are corrected for a lag) of each GPU that an answer knows the curve of.

    A reading is (unix time, joules, whether it is at a cut inside of the window).
    """
    start, end = as_float(answer.get("start")), as_float(answer.get("end"))
    cuts = [as_float(cut) for cut in as_list(answer.get("cuts"))]
    if start is None or end is None:
        return
    edges = [start, *(start + cut for cut in cuts if cut is not None), end]
    for row in as_list(answer.get("gpus")):
        if not isinstance(row, dict) or (at_end := as_float(row.get("end_joules"))) is None:
            continue
        joules = [as_float(part[0]) if isinstance(part, list) and part else None for part in as_list(row.get("parts"))]
        times = edges
        if len(joules) != len(edges) - 1 or any(a > b for a, b in pairwise(edges)) or None in joules:
            joules, times = [as_float(row.get("joules"))], [start, end]
        known = [joule for joule in joules if joule is not None]
        if len(known) < len(joules):
            continue
        after = [at_end, *(at_end - used for used in accumulate(reversed(known)))]
        inner = [False, *[True] * (len(times) - 2), False]
        uuid, is_corrected = str(row.get("uuid", "")), Reason.SENSOR_LAG in as_list(row.get("reasons"))
        yield uuid, list(zip(times, reversed(after), inner, strict=True)), is_corrected


def _gpu(row: Mapping[str, object]) -> GpuJoules:
    reasons = row.get("reasons")
    return GpuJoules(
        gpu=str(row.get("gpu", "")),
        uuid=str(row.get("uuid", "")),
        joules=as_float(row.get("joules")),
        low=as_float(row.get("low")),
        high=as_float(row.get("high")),
        method=as_name(row.get("method")),
        samples=as_int(row.get("samples")),
        quality=as_name(row.get("quality")),
        reasons=tuple(map(str, reasons)) if isinstance(reasons, list) else (),
        throttled=throttled_seconds(row),
        host=as_name(row.get("host")),
        share=as_float(row.get("share")),
        parent=as_name(row.get("parent")),
        longest_gap=as_float(row.get("longest_gap_seconds")),
        role=as_name(row.get("role")),
        clock_offset=as_float(row.get("clock_offset_seconds")),
        clock_uncertainty=as_float(row.get("clock_uncertainty_seconds")),
    )


def throttled_seconds(row: Mapping[str, object]) -> dict[str, float]:
    """Seconds by reason in the exporter's answer for one GPU, those that it knew."""
    answer = as_dict(row.get("throttled_seconds"))
    pairs = ((reason, as_float(answer.get(reason))) for reason in THROTTLE_REASONS)
    return {reason: seconds for reason, seconds in pairs if seconds is not None and seconds >= 0}


def _last(task_events: Sequence[Event], event_type: str) -> Event:
    return next((event for event in reversed(task_events) if event["event_type"] == event_type), {})


def _scores(task_events: Sequence[Event]) -> list[float]:
    """Confidences of tool calls that ended: the pusher counts a call at its end."""
    ended = {event.get("tool_call") for event in task_events if event["event_type"] == events.TOOL_CALL_END}
    starts = [e for e in task_events if e["event_type"] == events.TOOL_CALL_START and e.get("tool_call") in ended]
    return _numbers(starts, "confidence")


def _numbers(some: Iterable[Event], name: str) -> list[float]:
    return [value for event in some if (value := as_float(event.get(name))) is not None]


def _total(found: Sequence[float]) -> float | None:
    return sum(found) if found else None


def _count_total(found: Sequence[float]) -> int | None:
    return round(sum(found)) if found else None
