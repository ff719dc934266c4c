"""Decode against what the memory of the card allows, and the memory that is left on it.

One sequence reads all weights for each token, so its rate cannot exceed bandwidth / bytes of weights. Without the size of the
weights the VRAM in use stands for them: the model is in it, so the share of the bandwidth is then an upper bound.

Figures of cards are those of NVIDIA's data sheets and architecture papers, by the name that NVML gives; a figure that they do not
give is None. Tensor throughput is dense FP16 with FP32 accumulation; memory is the nominal size, of which NVML reports less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from joulebench.analysis.bottlenecks.tasks import Finding, TaskRun, cache_token_bytes, peak_vram_mib, total_peak_vram_mib
from joulebench.schema.result import GpuResult, ModelServer
from joulebench.units import BYTES_PER_MIB

NEAR_THE_ROOF = 0.5
"""Kernels reach 60 to 90 % of the bandwidth of a data sheet; from half of it on, memory is taken as the limit."""
FAR_FROM_IT = 0.25
MIB_PER_GIB = 1024
HALF_EMPTY = 0.4
FEW_LEFT = 0.05


@dataclass(frozen=True, slots=True)
class CardSpec:
    """GiB, GB/s (10^9), TFLOP/s (10^12). ``source``: NVIDIA's document with these figures."""

    memory_gib: float
    bandwidth: float
    tflops: float | None
    source: str

    @property
    def ridge(self) -> float | None:
        """FLOP per byte from memory above which arithmetic is the limit and no longer the memory."""
        return None if self.tflops is None else 1000 * self.tflops / self.bandwidth


_PRODUCTS = "https://www.nvidia.com/en-us/data-center"
_A100 = (
    "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"
)
_GA102 = "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.1.pdf"
_ADA = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
_BLACKWELL = "https://images.nvidia.com/aem-dam/Solutions/geforce/blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf"

CARDS: dict[str, CardSpec] = {
    # Data sheets print tensor throughput with sparsity: 1,979, 1,513 and 242 for the H100 SXM, H100 PCIe and L4.
    "NVIDIA H100 80GB HBM3": CardSpec(80, 3350, 989, f"{_PRODUCTS}/h100/"),
    "NVIDIA H100 PCIe": CardSpec(80, 2000, 756, f"{_PRODUCTS}/h100/"),
    "NVIDIA H200": CardSpec(141, 4800, 989, f"{_PRODUCTS}/h200/"),
    "NVIDIA A100-SXM4-40GB": CardSpec(40, 1555, 312, _A100),
    "NVIDIA A100-PCIE-40GB": CardSpec(40, 1555, 312, _A100),
    "NVIDIA A100-SXM4-80GB": CardSpec(80, 2039, 312, _A100),
    "NVIDIA A100 80GB PCIe": CardSpec(80, 1935, 312, _A100),
    "NVIDIA L40S": CardSpec(48, 864, 362, f"{_PRODUCTS}/l40s/"),
    "NVIDIA L4": CardSpec(24, 300, 121, f"{_PRODUCTS}/l4/"),
    "NVIDIA A10": CardSpec(24, 600, None, f"{_PRODUCTS}/products/a10-gpu/"),
    "NVIDIA GeForce RTX 3090": CardSpec(24, 936, None, _GA102),
    "NVIDIA GeForce RTX 4090": CardSpec(24, 1008, 165, _ADA),
    "NVIDIA GeForce RTX 5090": CardSpec(32, 1792, None, _BLACKWELL),
}


