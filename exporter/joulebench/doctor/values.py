"""What the checks read from a result file, alike for files of our runner and of the MCPWorld client, backfilled or not.

Unknown is None. Nothing is corrected here: an implausible number has to reach its check.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from msgspec import UNSET

from joulebench.parsing import as_float
from joulebench.schema import TaskResult, UnreadableResult, events, find_result_files, load_result
from joulebench.schema.result import HardwareMetrics


class ToolCall(NamedTuple):
    confidence: float
    success: bool | None


@dataclass(frozen=True, slots=True)
class LoadedResults:
    """``unreadable``: (file, why)."""

    tasks: list[TaskResult]
    unreadable: list[tuple[Path, str]]


def load_readable_results(root: Path) -> LoadedResults:
    tasks: list[TaskResult] = []
    unreadable: list[tuple[Path, str]] = []
    for path in find_result_files(root):
        try:
            tasks.append(load_result(path))
        except UnreadableResult as error:  # noqa: PERF203
            unreadable.append((path, str(error).removeprefix(f"{path}: ")))
    return LoadedResults(tasks, unreadable)


def path_of(task: TaskResult) -> Path:
    return task.path or Path("result.json")


def identity(task: TaskResult) -> str:
    """Equal for copies of one result. The client's files have no run: there it is model, start and task, else the file's name."""
    meta = task.metadata
    if meta.run_id:
        return "|".join(task.key)
    name = meta.task_config_at_start.task_id or meta.task_id or ""
    return "|".join(
        [name, meta.model_name or "", f"{meta.session_start_unix}" if meta.session_start_unix else path_of(task).stem]
    )


def model_of(task: TaskResult) -> str:
    return task.metadata.model_name or "unknown"


def hardware(task: TaskResult) -> HardwareMetrics:
    return task.gpu_hardware_metrics or HardwareMetrics()


def joules(task: TaskResult) -> float | None:
    """Of our measurement, else the client's own."""
    return task.measurement.joules if task.is_measured else hardware(task).total_energy_joules


def window_seconds(task: TaskResult) -> float | None:
    return hardware(task).monitoring_duration_sec


def mean_watts(task: TaskResult) -> float | None:
    """Mean power over the measured window, all GPUs."""
    watts, energy, seconds = hardware(task).avg_power_w, joules(task), window_seconds(task)
    return watts if watts is not None or energy is None or not seconds else energy / seconds


def sampled_watts(task: TaskResult) -> float | None:
    """Mean of the power samples of all GPUs, which is independent of an energy counter; None where samples are missing."""
    means = [gpu.power_w.mean for gpu in task.per_gpu if gpu.power_w is not None]
    known = [mean for mean in means if mean is not None]
    return sum(known) if known and len(known) == len(task.per_gpu) else None


def decode_rate(task: TaskResult) -> float | None:
    """Tokens per second; where no decode time is known, over the whole latency."""
    generation, throughput = task.generation, task.computed_metrics.throughput_metrics
    backfilled = [] if generation is UNSET else [generation.decode_tokens_per_second]
    rates = [*backfilled, throughput.decode_tokens_per_second]
    rates += [] if generation is UNSET else [generation.end_to_end_tokens_per_second]
    rates.append(throughput.overall_tokens_per_second)
    return next((rate for rate in rates if rate is not None), None)


def confidences(task: TaskResult) -> Iterator[object]:
    """Every confidence of the file as it is written, which may be of any type."""
    summary = task.computed_metrics.tool_confidence_metrics
    yield from (summary.avg_tool_confidence, summary.min_tool_confidence, summary.max_tool_confidence)
    for event in task.raw_events:
        if event["event_type"] == events.TOOL_CALL_START:
            yield event.get("confidence")


def tool_calls(task: TaskResult) -> Iterator[ToolCall]:
    """Tool calls with a confidence and an end, paired by number where there is one, else by name and order."""
    waiting: dict[object, list[float | None]] = {}
    for event in task.raw_events:
        name = event.get("tool_call", event.get("tool_name"))
        if not isinstance(name, str | int):
            continue
        if event["event_type"] == events.TOOL_CALL_START:
            waiting.setdefault(name, []).append(as_float(event.get("confidence")))
        elif event["event_type"] == events.TOOL_CALL_END and waiting.get(name):
            confidence, success = waiting[name].pop(), event.get("success")
            if confidence is not None:
                yield ToolCall(confidence, success if isinstance(success, bool) else None)
