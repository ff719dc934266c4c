"""Who used which GPU and when, and how a shared GPU is divided, from scripted polls on a scale of seconds."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import pytest

from joulebench.gpu.device_use import MAX_SAMPLES, DeviceUseHistory, GpuUse, OwnerName, parse_owner
from joulebench.gpu.owners import Endpoint, Owner, ServedBy
from joulebench.gpu.reading import ProcessUse
from joulebench.units import Ratio, Seconds

GPU = "GPU-0"
OLLAMA = parse_owner("server", "127.0.0.1:11434")
VLLM = parse_owner("server", "127.0.0.1:8000")


def serving(port: int) -> ServedBy:
    return ServedBy(Owner(), frozenset({Endpoint(ipaddress.ip_address("127.0.0.1"), port)}))


PORTS = {1: 11434, 2: 8000, 3: 11434}


def poll(history: DeviceUseHistory, now: float, pids: Mapping[int, float] | None, *uses: ProcessUse) -> None:
    """``pids``: processes with memory on the GPU, with the time at which each started."""
    served = {pid: serving(PORTS[pid]) for pid in pids or ()}
    history.record(
        GPU, None if pids is None else list(pids), served, lambda pid: now - (pids or {})[pid], uses, now=now, wall_offset=0.0
    )


def use(history: DeviceUseHistory, start: float, end: float, owner: OwnerName | None = OLLAMA) -> GpuUse | None:
    return history.use(GPU, owner, start, end)


def sample(pid: int, at: float, sm: float) -> ProcessUse:
    return ProcessUse(pid, Seconds(at), Ratio(sm))


def test_a_gpu_belongs_to_a_server_from_its_start_until_it_is_gone() -> None:
    history = DeviceUseHistory(100.0)
    poll(history, 5.0, {})
    poll(history, 10.0, {1: 7.0})
    poll(history, 15.0, {1: 7.0})
    history.end_processes(lambda _: False, 16.5)
    poll(history, 20.0, {})
    assert use(history, 0.0, 6.9) == GpuUse(False, False, None)
    assert use(history, 6.0, 8.0) == GpuUse(True, False, None)
    assert use(history, 16.0, 30.0) == GpuUse(True, False, None)
    assert use(history, 16.6, 30.0) == GpuUse(False, False, None)
    assert use(history, 6.0, 8.0, VLLM) == GpuUse(False, True, None)


def test_a_process_number_that_is_used_again_is_another_process() -> None:
    history = DeviceUseHistory(100.0)
    poll(history, 5.0, {1: 1.0})
    history.record(GPU, [1], {1: serving(8000)}, lambda _: 1.0, (), now=10.0, wall_offset=0.0)
    assert use(history, 6.0, 8.0) == GpuUse(True, False, None)
    assert use(history, 9.5, 10.0) == GpuUse(False, True, None)
    assert use(history, 9.5, 10.0, VLLM) == GpuUse(True, False, None)


def test_a_gpu_shared_by_two_servers_is_divided_by_sm_time() -> None:
    history = DeviceUseHistory(100.0)
    for second in range(1, 11):
        uses = (sample(1, second - 0.5, 0.6), sample(2, second - 0.5, 0.2), sample(1, second, 0.6), sample(2, second, 0.2))
        poll(history, float(second), {1: 0.0, 2: 0.0}, *uses)
    shared = use(history, 2.0, 8.0)
    assert shared is not None
    assert shared.own
    assert shared.others
    assert shared.share == pytest.approx(0.75)
    other = use(history, 2.0, 8.0, VLLM)
    assert other is not None
    assert other.share == pytest.approx(0.25)


def test_the_shares_of_an_hour_are_remembered_and_the_oldest_forgotten() -> None:
    history = DeviceUseHistory(100.0)
    seconds = MAX_SAMPLES + 1000
    for second in range(1, seconds + 1):
        is_late = second > seconds - 1000
        poll(history, float(second), {1: 0.0, 2: 0.0}, sample(1, second, 0.2), sample(2, second, 0.6 if is_late else 0.2))
    for start, end, share in (
        (seconds - 3500.0, seconds - 1000.0, 0.5),
        (seconds - 999.0, seconds - 10.5, 0.25),
        (0.0, 300.0, None),
    ):
        shared = use(history, start, end)
        assert shared is not None
        assert shared.share == (share if share is None else pytest.approx(share))


def test_two_processes_of_one_server_share_nothing_with_somebody_else() -> None:
    history = DeviceUseHistory(100.0)
    poll(history, 1.0, {1: 0.0, 3: 0.0}, sample(1, 1.0, 0.3), sample(3, 1.0, 0.3))
    assert use(history, 0.0, 1.0) == GpuUse(True, False, 1.0)


def test_without_a_list_of_processes_the_use_is_unknown() -> None:
    history = DeviceUseHistory(100.0)
    assert use(history, 0.0, 1.0) is None
    poll(history, 1.0, {1: 0.0})
    assert use(history, 0.0, 1.0) is not None
    poll(history, 2.0, None)
    assert use(history, 0.0, 1.0) is None


def test_what_is_long_gone_is_forgotten() -> None:
    history = DeviceUseHistory(20.0)
    poll(history, 5.0, {1: 0.0})
    poll(history, 10.0, {})
    poll(history, 40.0, {2: 30.0})
    poll(history, 45.0, {})
    assert use(history, 0.0, 8.0) == GpuUse(False, False, None)


CONTAINER = "4f" * 32


@pytest.mark.parametrize(
    ("kind", "value", "owner"),
    [
        ("unit", "ollama", Owner(unit="ollama.service")),
        ("unit", "ollama.service", Owner(unit="ollama.service")),
        ("container", CONTAINER[:12], Owner(container=CONTAINER)),
        ("pod", "0A1B2C3D-1111-2222-3333-444455556666", Owner(pod="0a1b2c3d-1111-2222-3333-444455556666")),
        ("job", "42", Owner(job="42")),
    ],
)
def test_an_owner_is_named_by_its_identifier(kind: str, value: str, owner: Owner) -> None:
    name = parse_owner(kind, value)
    assert name.matches(ServedBy(owner, None))
    assert not name.matches(ServedBy(Owner(), None))


@pytest.mark.parametrize(
    ("kind", "value"), [("server", "box"), ("unit", " "), ("container", "4f4f"), ("container", "my-container")]
)
def test_a_name_that_can_be_nobodys_is_refused(kind: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"is not|is empty"):
        parse_owner(kind, value)
