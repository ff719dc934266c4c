from __future__ import annotations

import pytest

from joulebench.gpu.nvml_calls import has_part_time_sensor, parse_driver_version, power_averaging_seconds


@pytest.mark.parametrize(
    ("driver", "version"),
    [("580.65.06", (580, 65, 6)), ("580.105.08", (580, 105, 8)), ("590.44.01-beta", (590, 44, 1)), ("unknown", ()), ("", ())],
)
def test_a_driver_version_is_compared_by_its_numbers(driver: str, version: tuple[int, ...]) -> None:
    assert parse_driver_version(driver) == version


@pytest.mark.parametrize("name", ["NVIDIA A100-SXM4-80GB", "NVIDIA H100 PCIe", "NVIDIA H200", "NVIDIA A30", "NVIDIA GH200 480GB"])
def test_cards_with_a_part_time_sensor_are_known_by_name(name: str) -> None:
    assert has_part_time_sensor(name, "unknown")


@pytest.mark.parametrize("name", ["NVIDIA RTX A3000", "NVIDIA A10", "NVIDIA GeForce RTX 4090", "NVIDIA L40S", "Simulated GPU 0"])
def test_other_cards_are_not(name: str) -> None:
    assert not has_part_time_sensor(name, "Ampere")


@pytest.mark.parametrize(
    ("name", "architecture", "seconds"),
    [
        ("NVIDIA GeForce RTX 3090", "Ampere", 1.0),
        ("NVIDIA A100-SXM4-40GB", "Ampere", 0.1),
        ("NVIDIA GeForce RTX 2080", "Turing", 0.1),
        ("NVIDIA Graphics Device", "Rubin", 1.0),
    ],
)
def test_power_is_a_mean_over_a_second_from_ampere_on_but_for_the_a100(name: str, architecture: str, seconds: float) -> None:
    assert power_averaging_seconds(name, architecture, is_instant=False) == seconds
    assert power_averaging_seconds(name, architecture, is_instant=True) == 0.1
