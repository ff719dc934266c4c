"""What one accuracy run measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.methods import Answers
from tests.benchmarks.windows import Taken


@dataclass(frozen=True)
class Result:
    """``truth``: joules by window id. ``answers`` by method, ours first. ``additivity``: by task, the joules by which adjacent
    windows miss the window around them, for each edge between two. ``asking_errors``: why the exporter did not answer."""

    taken: Sequence[Taken]
    truth: dict[int, float]
    answers: dict[str, Answers]
    additivity: Sequence[float | None]
    asking_errors: Sequence[str]
