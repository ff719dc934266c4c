"""Bytes that a card moved over PCIe and NVLink, by the driver's own counters: one cheap call, and only where the card counts.

``nvmlDeviceGetPcieThroughput``, which looks for 20 ms at a time and blocks meanwhile, is never asked. NVML says of the PCIe
counters that they wrap, and some drivers give 32 bits of them: of such a card the sum is exact while less than 4 GiB pass
between two reads, and else too low by a multiple of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from joulebench.gpu.field_block import FieldAnswer, FieldBlock
from joulebench.units import Bytes

ALL_LINKS = 0xFFFFFFFF
"""Scope of an NVLink field: the sum over all links."""
_KIB = 1024
_WRAP = 1 << 32


@dataclass(frozen=True, slots=True)
class Counter:
    """A field of ``nvmlDeviceGetFieldValues``. ``unit``: bytes of one count."""

    link: str
    direction: str
    field: int
    scope: int
    unit: int

    @property
    def key(self) -> tuple[str, str]:
        return self.link, self.direction


COUNTERS = (
    Counter("pcie", "tx", 197, 0, 1),
    Counter("pcie", "rx", 198, 0, 1),
    Counter("nvlink", "tx", 138, ALL_LINKS, _KIB),
    Counter("nvlink", "rx", 139, ALL_LINKS, _KIB),
)


def block(counters: Sequence[Counter]) -> FieldBlock:
    return FieldBlock([one.field for one in counters], [one.scope for one in counters])


class Traffic:
    """Bytes since the first read, by (link, direction). Never falls: a counter that does has wrapped, or begun anew."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, str], int] = {}
        self._moved: dict[tuple[str, str], int] = {}

    @property
    def counts(self) -> bool:
        """Whether any counter has answered yet."""
        return bool(self._before)

    def add(self, answers: Mapping[int, FieldAnswer]) -> Mapping[tuple[str, str], Bytes]:
        """What is known after one more read; a counter that did not answer this time is absent, and loses nothing."""
        found = {}
        for one in COUNTERS:
            answer = answers.get(one.field)
            if answer is None or answer.code:
                continue
            before = self._before.get(one.key)
            if before is not None:
                self._moved[one.key] = self._moved.get(one.key, 0) + _growth(before, answer.value)
            self._before[one.key] = answer.value
            found[one.key] = Bytes(self._moved.setdefault(one.key, 0) * one.unit)
        return found


def _growth(before: int, now: int) -> int:
    if now >= before:
        return now - before
    # A counter that was beyond 32 bits does not wrap at them: it was reset.
    return now - before + _WRAP if before < _WRAP else now
