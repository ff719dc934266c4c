"""The script as Prometheus and the journals would have seen it: samples once a second, the energy counter four times."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import floor
from pathlib import Path
from typing import Any

from joulebench import metrics
from joulebench.metrics import recorded
from tests.truth import script
from tests.truth.script import RUNS, Task
from tests.unit.results.store import START, Store

STEP, SLACK = 0.1, 0.01
EXPORTER = {"job": "joulebench", "instance": "127.0.0.1:18347"}
SERVER = {"job": "vllm", "instance": "127.0.0.1:8000", "model": script.ALPHA.name, "server": "vllm"}
GPUS = tuple({"gpu": str(index), "uuid": uuid} for index, uuid in enumerate(script.UUIDS))


def fill(store: Store, source: str = "nvml") -> None:
    """``source`` of the cards: nvml, or simulated."""
    for quarter in range(-4 * 40, 4 * (floor(script.END - START) + 40)):
        at = START + quarter / 4
        _energy(store, "joulebench-energy", at)
        if quarter % 4 == 0:
            _energy(store, "joulebench", at)
            _second(store, at, source)


def _energy(store: Store, job: str, at: float) -> None:
    """The counter moves every 100 ms; the meter knows when to within 10."""
    for index, gpu in enumerate(GPUS):
        labels = {**EXPORTER, "job": job, **gpu}
        moved = START - 60 + floor((at - START + 60 - 0.004) / STEP) * STEP
        value = script.spent(moved) if index == 0 else script.OTHER_WATTS * (moved - START + 60)
        store.add(metrics.GPU_ENERGY, labels, at, round(5000.0 + value, 3))
        store.add(metrics.GPU_ENERGY_SAMPLE_TIMESTAMP, labels, at, moved + 0.8 * SLACK * (((moved * 10) % 7) / 3.5 - 1))
        store.add(metrics.GPU_ENERGY_SAMPLE_UNCERTAINTY, labels, at, SLACK)


def _running(at: float) -> Task | None:
    return next((task for task in script.EVERY if task.start <= at <= task.end), None)


def _second(store: Store, at: float, source: str) -> None:
    store.add(metrics.EXPORTER_CLOCK, EXPORTER, at, at + 0.003)
    store.add(metrics.EXPORTER_CLOCK_STEPS, EXPORTER, at, 0.0)
    task = _running(at)
    for index, gpu in enumerate(GPUS):
        labels = {**EXPORTER, **gpu}
        info = {
            "name": script.CARD,
            "architecture": "Ampere",
            "driver_version": "1",
            "source": source,
            "energy_method": "counter",
        }
        store.add(metrics.GPU_INFO, {**labels, **info}, at, 1.0)
        store.add(metrics.GPU_UP, labels, at, 1.0)
        vram = script.OTHER_VRAM_MIB if index else script.VRAM_MIB if task is None else task.vram
        store.add(metrics.GPU_UTILIZATION, labels, at, 0.0 if task is None else task.model.util[index] / 100)
        store.add(metrics.GPU_MEMORY_USED, labels, at, vram * 2**20)
        store.add(metrics.GPU_MEMORY_TOTAL, labels, at, float(script.CARD_GIB * 2**30))
        store.add(metrics.GPU_TEMPERATURE, labels, at, script.TOO_HOT if task is not None and task.hot else script.COOL)
        store.add(metrics.GPU_POWER, labels, at, script.OTHER_WATTS if index else _watts(at))
        for reason in metrics.THROTTLE_REASONS:
            store.add(metrics.GPU_THROTTLE_SECONDS, {**labels, "reason": reason}, at, _held(reason, at) if index == 0 else 0.0)
    first = {**EXPORTER, **GPUS[0]}
    received = script.RECEIVED_PER_SECOND * (at - START + 60)
    store.add(metrics.GPU_LINK_BYTES, {**first, "link": "pcie", "direction": "rx"}, at, received)
    limited = any(a <= at <= b for a, b in map(_capped, script.EVERY))
    store.add(metrics.GPU_CLOCK, {**first, "clock": "sm"}, at, script.CLOCK_AT_LIMIT if limited else script.CLOCK)
    store.add(metrics.GPU_CLOCK_MAX, {**first, "clock": "sm"}, at, script.CLOCK)
    _server(store, at, task)


def _capped(task: Task) -> tuple[float, float]:
    start, end = task.capped
    return (start, end) if end > start else (float("inf"), float("-inf"))


def _watts(at: float) -> float:
    return max((time, watts) for time, watts in script.POWER if time <= at)[1]


def _held(reason: str, at: float) -> float:
    spans: list[tuple[float, float]] = []
    if reason == "hw_thermal":
        spans = [span for task in script.EVERY for span in task.throttled]
    elif reason == "sw_power_cap":
        spans = [task.capped for task in script.EVERY]
    return sum(max(0.0, min(at, end) - start) for start, end in spans)


def _server(store: Store, at: float, task: Task | None) -> None:
    beta = script.BETA
    told = {
        metrics.OLLAMA_MODEL_SIZE: beta.size or 0.0,
        metrics.OLLAMA_MODEL_VRAM: beta.vram,
        metrics.OLLAMA_MODEL_OFFLOAD: beta.vram / (beta.size or 1.0),
        metrics.OLLAMA_MODEL_CONTEXT: beta.context,
        metrics.OLLAMA_MODEL_KV_CACHE: beta.cache_bytes,
    }
    for metric, value in told.items():
        store.add(metric, {**EXPORTER, "model": beta.name}, at, value)
    if task is None or task.model is not script.ALPHA:
        return
    call = next((call for call in task.calls if call.start <= at <= call.end), None)
    full = 0.0 if call is None or task.model.cache_tokens is None else call.held / task.model.cache_tokens
    store.add(recorded.SERVER_KV_CACHE, SERVER, at, full)
    store.add(recorded.SERVER_RUNNING, SERVER, at, task.model.runs)
    store.add(recorded.SERVER_WAITING, SERVER, at, task.model.waits)


def write_journals(runs_dir: Path) -> None:
    for run_id, tasks in RUNS.items():
        directory = runs_dir / run_id
        directory.mkdir(parents=True)
        lines = [*_run_events(run_id, tasks), *(event for task in tasks for event in _events(run_id, task))]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (directory / "journal-w1.jsonl").write_text(text, encoding="utf-8")


def _run_events(run_id: str, tasks: tuple[Task, ...]) -> Iterator[dict[str, Any]]:
    at = tasks[0].start - 15.0
    head = {"timestamp": at, "run_id": run_id, "worker": "w1"}
    yield {
        "event_type": "RUN_START",
        **head,
        "version": "0.1",
        "suite": "truth",
        "model_name": tasks[0].model.name,
        "planned_tasks": len(tasks) + 1,
        # Both cards serve the model, one far busier than the other.
        "devices": {"gpus": list(script.UUIDS)},
    }
    idle = [
        {"uuid": uuid, "gpu": str(index), "watts": watts, "low": watts - 1, "high": watts + 1, "quality": "ok"}
        for index, (uuid, watts) in enumerate(zip(script.UUIDS, (script.IDLE_WATTS, script.OTHER_WATTS), strict=True))
    ]
    yield {"event_type": "IDLE_POWER", **head, "start": at, "end": at + 10.0, "label": "loaded", "source": "nvml", "gpus": idle}


def _events(run_id: str, task: Task) -> Iterator[dict[str, Any]]:
    def event(kind: str, at: float, **more: Any) -> dict[str, Any]:
        return {"event_type": kind, "timestamp": at, "run_id": run_id, "task_id": task.name, "worker": "w1", **more}

    yield event("TASK_START", task.start, task_name=task.name, model_name=task.model.name, suite="truth")
    for call in task.calls:
        yield event("LLM_QUERY_START", call.start, call=call.number, model_name=task.model.name)
        yield event("LLM_FIRST_TOKEN_RECEIVED", call.first, call=call.number)
        yield event(
            "LLM_QUERY_END",
            call.end,
            call=call.number,
            status="success",
            error=None,
            prompt_tokens=call.prompt,
            cached_tokens=call.cached,
            completion_tokens=call.completion,
            decode_tokens=call.completion,
            duration_seconds=call.end - call.start,
            ttft_seconds=call.first - call.start,
            prefill_seconds=call.prefill,
            decode_seconds=call.decode,
            load_seconds=call.load,
        )
        tool = {"tool_call": call.number, "tool_name": "read_file"}
        sure = {"confidence": call.confidence, "confidence_measures": {"naive_mean": call.confidence}, "span_status": "ok"}
        yield event("TOOL_CALL_START", call.end, call=call.number, args={"path": "a"}, **tool, **sure)
        ended = {"outcome": "ok", "success": True, "error": "", "result": "done", "duration_seconds": call.tool}
        yield event("TOOL_CALL_END", call.tool_end, **tool, **ended)
    status = "success" if task.success else "failure"
    yield event("TASK_END", task.end, status=status, success=task.success, reason="", duration_seconds=task.seconds)
