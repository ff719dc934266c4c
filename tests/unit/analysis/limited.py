"""Tasks whose limits the test sets, as result files of the shape that the export writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joulebench.analysis.bottlenecks.tasks import TaskRun, load_task_runs
from tests.fakes.scripted_run import Scripted, write

CARD = "NVIDIA A10"
"""24 GiB, 600 GB/s."""


@dataclass(frozen=True)
class Turn:
    """One LLM call. ``queue``: seconds before the server works on it. ``heat``: seconds throttled. ``cache``: share of the
    server's cache in use, ``running``: requests at once."""

    prompt: int = 100
    reply: int = 50
    cached: int | None = 0
    queue: float = 0.0
    load: float = 0.0
    prefill: float = 1.0
    decode: float = 2.0
    heat: float | None = 0.0
    celsius: float | None = None
    cache: float | None = None
    running: float | None = None

    def told(self, number: int) -> dict[str, Any]:
        seconds = self.queue + self.load + self.prefill + self.decode
        return {
            "call": number,
            "duration_seconds": seconds,
            "ttft_seconds": seconds - self.decode,
            "prefill_seconds": self.prefill,
            "decode_seconds": self.decode,
            "load_seconds": self.load,
            "prompt_tokens": self.prompt,
            "cached_tokens": self.cached,
            "completion_tokens": self.reply,
            "decode_tokens": self.reply,
            "throttled_seconds": self.heat,
            "max_temp_c": self.celsius,
            "kv_cache_ratio": self.cache,
            "running_requests": self.running,
        }


@dataclass(frozen=True)
class Gpu:
    util: float | None = 80.0
    vram: float | None = 8192.0
    joules: float = 100.0
    watts: float = 100.0
    name: str = CARD
    memory: float | None = None
    links: Mapping[tuple[str, str], tuple[float, float, float]] = field(default_factory=dict)
    capped_hz: float | None = None
    """While the power limit holds down an SM clock of 2 GHz."""

    def told(self, index: int) -> dict[str, Any]:
        def stats(value: float | None) -> dict[str, float] | None:
            return None if value is None else {"mean": value, "low": value, "high": value}

        return {
            "gpu": str(index),
            "uuid": f"GPU-{index}",
            "name": self.name,
            "energy": {"joules": self.joules},
            "util_pct": stats(self.util),
            "vram_mb": stats(self.vram),
            "power_w": stats(self.watts),
            "memory_total_bytes": self.memory,
            "link_bytes": {
                link: {
                    way: dict(zip(("bytes", "low", "high"), bounds, strict=True))
                    for (other, way), bounds in self.links.items()
                    if other == link
                }
                for link, _ in self.links
            },
            "power_capped_clock": None if self.capped_hz is None else {"capped_hz": self.capped_hz, "max_hz": 2e9},
        }


def task(
    task_id: str,
    turns: Sequence[Turn] = (Turn(),),
    *,
    tool: float = 0.0,
    agent: float = 0.0,
    gpus: Sequence[Gpu] = (Gpu(),),
    slowed: Mapping[str, float] | None = None,
    vram_fifths: Sequence[float] | None = None,
    server: Mapping[str, float] | None = None,
    **more: Any,
) -> Scripted:
    """Its phases are the sums over its turns; queue and ``agent`` lie in ``other``, as the export has it."""
    sums = {phase: sum(getattr(turn, phase) for turn in turns) for phase in ("load", "prefill", "decode", "queue")}
    phases = {
        **{phase: sums[phase] for phase in ("decode", "prefill", "load")},
        "llm_unsplit": 0.0,
        "tool_wait": tool,
        "other": agent + sums["queue"],
    }
    utils = [gpu.util for gpu in gpus if gpu.util is not None]
    hardware: dict[str, Any] = {"avg_gpu_util_pct": sum(utils) / len(utils) if utils else None, "max_temp_c": 85.0}
    hardware |= {f"avg_vram_q{part}_mb": value for part, value in enumerate(vram_fifths or (), 1)}
    extra = {
        "calls": [turn.told(number) for number, turn in enumerate(turns, 1)],
        "per_gpu": [gpu.told(index) for index, gpu in enumerate(gpus)],
        "phases": {"by_phase": {name: {"seconds": seconds, "joules": None, "notes": []} for name, seconds in phases.items()}},
        "throttle": {"throttled_seconds": sum(turn.heat or 0.0 for turn in turns), "seconds_by_reason": slowed or {}},
        "gpu_hardware_metrics": hardware,
        "model_server": dict(server or {}),
    }
    return Scripted(task_id, seconds=sum(phases.values()), extra=extra, **more)


def read(directory: Path, *tasks: Scripted) -> list[TaskRun]:
    return load_task_runs([write(directory / "run", tasks)])
