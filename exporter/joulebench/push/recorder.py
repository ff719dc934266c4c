"""What every event of a run passes through: the clock, the journal, the totals of the run and the two background threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from joulebench.clock import Clock
from joulebench.push.journal import Journal
from joulebench.push.state import RunState, TaskState
from joulebench.units import Seconds


class Pushes(Protocol):
    """Where changed totals go; every method returns at once."""

    def changed(self, task_id: str) -> None:
        """Push the task soon."""
        ...

    def run_changed(self) -> None: ...


class EnergyQuestions(Protocol):
    """Who asks for window energies; every method returns at once."""

    def task_ended(self, task_id: str, state: TaskState, start: Seconds, end: Seconds) -> None: ...

    def call_ended(self, task_id: str, call: int, start: Seconds, end: Seconds) -> None: ...


@dataclass(frozen=True, slots=True)
class Recorder:
    clock: Clock
    journal: Journal
    run: RunState
    pushes: Pushes
    energy: EnergyQuestions
