"""Joins what metering proxies recorded of a run with what the benchmark itself recorded, so that each task and request is one.

What several proxies recorded of one task, or a proxy that was restarted in the middle of it, is one task: from the start of its
first request to the end of its last, each request once. Each proxy shares the joules of a moment among its own requests alone.

A proxied request belongs to the benchmark's task of the same name in whose window it began; without such a task it stays in a
task of the proxy's own. A request that both recorded is one call: the benchmark's, with what only the proxy knows. They are the
same where most of the request lies within the call and the two do not name different replies; several requests of one call,
one after another, are its retries. Tool calls count once, too: the benchmark's, with the proxy's confidence where it has none.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from joulebench.parsing import as_float
from joulebench.results.task import SAME_MOMENT_SECONDS, TaskKey
from joulebench.schema import events
from joulebench.schema.result import Event

TOLERANCE_SECONDS = 0.05
"""Between two processes of one machine, which read the same clock."""
_REPETITION = re.compile(r"#\d+$")
_CALL_EVENTS = (events.LLM_QUERY_START, events.LLM_FIRST_TOKEN_RECEIVED, events.LLM_QUERY_END, events.CALL_ENERGY)

TaskEvents = Mapping[TaskKey, list[Event]]


@dataclass(slots=True)
class _Request:
    """A call or a proxied request, with its events. ``tools``: events by number of the tool call."""

    start: float
    end: float = float("inf")
    response_id: object = None
    model: object = None
    events: list[Event] = field(default_factory=list)
    tools: dict[object, list[Event]] = field(default_factory=lambda: defaultdict(list))
    attempts: list[_Request] = field(default_factory=list)

    def event(self, event_type: str) -> Event | None:
        return next((event for event in self.events if event["event_type"] == event_type), None)

    def may_hold(self, other: _Request) -> bool:
        """Whether most of ``other`` lies within this call, and it is not another reply."""
        if not self.start - TOLERANCE_SECONDS <= other.start < self.end:
            return False
        if self.end - other.start < (other.end - other.start) / 2:
            return False
        return not self.response_id or not other.response_id or self.response_id == other.response_id


def join_proxied_tasks(
    tasks: TaskEvents, run_starts: Mapping[str, Event]
) -> tuple[dict[TaskKey, list[Event]], frozenset[TaskKey]]:
    """Returns the tasks of a run with the proxy's part in those of the benchmark, and the keys of the tasks that have one."""
    proxies = {worker for worker, event in run_starts.items() if event.get("recorded_by") == events.PROXY}
    joined = {key: list(some) for key, some in tasks.items() if key.worker not in proxies}
    proxied = _merge_proxies({key: some for key, some in tasks.items() if key.worker in proxies}, joined)
    by_name: defaultdict[str, list[TaskKey]] = defaultdict(list)
    for key, some in joined.items():
        for name in task_names(key, some):
            by_name[name].append(key)
    added: defaultdict[TaskKey, list[_Request]] = defaultdict(list)
    for key in sorted(proxied):
        left = []
        for request in _requests(proxied[key]):
            owners = [own for own in by_name[key.task_id] if _is_within(request.start, joined[own])]
            if len(owners) == 1:
                added[owners[0]].append(request)
            else:
                left.append(request)
        if left and len(left) == len(_requests(proxied[key])):
            joined[key] = proxied[key]
        elif left:
            joined[key] = _remaining_task(proxied[key], left)
    for key, requests in added.items():
        joined[key] = _join(joined[key], requests)
    return joined, frozenset(key for key in joined if key in added or key in proxied)


def _merge_proxies(tasks: TaskEvents, own: TaskEvents) -> dict[TaskKey, list[Event]]:
    """Tasks of the worker ``proxy``, each with what all proxies recorded of it. ``own``: tasks of the benchmark."""
    tasks = _without_shares_beside_other_proxies(tasks)
    by_task: defaultdict[str, list[TaskKey]] = defaultdict(list)
    for key in tasks:
        by_task[key.task_id].append(key)
    merged = {}
    for task_id, keys in by_task.items():
        parts = sorted((tasks[key] for key in keys), key=_first_time)
        key = TaskKey(task_id, events.PROXY)
        # A benchmark may call its worker so, too.
        merged[keys[0] if key in own else key] = parts[0] if len(parts) == 1 else _merge_parts(parts)
    return merged


