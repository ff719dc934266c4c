"""Where a model has low confidence: mean confidence by tool and by task, and the worst calls with their text.

The text of a call comes from the journals in the run's own directory; without them there is none.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from joulebench.analysis.prediction.records import SCORE, CallRecord, TaskRecord
from joulebench.analysis.statistics import LEAST_TASKS, Estimate, TaskResampler, TaskSums, success_rate
from joulebench.parsing import as_int
from joulebench.results.journal import iterate_events

UNDECLARED, MALFORMED = "(a tool that was not declared)", "(malformed)"
"""The name that a model gives to such a tool is any text, so all of them share a line."""
LOWEST, OVERCONFIDENT = "lowest confidence", "confident, but failed"
MOST_CALLS = 10
CONFIDENT = 0.5
"""A failed call above this score is overconfident."""
MOST_TEXT = 240


@dataclass(frozen=True, slots=True)
class ConfidenceSummary:
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
class WorstCall:
    """``args`` and ``answer``, which is the tool's result or its error: cut to MOST_TEXT, None without a journal."""

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
class LowConfidence:
    """Tools and tasks with the lowest confidence first."""

    tools: tuple[ConfidenceSummary, ...]
    tasks: tuple[ConfidenceSummary, ...]
    calls: tuple[WorstCall, ...]


def summarize_low_confidence(tasks: Sequence[TaskRecord]) -> LowConfidence:
    numbered = [(number, task, call) for number, task in enumerate(tasks) for call in task.calls]
    return LowConfidence(
        tools=_summaries([(task.model, _tool(call), task.name, call) for _, task, call in numbered]),
        tasks=_summaries([(task.model, task.name, str(number), call) for number, task, call in numbered]),
        calls=tuple(_worst_calls(tasks)),
    )


GroupedCall = tuple[str, str, str, CallRecord]
"""(model, name of the tool or task, what is resampled, the call)"""


def _summaries(calls: Iterable[GroupedCall]) -> tuple[ConfidenceSummary, ...]:
    parts: defaultdict[tuple[str, str], defaultdict[str, list[CallRecord]]] = defaultdict(lambda: defaultdict(list))
    for model, name, unit, call in calls:
        parts[model, name][unit].append(call)
    summaries = [_summary(model, name, list(units.values())) for (model, name), units in parts.items()]
    return tuple(
        sorted(summaries, key=lambda each: (each.model, 2.0 if each.confidence.value is None else each.confidence.value))
    )


def _summary(model: str, name: str, units: Sequence[Sequence[CallRecord]]) -> ConfidenceSummary:
    if len(units) < LEAST_TASKS:
        return _summary_without_intervals(model, name, units)
    scores = np.array([sum(call.measures.get(SCORE, 0.0) for call in unit) for unit in units])
    scored = np.array([float(sum(SCORE in call.measures for call in unit)) for unit in units])
    failed = np.array([float(sum(call.outcome != "ok" for call in unit)) for unit in units])
    calls = np.array([float(len(unit)) for unit in units])
    return ConfidenceSummary(
        model=model,
        name=name,
        calls=int(calls.sum()),
        scored=int(scored.sum()),
        attempts=len(units),
        confidence=_resampler(len(units)).ratio(TaskSums(scores, scored)),
        failed=success_rate(TaskSums(failed, calls)),
    )


def _summary_without_intervals(model: str, name: str, units: Sequence[Sequence[CallRecord]]) -> ConfidenceSummary:
    """Of fewer than LEAST_TASKS units, such as tasks with one attempt."""
    calls = [call for unit in units for call in unit]
    scores = [call.measures[SCORE] for call in calls if SCORE in call.measures]
    mean = sum(scores) / len(scores) if scores else None
    failed = sum(call.outcome != "ok" for call in calls) / len(calls)
    return ConfidenceSummary(model, name, len(calls), len(scores), len(units), Estimate(mean), Estimate(failed))


@lru_cache(maxsize=8)
def _resampler(units: int) -> TaskResampler:
    return TaskResampler(units)


def _tool(call: CallRecord) -> str:
    return {"undeclared": UNDECLARED, "malformed": MALFORMED}.get(call.outcome, call.tool or "(no name)")


def _worst_calls(tasks: Sequence[TaskRecord]) -> list[WorstCall]:
    picked: list[tuple[str, TaskRecord, CallRecord]] = []
    for model in sorted({task.model for task in tasks}):
        scored = [(task, call) for task in tasks if task.model == model for call in task.calls if SCORE in call.measures]
        ordered = sorted(scored, key=lambda each: each[1].measures[SCORE])
        picked += [(LOWEST, *each) for each in ordered[:MOST_CALLS]]
        failed = [each for each in reversed(ordered) if each[1].outcome != "ok" and each[1].measures[SCORE] > CONFIDENT]
        picked += [(OVERCONFIDENT, *each) for each in failed[:MOST_CALLS]]
    texts = _texts((task, call) for _, task, call in picked)
    return [_worst_call(kind, task, call, texts.get(_key(task, call))) for kind, task, call in picked]


def _worst_call(kind: str, task: TaskRecord, call: CallRecord, texts: tuple[str | None, str | None] | None) -> WorstCall:
    worst = WorstCall(
        kind=kind,
        run=task.run,
        task_id=task.task_id,
        worker=task.worker,
        model=task.model,
        tool=shorten(call.tool, 60),
        number=call.number,
        score=call.measures[SCORE],
        outcome=call.outcome,
        success=task.success,
    )
    return worst if texts is None else replace(worst, args=texts[0], answer=texts[1])


Key = tuple[Path | None, str, str, int | None]


def _key(task: TaskRecord, call: CallRecord) -> Key:
    return task.directory, task.task_id, task.worker, call.number


def _texts(wanted: Iterable[tuple[TaskRecord, CallRecord]]) -> dict[Key, tuple[str | None, str | None]]:
    """(arguments, answer) of each call that is in a journal of its run."""
    keys = {_key(task, call) for task, call in wanted}
    texts: defaultdict[Key, list[str | None]] = defaultdict(lambda: [None, None])
    for directory in {key[0] for key in keys if key[0] is not None}:
        for event in iterate_events(directory, _is_tool_call):
            key = (directory, str(event.get("task_id")), str(event.get("worker")), as_int(event.get("tool_call")))
            if key not in keys:
                continue
            if event["event_type"] == "TOOL_CALL_START":
                texts[key][0] = shorten(_as_text(event.get("args")))
            else:
                texts[key][1] = shorten(_as_text(event.get("error") or event.get("result")))
    return {key: (args, answer) for key, (args, answer) in texts.items()}


def _is_tool_call(line: bytes) -> bool:
    return b'"TOOL_CALL_' in line


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def shorten(text: str, most: int = MOST_TEXT) -> str:
    """``text`` on one line, no longer than ``most``, without control characters."""
    plain = " ".join("".join(each if each.isprintable() else " " for each in text[: 4 * most]).split())
    return plain if len(plain) <= most and len(text) <= 4 * most else f"{plain[: most - 1]}…"
