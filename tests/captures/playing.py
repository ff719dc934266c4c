"""Plays captures on the fake library, through the real readers and collectors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from joulebench import metrics
from joulebench.energy.window import WindowEnergy
from joulebench.exporter.exposition import Exposition
from joulebench.exporter.gpu_collector import gpu_collectors
from joulebench.gpu.monitor import GpuMonitor
from joulebench.gpu.nvml import NvmlSource
from joulebench.gpu.processes import EXPECTED_PROGRAMS, ProcessNames, ProcessPoller
from joulebench.gpu.reading import GpuState
from tests.captures.nvml.derive import derived_captures
from tests.fakes.nvml import SCRIPT_VARIABLE, FakeGpuScript, VirtualClock, load, replay

POLL, SECONDS = 0.02, 3.0
POLLED = (
    metrics.METER_POLLS,
    metrics.GPU_ENERGY,
    metrics.GPU_ENERGY_SAMPLE_TIMESTAMP,
    metrics.GPU_ENERGY_SAMPLE_UNCERTAINTY,
    metrics.GPU_ENERGY_STEP,
    metrics.GPU_ENERGY_CROSSCHECK,
)
"""Families whose values depend on when the sensor looks: a golden shows which of their series there are."""
FAILED = (metrics.GPU_READ_ERRORS, metrics.GPU_GLITCHES, metrics.METER_OVERRUNS, metrics.GPU_ENERGY_RESETS)
"""Counters that are shown where they are not 0."""
_SAMPLE = re.compile(r"^(?P<name>[^{ #]+)\{(?P<labels>.*)\} (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class PlayedMachine:
    """``text``: the exposition. ``gpus``: as the monitor has them at the end. ``measured``: the energy of each from second 1.5
    on, with ``joules``, which it really used meanwhile."""

    text: str
    gpus: Sequence[GpuState]
    measured: Sequence[WindowEnergy]
    joules: Sequence[float]

    def table(self) -> str:
        """Returns the series, one on a line, with the values of all GPUs side by side; ``-`` where a GPU has none of it."""
        polled = {metric.name for metric in POLLED}
        failed = {metric.name for metric in FAILED}
        rows: dict[str, dict[int, str]] = {}
        for line in self.text.splitlines():
            sample = _SAMPLE.match(line)
            if sample is None:
                continue
            name, value = sample["name"], sample["value"]
            labels = dict(_LABEL.findall(sample["labels"]))
            if "gpu" not in labels:
                continue
            gpu, rest = int(labels.pop("gpu")), {key: text for key, text in labels.items() if key != "uuid"}
            if name == metrics.GPU_INFO.name:
                series, value = name, " ".join(f"{key}={text!r}" for key, text in rest.items())
            elif name in failed:
                if not float(value):
                    continue
                series, value = _series(name, rest), "some"
            else:
                series, value = _series(name, rest), "*" if name in polled else value
            rows.setdefault(series.removeprefix("joulebench_"), {})[gpu] = value
        lines = []
        for series, values in rows.items():
            shown = [values.get(gpu, "-") for gpu in range(len(self.gpus))]
            lines.append(f"{series}: {shown[0] if len(set(shown)) == 1 else ' '.join(shown)}")
        return "\n".join(lines) + "\n"


def _series(name: str, labels: Mapping[str, str]) -> str:
    return name + "".join(f" {text}" for text in labels.values())


@contextmanager
def scripted(capture: Mapping[str, Any], directory: Path) -> Iterator[tuple[VirtualClock, FakeGpuScript]]:
    """Makes the fake library play this capture on a clock of the test."""
    load()
    clock = VirtualClock(directory / "clock")
    script = FakeGpuScript(replay.gpus_of(capture), driver=capture["driver"] or "unknown", clock=clock)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(SCRIPT_VARIABLE, str(script.write(directory / "script")))
        yield clock, script


def play(capture: Mapping[str, Any], directory: Path, seconds: float = SECONDS) -> PlayedMachine:
    """Polls the machine for so many seconds of its clock."""
    with scripted(capture, directory) as (clock, script):
        source = NvmlSource()
        names = ProcessNames(re.compile(EXPECTED_PROGRAMS), proc=directory)
        processes = ProcessPoller(source.devices(), names, clock, period=1.0, keep_seconds=60.0, proc=directory)
        monitor = GpuMonitor(source, clock, poll_period=POLL, processes=processes)
        for poll in range(int(seconds / POLL)):
            monitor.poll()
            if poll % int(1 / POLL) == 0:
                monitor.poll_state()
                processes.poll()
            clock.advance(POLL)
        text = Exposition(gpu_collectors(monitor), clock, process=False).render()[0].decode()
        start, end = script.origin_unix + 1.5, script.origin_unix + seconds - 0.5
        measured = [energy for _, energy in monitor.window(start, end)]
        gpus = monitor.snapshot()
        source.close()
    joules = [script.joules(number, start, end) * gpu.counter_gain for number, gpu in enumerate(script.gpus)]
    return PlayedMachine(text, gpus, measured, joules)


FILES = {path.stem: path for path in sorted((Path(__file__).parent / "nvml").glob("*.json"))}


@cache
def captures() -> Mapping[str, Mapping[str, Any]]:
    """Name -> capture: the recorded ones and the derived ones."""
    return {**{name: replay.read(path) for name, path in FILES.items()}, **derived_captures()}


@cache
def played(name: str) -> PlayedMachine:
    """The machine of this capture, played once for all tests of it."""
    with TemporaryDirectory() as directory:
        return play(captures()[name], Path(directory))