def _without_shares_beside_other_proxies(tasks: TaskEvents) -> TaskEvents:
    """Leaves out the shares of requests that overlapped a request of another proxy: each proxy shares among its own alone."""
    if len({key.worker for key in tasks}) < 2:
        return tasks
    windows = [(request, key) for key, some in tasks.items() for request in _requests(some)]
    beside: defaultdict[TaskKey, set[object]] = defaultdict(set)
    running: list[tuple[_Request, TaskKey]] = []
    for request, key in sorted(windows, key=lambda window: window[0].start):
        running = [(other, of) for other, of in running if other.end > request.start]
        for other, of in running:
            if of.worker != key.worker:
                beside[key].add(request.events[0].get("call"))
                beside[of].add(other.events[0].get("call"))
        running.append((request, key))
    return {
        key: [
            {name: value for name, value in event.items() if name != "share"}
            if event["event_type"] == events.CALL_ENERGY and event.get("call") in beside[key]
            else event
            for event in some
        ]
        for key, some in tasks.items()
    }


def _first_time(task_events: Sequence[Event]) -> float:
    return min(float(event["timestamp"]) for event in task_events)


def _merge_parts(parts: Sequence[Sequence[Event]]) -> list[Event]:
    """One task of the parts that several proxies recorded: calls and tool calls are numbered on from part to part, and of the
    energies of windows those remain that are of all of the task."""
    starts = [event for part in parts for event in part if event["event_type"] == events.TASK_START]
    ends = [event for part in parts for event in part if event["event_type"] == events.TASK_END]
    start = min(starts, key=_time) if starts else None
    last = max((_time(event) for part in parts for event in part if event["event_type"] in _ENDING), default=None)
    found = [] if start is None else [start]
    calls = tools = 0
    for part in parts:
        for event in part:
            if event["event_type"] in (events.TASK_START, events.TASK_END, events.TASK_ENERGY):
                continue
            numbered = {**event}
            if isinstance(event.get("call"), int):
                numbered["call"] = event["call"] + calls
            if isinstance(event.get("tool_call"), int):
                numbered["tool_call"] = event["tool_call"] + tools
            found.append(numbered)
        calls = max((event["call"] for event in found if isinstance(event.get("call"), int)), default=0)
        tools = max((event["tool_call"] for event in found if isinstance(event.get("tool_call"), int)), default=0)
    if ends and start is not None and last is not None:
        found.append({**ends[-1], "timestamp": last, "duration_seconds": last - _time(start)})
        found += [event for part in parts for event in part if _is_energy_of(event, _time(start), last)]
    return found


_ENDING = (events.TASK_END, events.LLM_QUERY_END)


def _time(event: Event) -> float:
    return float(event["timestamp"])


def _is_energy_of(event: Event, start: float, end: float) -> bool:
    asked = (as_float(event.get("start")), as_float(event.get("end")))
    return event["event_type"] == events.TASK_ENERGY and all(
        at is not None and abs(at - edge) <= SAME_MOMENT_SECONDS for at, edge in zip(asked, (start, end), strict=True)
    )


def task_names(key: TaskKey, task_events: Sequence[Event]) -> set[str]:
    """Names by which proxied requests may name a benchmark's task."""
    return {key.task_id, _REPETITION.sub("", key.task_id), _task_name(task_events)}


def _task_name(task_events: Sequence[Event]) -> str:
    return next((str(event.get("task_name")) for event in task_events if event["event_type"] == events.TASK_START), "")


def _is_within(at: float, task_events: Sequence[Event]) -> bool:
    starts = [float(event["timestamp"]) for event in task_events if event["event_type"] == events.TASK_START]
    ends = [float(event["timestamp"]) for event in task_events if event["event_type"] == events.TASK_END]
    if not starts or at < starts[0] - TOLERANCE_SECONDS:
        return False
    return not ends or at <= ends[-1] + TOLERANCE_SECONDS


def _requests(task_events: Iterable[Event]) -> list[_Request]:
    """The calls of a task in the order in which they began, each with its events and those of its tool calls."""
    found: dict[object, _Request] = {}
    calls_of_tools: dict[object, object] = {}
    later: list[Event] = []
    for event in task_events:
        kind = event["event_type"]
        if kind == events.LLM_QUERY_START:
            request = found[event.get("call")] = _Request(float(event["timestamp"]), model=event.get("model_name"))
            request.events.append(event)
        elif kind in (*_CALL_EVENTS, events.TOOL_CALL_START, events.TOOL_CALL_END):
            later.append(event)
    for event in later:
        kind = event["event_type"]
        if kind == events.TOOL_CALL_START:
            calls_of_tools[event.get("tool_call")] = event.get("call")
        is_tool = kind in (events.TOOL_CALL_START, events.TOOL_CALL_END)
        call = calls_of_tools.get(event.get("tool_call")) if is_tool else event.get("call")
        request_of_event = found.get(call)
        if request_of_event is None:
            continue
        if is_tool:
            request_of_event.tools[event.get("tool_call")].append(event)
            continue
        request_of_event.events.append(event)
        if kind == events.LLM_QUERY_END:
            request_of_event.end = float(event["timestamp"])
            request_of_event.response_id = event.get("response_id")
    return sorted(found.values(), key=lambda request: request.start)


