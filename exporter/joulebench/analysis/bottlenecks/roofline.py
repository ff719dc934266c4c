"""Decode against what the memory of the card allows, and the memory that is left on it.

One sequence reads all weights for each token, so its rate cannot exceed bandwidth / bytes of weights. Without the size of the
weights the VRAM in use stands for them: the model is in it, so the share of the bandwidth is then an upper bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from joulebench.analysis.bottlenecks.cards import CARDS, Card
from joulebench.analysis.bottlenecks.observed import Finding, Gpu, Observed, Server
from joulebench.units import BYTES_PER_MIB

NEAR_THE_ROOF = 0.5
"""Kernels reach 60 to 90 % of the bandwidth of a data sheet; from half of it on, memory is taken as the limit."""
FAR_FROM_IT = 0.25
MIB_PER_GIB = 1024
HALF_EMPTY = 0.4
FEW_LEFT = 0.05


@dataclass(frozen=True, slots=True)
class Decode:
    """``tokens_per_second``: of the calls. ``share``: of the bandwidth; ``at_most`` where it is an upper bound.

    ``ceiling``: tokens/s of one sequence at full bandwidth, None where only a bound is known. ``batch``: sequences at once up to
    which memory and not arithmetic is the limit, for weights of 16 bit; with fewer bits it is lower by as much. None where the
    card's arithmetic is not known. ``sources``: of the card's figures.
    """

    card: str
    cards: int
    tokens_per_second: float
    share: float
    at_most: bool
    ceiling: float | None
    batch: float | None
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one GPU: GiB of it, as its driver tells or else nominal, the highest use that was seen, and how many more tokens of
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


def decode(tasks: Sequence[Observed], weights: float | None) -> Decode | None:
    """None where the cards are not all one that is known, or no call tells its decode. ``weights`` in bytes."""
    alone = [task for task in tasks if "overlap" not in task.row.reasons and not task.row.simulated]
    names = {gpu.name for task in alone for gpu in task.gpus}
    number = max((len(task.gpus) for task in alone), default=0)
    calls = [call for task in alone for call in task.calls]
    timed = [(call.decode_tokens, call.decode_seconds) for call in calls if call.decode_tokens and call.decode_seconds]
    if len(names) != 1 or not timed or (name := names.pop()) not in CARDS:
        return None
    card = CARDS[name]
    rate = sum(tokens for tokens, _ in timed) / sum(seconds for _, seconds in timed)
    held = weights if weights is not None else _vram(alone)
    if not held:
        return None
    # Layers on several cards are read one card after the other, each at its own bandwidth.
    ceiling = card.bandwidth * 1e9 / held
    return Decode(
        card=name,
        cards=number,
        tokens_per_second=rate,
        share=rate / ceiling,
        at_most=weights is None,
        ceiling=None if weights is None else ceiling,
        batch=_batch(card),
        sources=card.sources,
    )


def memory(tasks: Sequence[Observed], cache_token: float | None) -> tuple[Memory, ...]:
    """By GPU. ``cache_token``: bytes of one token in the KV cache; without it as the server tells of the model's shape."""
    peaks: dict[tuple[str, str], float] = {}
    totals: dict[tuple[str, str], float] = {}
    for task in tasks:
        for gpu in task.gpus:
            total = _total_gib(gpu)
            if total is not None and gpu.peak_vram_mib is not None and not task.row.simulated:
                key = gpu.gpu, gpu.name
                totals[key] = total
                peaks[key] = max(peaks.get(key, 0.0), gpu.peak_vram_mib / MIB_PER_GIB)
    servers = [task.server for task in tasks if task.server.token_bytes is not None]
    told = servers[-1] if servers else Server()
    token = cache_token or told.token_bytes
    found = []
    for (gpu_index, name), peak in sorted(peaks.items()):
        total = totals[gpu_index, name]
        left = max(0.0, total - peak) * MIB_PER_GIB * BYTES_PER_MIB
        alone = len(peaks) == 1
        more = int(left / token) if token and alone else None
        slots = int(left / told.kv_cache_bytes) if told.kv_cache_bytes and alone else None
        found.append(Memory(gpu_index, name, total, peak, more, slots))
    return tuple(found)


def _total_gib(gpu: Gpu) -> float | None:
    if gpu.memory_bytes is not None:
        return gpu.memory_bytes / BYTES_PER_MIB / MIB_PER_GIB
    return CARDS[gpu.name].memory_gib if gpu.name in CARDS else None


def findings(model: str, found: Decode) -> Iterator[Finding]:
    bound = "at most " if found.at_most else ""
    evidence = (
        f"decode {found.tokens_per_second:.1f} tokens/s reads {bound}{100 * found.share:.0f} % of the bandwidth of {found.card}"
        + ("" if found.ceiling is None else f", whose roof is {found.ceiling:.0f} tokens/s for one sequence")
    )
    if found.share >= NEAR_THE_ROOF:
        yield Finding(
            kind="decode may be bound by memory bandwidth" if found.at_most else "decode is bound by memory bandwidth",
            scope=model,
            evidence=evidence,
            gain="tokens of other sequences at little more time"
            + ("" if found.batch is None else f", up to about {found.batch:.0f} at once with 16-bit weights"),
            next_step="run several tasks at once, or take a smaller quantisation: fewer bytes are more tokens",
        )
    elif found.share < FAR_FROM_IT:
        yield Finding(
            kind="decode is far below what the memory allows",
            scope=model,
            evidence=evidence,
            gain=f"up to {NEAR_THE_ROOF / found.share:.1f} times the decode rate, if it came to half of the roof",
            next_step="see whether layers run on the CPU (ollama ps), the batch is one tiny model, or clocks are held down",
        )


def memory_findings(model: str, found: Sequence[Memory], weights: float | None) -> Iterator[Finding]:
    used = sum(one.peak_gib for one in found) * MIB_PER_GIB * BYTES_PER_MIB
    if weights is not None and found and used < weights:
        yield Finding(
            kind="layers run on the CPU",
            scope=model,
            evidence=f"the weights have {weights / 1e9:.1f} GB and no more than {used / 1e9:.1f} GB of VRAM were ever in use",
            gain="",
            next_step="take a smaller quantisation or context, or free the card, until the whole model is on it",
        )
    for one in found:
        seen = f"GPU {one.gpu} ({one.card}): {one.peak_gib:.1f} of {one.total_gib:.0f} GiB in use at most"
        if one.free_share >= HALF_EMPTY:
            more = (
                ""
                if one.more_tokens is None
                else f"about {one.more_tokens} more tokens of context, in one slot or shared by several"
            ) + (f"; {one.more_slots} more slots of the context that is set now" if one.more_slots else "")
            yield Finding(
                "VRAM is left", model, seen, more, "use it: a longer context, more parallel slots, or less quantisation"
            )
        elif one.free_share < FEW_LEFT:
            yield Finding(
                "VRAM is nearly full", model, seen, "", "expect layers on the CPU or a failed load with a longer context"
            )


def _vram(tasks: Sequence[Observed]) -> float:
    """Bytes of all GPUs of a task, the least of all tasks: the tightest of the upper bounds."""
    sums = []
    for task in tasks:
        peaks = [gpu.peak_vram_mib for gpu in task.gpus]
        if peaks and None not in peaks:
            sums.append(sum(peak for peak in peaks if peak is not None))
    return min(sums, default=0.0) * BYTES_PER_MIB


def _batch(card: Card) -> float | None:
    """Two FLOP and two bytes for a weight of 16 bit: as many sequences as FLOP for each byte."""
    return card.ridge
