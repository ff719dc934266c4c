"""What logprobs cost: replies with them against replies without, by time for a completion token, and whether that is cheap.

Computing the alternatives of each token takes a server time: Ollama may need twice as long for a tool call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

AUTO_LOGPROBS = -1
"""In place of a number of alternatives: request logprobs where they are cheap."""
MAX_RATIO = 1.25
MIN_SECONDS = 0.05
"""Longer by less than this a call is no slower than calls differ anyway."""


@dataclass(frozen=True, slots=True)
class LogprobCost:
    """Seconds of a call of ``tokens`` completion tokens."""

    with_logprobs: float
    without: float
    tokens: float

    @property
    def is_cheap(self) -> bool:
        slower = self.with_logprobs - self.without
        return slower < MIN_SECONDS or self.with_logprobs <= MAX_RATIO * self.without

    def __str__(self) -> str:
        verdict = "cheap, so they are requested" if self.is_cheap else "so they are not requested"
        return (
            f"logprobs: a reply of {self.tokens:.0f} tokens takes {1e3 * self.with_logprobs:.0f} ms with them and"
            f" {1e3 * self.without:.0f} ms without: {verdict}"
        )


def logprob_cost(with_logprobs: Sequence[tuple[float, int]], without: Sequence[tuple[float, int]]) -> LogprobCost | None:
    """Compares the medians of calls, each as (seconds, completion tokens); None without calls of both kinds."""
    if not with_logprobs or not without:
        return None
    tokens = median(count for _, count in (*with_logprobs, *without))
    slow, fast = (median(seconds / count for seconds, count in calls) * tokens for calls in (with_logprobs, without))
    return LogprobCost(slow, fast, tokens)
