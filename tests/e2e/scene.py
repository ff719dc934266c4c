"""One whole benchmark on real programs whose every number is known beforehand.

A scripted model server drives the power of a fake GPU while it answers, so tasks begin and end at power steps as real ones do.
The truth is the power curve that the server wrote down, integrated over the windows that the results name; it never passes
through the code that is tested.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from joulebench.clock import SystemClock
from joulebench.stack.native import NativeStack
from tests.fakes import nvml
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import MODEL, Json, Turn, by_instruction, call

IDLE_WATTS, PREFILL_WATTS, DECODE_WATTS = 62.0, 331.0, 279.0
STEADY_WATTS = 48.5
"""The second GPU does nothing, at constant power."""
PREFILL_SECONDS = 0.18


@dataclass(frozen=True)
class PlannedTask:
    """A task of two calls, write_file and finish, whose decoding takes about ``seconds`` altogether."""

    task_id: str
    seconds: float
    confidence: float
    passes: bool = True

    @property
    def instruction(self) -> str:
        return f"Do what {self.task_id} says."

    @property
    def turns(self) -> list[Turn]:
        content = "done" if self.passes else "wrong"
        turns = [call("write_file", path="out.txt", text=content), call("finish", answer=self.task_id)]
        share = max(self.seconds - len(turns) * PREFILL_SECONDS, 0.05) / len(turns)
        # As a server times itself: from the request to the first token, and from there to the last.
        return [
            turn.with_(
                chance=self.confidence,
                prompt_tokens=200 + 10 * number,
                silent_tokens=1,
                first_token_after=PREFILL_SECONDS,
                token_gap=share / len(turn.tokens),
                prefill_ms=1000 * PREFILL_SECONDS,
                decode_ms=1000 * share * (len(turn.tokens) - 1) / len(turn.tokens),
            )
            for number, turn in enumerate(turns)
        ]

    @property
    def definition(self) -> Json:
        grade = [{"file_equals": {"path": "out.txt", "text": "done"}}]
        return {"id": self.task_id, "name": f"Task {self.task_id}", "instruction": self.instruction, "grade": grade}


@dataclass
class PowerScript:
    """Answers as planned and writes the power that this answer costs into the busy file, ahead of time."""

    busy: nvml.BusyFile
    tasks: Sequence[PlannedTask]
    _free_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, body: Json) -> Turn:
        turn = by_instruction({task.instruction: task.turns for task in self.tasks})(body)
        with self._lock:
            # Lines must be in order of time: a call that comes before the last one was planned to end waits for it on paper.
            begin = max(SystemClock().unix(), self._free_at)
            first = begin + turn.first_token_after
            end = first + turn.token_gap * (len(turn.tokens) - 1)
            for at, watts in ((begin, PREFILL_WATTS), (first, DECODE_WATTS), (end, IDLE_WATTS)):
                self.busy.draw(0, watts, at)
            self._free_at = end
        return turn


@dataclass
class Scene:
    """``rows``: results.csv as text cells by task id; ``records``: the result files."""

    gpus: nvml.FakeGpuScript
    tasks: Mapping[str, PlannedTask]
    run_directory: Path
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    records: dict[str, Any] = field(default_factory=dict)

    def joules(self, task_id: str) -> float:
        """The true energy of both GPUs over the window that the result file of the task names."""
        metadata = self.records[task_id]["metadata"]
        return self.joules_between(metadata["session_start_unix"], metadata["session_end_unix"])

    def joules_between(self, start: float, end: float) -> float:
        """The true energy of both GPUs between two unix times."""
        return sum(self.gpus.joules(gpu, start, end) for gpu in range(len(self.gpus.gpus)))


def fake_gpus(directory: Path) -> nvml.FakeGpuScript:
    busy = nvml.BusyFile(directory / "busy")
    return nvml.FakeGpuScript(
        gpus=[
            nvml.FakeGpu(power=((0.0, IDLE_WATTS),), utilization=((0.0, 37.0),), memory_used=((0.0, float(6 << 30)),)),
            nvml.FakeGpu(power=((0.0, STEADY_WATTS),), step=0.02, memory_used=((0.0, float(1 << 30)),)),
        ],
        busy=busy,
    )


def start_exporter(stack: NativeStack, gpus: nvml.FakeGpuScript, directory: Path, ollama_url: str) -> None:
    stack.exporter_flags = ["--gpu-source", "nvml", "--ollama.url", ollama_url]
    stack.exporter_environment = nvml.environment(gpus.write(directory / "gpus"))
    stack.started.append(stack.exporter().start())


def write_suite(path: Path, tasks: Sequence[PlannedTask]) -> Path:
    suite = {"name": "known", "max_turns": 4, "timeout_seconds": 60, "tasks": [task.definition for task in tasks]}
    path.write_text(yaml.safe_dump(suite))
    return path


def joulebench(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command as a user types it."""
    done = subprocess.run(
        [sys.executable, "-m", "joulebench.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "160"},
    )
    if check and done.returncode != 0:
        raise AssertionError(f"joulebench {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def bench_arguments(stack: NativeStack, server: ModelServer, suite: Path, run_id: str, runs: Path) -> list[str]:
    given = {
        "--base-url": server.openai_url,
        "--model": MODEL,
        "--suite": str(suite),
        "--run-id": run_id,
        "--runs-dir": str(runs),
        "--gateway-url": stack.gateway_url,
        "--prometheus-url": stack.prometheus_url,
        "--exporter-url": stack.exporter_url,
        # Both cards serve, though one of them always draws the same: nothing else would say so.
        "--gpus": "0,1",
    }
    return ["bench", "--no-progress", *(part for pair in given.items() for part in pair)]


def read_results(scene: Scene) -> Scene:
    with (scene.run_directory / "results.csv").open(newline="") as file:
        scene.rows = {row["task_id"]: row for row in csv.DictReader(file)}
    for path in scene.run_directory.glob("result_*.json"):
        record = cast("dict[str, Any]", json.loads(path.read_text()))
        scene.records[record["metadata"]["task_id"]] = record
    return scene
