"""Names of devices as users write them, and the devices that they mean."""

from __future__ import annotations

import pytest

from joulebench.devices import Device, is_host, parse_devices, resolve_devices
from joulebench.errors import UserError

A0 = Device("hosta:18347", 0, "GPU-5c1d0000-0000-0000-0000-000000000000")
A1 = Device("hosta:18347", 1, "GPU-5c1e0000-0000-0000-0000-000000000000")
B0 = Device("hostb:18347", 0, "GPU-9a000000-0000-0000-0000-000000000000")
SLICE = Device("hostb:18347", 0, "MIG-77770000-0000-0000-0000-000000000000", parent=B0.uuid)
ALL = (A0, A1, B0, SLICE)


def resolve(names: str | list[int], known: tuple[Device, ...] = ALL) -> tuple[Device, ...]:
    return resolve_devices(parse_devices(names, "--gpus"), known, "--gpus")


@pytest.mark.parametrize(
    ("names", "devices"),
    [
        ("1", (A1,)),
        ("GPU-9a", (B0,)),
        ("gpu-9A", (B0,)),
        ("9a00", (B0,)),
        ("hosta:0", (A0,)),
        ("hosta:18347:0", (A0,)),
        (" hosta:0 , hostb:0 ", (A0, B0)),
        ("hosta:GPU-5c1e", (A1,)),
        ("MIG-7777", (SLICE,)),
        ("hosta:0,GPU-5c1d", (A0,)),
        ("HostA:0", (A0,)),
        ("HOSTA:GPU-5C1E", (A1,)),
    ],
)
def test_a_name_means_its_device(names: str, devices: tuple[Device, ...]) -> None:
    assert resolve(names) == devices


@pytest.mark.parametrize(("host", "name"), [("[fe80::1]:18347", "[fe80::1]:0"), ("[FE80::1]:18347", "[fe80::1]:18347:0")])
def test_a_host_may_be_an_ipv6_address_with_or_without_its_port(host: str, name: str) -> None:
    known = (Device(host, 0, "GPU-1"), Device("[fe80::2]:18347", 0, "GPU-2"))
    assert resolve(name, known) == known[:1]


@pytest.mark.parametrize(
    ("wanted", "host", "same"),
    [
        ("2001:db8::1", "[2001:0db8:0::1]:18347", True),
        ("10.0.0.7", "10.0.0.7:18347", True),
        ("10", "10.0.0.7:18347", False),
        ("10.0.0.7", "10.0.0.70:18347", False),
        ("gpu1.lan", "gpu1:18347", True),
        ("gpu1", "GPU1.lan:18347", True),
        ("gpu1.", "gpu1:18347", True),
        ("gpu1.lan", "gpu1.other:18347", False),
        ("gpu1", "gpu10:18347", False),
    ],
)
def test_hosts_are_compared_without_port_domain_and_case(wanted: str, host: str, same: bool) -> None:
    assert is_host(wanted, host) is same


def test_a_uuid_that_is_the_beginning_of_others_means_itself() -> None:
    gpus = tuple(Device("", index, f"SIMULATED-box-{index}") for index in range(16))
    assert resolve("SIMULATED-box-1", gpus) == (gpus[1],)
    # MIG instances of drivers before 470 have the UUID of their GPU in front.
    gpu = Device("", 0, "GPU-1a2b")
    instances = tuple(Device("", 0, f"MIG-GPU-1a2b/{number}/0", gpu.uuid) for number in (1, 11))
    assert resolve("GPU-1a2b", (gpu, *instances)) == (gpu,)
    assert resolve("MIG-GPU-1a2b/1/0", (gpu, *instances)) == instances[:1]


def test_indices_may_be_numbers() -> None:
    assert resolve([0, 1], (A0, A1)) == (A0, A1)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("0", "--gpus: 0 matches 2 GPUs; put the host in front, or more of the UUID; there are: hosta:18347:0"),
        ("7", "--gpus: 7 matches no GPU; there are: "),
        ("GPU-5c1", "--gpus: GPU-5c1 matches 2 GPUs"),
        ("hostc:0", "--gpus: hostc:0 matches no GPU"),
    ],
)
def test_a_name_that_means_none_or_two_lists_what_there_is(names: str, message: str) -> None:
    with pytest.raises(UserError, match=r"^--gpus: ") as refused:
        resolve(names)
    assert str(refused.value).startswith(message)
    assert A1.uuid in str(refused.value)


@pytest.mark.parametrize("names", ["", " , ", "a card", "0;1", "-1", "0x1", "host:"])
def test_what_is_no_name_is_refused_with_examples(names: str) -> None:
    with pytest.raises(UserError, match=r"--gpus: .*(GPU-5c1d|index)"):
        parse_devices(names, "--gpus")
