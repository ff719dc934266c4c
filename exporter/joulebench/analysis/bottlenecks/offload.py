"""Layers that run on the CPU because the model does not fit onto the card, as the server itself tells, and what they cost.

While the CPU works on its layers no kernel runs. So of the time of prefill and decode, what the utilisation of the card does not
account for is the CPU's; and had the card all layers, it would be busy for as much longer as it has fewer of them now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from joulebench.analysis.bottlenecks.observed import Finding, Observed

WHOLE = 0.995
"""From this share of the model in GPU memory on, no layer is taken to run elsewhere."""
_MODEL_PHASES = ("prefill", "decode", "llm_unsplit")


@dataclass(frozen=True, slots=True)
class Offload:
    """Means over ``tasks``. ``cpu_share``: of the model's bytes. ``cpu_seconds``: of a task, in which the CPU worked on its
    layers; ``gain_seconds``: what a task would be shorter by. None where utilisation or phases are not known."""

    tasks: int
    cpu_share: float
    size_bytes: float | None
    vram_bytes: float | None
    cpu_seconds: float | None
    gain_seconds: float | None


def offload(tasks: Sequence[Observed]) -> Offload | None:
    """None where no server told where its model lies."""
    told = [(task, ratio) for task in tasks if (ratio := task.server.offload_ratio) is not None]
    if not told:
        return None
    times = [(one, ratio) for task, ratio in told if (one := _times(task)) is not None]
    cpu = [model - busy for (model, busy), _ in times]
    gain = [max(0.0, model - busy / ratio) if ratio > 0 else 0.0 for (model, busy), ratio in times]
    last = told[-1][0].server
    return Offload(
        tasks=len(told),
        cpu_share=1 - sum(ratio for _, ratio in told) / len(told),
        size_bytes=last.size_bytes,
        vram_bytes=last.vram_bytes,
        cpu_seconds=sum(cpu) / len(cpu) if cpu else None,
        gain_seconds=sum(gain) / len(gain) if gain else None,
    )


def cpu_seconds(task: Observed) -> float | None:
    """Of the task's model time; None where all layers are on the card, or it is not known."""
    ratio, times = task.server.offload_ratio, _times(task)
    return None if ratio is None or ratio >= WHOLE or times is None else times[0] - times[1]


def findings(model: str, found: Offload) -> Iterator[Finding]:
    if found.cpu_share <= 1 - WHOLE:
        return
    size = (
        ""
        if found.size_bytes is None or found.vram_bytes is None
        else f": {found.vram_bytes / 1e9:.1f} of its {found.size_bytes / 1e9:.1f} GB are in GPU memory"
    )
    gain = ""
    if found.gain_seconds is not None and found.cpu_seconds is not None:
        gain = (
            f"about {found.gain_seconds:.2f} s of a task if all layers were on the card"
            f" (of {found.cpu_seconds:.2f} s in which the CPU works on its own), by the card's utilisation"
        )
    yield Finding(
        kind="layers run on the CPU",
        scope=model,
        evidence=f"{100 * found.cpu_share:.0f} % of the model runs on the CPU by the server's own account{size}, mean of"
        f" {found.tasks} tasks",
        gain=gain,
        next_step="take a smaller quantisation or context, or free the card, until the whole model is on it",
    )


def _times(task: Observed) -> tuple[float, float] | None:
    """Seconds (of the model's work, of it with a kernel running); of a task alone on its cards."""
    seconds, phases = task.row.seconds, task.row.seconds_by_phase
    model = sum(phases.get(phase, 0.0) for phase in _MODEL_PHASES)
    if task.busiest is None or not seconds or not model or "overlap" in task.row.reasons:
        return None
    return model, min(model, task.busiest / 100 * seconds)
