from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.nvml import SCRIPT_VARIABLE, FakeGpu, load
from tests.unit.gpu.rig import Play, Rig


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    """Plays GPUs to this process; one scenario at a time, for the library has one."""
    load()
    opened: list[Rig] = []

    def start(*gpus: FakeGpu, driver: str = "580.95.05", busy: bool = False, phase: float = 0.0) -> Rig:
        rig = Rig(tmp_path, gpus, driver=driver, busy=busy, phase=phase)
        monkeypatch.setenv(SCRIPT_VARIABLE, str(rig.path))
        rig.open()
        opened.append(rig)
        return rig

    yield start
    for rig in opened:
        rig.source.close()
