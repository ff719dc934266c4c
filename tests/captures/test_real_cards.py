"""152 states of real GPUs, whole machines at a time, through the real readers: each figure arrives in its base unit, and no
missing figure becomes a number.

The figures are those that nvidia-smi printed on other people's machines (``real_cards.json`` names each source).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from joulebench.gpu.reading import StateReading
from joulebench.metrics import POWER_CAP, THROTTLE_REASONS
from tests.captures.nvml.derive import has_counter, machines
from tests.captures.playing import played

MACHINES = machines()
CLOCK_DOMAINS = ("graphics", "sm", "memory")

each_machine = pytest.mark.parametrize("name", MACHINES)


def scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def margin_to_slowdown(nvml: Mapping[str, Any]) -> float | None:
    if nvml["tlimit_margin_c"] is not None and nvml["slowdown_tlimit_c"] is not None:
        return float(nvml["tlimit_margin_c"] - nvml["slowdown_tlimit_c"])
    if nvml["slowdown_c"] is not None and nvml["temperature_c"] is not None:
        return float(nvml["slowdown_c"] - nvml["temperature_c"])
    return None


def expected(nvml: Mapping[str, Any]) -> dict[str, float | None]:
    """What the figures say, worked out here without any reader of ours."""
    memory = [nvml[f"memory_{part}_bytes"] for part in ("total", "free", "used")]
    has_memory = None not in memory
    has_reserved = has_memory and nvml["memory_reserved_bytes"] is not None
    return {
        "utilization": scaled(nvml["utilization_gpu_percent"], 0.01),
        "memory_total": memory[0] if has_memory else None,
        "memory_used": memory[2] if has_memory else None,
        "memory_reserved": nvml["memory_reserved_bytes"] if has_reserved else None,
        "temperature": nvml["temperature_c"],
        "temperature_margin": margin_to_slowdown(nvml),
        "power_limit": scaled(nvml["power_limit_enforced_mw"], 0.001),
        **{f"clock {domain}": scaled(nvml[f"clock_{domain}_mhz"] or None, 1e6) for domain in CLOCK_DOMAINS},
        **{f"clock_max {domain}": scaled(nvml[f"clock_max_{domain}_mhz"] or None, 1e6) for domain in CLOCK_DOMAINS},
    }


def shown(reading: StateReading) -> dict[str, float | None]:
    def value(name: str) -> float | None:
        field, _, domain = name.partition(" ")
        found = getattr(reading, field)
        return found.get(domain) if domain else found  # type: ignore[no-any-return]

    return {name: value(name) for name in expected(next(iter(MACHINES.values()))[0]["nvml"])}


def possible_watts(nvml: Mapping[str, Any]) -> float | None:
    """The power shown, where the card's own limits allow it."""
    milliwatts, most = nvml["power_instant_mw"] or nvml["power_usage_mw"], nvml["power_limit_max_mw"]
    if most is not None and milliwatts is not None and not most / 100 <= milliwatts <= 1.5 * most:
        return None
    return scaled(milliwatts, 0.001)


@each_machine
def test_every_figure_of_a_machine_arrives_and_none_is_invented(name: str) -> None:
    states, machine = MACHINES[name], played(name)
    assert [gpu.up for gpu in machine.gpus] == [True] * len(states)
    for state, gpu, measured, joules in zip(states, machine.gpus, machine.measured, machine.joules, strict=True):
        nvml = state["nvml"]
        watts = possible_watts(nvml)
        assert shown(gpu.state) == pytest.approx(expected(nvml))
        assert gpu.power == pytest.approx(watts)
        assert shown_instances(gpu.state) == state["mig_devices"]
        assert {(one.utilization, one.instance.profile) for one in gpu.state.instances} <= {(None, "unknown")}
        assert set(gpu.throttle) <= known_reasons(nvml, watts)
        assert set(gpu.throttle) >= {reason for reason in known_reasons(nvml, watts) if f"counter_{reason}_ns" in nvml}
        assert (gpu.processes.foreign_sm, gpu.state.link_bytes) == (None, {}), "no capture has either"
        assert bool(gpu.state.throttle_active) == (nvml["reasons_mask"] is not None)
        assert gpu.glitches == {"energy": 0, "state": 0, "power": pytest.approx(gpu.polls) if has_impossible_power(nvml) else 0}
        by_power = "none" if watts is None else "power_integration"
        assert gpu.energy_method == ("counter" if has_counter(state) else by_power)
        assert (gpu.energy is None) == (gpu.energy_method == "none")
        assert measured.joules == (None if gpu.energy_method == "none" else pytest.approx(joules, rel=0.02))


def known_reasons(nvml: Mapping[str, Any], watts: float | None) -> set[str]:
    """Throttle reasons of which the seconds can be known: by a counter, else by bits; the power cap with a power and a limit."""
    counted = {reason for reason in THROTTLE_REASONS if nvml.get(f"counter_{reason}_ns") is not None}
    known = counted if nvml["reasons_mask"] is None else set(THROTTLE_REASONS)
    return known if watts is not None and nvml["power_limit_enforced_mw"] is not None else known - {POWER_CAP}


def shown_instances(reading: StateReading) -> list[dict[str, float | None]]:
    return [
        {
            "gi": one.instance.gpu_instance,
            "ci": one.instance.compute_instance,
            "sm": one.instance.multiprocessors,
            "memory_total_bytes": one.memory_total,
            "memory_used_bytes": one.memory_used,
        }
        for one in reading.instances
    ]


def has_impossible_power(nvml: Mapping[str, Any]) -> bool:
    return bool(nvml["power_instant_mw"] or nvml["power_usage_mw"]) and possible_watts(nvml) is None


def test_the_states_are_those_of_many_machines() -> None:
    gpus: Sequence[Any] = [gpu for machine in MACHINES.values() for gpu in machine]
    assert (len(gpus), len(MACHINES)) == (152, 80)


def test_each_test_that_the_readme_names_exists() -> None:
    tests = Path(__file__).parents[1]
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", (tests / "captures" / "README.md").read_text(encoding="utf-8"))
    assert len(named) >= 20
    for path, name in named:
        assert f"def {name}(" in (tests / path).read_text(encoding="utf-8"), (path, name)
