"""The machine changes while the exporter runs: drivers and GPUs that come late, get lost, come back, or are others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from joulebench.errors import GpuUnavailable
from joulebench.gpu.monitor import FIRST_SCAN, LAST_SCAN, GpuMonitor
from joulebench.gpu.nvml import NvmlSource
from tests.fakes.nvml import SCRIPT_VARIABLE, FakeGpu, FakeGpuScript, VirtualClock, gone, load
from tests.unit.gpu.rig import POLL

Write = Callable[..., None]
Open = Callable[..., NvmlSource]


@pytest.fixture
def clock(tmp_path: Path) -> VirtualClock:
    return VirtualClock(tmp_path / "clock")


@pytest.fixture
def write(tmp_path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Makes the machine one of these GPUs, as a new start of the library finds it."""
    load()
    path = tmp_path / "script"
    monkeypatch.setenv(SCRIPT_VARIABLE, str(path))

    def machine(*gpus: FakeGpu, init: int = 0, driver: str = "580.95.05") -> None:
        FakeGpuScript(gpus, clock=clock, init=init, driver=driver).write(path)

    return machine


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens sources, and closes them at the end of the test."""
    sources: list[NvmlSource] = []

    def open_source(*, required: bool = True) -> NvmlSource:
        sources.append(NvmlSource(required=required))
        return sources[-1]

    yield open_source
    for source in sources:
        source.close()


def run(monitor: GpuMonitor, clock: VirtualClock, seconds: float) -> None:
    for poll in range(round(seconds / POLL)):
        monitor.poll()
        if poll % 50 == 0:
            monitor.poll_state()
        clock.advance(POLL)


def states(monitor: GpuMonitor) -> Sequence[tuple[int, str, bool]]:
    return [(gpu.identity.index, gpu.identity.uuid, gpu.up) for gpu in monitor.snapshot()]


def test_a_driver_that_is_loaded_later_is_found(write: Write, opened: Open, clock: VirtualClock) -> None:
    write(init=9)
    with pytest.raises(GpuUnavailable, match="not loaded"):
        NvmlSource()
    source = opened(required=False)
    assert "nvidia-smi" in (source.problem or "")
    monitor = GpuMonitor(source, clock)
    assert (monitor.source_name, monitor.snapshot()) == ("none", [])
    assert [monitor.scan() for _ in range(3)] == [2 * FIRST_SCAN, 4 * FIRST_SCAN, 8 * FIRST_SCAN], "the pauses grow"
    write(FakeGpu(uuid="GPU-late"))
    monitor.scan()
    run(monitor, clock, 5.0)
    assert states(monitor) == [(0, "GPU-late", True)]
    assert monitor.source_name == "nvml"
    assert [monitor.scan() for _ in range(2)] == [LAST_SCAN, LAST_SCAN]


def test_a_gpu_that_is_lost_at_the_start_is_missed_until_it_is_back(write: Write, opened: Open, clock: VirtualClock) -> None:
    write(FakeGpu(uuid="GPU-a", power=((0.0, 100.0),)), FakeGpu(uuid="GPU-b", faults=(gone(-1.0, 10.0),)))
    source = opened()
    monitor = GpuMonitor(source, clock)
    monitor.scan()
    run(monitor, clock, 5.0)
    assert states(monitor) == [(0, "GPU-a", True)]
    assert (monitor.expected_gpus, monitor.has_unnamed_gpus) == (2, True)
    run(monitor, clock, 6.0)
    monitor.scan()
    run(monitor, clock, 5.0)
    assert states(monitor) == [(0, "GPU-a", True), (1, "GPU-b", True)]
    assert (monitor.expected_gpus, monitor.has_unnamed_gpus) == (2, False)


def test_a_gpu_that_is_replaced_stays_down_until_its_window_is_over(write: Write, opened: Open, clock: VirtualClock) -> None:
    write(FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b"))
    source = opened()
    monitor = GpuMonitor(source, clock, ring_seconds=30.0)
    run(monitor, clock, 5.0)
    source.close()
    write(FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-c"))
    monitor.scan()
    run(monitor, clock, 10.0)
    assert set(states(monitor)) == {(0, "GPU-a", True), (1, "GPU-b", False), (1, "GPU-c", True)}
    assert monitor.expected_gpus == 3
    run(monitor, clock, 30.0)
    monitor.scan()
    assert states(monitor) == [(0, "GPU-a", True), (1, "GPU-c", True)]


def test_a_gpu_that_gets_another_index_keeps_its_counters(write: Write, opened: Open, clock: VirtualClock) -> None:
    write(FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b", power=((0.0, 100.0),)))
    source = opened()
    monitor = GpuMonitor(source, clock)
    run(monitor, clock, 5.0)
    polls = monitor.snapshot()[1].polls
    source.close()
    write(FakeGpu(uuid="GPU-b", power=((0.0, 100.0),)))
    monitor.scan()
    run(monitor, clock, 15.0)
    (moved,) = (gpu for gpu in monitor.snapshot() if gpu.identity.uuid == "GPU-b")
    assert (moved.identity.index, moved.up) == (0, True)
    assert moved.polls > polls + 500
    assert moved.power == pytest.approx(100)


@pytest.mark.parametrize(("code", "advice"), [(4, "--gpus all"), (9, "nvidia-smi"), (18, "reboot"), (999, "dmesg")])
def test_the_plain_errors_of_nvml_say_what_to_do(write: Write, code: int, advice: str) -> None:
    write(init=code)
    with pytest.raises(GpuUnavailable, match=rf"NVML does not start: .*\({code}\).*{advice}"):
        NvmlSource()
