"""One run on two GPUs with known joules, in a store and in journals, with everything that goes wrong somewhere in it.

GPU 0 draws 60 W idle and 300 W during tasks. GPU 1 always draws 100 W; its counter falls to 0 in task ``reset`` and its
samples are missing around the end of task ``gap``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import floor
from pathlib import Path
from typing import Any

from joulebench import metrics
from joulebench.results.queries import PUSH_TIME
from tests.unit.results.store import START, Store

RUN = "run-1"
WORKER = "w1"
END = START + 120.0
GPUS = ({"gpu": "0", "uuid": "GPU-aaaa"}, {"gpu": "1", "uuid": "GPU-bbbb"})
RESET_AT = START + 36.0
GAP = (START + 52.0, START + 58.0)
STEP = 0.1
SLACK = 0.01


@dataclass(frozen=True)
class Planned:
    """``start`` and ``end`` in seconds after START; a task without an end never ended."""

    task_id: str
    start: float
    end: float | None
    success: bool | None = True
    in_journal: bool = True
    in_store: bool = True
    worker: str = WORKER
    tools: Sequence[tuple[str, str, float | None]] = (("read_file", "ok", 0.93),)
    model: str = "qwen3:8b"
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        return "unknown" if self.success is None else "success" if self.success else "failure"


TASKS = (
    Planned("plain", 10.037, 16.412),
    Planned("short", 20.21, 20.46, success=False, tools=()),
    Planned("reset", 33.3, 39.9),
    Planned("gap", 45.05, 55.02, success=None),
    Planned("only in journal", 65.5, 68.0, in_store=False),
    Planned("only/in:store", 72.25, 76.75, in_journal=False),
    Planned(
        "=cmd()", 80.0, 84.0, tools=(("read_file", "ok", 0.4), ("rm", "undeclared", None), ("read_file", "tool_error", 0.99))
    ),
    Planned("together a", 90.0, 96.0),
    Planned("together b", 93.0, 99.0, worker="w2"),
    Planned("never ended", 105.0, None),
)


def watts(gpu: int, at: float) -> float:
    busy = any(t.start <= at - START < (t.end if t.end is not None else END - START) for t in TASKS)
    return 100.0 if gpu else 300.0 if busy else 60.0


def joules(gpu: int, start: float, end: float) -> float:
    """The truth between two unix times."""
    edges = sorted(
        {start, end, *(START + t for task in TASKS for t in (task.start, task.end or 120.0) if start < START + t < end)}
    )
    return sum(watts(gpu, (a + b) / 2) * (b - a) for a, b in pairwise(edges))


def counter(gpu: int, at: float) -> tuple[float, float]:
    """(value, time of its last change): the counter moves every 100 ms; the meter sees it up to 10 ms off."""
    changed = START - 60 + floor((at - START + 60) / STEP) * STEP
    value = 5000.0 + joules(gpu, START - 60, changed)
    if gpu == 1 and changed >= RESET_AT:
        value = joules(gpu, RESET_AT, changed)
    wobble = SLACK * 0.8 * (((changed * 10) % 7) / 3.5 - 1)
    return round(value, 3), changed + wobble


def fill(store: Store) -> None:
    for quarter in range(-120, 4 * 120 + 1):
        at = START + quarter / 4
        jobs = ["joulebench-energy", *(["joulebench"] if quarter % 4 == 0 else [])]
        for job in jobs:
            labels = {"job": job, "instance": "127.0.0.1:18347"}
            for index, gpu in enumerate(GPUS):
                if index == 1 and GAP[0] < at < GAP[1]:
                    continue
                value, moment = counter(index, at - 0.004)
                store.add(metrics.GPU_ENERGY, {**labels, **gpu}, at, value)
                store.add(metrics.GPU_ENERGY_SAMPLE_TIMESTAMP, {**labels, **gpu}, at, moment)
                store.add(metrics.GPU_ENERGY_SAMPLE_UNCERTAINTY, {**labels, **gpu}, at, SLACK)
                if job == "joulebench":
                    _gauges(store, index, {**labels, **gpu}, at)
            if job == "joulebench":
                store.add(metrics.EXPORTER_CLOCK, labels, at, at + 0.003)
                store.add(metrics.EXPORTER_CLOCK_STEPS, labels, at, 0.0)
    for task in TASKS:
        if task.in_store:
            push_task(store, task)


def _gauges(store: Store, index: int, labels: Mapping[str, str], at: float) -> None:
    busy = watts(0, at) > 100
    store.add(metrics.GPU_UP, labels, at, 1.0)
    store.add(metrics.GPU_UTILIZATION, labels, at, 0.9 if busy else 0.1 * index)
    store.add(metrics.GPU_MEMORY_USED, labels, at, (6 + 2 * index) * 2**30)
    store.add(metrics.GPU_TEMPERATURE, labels, at, 70.0 if busy else 45.0 + index)
    if index == 0:
        store.add(metrics.GPU_TEMPERATURE_MARGIN, labels, at, 18.0 if busy else 43.0)
    store.add(metrics.GPU_POWER, labels, at, watts(index, at))
    info = {
        **labels,
        "name": "Test GPU",
        "architecture": "x",
        "driver_version": "1",
        "source": "nvml",
        "energy_method": "counter",
    }
    store.add(metrics.GPU_INFO, info, at, 1.0)
    for reason in metrics.THROTTLE_REASONS:
        # GPU 0 is hot for one second from 13 s on.
        hot = min(max(at - START - 13.0, 0.0), 1.0) if index == 0 and reason == "hw_thermal" else 0.0
        store.add(metrics.GPU_THROTTLE_SECONDS, {**labels, "reason": reason}, at, 7.0 + hot)


def push_task(store: Store, task: Planned) -> None:
    group = {"job": "joulebench", "instance": "", "run_id": RUN, "task_id": task.task_id, "worker": task.worker}
    group = {name: value for name, value in group.items() if value}
    epoch = START
    ended = START + (task.end if task.end is not None else task.start)
    for at in range(floor(START + task.start) + 1, floor(ended) + 4):
        done = task.end is not None and at > ended

        def put(
            metric: metrics.Metric,
            value: float,
            labels: Mapping[str, str] | None = None,
            series: str | None = None,
            at: float = at,
        ) -> None:
            of_task = {} if metric is metrics.TASK_SENT else {"model": task.model, "suite": "demo"}
            store.add(metric, {**group, **of_task, **(labels or {})}, at, value, series)

        put(metrics.TASK_INFO, 1, {"task_name": f"Task {task.task_id}", "task_key": task.task_id})
        put(metrics.TASK_START, START + task.start)
        put(metrics.TASK_RUN_EPOCH, epoch)
        put(metrics.TASK_START_OFFSET, START + task.start - epoch)
        put(metrics.TASK_SENT, at - 0.3)
        store.add(PUSH_TIME, group, at, at - 0.298)
        put(metrics.TASK_LLM_CALLS, 2 if done else 1)
        put(metrics.TASK_LLM_ERRORS, 0)
        if done and task.end is not None:
            put(metrics.TASK_END, START + task.end)
            put(metrics.TASK_END_OFFSET, START + task.end - epoch)
            put(metrics.TASK_DURATION, task.end - task.start)
            put(metrics.TASK_STATUS, 1, {"status": task.status})
            if task.success is not None:
                put(metrics.TASK_SUCCESS, float(task.success))
            put(metrics.TASK_TOKENS, 1200, {"token": "prompt"})
            put(metrics.TASK_TOKENS, 150, {"token": "completion"})
            half = (task.end - task.start) / 2
            for metric, total in (
                (metrics.TASK_LLM_DURATION, half),
                (metrics.TASK_TTFT, half * 0.25),
                (metrics.TASK_DECODE, half * 0.75),
            ):
                put(metric, 2, series=f"{metric.name}_count")
                put(metric, total, series=f"{metric.name}_sum")
            put(metrics.TASK_DECODE_TOKENS, 148)
            for outcome in metrics.TOOL_OUTCOMES:
                put(metrics.TASK_TOOL_CALLS, sum(o == outcome for _, o, _ in task.tools), {"outcome": outcome})
            if task.tools:
                put(metrics.TASK_TOOL_DURATION, len(task.tools), series=f"{metrics.TASK_TOOL_DURATION.name}_count")
                put(metrics.TASK_TOOL_DURATION, half * 0.5, series=f"{metrics.TASK_TOOL_DURATION.name}_sum")
            scores = [score for _, _, score in task.tools if score is not None]
            if scores:
                put(metrics.TASK_CONFIDENCE, len(scores), series=f"{metrics.TASK_CONFIDENCE.name}_count")
                put(metrics.TASK_CONFIDENCE, sum(scores), series=f"{metrics.TASK_CONFIDENCE.name}_sum")
                put(metrics.TASK_CONFIDENCE_MIN, min(scores))
                put(metrics.TASK_CONFIDENCE_MAX, max(scores))


def events(task: Planned) -> list[dict[str, Any]]:
    """The task as its journal tells it: two LLM calls of a quarter of the window each, tools between them."""
    found: list[dict[str, Any]] = []

    def write(event_type: str, offset: float, **fields: Any) -> None:
        head = {"event_type": event_type, "timestamp": START + offset, "run_id": RUN, "task_id": task.task_id}
        found.append({**head, "worker": task.worker, **fields})

    write("TASK_START", task.start, task_name=f"Task {task.task_id}", model_name=task.model, suite="demo")
    length = (task.end - task.start) if task.end is not None else 8.0
    quarter = length / 4
    for number in (1, 2):
        at = task.start + (number - 1) * 2 * quarter
        write("LLM_QUERY_START", at, call=number, model_name=task.model)
        if number == 2 and task.end is None:
            return found
        write("LLM_FIRST_TOKEN_RECEIVED", at + quarter / 4, call=number)
        write(
            "LLM_QUERY_END",
            at + quarter,
            call=number,
            status="success",
            error=None,
            prompt_tokens=600,
            completion_tokens=75,
            duration_seconds=quarter,
            ttft_seconds=quarter / 4,
            prefill_seconds=None,
            decode_seconds=quarter * 0.75,
            decode_tokens=74,
            load_seconds=None,
        )
        for index, (name, outcome, score) in enumerate(task.tools if number == 1 else (), 1):
            each = quarter / len(task.tools)
            began = at + quarter + (index - 1) * each
            write("TOOL_CALL_START", began, tool_call=index, call=1, tool_name=name, args={"path": "a"}, confidence=score)
            error = None if outcome == "ok" else f"{outcome}!"
            write(
                "TOOL_CALL_END",
                began + each,
                tool_call=index,
                tool_name=name,
                outcome=outcome,
                success=outcome == "ok",
                error=error,
                result="done",
                duration_seconds=each,
            )
    if task.end is not None:
        write("KEY_STEP_COMPLETED", task.end, step_index=1, step_name="edited")
        write("TASK_END", task.end, status=task.status, success=task.success, reason="", duration_seconds=task.end - task.start)
    return found


def write_journals(runs_dir: Path, tasks: Sequence[Planned] = TASKS, energy: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Journals of ``tasks``, each worker its own, the last line of w1 torn. ``energy``: TASK_ENERGY events of w1."""
    directory = runs_dir / RUN
    directory.mkdir(parents=True, exist_ok=True)
    for worker in sorted({task.worker for task in tasks}):
        lines = [
            {"event_type": "RUN_START", "timestamp": START, "run_id": RUN, "worker": worker, "version": "0.1", "suite": "demo"}
        ]
        lines += [event for task in tasks if task.in_journal and task.worker == worker for event in events(task)]
        lines += [dict(event) for event in energy if worker == WORKER]
        torn = '{"event_type": "LLM_QUERY_ST' if worker == WORKER else ""
        text = "".join(f"{json.dumps(line)}\n" for line in lines) + torn
        (directory / f"journal-{worker}.jsonl").write_text(text, encoding="utf-8")
    return directory
