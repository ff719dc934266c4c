"""What makes a model unsure: its confidence by tool and by task, and its worst calls with their text.

The text of a call is looked up in the journals that lie in the run's own directory, and nowhere else; without them there is none.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from joulebench.analysis.bootstrap import LEAST_TASKS, Draws, Estimate, share
from joulebench.analysis.prediction.records import SCORE, CallRecord, TaskRecord
from joulebench.parsing import as_int
from joulebench.results.journal import iterate_events

UNDECLARED, MALFORMED = "(a tool that was not declared)", "(malformed)"
"""What a model calls such a tool is any text at all, so they are one line."""
LEAST_SURE, SURE_BUT_FAILED = "least sure", "sure, but failed"
MOST_CALLS = 10
SURE = 0.5
"""A call that failed counts as a surprise above this score."""
MOST_TEXT = 240


@dataclass(frozen=True, slots=True)
class Doubt:
    """The mean score of ``scored`` of ``calls``, and the share of calls that failed, with intervals by resampling.

    By tool whole tasks are resampled; by task its ``attempts``.
    """

    model: str
    name: str
    calls: int
    scored: int
    attempts: int
    confidence: Estimate
    failed: Estimate


@dataclass(frozen=True, slots=True)
class DoubtfulCall:
    """``args`` and ``answer``, which is the tool's result or its error: cut to MOST_TEXT, None where no journal tells them."""

    kind: str
    run: str
    task_id: str
    worker: str
    model: str
    tool: str
    number: int | None
    score: float
    outcome: str
    success: bool | None
    args: str | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Doubts:
    """Tools and tasks with the least sure first."""

    tools: tuple[Doubt, ...]
    tasks: tuple[Doubt, ...]
    calls: tuple[DoubtfulCall, ...]


def doubts(tasks: Sequence[TaskRecord]) -> Doubts:
    found = [(number, task, call) for number, task in enumerate(tasks) for call in task.calls]
    return Doubts(
        tools=_by([(task.model, _tool(call), task.name, call) for _, task, call in found]),
        tasks=_by([(task.model, task.name, str(number), call) for number, task, call in found]),
        calls=tuple(_worst(tasks)),
    )


Told = tuple[str, str, str, CallRecord]
"""model, what is told of, what is resampled, the call"""


def _by(found: Iterable[Told]) -> tuple[Doubt, ...]:
    parts: defaultdict[tuple[str, str], defaultdict[str, list[CallRecord]]] = defaultdict(lambda: defaultdict(list))
    for model, name, unit, call in found:
        parts[model, name][unit].append(call)
    every = [_doubt(model, name, list(units.values())) for (model, name), units in parts.items()]
    return tuple(sorted(every, key=lambda one: (one.model, 2.0 if one.confidence.value is None else one.confidence.value)))


def _doubt(model: str, name: str, units: Sequence[Sequence[CallRecord]]) -> Doubt:
    if len(units) < LEAST_TASKS:
        return _counted(model, name, units)
    scores = np.array([sum(call.measures.get(SCORE, 0.0) for call in unit) for unit in units])
    scored = np.array([float(sum(SCORE in call.measures for call in unit)) for unit in units])
    failed = np.array([float(sum(call.outcome != "ok" for call in unit)) for unit in units])
    calls = np.array([float(len(unit)) for unit in units])
    return Doubt(
        model=model,
        name=name,
        calls=int(calls.sum()),
        scored=int(scored.sum()),
        attempts=len(units),
        confidence=_draws(len(units)).ratio(scores, scored),
        failed=share(failed, calls),
    )


def _counted(model: str, name: str, units: Sequence[Sequence[CallRecord]]) -> Doubt:
    """Too few for an interval, as most tasks are that were tried once."""
    calls = [call for unit in units for call in unit]
    scores = [call.measures[SCORE] for call in calls if SCORE in call.measures]
    sure, failed = sum(scores) / len(scores) if scores else None, sum(call.outcome != "ok" for call in calls) / len(calls)
    return Doubt(model, name, len(calls), len(scores), len(units), Estimate(sure), Estimate(failed))


@lru_cache(maxsize=8)
def _draws(units: int) -> Draws:
    return Draws(units)


def _tool(call: CallRecord) -> str:
    return {"undeclared": UNDECLARED, "malformed": MALFORMED}.get(call.outcome, call.tool or "(no name)")


def _worst(tasks: Sequence[TaskRecord]) -> list[DoubtfulCall]:
    picked: list[tuple[str, TaskRecord, CallRecord]] = []
    for model in sorted({task.model for task in tasks}):
        scored = [(task, call) for task in tasks if task.model == model for call in task.calls if SCORE in call.measures]
        ordered = sorted(scored, key=lambda one: one[1].measures[SCORE])
        picked += [(LEAST_SURE, *one) for one in ordered[:MOST_CALLS]]
        surprises = [one for one in reversed(ordered) if one[1].outcome != "ok" and one[1].measures[SCORE] > SURE]
        picked += [(SURE_BUT_FAILED, *one) for one in surprises[:MOST_CALLS]]
    texts = _texts((task, call) for _, task, call in picked)
    return [_told(kind, task, call, texts.get(_key(task, call))) for kind, task, call in picked]


def _told(kind: str, task: TaskRecord, call: CallRecord, texts: tuple[str | None, str | None] | None) -> DoubtfulCall:
    told = DoubtfulCall(
        kind=kind,
        run=task.run,
        task_id=task.task_id,
        worker=task.worker,
        model=task.model,
        tool=cut(call.tool, 60),
        number=call.number,
        score=call.measures[SCORE],
        outcome=call.outcome,
        success=task.success,
    )
    return told if texts is None else replace(told, args=texts[0], answer=texts[1])


Key = tuple[Path | None, str, str, int | None]


def _key(task: TaskRecord, call: CallRecord) -> Key:
    return task.directory, task.task_id, task.worker, call.number


def _texts(wanted: Iterable[tuple[TaskRecord, CallRecord]]) -> dict[Key, tuple[str | None, str | None]]:
    """(arguments, answer) of each call that a journal of its run tells of."""
    keys = {_key(task, call) for task, call in wanted}
    found: defaultdict[Key, list[str | None]] = defaultdict(lambda: [None, None])
    for directory in {key[0] for key in keys if key[0] is not None}:
        for event in iterate_events(directory, _is_tool_call):
            key = (directory, str(event.get("task_id")), str(event.get("worker")), as_int(event.get("tool_call")))
            if key not in keys:
                continue
            if event["event_type"] == "TOOL_CALL_START":
                found[key][0] = cut(_as_text(event.get("args")))
            else:
                found[key][1] = cut(_as_text(event.get("error") or event.get("result")))
    return {key: (args, answer) for key, (args, answer) in found.items()}


def _is_tool_call(line: bytes) -> bool:
    return b'"TOOL_CALL_' in line


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def cut(text: str, most: int = MOST_TEXT) -> str:
    """On one line, no longer than ``most``, without characters that no page should show."""
    plain = " ".join("".join(one if one.isprintable() else " " for one in text[: 4 * most]).split())
    return plain if len(plain) <= most and len(text) <= 4 * most else f"{plain[: most - 1]}…"
