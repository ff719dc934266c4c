"""Writes the synthetic captures: the real recorder on the fake library, played by profiles of what is known of some cards.

``python -m tests.captures.nvml.synthesize`` rewrites them. They stand in until somebody records the real card, and are marked so:
no time, version or cost is in them, since nothing was measured.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from joulebench.gpu.capture import Capture, GpuCapture, capture_file_name, capture_json, record_capture
from joulebench.gpu.nvml import NvmlLibrary
from tests.fakes.nvml import SCRIPT_VARIABLE, Answer, FakeGpu, FakeGpuScript, VirtualClock, fails, field_fails, load
from tests.fakes.nvml.script import ADA, HOPPER, NOT_SUPPORTED, PASCAL, SW_POWER_CAP, TURING

HERE = Path(__file__).parent
BLACKWELL = 10
SECONDS = 4.0
CALLS = ((0.0, 0.95), (0.4, 0.7), (1.6, 0.25), (2.1, 0.95), (2.5, 0.7))
"""(seconds, share of the limit): prefill, decode, a tool that runs on the CPU, prefill, decode."""
BUSY = ((0.0, 97.0),)

ENERGY_GETTER = "nvmlDeviceGetTotalEnergyConsumption"
THRESHOLD = "nvmlDeviceGetTemperatureThreshold"


def _power(limit: float) -> tuple[tuple[float, float], ...]:
    return tuple((at, share * limit) for at, share in CALLS)


PROFILES: tuple[tuple[str, str, FakeGpu], ...] = (
    (
        "580.95.05",
        "load",
        FakeGpu(
            name="NVIDIA GeForce RTX 4080 SUPER",
            arch=ADA,
            power=_power(320.0),
            utilization=BUSY,
            limit=320.0,
            memory_total=16 << 30,
            memory_used=((0.0, float(11 << 30)),),
            temperature=((0.0, 61.0),),
            clock_mhz=((0.0, 2760.0),),
            reasons=((0.0, SW_POWER_CAP), (0.3, 0.0)),
            slowdown=96,
        ),
    ),
    (
        "580.95.05",
        "load",
        FakeGpu(
            name="NVIDIA H100 80GB HBM3",
            arch=HOPPER,
            power=_power(700.0),
            utilization=BUSY,
            limit=700.0,
            memory_total=80 << 30,
            memory_used=((0.0, float(64 << 30)),),
            temperature=((0.0, 52.0),),
            clock_mhz=((0.0, 1980.0),),
            sensor_window=0.025,
            margin=True,
            slowdown=87,
        ),
    ),
    (
        "570.86.16",
        "idle",
        FakeGpu(
            name="NVIDIA GeForce RTX 2080 SUPER",
            arch=TURING,
            power=((0.0, 21.0),),
            limit=250.0,
            memory_total=8 << 30,
            temperature=((0.0, 38.0),),
            clock_mhz=((0.0, 300.0),),
            slowdown=97,
            # The sensor does not ask for the average; were it to, this card has none.
            faults=(field_fails(185),),
        ),
    ),
    (
        "580.95.05",
        "load",
        FakeGpu(
            name="NVIDIA GeForce GTX 1080 Ti",
            arch=PASCAL,
            power=_power(250.0),
            utilization=BUSY,
            limit=250.0,
            step=0.02,
            sensor_window=0.01,
            memory_total=11 << 30,
            temperature=((0.0, 70.0),),
            clock_mhz=((0.0, 1850.0),),
            slowdown=96,
            faults=(field_fails(191), field_fails(83), fails(ENERGY_GETTER)),
        ),
    ),
    (
        "580.142",
        "idle",
        FakeGpu(
            name="NVIDIA GB10",
            arch=BLACKWELL,
            power=((0.0, 12.0),),
            temperature=((0.0, 42.0),),
            clock_mhz=((0.0, 208.0),),
            faults=tuple(
                fails(name)
                for name in (
                    "nvmlDeviceGetMemoryInfo",
                    "nvmlDeviceGetMemoryInfo_v2",
                    "nvmlDeviceGetEnforcedPowerLimit",
                    THRESHOLD,
                )
            ),
            answers=(
                Answer("nvmlDeviceGetClockInfo", argument=2, code=NOT_SUPPORTED),
                Answer("nvmlDeviceGetMaxClockInfo", argument=2, code=NOT_SUPPORTED),
            ),
        ),
    ),
)
"""Driver, label and card; where nothing is known of a call it is said not to be supported."""


def captures() -> Mapping[str, str]:
    """File name -> text."""
    load()
    with tempfile.TemporaryDirectory() as name:
        made = [_recorded(Path(name), *profile) for profile in PROFILES]
    return {capture_file_name(one): capture_json(one) for one in made}


def _recorded(directory: Path, driver: str, label: str, gpu: FakeGpu) -> Capture:
    clock = VirtualClock(directory / "clock")
    # A card of its own, so that no two captures name the same.
    script = FakeGpuScript([replace(gpu, uuid=f"GPU-{gpu.name}")], driver=driver, clock=clock).write(directory / "script")
    before = os.environ.get(SCRIPT_VARIABLE)
    os.environ[SCRIPT_VARIABLE] = str(script)
    try:
        library = NvmlLibrary()
    finally:
        os.environ.pop(SCRIPT_VARIABLE)
        if before is not None:
            os.environ[SCRIPT_VARIABLE] = before
    try:
        recorded = record_capture(library, clock, clock.advance, SECONDS, label=label)
    finally:
        library.close()
    gpus = [_without_costs(one) for one in recorded.gpus]
    return replace(recorded, origin="synthetic", recorded_at=None, joulebench=None, binding=None, gpus=gpus)


def _without_costs(gpu: GpuCapture) -> GpuCapture:
    assert gpu.energy is not None
    return replace(
        gpu,
        calls=[replace(call, microseconds=None) for call in gpu.calls],
        fields=[replace(field, microseconds=None) for field in gpu.fields],
        energy=replace(gpu.energy, fast_read_microseconds=None, slow_read_microseconds=None),
    )


if __name__ == "__main__":
    for file, text in captures().items():
        (HERE / file).write_text(text, encoding="utf-8")
