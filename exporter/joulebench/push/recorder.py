"""What every event passes through: the clock, the journal, the totals and the two background threads.

The order is fixed: journal first, totals next, then the word to the pusher. A crash between them leaves the journal ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from joulebench.clock import Clock
from joulebench.push.groups import Group
from joulebench.push.journal import Journal
from joulebench.push.state import RunState, TaskState
from joulebench.units import Seconds


class Pushes(Protocol):
    """Where changed totals go; every method returns at once."""

    def changed(self, group: Group) -> None:
        """Push the group soon."""
        ...

    def finished(self, group: Group) -> None:
        """The totals of the group are final: push it now, and let go of it once Prometheus has it."""
        ...


@dataclass(frozen=True, slots=True)
class Recorder:
    """Of one run."""

    clock: Clock
    journal: Journal
    run: RunState
    run_group: Group
    pushes: Pushes
    energy: EnergyQuestions

    def run_changed(self) -> None:
        self.pushes.changed(self.run_group)


@dataclass(frozen=True, slots=True)
class TaskRecorder:
    """Of one task."""

    of_run: Recorder
    task_id: str
    state: TaskState
    group: Group

    @property
    def clock(self) -> Clock:
        return self.of_run.clock

    @property
    def run(self) -> RunState:
        return self.of_run.run

    def write(self, event_type: str, timestamp: Seconds, **fields: object) -> None:
        self.of_run.journal.write(event_type, timestamp, self.task_id, **fields)

    def changed(self) -> None:
        self.of_run.pushes.changed(self.group)
        self.of_run.pushes.changed(self.of_run.run_group)

    def run_changed(self) -> None:
        self.of_run.run_changed()


class EnergyQuestions(Protocol):
    """Who asks for window energies; every method returns at once."""

    def task_started(self, task: TaskRecorder, start: Seconds) -> None: ...

    def task_ended(self, task: TaskRecorder, start: Seconds, end: Seconds) -> None:
        """Sees to it that ``Pushes.finished`` is called for the task, with or without an energy."""
        ...

    def call_ended(self, task: TaskRecorder, call: int, start: Seconds, end: Seconds) -> None: ...


class NoPushes:
    """For a run without a Pushgateway: its journal has everything."""

    def changed(self, group: Group) -> None: ...

    def finished(self, group: Group) -> None: ...
