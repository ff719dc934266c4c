"""The exporter process on the unmodified pynvml and a library with known joules: what is measured, and what a lost GPU leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from joulebench.clock import SystemClock
from tests.fakes.nvml import FakeGpu, FakeGpuScript, environment, gone
from tests.unit.exporter.exporter_process import Exporter, exporter
from tests.unit.exporter.exposition_lint import complaints

KEPT_WHEN_LOST = {
    "joulebench_gpu_info",
    "joulebench_gpu_up",
    "joulebench_gpu_read_errors_total",
    "joulebench_gpu_glitches_total",
    "joulebench_exporter_energy_polls_total",
    "joulebench_exporter_energy_overruns_total",
}
LOST_AFTER = 12.0
"""Seconds after the script was written: an exporter that starts on a busy machine has to see the GPU before."""


def await_scrape(running: Exporter, wanted: Callable[[str], bool]) -> str:
    clock = SystemClock()
    limit = clock.monotonic() + 40
    while not wanted(text := running.get("/metrics")[1]):
        assert clock.monotonic() < limit, text
        Event().wait(0.05)
    return text


def series_of(text: str, uuid: str) -> set[str]:
    return {line.partition("{")[0] for line in text.splitlines() if f'uuid="{uuid}"' in line}


def test_known_joules_come_through_and_a_lost_gpu_leaves_no_reading(tmp_path: Path) -> None:
    steady = FakeGpu(power=((0.0, 120.0),), temperature=((0.0, 55.0),), uuid="GPU-good")
    script = FakeGpuScript([steady, FakeGpu(uuid="GPU-lost", faults=[gone(LOST_AFTER, 1e9)])])
    flags = ("--gpu-source=nvml", "--no-ollama")
    with exporter(*flags, environment=environment(script.write(tmp_path / "script"))) as running:
        energy = 'joulebench_gpu_energy_joules_total{gpu="1",uuid="GPU-lost"}'
        both = await_scrape(running, lambda text: energy in text and "joulebench_gpu_temperature_celsius" in text)
        assert list(complaints(both)) == []
        assert 'source="nvml"' in both
        assert 'joulebench_gpu_temperature_celsius{gpu="0",uuid="GPU-good"} 55.0' in both
        assert series_of(both, "GPU-lost") > KEPT_WHEN_LOST

        up = 'joulebench_gpu_up{gpu="1",uuid="GPU-lost"}'
        after = await_scrape(running, lambda text: f"{up} 0.0" in text)
        assert series_of(after, "GPU-lost") == KEPT_WHEN_LOST
        assert 'joulebench_gpu_up{gpu="0",uuid="GPU-good"} 1.0' in after
        assert 'joulebench_gpu_energy_joules_total{gpu="0",uuid="GPU-good"}' in after

        start = SystemClock().unix()
        end = start + 1.0
        status, body = running.get(f"/api/v1/energy?start={start!r}&end={end!r}&wait=2")
        answer = json.loads(body)
        assert status == 200
        good, lost = answer["gpus"]
        assert good["joules"] == pytest.approx(script.joules(0, start, end), rel=0.02)
        assert good["low"] <= 120.0 <= good["high"]
        assert (lost["joules"], lost["quality"]) == (None, "missing")
        assert answer["total"]["joules"] is None
