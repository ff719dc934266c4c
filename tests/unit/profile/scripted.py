"""A model whose nodes take times set by the test, under a clock that only it moves. It calls the stopwatch as llama.cpp does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from joulebench.clock import Clock
from joulebench.profile.stopwatch import Stopwatch
from joulebench.units import Seconds

ASKING = 0.0001
"""Seconds that a wait after a wanted node takes."""


class HandClock:
    now = 1000.0

    def unix(self) -> Seconds:
        return Seconds(self.now)

    def monotonic(self) -> Seconds:
        return Seconds(self.now)


class ScriptedModel:
    """``seconds``: of each node for one token, in order; ``names`` likewise. ``after``: seconds from the last node to the end."""

    def __init__(self, clock: HandClock, names: Sequence[str], seconds: Sequence[float], after: float = 0.0) -> None:
        self.clock, self.names, self.seconds, self.after = clock, list(names), list(seconds), after
        self.evaluations: list[tuple[bool, int]] = []

    def tokens(self, count: int) -> list[int]:
        return list(range(count))

    def name_of(self, node: int) -> str:
        return self.names[node]

    @contextmanager
    def context(self, stopwatch: Stopwatch | None = None) -> Iterator[ScriptedContext]:
        yield ScriptedContext(self, stopwatch)


class ScriptedContext:
    def __init__(self, model: ScriptedModel, stopwatch: Stopwatch | None) -> None:
        self._model, self._stopwatch = model, stopwatch
        self.held = 0

    def clear(self) -> None:
        self.held = 0

    def evaluate(self, tokens: Sequence[int], clock: Clock) -> float:
        model, begun = self._model, clock.monotonic()
        model.evaluations.append((self._stopwatch is not None, len(tokens)))
        self.held += len(tokens)
        if self._stopwatch is not None:
            self._stopwatch.start(begun)
        for node, seconds in enumerate(model.seconds):
            wanted = self._stopwatch is not None and self._stopwatch(node, True)
            model.clock.now += seconds * len(tokens) + (ASKING if wanted else 0.0)
            if wanted and self._stopwatch is not None:
                assert self._stopwatch(node, False)
        model.clock.now += model.after
        return clock.monotonic() - begun


def layered(layers: int, attention: float, feed_forward: float) -> tuple[list[str], list[float]]:
    """Names as llama.cpp gives them to a Llama, seconds as told; the input takes 1 ms and the output 4 ms."""
    names, seconds = ["embd"], [0.001]
    for layer in range(layers):
        of_layer: Mapping[str, float] = {
            f"attn_norm-{layer}": attention / 2,
            f"Qcur-{layer} (view)": 0.0,
            f"ffn_inp-{layer}": attention / 2,
            f"ffn_norm-{layer}": 0.0,
            f"ffn_out-{layer}": feed_forward,
            f"l_out-{layer}": 0.0,
        }
        names += list(of_layer)
        seconds += list(of_layer.values())
    return [*names, "result_norm", "result_output"], [*seconds, 0.001, 0.003]
