"""Bytes over PCIe and NVLink: counted where the card counts, never falling, and absent where it is silent."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from joulebench.gpu.link_traffic import ALL_LINKS, LINK_COUNTERS, LinkTraffic, link_field_block
from joulebench.gpu.nvml_calls import FieldAnswer
from joulebench.units import Bytes
from tests.fakes.nvml import During, FakeGpu, calls, field_answers, field_fails
from tests.unit.gpu.rig import Play

PCIE_TX, PCIE_RX, NVLINK_TX, NVLINK_RX = 197, 198, 138, 139
FIELDS = "nvmlDeviceGetFieldValues"


def told(value: int, code: int = 0) -> FieldAnswer:
    return FieldAnswer(code, 1, value)


def plain(traffic: Mapping[tuple[str, str], Bytes]) -> dict[tuple[str, str], int]:
    return {key: int(value) for key, value in traffic.items()}


def test_a_card_that_counts_tells_bytes_since_the_first_look(play: Play) -> None:
    counts = ((PCIE_TX, 1_000, 51_000), (PCIE_RX, 5, 2_005), (NVLINK_TX, 10, 14), (NVLINK_RX, 7, 8))
    faults = [
        field_answers(field, value, During(start, end))
        for field, first, then in counts
        for value, start, end in ((first, 0.0, 1.0), (then, 1.0, 9.0))
    ]
    rig = play(FakeGpu(faults=faults))
    assert plain(rig.source.devices()[0].read_state().link_bytes) == {
        ("pcie", "tx"): 0,
        ("pcie", "rx"): 0,
        ("nvlink", "tx"): 0,
        ("nvlink", "rx"): 0,
    }
    rig.clock.advance(2.0)
    found = plain(rig.source.devices()[0].read_state().link_bytes)
    assert found == {("pcie", "tx"): 50_000, ("pcie", "rx"): 2_000, ("nvlink", "tx"): 4 * 1024, ("nvlink", "rx"): 1024}


def test_a_card_without_counters_tells_none_and_is_soon_left_alone(play: Play) -> None:
    rig = play(FakeGpu())
    asked = []
    for _ in range(6):
        before = calls(FIELDS, 0)
        assert rig.source.devices()[0].read_state().link_bytes == {}
        asked.append(calls(FIELDS, 0) - before)
    assert asked == [1, 1, 1, 0, 0, 0]


def test_only_what_is_counted_is_told(play: Play) -> None:
    rig = play(FakeGpu(faults=[field_answers(PCIE_TX, 12), field_answers(PCIE_RX, 12), field_fails(NVLINK_TX)]))
    assert set(rig.source.devices()[0].read_state().link_bytes) == {("pcie", "tx"), ("pcie", "rx")}


def test_nvlink_is_asked_for_all_links_together() -> None:
    links = link_field_block(LINK_COUNTERS)
    assert [(item.field_id, item.scope_id) for item in links.array] == [
        (PCIE_TX, 0),
        (PCIE_RX, 0),
        (NVLINK_TX, ALL_LINKS),
        (NVLINK_RX, ALL_LINKS),
    ]


@pytest.mark.parametrize(
    ("values", "moved"),
    [
        ((100, 400, 1000), 900),
        ((2**32 - 50, 50), 100),
        ((2**32 - 50, 50, 2**31), 2**31 + 50),
        ((2**33, 2**33 + 10, 7), 17),
    ],
    ids=["rises", "wraps at 32 bits", "wraps and goes on", "a 64-bit counter begins anew"],
)
def test_the_sum_goes_on_where_the_counter_falls(values: tuple[int, ...], moved: int) -> None:
    traffic = LinkTraffic()
    found = [int(traffic.add({PCIE_TX: told(value)})["pcie", "tx"]) for value in values]
    assert found[-1] == moved
    assert found == sorted(found)


def test_a_read_that_failed_loses_nothing() -> None:
    traffic = LinkTraffic()
    traffic.add({PCIE_TX: told(10)})
    assert traffic.add({PCIE_TX: told(0, code=3)}) == {}
    assert plain(traffic.add({PCIE_TX: told(40)})) == {("pcie", "tx"): 30}
