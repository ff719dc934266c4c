"""Bytes that a GPU moved over PCIe and NVLink, by the driver's own counters: one cheap call, and only where the GPU counts.

``nvmlDeviceGetPcieThroughput``, which samples for 20 ms at a time and blocks meanwhile, is never called. NVML says of the PCIe
counters that they wrap, and some drivers give 32 bits of them: on such a GPU the sum is exact while less than 4 GiB pass
between two reads, and else too low by a multiple of that.
Source: nvml.h, NVML_FI_DEV_PCIE_COUNT_TX_BYTES and _RX_BYTES, NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX and _RX.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from joulebench.gpu.nvml_calls import FieldAnswer, FieldBlock
from joulebench.units import Bytes

ALL_LINKS = 0xFFFFFFFF
"""Scope of an NVLink field: the sum over all links."""
_KIB = 1024
_WRAP = 1 << 32


@dataclass(frozen=True, slots=True)
class LinkCounter:
    """A field of ``nvmlDeviceGetFieldValues``. ``unit``: bytes of one count."""

    link: str
    direction: str
    field: int
    scope: int
    unit: int

    @property
    def key(self) -> tuple[str, str]:
        return self.link, self.direction


LINK_COUNTERS = (
    LinkCounter("pcie", "tx", 197, 0, 1),
    LinkCounter("pcie", "rx", 198, 0, 1),
    LinkCounter("nvlink", "tx", 138, ALL_LINKS, _KIB),
    LinkCounter("nvlink", "rx", 139, ALL_LINKS, _KIB),
)


def link_field_block(counters: Sequence[LinkCounter]) -> FieldBlock:
    return FieldBlock([counter.field for counter in counters], [counter.scope for counter in counters])


class LinkTraffic:
    """Bytes since the first read, by (link, direction). Never falls: a counter that does has wrapped or was reset."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], int] = {}
        self._counts: dict[tuple[str, str], int] = {}

    @property
    def has_counters(self) -> bool:
        """Whether any counter has answered yet."""
        return bool(self._last)

    def add(self, answers: Mapping[int, FieldAnswer]) -> Mapping[tuple[str, str], Bytes]:
        """Returns the bytes after one more read; a counter that did not answer this time is absent, and loses nothing."""
        moved = {}
        for counter in LINK_COUNTERS:
            answer = answers.get(counter.field)
            if answer is None or answer.code:
                continue
            last = self._last.get(counter.key)
            if last is not None:
                self._counts[counter.key] = self._counts.get(counter.key, 0) + _growth(last, answer.value)
            self._last[counter.key] = answer.value
            moved[counter.key] = Bytes(self._counts.setdefault(counter.key, 0) * counter.unit)
        return moved


def _growth(last: int, now: int) -> int:
    if now >= last:
        return now - last
    # A counter that was beyond 32 bits does not wrap at them: it was reset.
    return now - last + _WRAP if last < _WRAP else now