@dataclass(frozen=True, slots=True)
class Decode:
    """``tokens_per_second``: of the calls. ``share``: of the bandwidth; ``at_most`` where it is an upper bound.

    ``ceiling``: tokens/s of one sequence at full bandwidth, None where only a bound is known. ``batch``: sequences at once up to
    which memory and not arithmetic is the limit, for weights of 16 bit; with fewer bits it is lower by as much. None where the
    card's arithmetic is not known. ``source``: of the card's figures.
    """

    card: str
    cards: int
    tokens_per_second: float
    share: float
    at_most: bool
    ceiling: float | None
    batch: float | None
    source: str


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one GPU: GiB of it, from its driver or else nominal, the highest use seen, and how many more tokens of
    context the rest would hold, or more slots as large as the one that is there."""

    gpu: str
    card: str
    total_gib: float
    peak_gib: float
    more_tokens: int | None
    more_slots: int | None

    @property
    def free_share(self) -> float:
        return 1 - self.peak_gib / self.total_gib


def decode_of_tasks(tasks: Sequence[TaskRun], weights: float | None) -> Decode | None:
    """None where the cards are not all of one known kind, or no call has its decode time. ``weights`` in bytes."""
    alone = [task for task in tasks if "overlap" not in task.attempt.reasons and not task.attempt.simulated]
    names = {gpu.name for task in alone for gpu in task.gpus}
    number = max((len(task.gpus) for task in alone), default=0)
    calls = [call for task in alone for call in task.calls]
    timed = [(call.decode_tokens, call.decode_seconds) for call in calls if call.decode_tokens and call.decode_seconds]
    if len(names) != 1 or not timed or (name := names.pop() or "") not in CARDS:
        return None
    card = CARDS[name]
    rate = sum(tokens for tokens, _ in timed) / sum(seconds for _, seconds in timed)
    read_bytes = weights if weights is not None else _vram_bytes(alone)
    if not read_bytes:
        return None
    # Layers on several cards are read one card after the other, each at its own bandwidth.
    ceiling = card.bandwidth * 1e9 / read_bytes
    return Decode(
        card=name,
        cards=number,
        tokens_per_second=rate,
        share=rate / ceiling,
        at_most=weights is None,
        ceiling=None if weights is None else ceiling,
        batch=card.ridge,
        source=card.source,
    )


def memory_of_tasks(tasks: Sequence[TaskRun], cache_token: float | None) -> tuple[Memory, ...]:
    """By GPU. ``cache_token``: bytes of one token in the KV cache; else from the model's shape, as the server reports it."""
    peaks: dict[tuple[str, str], float] = {}
    totals: dict[tuple[str, str], float] = {}
    for task in tasks:
        for gpu in task.gpus:
            total = _total_gib(gpu)
            if total is not None and (peak_mib := peak_vram_mib(gpu)) is not None and not task.attempt.simulated:
                key = gpu.gpu or "", gpu.name or ""
                totals[key] = total
                peaks[key] = max(peaks.get(key, 0.0), peak_mib / MIB_PER_GIB)
    servers = [task.server for task in tasks if cache_token_bytes(task.server) is not None]
    server = servers[-1] if servers else ModelServer()
    token = cache_token or cache_token_bytes(server)
    found = []
    for (gpu_index, name), peak in sorted(peaks.items()):
        total = totals[gpu_index, name]
        left = max(0.0, total - peak) * MIB_PER_GIB * BYTES_PER_MIB
        alone = len(peaks) == 1
        more = int(left / token) if token and alone else None
        slots = int(left / server.kv_cache_bytes) if server.kv_cache_bytes and alone else None
        found.append(Memory(gpu_index, name, total, peak, more, slots))
    return tuple(found)


def _total_gib(gpu: GpuResult) -> float | None:
    if gpu.memory_total_bytes is not None:
        return gpu.memory_total_bytes / BYTES_PER_MIB / MIB_PER_GIB
    card = CARDS.get(gpu.name or "")
    return card.memory_gib if card else None


def decode_findings(model: str, decode: Decode) -> Iterator[Finding]:
    bound = "at most " if decode.at_most else ""
    evidence = (
        f"decode {decode.tokens_per_second:.1f} tokens/s reads {bound}{100 * decode.share:.0f} % of the bandwidth of"
        f" {decode.card}" + ("" if decode.ceiling is None else f", whose roof is {decode.ceiling:.0f} tokens/s for one sequence")
    )
    if decode.share >= NEAR_THE_ROOF:
        yield Finding(
            kind="decode may be bound by memory bandwidth" if decode.at_most else "decode is bound by memory bandwidth",
            scope=model,
            evidence=evidence,
            gain="tokens of other sequences at little more time"
            + ("" if decode.batch is None else f", up to about {decode.batch:.0f} at once with 16-bit weights"),
            next_step="run several tasks at once, or take a smaller quantisation: fewer bytes are more tokens",
        )
    elif decode.share < FAR_FROM_IT:
        yield Finding(
            kind="decode is far below what the memory allows",
            scope=model,
            evidence=evidence,
            gain=f"up to {NEAR_THE_ROOF / decode.share:.1f} times the decode rate, if it came to half of the roof",
            next_step="see whether layers run on the CPU (ollama ps), the batch is one tiny model, or the clocks are throttled",
        )


def memory_findings(model: str, memory: Sequence[Memory], weights: float | None) -> Iterator[Finding]:
    used = sum(each.peak_gib for each in memory) * MIB_PER_GIB * BYTES_PER_MIB
    if weights is not None and memory and used < weights:
        yield Finding(
            kind="layers run on the CPU",
            scope=model,
            evidence=f"the weights have {weights / 1e9:.1f} GB and no more than {used / 1e9:.1f} GB of VRAM were ever in use",
            gain="",
            next_step="take a smaller quantisation or context, or free the card, until the whole model is on it",
        )
    for each in memory:
        seen = f"GPU {each.gpu} ({each.card}): {each.peak_gib:.1f} of {each.total_gib:.0f} GiB in use at most"
        if each.free_share >= HALF_EMPTY:
            more = (
                ""
                if each.more_tokens is None
                else f"about {each.more_tokens} more tokens of context, in one slot or shared by several"
            ) + (f"; {each.more_slots} more slots of the context that is set now" if each.more_slots else "")
            yield Finding(
                "VRAM is left", model, seen, more, "use it: a longer context, more parallel slots, or less quantisation"
            )
        elif each.free_share < FEW_LEFT:
            yield Finding(
                "VRAM is nearly full", model, seen, "", "expect layers on the CPU or a failed load with a longer context"
            )


def _vram_bytes(tasks: Sequence[TaskRun]) -> float:
    """Bytes of all GPUs of a task, the least of all tasks: the tightest of the upper bounds."""
    sums = [total for task in tasks if (total := total_peak_vram_mib(task)) is not None]
    return min(sums, default=0.0) * BYTES_PER_MIB
