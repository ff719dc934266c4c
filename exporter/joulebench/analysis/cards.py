"""What some cards can do at most, by the name that NVML gives them, from NVIDIA's data sheets. Others are unknown.

Tensor throughput is dense FP16 with FP32 accumulation; memory is the nominal size, of which NVML reports a little less as usable.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Card:
    """GiB, GB/s (10^9), TFLOP/s (10^12)."""

    memory_gib: float
    bandwidth: float
    tflops: float

    @property
    def ridge(self) -> float:
        """FLOP per byte from memory above which arithmetic is the limit and no longer the memory."""
        return 1000 * self.tflops / self.bandwidth


CARDS: dict[str, Card] = {
    # H100 data sheet, columns SXM and PCIe; H200 data sheet. Sparse figures halved.
    "NVIDIA H100 80GB HBM3": Card(80, 3350, 989),
    "NVIDIA H100 PCIe": Card(80, 2000, 756),
    "NVIDIA H200": Card(141, 4800, 989),
    # A100 data sheets of the 40 GB and the 80 GB card.
    "NVIDIA A100-SXM4-40GB": Card(40, 1555, 312),
    "NVIDIA A100-PCIE-40GB": Card(40, 1555, 312),
    "NVIDIA A100-SXM4-80GB": Card(80, 2039, 312),
    "NVIDIA A100 80GB PCIe": Card(80, 1935, 312),
    # Data sheets of L40S, L4 and A10.
    "NVIDIA L40S": Card(48, 864, 362),
    "NVIDIA L4": Card(24, 300, 121),
    "NVIDIA A10": Card(24, 600, 125),
    # Architecture papers of GA102 (Ampere), AD102 (Ada) and GB202 (Blackwell).
    "NVIDIA GeForce RTX 3090": Card(24, 936, 71),
    "NVIDIA GeForce RTX 4090": Card(24, 1008, 165),
    "NVIDIA GeForce RTX 5090": Card(32, 1792, 209),
}
