"""Totals -> the families of one push: pure, and the only place where pushed states become metrics.

What is not known yields no sample. Counts are real from the start, so they begin at 0; the end of a task and everything that
follows from it is absent until the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from joulebench import metrics
from joulebench.devices import DeviceChoice
from joulebench.metrics import Metric
from joulebench.push.totals import RunTotals, TaskTotals, Total
from joulebench.supervise import import_in_background
from joulebench.units import Seconds

if TYPE_CHECKING:
    from joulebench.metrics.families import Family, Sheet

MAX_NAMES = 1024
"""Length of a label that names devices."""


def _new_sheet() -> Sheet:
    # Only the thread that pushes needs prometheus_client, whose import takes as long as that of the rest of this room.
    sheet: Sheet = import_in_background("joulebench.metrics.families").Sheet()
    return sheet


class _TaskSheet:
    """The families of one task: every sample gets the labels of the task in front."""

    def __init__(self, task: TaskTotals) -> None:
        self.sheet = _new_sheet()
        self._task = (task.model, task.suite)

    def value(self, metric: Metric, value: float | None, labels: tuple[str, ...] = ()) -> None:
        self.sheet.value(metric, value, (*self._task, *labels))

    def summary(self, metric: Metric, total: Total) -> None:
        if total.count:
            self.sheet.summary(metric, total.count, total.total, self._task)


def task_families(task: TaskTotals, sent: Seconds) -> list[Family]:
    sheet = _TaskSheet(task)
    sheet.value(metrics.TASK_INFO, 1, (task.task_name, task.task_key))
    sheet.value(metrics.TASK_START, task.start)
    sheet.value(metrics.TASK_RUN_EPOCH, task.epoch)
    sheet.value(metrics.TASK_START_OFFSET, task.start - task.epoch)
    sheet.sheet.value(metrics.TASK_SENT, sent)
    _task_calls(sheet, task)
    _task_tools(sheet, task)
    if task.end is not None:
        sheet.value(metrics.TASK_END, task.end.at)
        sheet.value(metrics.TASK_END_OFFSET, task.end.at - task.epoch)
        sheet.value(metrics.TASK_DURATION, task.end.duration)
        sheet.value(metrics.TASK_SUCCESS, None if task.end.success is None else float(task.end.success))
        sheet.value(metrics.TASK_STATUS, 1, (task.end.status,))
    for gpu in task.energy:
        sheet.value(metrics.TASK_ENERGY, gpu.joules, (gpu.gpu, gpu.uuid))
        sheet.value(metrics.TASK_ENERGY_LOW, gpu.low, (gpu.gpu, gpu.uuid))
        sheet.value(metrics.TASK_ENERGY_HIGH, gpu.high, (gpu.gpu, gpu.uuid))
        for reason, seconds in gpu.throttled.items():
            sheet.value(metrics.TASK_THROTTLED, seconds, (gpu.gpu, gpu.uuid, reason))
    for charge in task.charged:
        sheet.value(metrics.TASK_CHARGED_ENERGY, charge.joules, (charge.gpu, charge.uuid))
    sheet.value(metrics.TASK_CHARGED_SECONDS, task.charged_seconds)
    sheet.summary(metrics.TASK_CALL_ENERGY, task.call_energy)
    return sheet.sheet.families()


def _task_calls(sheet: _TaskSheet, task: TaskTotals) -> None:
    sheet.value(metrics.TASK_LLM_CALLS, task.llm_calls)
    sheet.value(metrics.TASK_LLM_ERRORS, task.llm_errors)
    for kind, count in task.tokens.items():
        sheet.value(metrics.TASK_TOKENS, count, (kind,))
    sheet.summary(metrics.TASK_LLM_DURATION, task.llm_duration)
    sheet.summary(metrics.TASK_TTFT, task.ttft)
    sheet.summary(metrics.TASK_PREFILL, task.prefill)
    sheet.summary(metrics.TASK_DECODE, task.decode)
    sheet.value(metrics.TASK_DECODE_TOKENS, task.decode_tokens if task.decode.count else None)
    sheet.summary(metrics.TASK_LOAD, task.load)


def _task_tools(sheet: _TaskSheet, task: TaskTotals) -> None:
    for outcome, count in task.tool_calls.items():
        sheet.value(metrics.TASK_TOOL_CALLS, count, (outcome,))
    sheet.summary(metrics.TASK_TOOL_DURATION, task.tool_duration)
    sheet.summary(metrics.TASK_CONFIDENCE, task.confidence)
    sheet.value(metrics.TASK_CONFIDENCE_MIN, task.confidence_min)
    sheet.value(metrics.TASK_CONFIDENCE_MAX, task.confidence_max)


def run_families(
    run: RunTotals, sent: Seconds, loop_errors: Mapping[str, int] | None = None, dropped: Mapping[str, int] | None = None
) -> list[Family]:
    """``joulebench_run_info`` and the phases are there only while the run is live."""
    sheet = _new_sheet()
    if run.live:
        sheet.value(metrics.RUN_INFO, 1, (run.suite, run.version, *_device_labels(run.devices)))
        phases = {phase: float(count > 0) for phase, count in run.active.items()}
        phases["idle"] = float(not any(phases.values()))
        for phase, share in phases.items():
            sheet.value(metrics.RUN_PHASE, share, (phase,))
    sheet.value(metrics.RUN_TASKS_PLANNED, run.planned_tasks)
    _run_counts(sheet, run)
    _run_histograms(sheet, run)
    sheet.value(metrics.PUSH_FAILURES, run.push_failures)
    for loop, count in (loop_errors or {}).items():
        sheet.value(metrics.LOOP_ERRORS, count, (loop,))
    for queue, count in (dropped or {}).items():
        sheet.value(metrics.QUEUE_DROPPED, count, (queue,))
    sheet.value(metrics.TASK_SENT, sent)
    return sheet.families()


def _device_labels(devices: DeviceChoice) -> tuple[str, str, str]:
    """(GPUs, server, Slurm job). Names too long for a label are left out: half a list would name other GPUs."""
    named = ",".join(map(str, devices.gpus)), devices.server_address or "", devices.job or ""
    gpus, server, job = (text if len(text) <= MAX_NAMES else "" for text in named)
    return gpus, server, job


def _run_counts(sheet: Sheet, run: RunTotals) -> None:
    for by_status, count in run.tasks.items():
        sheet.value(metrics.RUN_TASKS, count, by_status)
    for by_kind, count in run.tokens.items():
        sheet.value(metrics.RUN_TOKENS, count, by_kind)
    for model, count in run.tasks_without_energy.items():
        sheet.value(metrics.RUN_TASKS_WITHOUT_ENERGY, count, (model,))
    for by_gpu, joules in run.charged_energy.items():
        sheet.value(metrics.RUN_CHARGED_ENERGY, joules, by_gpu)
    for model, seconds in run.charged_seconds.items():
        sheet.value(metrics.RUN_CHARGED_SECONDS, seconds, (model,))
    for by_reason, seconds in run.throttled.items():
        sheet.value(metrics.RUN_THROTTLED, seconds, by_reason)
    for gpu, watts in run.idle_watts.items():
        sheet.value(metrics.RUN_IDLE_POWER, watts, gpu)


def _run_histograms(sheet: Sheet, run: RunTotals) -> None:
    for model, calls in run.call_duration.items():
        sheet.histogram(metrics.CALL_DURATION, calls.counts, calls.total, (model,))
    for model, calls in run.ttft.items():
        sheet.histogram(metrics.CALL_TTFT, calls.counts, calls.total, (model,))
    for model_and_tool, tools in run.confidence.items():
        sheet.histogram(metrics.TOOL_CONFIDENCE, tools.counts, tools.total, model_and_tool)
