"""The fake GPUs of the benchmark: a card whose counter moves about every 100 ms, each at its own rhythm and phase.

The rhythms differ a little, as those of real cards do: with one common rhythm, or one that divides the scrape interval, every
window of a run would see the same lucky or unlucky phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.benchmarks.curve import IDLE, Curve, agent_curve
from tests.fakes.nvml import BusyFile, FakeGpu, FakeGpuScript, Process, environment

GPUS = 8
STEP = 0.1
STEP_SPREAD = 0.003


class Scene:
    """``play`` schedules the curves from a monotonic moment on; until then every GPU idles. ``pids``: processes of each GPU."""

    def __init__(self, directory: Path, seed: int, gpus: int = GPUS, *, pids: Sequence[Sequence[int]] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        random = Random(seed)
        self._busy = BusyFile(directory / "busy.txt")
        self._script = FakeGpuScript(
            [
                FakeGpu(
                    power=((0.0, IDLE),),
                    uuid=f"GPU-{index:08d}-0000-4000-8000-000000000000",
                    step=STEP + random.uniform(-STEP_SPREAD, STEP_SPREAD),
                    phase=random.uniform(0.0, STEP),
                    processes=[Process(pid, sm=100.0 / len(pids[index])) for pid in pids[index]] if pids else (),
                )
                for index in range(gpus)
            ],
            busy=self._busy,
        )
        self.environment = environment(self._script.write(directory / "script.txt"))

    def play(self, curves: Sequence[Curve], at_monotonic: float) -> None:
        at_unix = self._script.origin_unix + (at_monotonic - self._script.origin_monotonic)
        for gpu, curve in enumerate(curves):
            for at, watts in curve.points:
                self._busy.draw(gpu, watts, at_unix + at)


def agent_curves(seed: int, seconds: float, ramp: float) -> list[Curve]:
    return [agent_curve(seed * 1000 + gpu, seconds, ramp) for gpu in range(GPUS)]


def busy_curve(seconds: float) -> Curve:
    """For measuring cost: the counter of a GPU that works moves at every step."""
    return agent_curve(1, seconds)
