"""Times the parts of one evaluation: llama.cpp asks about every node, and waits after those that end a part.

A part is timed from the end of the part before it, so the parts of a step leave no gap between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from joulebench.clock import Clock
from joulebench.profile.graph import Part


class Stopwatch:
    """``name_of``: the name of a node by its address. Lists the names of a graph first, then times the ends that it is given."""

    def __init__(self, clock: Clock, name_of: Callable[[int], str]) -> None:
        self._now = clock.monotonic
        self._name_of = name_of
        self._listing = True
        self._ends: Mapping[int, Part] = {}
        self._asked = -1
        self._last = 0.0
        self.names: list[str] = []
        self.seconds: dict[Part, float] = {}

    def list(self) -> None:
        """Take down the names of the next evaluation and time nothing."""
        self._listing, self.names = True, []

    def begin(self, ends: Mapping[int, Part]) -> None:
        """Time the parts of the next evaluation."""
        self._listing, self._ends = False, ends
        self._asked, self.seconds = -1, {}

    def start(self, at: float) -> None:
        """The evaluation begins, by the same clock: its first part is timed from here."""
        self._last = at

    @property
    def asked(self) -> int:
        """Nodes of the evaluation since ``begin``."""
        return self._asked + 1

    def __call__(self, node: int, ask: bool, _: object = None) -> bool:
        """As llama.cpp calls it: whether it should stop after this node; then, with ``ask`` false, that the node is done."""
        if self._listing:
            if ask:
                self.names.append(self._name_of(node))
            return not ask
        if ask:
            self._asked += 1
            return self._asked in self._ends
        now = self._now()
        self.seconds[self._ends[self._asked]] = now - self._last
        self._last = now
        return True
