"""Where the parts of an LLM call lie in time: load, then prefill, then decode, counted back from the end of the call.

The end of a call is when its last token came, so the server's own durations place its work from there; what lies before them is
queue and network and is no part of the call's work. A part that is not reported is not invented.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

UNSPLIT = "llm_unsplit"
PARTS = ("decode", "prefill", "load")


@dataclass(frozen=True, slots=True)
class LlmCall:
    """One call as the client saw it: ``start`` and ``end`` in seconds, the clock of the trace. None is not known.

    ``load_seconds``, ``prefill_seconds``, ``decode_seconds``: as the server timed them. ``ttft_seconds``: from ``start`` to the
    first token at the client. ``prefill_tokens``: prompt tokens that were computed (without those from a cache);
    ``decode_tokens``: tokens generated.
    """

    start: float
    end: float
    load_seconds: float | None = None
    prefill_seconds: float | None = None
    decode_seconds: float | None = None
    ttft_seconds: float | None = None
    prefill_tokens: float | None = None
    decode_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a call. ``phase``: one of ``PARTS`` or ``UNSPLIT``. ``by_ttft``: placed by the first token at the client.

    ``certain``: the server worked on this call then. A prefill by first token may hold queue and network time.
    """

    phase: str
    start: float
    end: float
    by_ttft: bool = False

    @property
    def certain(self) -> bool:
        return self.phase == "decode" or (self.phase != UNSPLIT and not self.by_ttft)


def pieces(call: LlmCall) -> list[Piece]:
    """The work of a call, in order, inside [start, end] and without overlap; parts longer than the call lose their beginning."""
    first, by_ttft = _first_token(call)
    if first is None:
        return _clipped(call, [Piece(UNSPLIT, call.start, call.end)])
    found = [Piece("decode", first, call.end, by_ttft)]
    load, prefill = known(call.load_seconds), known(call.prefill_seconds)
    if prefill is not None:
        began = first - prefill
        found += [Piece("prefill", began, first, by_ttft), Piece("load", began - (load or 0.0), began, by_ttft)]
    elif known(call.ttft_seconds) is not None:
        loaded = min(call.start + (load or 0.0), first)
        found += [Piece("prefill", loaded, first, True), Piece("load", call.start, loaded, True)]
    else:
        found.append(Piece(UNSPLIT, call.start, first))
    return _clipped(call, found[::-1])


def reported_parts(call: LlmCall) -> frozenset[str]:
    """The parts that the call reports, be they empty."""
    if _first_token(call)[0] is None:
        return frozenset()
    prefill = known(call.prefill_seconds) is not None or known(call.ttft_seconds) is not None
    load = prefill and known(call.load_seconds) is not None
    return frozenset(("decode", *(("prefill",) if prefill else ()), *(("load",) if load else ())))


def known(seconds: float | None) -> float | None:
    """A duration that can be one: finite and not negative."""
    return seconds if seconds is not None and isfinite(seconds) and seconds >= 0 else None


def _first_token(call: LlmCall) -> tuple[float | None, bool]:
    """When decode began, and whether only the client says so."""
    decode, ttft = known(call.decode_seconds), known(call.ttft_seconds)
    # A decode time without a prefill time, beside a TTFT, is the client's own: the rest of the call after its first token.
    by_ttft = ttft is not None and (decode is None or known(call.prefill_seconds) is None)
    if decode is not None:
        return call.end - decode, by_ttft
    return (None, False) if ttft is None else (call.start + ttft, True)


def _clipped(call: LlmCall, found: list[Piece]) -> list[Piece]:
    inside = (Piece(p.phase, max(p.start, call.start), min(p.end, call.end), p.by_ttft) for p in found)
    return [piece for piece in inside if piece.start < piece.end]
