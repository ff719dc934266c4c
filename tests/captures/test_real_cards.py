"""152 states of real GPUs through the real readers: each figure arrives in its base unit, and no missing figure becomes a number.

The figures are those that nvidia-smi printed on other people's machines (``real_cards.json`` names each source). A ``null`` is
played as "not supported".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from joulebench.gpu.monitor import GpuMonitor
from joulebench.gpu.nvml import NvmlSource
from joulebench.gpu.reading import StateReading
from tests.fakes.nvml import SCRIPT_VARIABLE, Answer, FakeGpu, FakeGpuScript, Fault, VirtualClock, fails, field_fails, load

STATES: Sequence[Mapping[str, Any]] = json.loads(Path(__file__).with_name("real_cards.json").read_text(encoding="utf-8"))[
    "states"
]
NOT_SUPPORTED = 3
ENERGY_GETTER = "nvmlDeviceGetTotalEnergyConsumption"
CLOCK_DOMAINS = ("graphics", "sm", "memory")
POLL = 0.02


def answer(function: str, values: Sequence[float | None], argument: int | None = None) -> Answer:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return Answer(function, argument=argument, code=NOT_SUPPORTED)
    return Answer(function, known, argument)


def gpu_in(state: Mapping[str, Any]) -> FakeGpu:
    nvml = state["nvml"]
    answers = [
        answer("nvmlDeviceGetUtilizationRates", [nvml["utilization_gpu_percent"], nvml["utilization_memory_percent"] or 0]),
        answer(
            "nvmlDeviceGetMemoryInfo_v2",
            [nvml["memory_total_bytes"], nvml["memory_reserved_bytes"], nvml["memory_free_bytes"], nvml["memory_used_bytes"]],
        ),
        answer("nvmlDeviceGetMemoryInfo", [nvml[f"memory_{part}_bytes"] for part in ("total", "free", "used")]),
        answer("nvmlDeviceGetTemperatureV", [nvml["temperature_c"]], 0),
        answer("nvmlDeviceGetTemperature", [nvml["temperature_c"]], 0),
        answer("nvmlDeviceGetMarginTemperature", [nvml["tlimit_margin_c"]]),
        answer("nvmlDeviceGetTemperatureThreshold", [nvml["slowdown_c"]], 1),
        answer("nvmlDeviceGetEnforcedPowerLimit", [nvml["power_limit_enforced_mw"]]),
        answer("nvmlDeviceGetPowerManagementLimitConstraints", [nvml["power_limit_min_mw"], nvml["power_limit_max_mw"]]),
        answer("nvmlDeviceGetCurrentClocksEventReasons", [nvml["reasons_mask"]]),
        answer("nvmlDeviceGetCurrentClocksThrottleReasons", [nvml["reasons_mask"]]),
    ]
    for number, domain in enumerate(CLOCK_DOMAINS):
        answers.append(answer("nvmlDeviceGetClockInfo", [nvml[f"clock_{domain}_mhz"]], number))
        answers.append(answer("nvmlDeviceGetMaxClockInfo", [nvml[f"clock_max_{domain}_mhz"]], number))
    faults: list[Fault] = []
    if nvml["power_instant_mw"] is None:
        faults.append(field_fails(186))
    if nvml["power_usage_mw"] is None:
        faults.append(fails("nvmlDeviceGetPowerUsage"))
    if state["energy_counter"] == "no":
        faults += [field_fails(191), field_fails(83), fails(ENERGY_GETTER)]
    watts = (nvml["power_instant_mw"] or nvml["power_usage_mw"] or 10_000) / 1000
    return FakeGpu(name=state["card"], power=((0.0, watts),), faults=faults, answers=answers)


def scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def expected(nvml: Mapping[str, Any]) -> dict[str, float | None]:
    """What the figures say, worked out here without any reader of ours."""
    temperature, margin = nvml["temperature_c"], nvml["tlimit_margin_c"]
    if margin is None and temperature is not None and nvml["slowdown_c"] is not None:
        margin = nvml["slowdown_c"] - temperature
    memory = [nvml[f"memory_{part}_bytes"] for part in ("total", "free", "used")]
    has_memory = None not in memory
    return {
        "utilization": scaled(nvml["utilization_gpu_percent"], 0.01),
        "memory_total": memory[0] if has_memory else None,
        "memory_used": memory[2] if has_memory else None,
        "memory_reserved": nvml["memory_reserved_bytes"] if has_memory else None,
        "temperature": temperature,
        "temperature_margin": margin,
        "power_limit": scaled(nvml["power_limit_enforced_mw"], 0.001),
        **{f"clock {domain}": scaled(nvml[f"clock_{domain}_mhz"] or None, 1e6) for domain in CLOCK_DOMAINS},
        **{f"clock_max {domain}": scaled(nvml[f"clock_max_{domain}_mhz"] or None, 1e6) for domain in CLOCK_DOMAINS},
    }


def shown(reading: StateReading) -> dict[str, float | None]:
    def value(name: str) -> float | None:
        field, _, domain = name.partition(" ")
        found = getattr(reading, field)
        return found.get(domain) if domain else found  # type: ignore[no-any-return]

    return {name: value(name) for name in expected(STATES[0]["nvml"])}


@pytest.mark.parametrize("state", STATES, ids=[f"{number}-{state['card']}" for number, state in enumerate(STATES)])
def test_a_real_state_arrives_as_it_is_and_nothing_is_invented(
    state: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load()
    clock = VirtualClock(tmp_path / "clock")
    script = FakeGpuScript([gpu_in(state)], driver=state["driver"] or "unknown", clock=clock)
    monkeypatch.setenv(SCRIPT_VARIABLE, str(script.write(tmp_path / "script")))
    source = NvmlSource()
    try:
        monitor = GpuMonitor(source, clock, poll_period=POLL)
        for _ in range(round(3.0 / POLL)):
            monitor.poll()
            clock.advance(POLL)
        monitor.poll_state()
        (gpu,) = monitor.snapshot()
    finally:
        source.close()
    nvml = state["nvml"]
    assert gpu.up
    assert shown(gpu.state) == pytest.approx(expected(nvml))
    has_power = nvml["power_instant_mw"] or nvml["power_usage_mw"]
    assert (gpu.power is None) == (not has_power)
    assert bool(gpu.state.throttle_active) == (nvml["reasons_mask"] is not None)
    assert not any(gpu.glitches.values())
    if state["energy_counter"] == "no":
        assert gpu.energy_method == ("power_integration" if has_power else "none")
    else:
        assert gpu.energy_method == "counter"
