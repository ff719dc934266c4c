"""Runs with known outcomes and confidences, as journals and as result files."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL = "scripted:1b"

Event = dict[str, Any]


@dataclass(frozen=True)
class Call:
    outcome: str = "ok"
    score: float | None = 0.9
    joules: float | None = None
    measures: Mapping[str, float] | None = None


def task_events(
    name: str, calls: Sequence[Call], *, success: bool | None, start: float, joules: float | None = None, source: str = "nvml"
) -> list[Event]:
    """A task of ten seconds a call; each tool call is made by a model's call of its own."""
    common = {"run_id": "r", "task_id": name, "worker": "w"}

    def event(kind: str, at: float, **more: Any) -> Event:
        return {"event_type": kind, "timestamp": at, **common, **more}

    events = [event("TASK_START", start, task_name=name.partition("#")[0], model_name=MODEL, suite="s")]
    for number, call in enumerate(calls, start=1):
        at = start + 10.0 * number
        measures = call.measures if call.measures is not None else {} if call.score is None else {"naive_mean": call.score}
        told = {"confidence": call.score, "confidence_measures": dict(measures), "span_status": "ok"}
        events += [
            event("LLM_QUERY_START", at - 10.0, call=number),
            event("LLM_QUERY_END", at, call=number, status="success"),
            event("TOOL_CALL_START", at, tool_call=number, call=number, tool_name="t", args={}, **told),
            event("TOOL_CALL_END", at, tool_call=number, tool_name="t", outcome=call.outcome, success=call.outcome == "ok"),
        ]
        if call.joules is not None:
            events.append(event("CALL_ENERGY", at, call=number, source=source, total={"joules": call.joules}))
    end = start + 10.0 * len(calls)
    status = {True: "success", False: "failure", None: "unknown"}[success]
    events.append(event("TASK_END", end, status=status, success=success))
    if joules is not None:
        events.append(event("TASK_ENERGY", end, source=source, total={"joules": joules}))
    return events


def write_journal(directory: Path, events: Sequence[Event]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    start = {"event_type": "RUN_START", "timestamp": 0.0, "run_id": directory.name, "worker": "w", "model_name": MODEL}
    lines = [json.dumps(event) for event in (start, *events)]
    (directory / "journal-w.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


def planted(directory: Path, tasks: int, signal: float, seed: int = 1) -> Path:
    """One call a task; half of the tasks fail. ``signal``: how far the scores of the two halves lie apart, 0 for not at all."""
    rng = random.Random(seed)
    events: list[Event] = []
    for number in range(tasks):
        success = number % 2 == 0
        score = min(0.999, max(0.001, rng.gauss(0.5 + (signal if success else -signal), 0.2)))
        names = ("call_decision", "name_joint", "name_branch", "args_min", "args_geo", "naive_mean")
        measures = {name: min(0.999, max(0.001, score + rng.gauss(0.0, 0.02))) for name in names}
        measures |= {"sem_nll": 3.0 - 2.0 * score, "entropy_max": 1.5 - score}
        call = Call("ok" if success else "schema_invalid", score, measures=measures)
        events += task_events(f"t{number}", [call], success=success, start=100.0 * number)
    return write_journal(directory, events)
