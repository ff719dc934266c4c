"""A made-up ``/sys/class/powercap`` whose counters stand where known power over time puts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PACKAGE_RANGE = 262_143_328_850
DRAM_RANGE = 65_712_999_613


@dataclass
class FakeZone:
    """``joules``: energy since the origin, by seconds since then. ``begin``: microjoules that the counter stands at there."""

    directory: Path
    name: str
    joules: Callable[[float], float]
    begin: int = 0
    size: int = PACKAGE_RANGE

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True)
        (self.directory / "name").write_text(f"{self.name}\n", encoding="ascii")
        (self.directory / "max_energy_range_uj").write_text(f"{self.size}\n", encoding="ascii")
        self.show(0.0)

    def show(self, seconds: float) -> None:
        """The counter as it is that long after the origin."""
        self.write((self.begin + round(self.joules(seconds) * 1e6)) % self.size)

    def write(self, microjoules: int) -> None:
        (self.directory / "energy_uj").write_text(f"{microjoules}\n", encoding="ascii")
