"""How sure the model was of each tool call, from the log probabilities of its tokens. (interface first; measures follow)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One generated token: its text, natural log probability, and the alternatives the server gave with theirs."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class CallConfidence:
    """``score`` is None unless every token of the call was found and carries a real probability (``span_status`` ok)."""

    span_status: str
    name: str
    score: float | None
    measures: Mapping[str, float]


def tool_call_confidences(rows: Sequence[TokenLogprob], names: Sequence[str], declared: Sequence[str]) -> list[CallConfidence]:
    """One confidence for each of the calls ``names``, in their order."""
    return [CallConfidence("no_logprobs" if not rows else "not_found", name, None, {}) for name in names]
