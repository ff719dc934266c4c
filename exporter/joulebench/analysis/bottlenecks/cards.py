"""What some cards can do at most, by the name that NVML gives them, each figure with a document in which it was seen.

Others are unknown, and so is a figure that no document at hand gives. Tensor throughput is dense FP16 with FP32 accumulation,
half of what data sheets print with sparsity; memory is the nominal size, of which NVML reports a little less as usable.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Card:
    """GiB, GB/s (10^9), TFLOP/s (10^12). ``sources``: public pages that hold these figures."""

    memory_gib: float
    bandwidth: float
    tflops: float | None
    sources: tuple[str, ...]

    @property
    def ridge(self) -> float | None:
        """FLOP per byte from memory above which arithmetic is the limit and no longer the memory."""
        return None if self.tflops is None else 1000 * self.tflops / self.bandwidth


_H100 = "https://archive-lib.hpctech.co.jp/gpuproduct/nvidia-h100.html"
_H200 = "https://itkb.uw.cz/2026/06/nvidia-h200-vs-b300-precisions-cores.html"
_A100 = "https://glennklockwood.com/garden/processors/A100"
_A100_FORMS = "https://www.thundercompute.com/blog/nvidia-a100-specs-full-guide"

CARDS: dict[str, Card] = {
    # Tensor throughput there is with sparsity: 1,979 and 1,513.
    "NVIDIA H100 80GB HBM3": Card(80, 3350, 989, (_H100,)),
    "NVIDIA H100 PCIe": Card(80, 2000, 756, (_H100,)),
    "NVIDIA H200": Card(141, 4800, 989, (_H200,)),
    "NVIDIA A100-SXM4-40GB": Card(40, 1555, 312, (_A100, _A100_FORMS)),
    "NVIDIA A100-PCIE-40GB": Card(40, 1555, 312, (_A100, _A100_FORMS)),
    "NVIDIA A100-SXM4-80GB": Card(80, 2039, 312, (_A100, _A100_FORMS)),
    "NVIDIA A100 80GB PCIe": Card(80, 1935, 312, (_A100, _A100_FORMS)),
    "NVIDIA L40S": Card(48, 864, 362, ("https://www.mullet.se/product.html?product_id=355414",)),
    # 242 with sparsity.
    "NVIDIA L4": Card(24, 300, 121, ("https://grokipedia.com/page/NVIDIA_L4_vs_L40S",)),
    "NVIDIA A10": Card(24, 600, None, ("https://www.baseten.co/blog/nvidia-a10-vs-a10g-for-ml-model-inference/",)),
    "NVIDIA GeForce RTX 3090": Card(
        24, 936, None, ("https://holynerdvana.blogspot.com/2022/10/nvidia-geforce-rtx-3090-specifications.html",)
    ),
    "NVIDIA GeForce RTX 4090": Card(24, 1008, 165, ("https://waredb.com/processor/nvidia-geforce-rtx-4090",)),
    "NVIDIA GeForce RTX 5090": Card(32, 1792, None, ("https://www.spheron.network/blog/nvidia-rtx-5090-specs/",)),
}
