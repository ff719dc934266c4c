"""A model evaluated again and again, in turn plain and with the stopwatch, so that the cost of measuring is measured too.

Prefill is one evaluation of a whole prompt, decode the tokens after it, one by one. The same text is read on instead of sampling:
the work is the same, and every repetition does the same work.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from statistics import fmean, quantiles
from typing import Protocol

from joulebench.clock import Clock
from joulebench.errors import ModelError
from joulebench.profile.graph import Part, ends
from joulebench.profile.stopwatch import Stopwatch
from joulebench.units import Seconds

PREFILL, DECODE = "prefill", "decode"


@dataclass(frozen=True, slots=True)
class Work:
    prompt_tokens: int = 256
    decode_tokens: int = 32
    repeat: int = 3

    @property
    def context(self) -> int:
        """Tokens, in steps of 256 as caches are laid out."""
        return -(-(self.prompt_tokens + self.decode_tokens) // 256) * 256


@dataclass(frozen=True, slots=True)
class Phase:
    """Means over all evaluations. Seconds are of one evaluation: a prompt in prefill, a token in decode.

    ``seconds``: measured around the whole evaluation with the stopwatch on; ``plain_seconds``: the same without it. ``ratios``:
    with to without, of each pair. ``windows``: unix times that hold all evaluations of the phase, both kinds.
    """

    name: str
    tokens: int
    seconds: float
    plain_seconds: float
    ratios: tuple[float, ...]
    parts: dict[Part, float]
    windows: tuple[tuple[Seconds, Seconds], ...]

    @property
    def accounted(self) -> float:
        """Share of the measured time that the parts add up to."""
        return sum(self.parts.values()) / self.seconds

    @property
    def overhead(self) -> tuple[float, float, float]:
        """What the stopwatch adds, as a share of the plain time: quartile, median, quartile of the pairs.

        The noise of the machine is in it and can make it negative.
        """
        if len(self.ratios) == 1:
            return (self.ratios[0] - 1,) * 3
        low, middle, high = quantiles(self.ratios, n=4, method="inclusive")
        return low - 1, middle - 1, high - 1


class Context(Protocol):
    def clear(self) -> None:
        """Forget all tokens."""
        ...

    def evaluate(self, tokens: Sequence[int], clock: Clock) -> float:
        """Seconds that it took; its stopwatch, if any, starts with it. Raises ModelError."""
        ...


class Model(Protocol):
    """What is asked of a loaded model; see ``LlamaModel``."""

    def tokens(self, count: int) -> list[int]: ...

    def name_of(self, node: int) -> str: ...

    def context(self, stopwatch: Stopwatch | None = None) -> AbstractContextManager[Context]: ...


@dataclass(frozen=True, slots=True)
class _Marks:
    ends: dict[int, Part]
    nodes: int


@dataclass
class _Taken:
    """Seconds of each evaluation of one phase."""

    plain: list[float] = field(default_factory=list)
    timed: list[float] = field(default_factory=list)
    parts: dict[Part, float] = field(default_factory=dict)
    windows: list[tuple[Seconds, Seconds]] = field(default_factory=list)

    def add(self, stopwatch: Stopwatch, marks: _Marks) -> None:
        if stopwatch.asked != marks.nodes:
            raise ModelError(f"the graph of the model changed while it was timed: {marks.nodes} nodes, then {stopwatch.asked}")
        for part, seconds in stopwatch.seconds.items():
            self.parts[part] = self.parts.get(part, 0.0) + seconds

    def phase(self, name: str, tokens: int) -> Phase:
        return Phase(
            name=name,
            tokens=tokens,
            seconds=fmean(self.timed),
            plain_seconds=fmean(self.plain),
            ratios=tuple(timed / plain for timed, plain in zip(self.timed, self.plain, strict=True)),
            parts={part: seconds / len(self.timed) for part, seconds in self.parts.items()},
            windows=tuple(self.windows),
        )


def profile(model: Model, work: Work, clock: Clock) -> list[Phase]:
    """Prefill and decode. Raises ModelError where llama.cpp fails, or names no layer in the model's graph."""
    text = model.tokens(work.prompt_tokens + work.decode_tokens)
    stopwatch = Stopwatch(clock, model.name_of)
    taken = {PREFILL: _Taken(), DECODE: _Taken()}
    pieces = {PREFILL: [text[: work.prompt_tokens]], DECODE: [[token] for token in text[work.prompt_tokens :]]}
    with model.context() as plain, model.context(stopwatch) as timed:
        marks = {name: _listed(timed, stopwatch, pieces[name][0], clock) for name in pieces}
        plain.evaluate(text[: work.prompt_tokens], clock)
        for repetition in range(work.repeat):
            plain.clear()
            timed.clear()
            for name, kept in taken.items():
                start = clock.unix()
                for number, tokens in enumerate(pieces[name]):
                    # In turn first: whoever comes second finds the machine's caches as the first left them.
                    for with_stopwatch in (False, True) if (repetition + number) % 2 == 0 else (True, False):
                        if with_stopwatch:
                            stopwatch.begin(marks[name].ends)
                            kept.timed.append(timed.evaluate(tokens, clock))
                            kept.add(stopwatch, marks[name])
                        else:
                            kept.plain.append(plain.evaluate(tokens, clock))
                kept.windows.append((start, clock.unix()))
    return [taken[PREFILL].phase(PREFILL, work.prompt_tokens), taken[DECODE].phase(DECODE, 1)]


def _listed(context: Context, stopwatch: Stopwatch, tokens: Sequence[int], clock: Clock) -> _Marks:
    stopwatch.list()
    context.evaluate(tokens, clock)
    found = dict(ends(stopwatch.names))
    if not found:
        raise ModelError("llama.cpp names no layer in the graph of this model; it cannot be profiled layer by layer")
    return _Marks(found, len(stopwatch.names))
