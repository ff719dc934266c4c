"""The generated tokens of a reply and the text they make together."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from joulebench.confidence.call_finder import Span

LEAST_NATS = -100.0
MASKED_NATS = -9000.0
"""No softmax of finite logits reaches it."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One generated token: its text, natural log probability, and the alternatives the server gave with theirs."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()

    @property
    def is_real(self) -> bool:
        """False for a token accepted from a draft: servers write 0.0, which is certainty, and list no alternative."""
        return not math.isnan(self.logprob) and not (self.logprob == 0.0 and not self.top)

    @property
    def is_masked(self) -> bool:
        """True for a token that a grammar forced: exactly 0.0, and every other listed token at MASKED_NATS or below.

        Source: vLLM with ``tool_choice`` required masks logits before the log probabilities are taken, and writes -9999.
        """
        if self.logprob != 0.0:
            return False
        others = [logprob for text, logprob in self.top if text != self.token]
        return bool(others) and all(logprob <= MASKED_NATS for logprob in others)

    @property
    def nats(self) -> float:
        """The log probability, between LEAST_NATS and 0: some servers write minus infinity, some a rounding above 0."""
        return _bounded(self.logprob)

    @property
    def probability(self) -> float:
        return math.exp(self.nats)

    def alternatives(self) -> dict[str, float]:
        """Log probabilities, bounded like ``nats``, of the other tokens that the server lists here."""
        return {text: _bounded(logprob) for text, logprob in self.top if text != self.token and not math.isnan(logprob)}

    def entropy(self) -> float | None:
        """Nats over what is listed, the rest as one outcome; None where nothing is listed."""
        if not self.top:
            return None
        listed = [self.probability, *(math.exp(logprob) for logprob in self.alternatives().values())]
        rest = max(0.0, 1.0 - sum(listed))
        return -sum(p * math.log(p) for p in (*listed, rest) if p > 0.0)


def _bounded(logprob: float) -> float:
    return max(LEAST_NATS, min(logprob, 0.0))


class TokenText:
    """``rows`` with their places in ``text``."""

    def __init__(self, rows: Sequence[TokenLogprob]) -> None:
        self.rows = rows
        self.text = "".join(row.token for row in rows)
        self.starts = [0, *accumulate(len(row.token) for row in rows)][:-1]

    def indices_in(self, span: Span) -> list[int]:
        """Indices of the tokens that share at least one character with the span; a token may reach beyond it."""
        if span.end <= span.start:
            return []
        touching = range(bisect_right(self.starts, span.start) - 1, bisect_right(self.starts, span.end - 1))
        return [index for index in touching if self.rows[index].token]

    def end(self, index: int) -> int:
        return self.starts[index] + len(self.rows[index].token)