def _remaining_task(task_events: Sequence[Event], requests: Sequence[_Request]) -> list[Event]:
    """A proxied task without the requests that belong to a benchmark's task; its window is that of the others."""
    start = next(event for event in task_events if event["event_type"] == events.TASK_START)
    ends = [event for event in task_events if event["event_type"] == events.TASK_END]
    first = min(request.start for request in requests)
    last = max((request.end for request in requests if request.end != float("inf")), default=None)
    found = [{**start, "timestamp": first}]
    for request in requests:
        found += request.events
        found += [event for some in request.tools.values() for event in some]
    if ends and last is not None:
        found.append({**ends[-1], "timestamp": last, "duration_seconds": last - first})
    return found


def _join(own: Sequence[Event], requests: Sequence[_Request]) -> list[Event]:
    """The events of a benchmark's task, with proxied requests in its own calls or as further calls."""
    calls = _requests(own)
    further: list[_Request] = []
    for request in sorted(requests, key=lambda one: one.start):
        call = _call_of(request, calls)
        if call is None:
            further.append(request)
        else:
            call.attempts.append(request)
    replaced: dict[int, Event | None] = {}
    found: list[Event] = []
    for call in calls:
        if call.attempts:
            found += _completed(call, replaced)
    number = max((event["call"] for event in own if isinstance(event.get("call"), int)), default=0)
    for request in further:
        number += 1
        found += [_renumbered(event, own[0], call=number) for event in request.events]
        request.events[0] = {**request.events[0], "call": number}
    own_tools = [event for event in own if event["event_type"] == events.TOOL_CALL_START]
    proxied = [*(call.attempts[-1] for call in calls if call.attempts), *further]
    if own_tools:
        replaced.update(_with_confidences(own_tools, [tool for one in proxied for tool in one.tools.values()]))
    else:
        numbers = [
            *((call.attempts[-1], call.events[0].get("call")) for call in calls if call.attempts),
            *((one, one.events[0].get("call")) for one in further),
        ]
        tool_call = 0
        for request, of_call in numbers:
            for tool_events in request.tools.values():
                tool_call += 1
                numbered = [_renumbered(event, own[0], tool_call=tool_call) for event in tool_events]
                found += [{**event, "call": of_call} if "call" in event else event for event in numbered]
    kept = [replaced.get(id(event), event) for event in own]
    return sorted((event for event in (*kept, *found) if event is not None), key=lambda event: float(event["timestamp"]))


def _call_of(request: _Request, calls: Sequence[_Request]) -> _Request | None:
    """The benchmark's call that a proxied request was, or was a retry of; one that no request was of yet, if there is one."""
    matching = [call for call in calls if call.may_hold(request)]
    free = [call for call in matching if not call.attempts]
    if not free:
        free = [call for call in matching if call.attempts[-1].end <= request.start + TOLERANCE_SECONDS]
    return min(free, key=lambda call: abs(call.start - request.start), default=None)


def _completed(call: _Request, replaced: dict[int, Event | None]) -> list[Event]:
    """Further events of a call that the proxy knows; ``replaced`` gets those of its own events that have more fields now."""
    number, first, last = call.events[0].get("call"), call.events[0], call.attempts[-1]
    found = []
    for kind in (events.LLM_FIRST_TOKEN_RECEIVED, events.LLM_QUERY_END, events.CALL_ENERGY):
        own, seen = call.event(kind), last.event(kind)
        if seen is None:
            continue
        if own is None:
            found.append(_renumbered(seen, first, call=number))
        elif kind == events.LLM_QUERY_END:
            replaced[id(own)] = {**seen, **{name: value for name, value in own.items() if value is not None}}
        elif kind == events.CALL_ENERGY and "share" not in own and "share" in seen:
            replaced[id(own)] = {**own, "share": seen["share"]}
    return found


def _renumbered(event: Event, of_task: Event, **numbers: object) -> Event:
    """``event`` as one of the task and worker of ``of_task``, with ``numbers`` in place of its own."""
    return {**event, "task_id": of_task.get("task_id"), "worker": of_task.get("worker"), **numbers}


def _with_confidences(own_tools: Sequence[Event], proxied: Sequence[Sequence[Event]]) -> dict[int, Event | None]:
    """The benchmark's tool calls that have no confidence, with that of the proxy's call of the same name, in their order."""
    waiting: defaultdict[object, list[Event]] = defaultdict(list)
    for tool_events in proxied:
        waiting[tool_events[0].get("tool_name")].append(tool_events[0])
    found: dict[int, Event | None] = {}
    for own in own_tools:
        candidates = waiting[own.get("tool_name")]
        if not candidates:
            continue
        seen = candidates.pop(0)
        if as_float(own.get("confidence")) is None and as_float(seen.get("confidence")) is not None:
            names = ("confidence", "confidence_measures", "span_status")
            found[id(own)] = {**own, **{name: seen.get(name) for name in names}}
    return found
