"""The exporter process on the unmodified amdsmi and a library with known joules: what a scrape and the window API say of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from joulebench.clock import SystemClock
from tests.fakes.amdsmi import AmdGpu, AmdScript, environment
from tests.unit.exporter.exporter_process import exporter
from tests.unit.exporter.exposition_lint import complaints
from tests.unit.exporter.test_exporter_nvml import await_scrape

UUID = "4eff74a0-0000-1000-8000-0123456789ab"


def test_known_joules_of_an_amd_gpu_come_through(tmp_path: Path) -> None:
    script = AmdScript([AmdGpu(power=((0.0, 740.0),), uuid=UUID, ppt=((0.0, 0.25),))])
    flags = ("--gpu-source=amd", "--no-ollama")
    with exporter(*flags, environment=environment(script.write(tmp_path / "script"))) as running:
        energy = f'joulebench_gpu_energy_joules_total{{gpu="0",uuid="{UUID}"}}'
        text = await_scrape(running, lambda text: energy in text and "joulebench_gpu_temperature_celsius" in text)
        assert list(complaints(text)) == []
        assert 'source="amd"' in text
        assert f'joulebench_gpu_temperature_celsius{{gpu="0",uuid="{UUID}"}} 55.0' in text
        used = next(line for line in text.splitlines() if line.startswith("joulebench_gpu_memory_used_bytes{"))
        assert float(used.rpartition(" ")[2]) == 64 << 30
        start = SystemClock().unix()
        end = start + 1.5
        status, body = running.get(f"/api/v1/energy?start={start!r}&end={end!r}&wait=2")
        answer = json.loads(body)
        assert status == 200
        (gpu,) = answer["gpus"]
        assert answer["source"] == "amd"
        assert gpu["joules"] == pytest.approx(1110.0, rel=0.05)
        assert gpu["low"] <= 1110.0 <= gpu["high"]
        assert gpu["throttled_seconds"]["sw_power_cap"] == pytest.approx(0.25 * 1.5, abs=0.1)
