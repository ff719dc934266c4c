"""Tasks of exported runs with what the search for bottlenecks needs: LLM calls, GPUs, throttling and model server.

``Finding`` is the result of such a search, always with its evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from joulebench.analysis.runs import Attempt, attempt_of_result
from joulebench.parsing import sum_or_none
from joulebench.schema import TaskResult, iterate_readable_results
from joulebench.schema.result import CallResult, GpuResult, ModelServer


@dataclass(frozen=True, slots=True)
class Finding:
    """``gain``: estimate of what fixing it would bring; empty where the files do not say. ``tasks``: where it is clearest."""

    kind: str
    scope: str
    evidence: str
    gain: str
    next_step: str
    tasks: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        yield f"{self.scope}: {self.kind}"
        yield f"  evidence: {self.evidence}"
        if self.gain:
            yield f"  estimated gain: {self.gain}"
        yield f"  next step: {self.next_step}"
        if self.tasks:
            yield f"  clearest in: {', '.join(self.tasks)}"


@dataclass(frozen=True, slots=True)
class TaskRun:
    """An attempt with the parts of its result file that are not summed up in it; without raw events, which are large."""

    attempt: Attempt
    result: TaskResult

    @property
    def calls(self) -> Sequence[CallResult]:
        return self.result.calls

    @property
    def gpus(self) -> Sequence[GpuResult]:
        return self.result.per_gpu

    @property
    def server(self) -> ModelServer:
        return self.result.model_server

    @property
    def max_utilization(self) -> float | None:
        """Utilization of the busiest GPU in percent; None where that of one of them is not known."""
        known = [util for gpu in self.gpus if (util := mean_utilization(gpu)) is not None]
        return max(known) if known and len(known) == len(self.gpus) else None

    @property
    def throttled_by_reason(self) -> Mapping[str, float]:
        """Seconds."""
        return {reason: seconds for reason, seconds in self.result.throttle.seconds_by_reason.items() if seconds is not None}

    @property
    def vram_fifths(self) -> tuple[float, ...]:
        """Mean MiB of all GPUs in each fifth of the task; empty where one of them is not known."""
        hardware = self.result.gpu_hardware_metrics
        fifths = [getattr(hardware, f"avg_vram_q{part}_mb") for part in range(1, 6)] if hardware else []
        return tuple(fifths) if None not in fifths else ()


def load_task_runs(directories: Iterable[Path]) -> list[TaskRun]:
    """Raises UserError for a directory without result files."""
    return [task_run_of_result(result) for result in iterate_readable_results(directories)]


def task_run_of_result(result: TaskResult) -> TaskRun:
    attempt = attempt_of_result(result)
    result.raw_events = []
    return TaskRun(attempt, result)


def group_by_model(tasks: Sequence[TaskRun]) -> dict[str, list[TaskRun]]:
    models = sorted({task.attempt.model for task in tasks})
    return {model: [task for task in tasks if task.attempt.model == model] for model in models}


def context_tokens(call: CallResult) -> int | None:
    """Tokens in the context once the reply is complete."""
    total: int | None = sum_or_none((call.prompt_tokens, call.completion_tokens))
    return total


def mean_utilization(gpu: GpuResult) -> float | None:
    """Percent."""
    return gpu.util_pct.mean if gpu.util_pct else None


def peak_vram_mib(gpu: GpuResult) -> float | None:
    return gpu.vram_mb.high if gpu.vram_mb else None


def total_peak_vram_mib(task: TaskRun) -> float | None:
    """Sum over the GPUs; None where that of one of them is not known."""
    total: float | None = sum_or_none(peak_vram_mib(gpu) for gpu in task.gpus)
    return total


def mean_watts(gpu: GpuResult) -> float | None:
    return gpu.power_w.mean if gpu.power_w else None


def cache_token_bytes(server: ModelServer) -> float | None:
    """Bytes of one token in the KV cache: the mean over the whole context, from the shape of the model."""
    return server.kv_cache_bytes / server.context_tokens if server.kv_cache_bytes and server.context_tokens else None
