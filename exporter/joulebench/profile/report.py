"""A profile as data for JSON and as a table with bars. Shares are of the measured time of one evaluation.

Joules of a part are its share of the time of the joules that the GPUs took in the windows of the phase: power is taken as even
over an evaluation, which no counter of a card can tell apart at this scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from joulebench.profile.graph import ATTENTION, FEED_FORWARD, INPUT, KINDS, LAYER, OUTPUT, Part
from joulebench.profile.measure import DECODE, Phase, Work

BAR = 24
MUCH = 0.1
"""Overhead from which the reader is warned."""
SHOWN = {INPUT: "input", ATTENTION: "attention", FEED_FORWARD: "feed-forward", LAYER: "whole layers", OUTPUT: "output"}


@dataclass(frozen=True, slots=True)
class PhaseJoules:
    """Of all evaluations of a phase together, over all GPUs; None where the exporter does not know."""

    joules: float | None
    low: float | None
    high: float | None
    source: str


@dataclass(frozen=True, slots=True)
class Profile:
    """``energy``: by phase; empty where no exporter was asked."""

    file: str
    described: str
    layers: int
    on_gpu: bool
    work: Work
    phases: tuple[Phase, ...]
    energy: Mapping[str, PhaseJoules]

    def data(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "model": self.described,
            "layers": self.layers,
            "on_gpu": self.on_gpu,
            "prompt_tokens": self.work.prompt_tokens,
            "decode_tokens": self.work.decode_tokens,
            "repetitions": self.work.repeat,
            "phases": {phase.name: self._phase(phase) for phase in self.phases},
        }

    def _phase(self, phase: Phase) -> dict[str, Any]:
        joules = self.joules_of_one(phase)
        energy = self.energy.get(phase.name)
        return {
            "tokens": phase.tokens,
            "seconds": phase.seconds,
            "plain_seconds": phase.plain_seconds,
            "tokens_per_second": phase.tokens / phase.seconds,
            "plain_tokens_per_second": phase.tokens / phase.plain_seconds,
            **dict(zip(("overhead_ratio_q1", "overhead_ratio", "overhead_ratio_q3"), phase.overhead, strict=True)),
            "accounted_ratio": phase.accounted,
            "joules": joules,
            "joules_per_token": None if joules is None else joules / phase.tokens,
            "energy_source": energy.source if energy else None,
            "energy_low_joules": energy.low if energy else None,
            "energy_high_joules": energy.high if energy else None,
            "share_by_kind": by_kind(phase),
            "parts": [
                {
                    "layer": part.layer,
                    "part": part.kind,
                    "seconds": seconds,
                    "share": seconds / phase.seconds,
                    "joules": None if joules is None else joules * seconds / phase.seconds,
                }
                for part, seconds in phase.parts.items()
            ],
        }

    def joules_of_one(self, phase: Phase) -> float | None:
        """Of one evaluation: a prompt, or a token."""
        energy = self.energy.get(phase.name)
        # Each was done twice, with the stopwatch and without.
        return None if energy is None or energy.joules is None else energy.joules / (2 * len(phase.ratios))

    def lines(self) -> Iterator[str]:
        place = "on the GPU as far as llama.cpp puts it there" if self.on_gpu else "on the CPU"
        yield f"{self.file}: {self.described}, {self.layers} layers, {place}"
        if any(energy.source == "simulated" for energy in self.energy.values()):
            yield "The GPU is simulated: the joules below are no measurement."
        for phase in self.phases:
            yield ""
            yield from self._summary(phase)
            yield ""
            yield from self._table(phase)

    def _summary(self, phase: Phase) -> Iterator[str]:
        one = "a token" if phase.name == DECODE else f"{phase.tokens} tokens"
        rate, plain = phase.tokens / phase.seconds, phase.tokens / phase.plain_seconds
        low, middle, high = (100 * one for one in phase.overhead)
        yield f"{phase.name}: {one} in {1000 * phase.seconds:.2f} ms, mean of {len(phase.ratios)}"
        yield (
            f"  measuring: {rate:.1f} tokens/s with it, {plain:.1f} without; it adds {middle:+.1f} % to the time"
            f" (half of {len(phase.ratios)} pairs: {low:+.1f} to {high:+.1f})"
        )
        if middle > 100 * MUCH:
            yield "  that is much: believe the shares and not the times, or measure again on a machine with nothing else to do"
        yield f"  parts add up to {100 * phase.accounted:.1f} % of the measured time"
        yield "  " + ", ".join(f"{SHOWN[kind]} {100 * share:.1f} %" for kind, share in by_kind(phase).items())
        if phase.name in self.energy:
            joules = self.joules_of_one(phase)
            each = "not known" if joules is None else f"{joules / phase.tokens:.3g} J a token"
            yield f"  energy of all GPUs meanwhile: {each}; parts have their share of the time of it"

    def _table(self, phase: Phase) -> Iterator[str]:
        joules = self.joules_of_one(phase)
        yield f"{'':>9} {'attention':>12} {'feed-forward':>12} {'all':>12} {'share':>7} {'joules':>9}"
        rows = list(_rows(phase))
        longest = max(seconds for _, _, _, seconds in rows)
        for name, attention, feed_forward, seconds in rows:
            share = seconds / phase.seconds
            shown = "" if joules is None else f"{joules * share:.3g}"
            bar = "█" * round(BAR * seconds / longest)
            cells = " ".join(f"{'' if one is None else f'{1e6 * one:.0f} us':>12}" for one in (attention, feed_forward, seconds))
            yield f"{name:>9} {cells} {100 * share:>5.1f} % {shown:>9} {bar}".rstrip()


def by_kind(phase: Phase) -> dict[str, float]:
    """Share of the measured time, only of kinds that the model has."""
    found = {kind: sum(s for part, s in phase.parts.items() if part.kind == kind) / phase.seconds for kind in KINDS}
    return {kind: share for kind, share in found.items() if share}


def _rows(phase: Phase) -> Iterator[tuple[str, float | None, float | None, float]]:
    """Name, attention, feed-forward and all seconds, in the order in which the model runs."""
    seconds = phase.parts
    if (part := Part(None, INPUT)) in seconds:
        yield INPUT, None, None, seconds[part]
    for layer in sorted({part.layer for part in seconds if part.layer is not None}):
        own = {part.kind: took for part, took in seconds.items() if part.layer == layer}
        yield f"layer {layer}", own.get(ATTENTION), own.get(FEED_FORWARD), sum(own.values())
    if (part := Part(None, OUTPUT)) in seconds:
        yield OUTPUT, None, None, seconds[part]
