"""What every event passes through: the clock, the journal, the totals and the two background threads.

The order is fixed: journal first, totals next, then the notice to the pusher. A crash between them leaves the journal ahead.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from joulebench.clock import Clock
from joulebench.push.groups import Group
from joulebench.push.journal import Journal
from joulebench.push.totals import RunState, TaskState
from joulebench.units import Seconds

log = logging.getLogger(__name__)

MAX_PHASE_EDGES, MAX_RECENT_EDGES = 4000, 20_000
"""Those of a task, and the last of a worker, that are remembered; each change is noted up to twice."""


class Pushes(Protocol):
    """Where changed totals go; every method returns at once."""

    def changed(self, group: Group) -> None:
        """Push the group soon."""
        ...

    def finished(self, group: Group) -> None:
        """The totals of the group are final: push it now, and let go of it once Prometheus has it."""
        ...


class NullPushes:
    """For a run without a Pushgateway: its journal has everything."""

    def changed(self, group: Group) -> None: ...

    def finished(self, group: Group) -> None: ...


class EnergyRequests(Protocol):
    """Who asks for window energies; every method returns at once."""

    def task_started(self, task: TaskRecorder, start: Seconds) -> None: ...

    def task_ended(self, task: TaskRecorder, start: Seconds, end: Seconds) -> None:
        """Sees to it that ``Pushes.finished`` is called for the task, with or without an energy."""
        ...

    def call_started(self, task: TaskRecorder, call: int, start: Seconds) -> None: ...

    def call_ended(
        self, task: TaskRecorder, call: int, start: Seconds, end: Seconds, phase_edges: Sequence[Seconds] = ()
    ) -> None:
        """``phase_edges``: unix times at which the phase of the call changed."""
        ...


@dataclass(slots=True)
class RunRecorder:
    """Of one worker of a run. ``pid``: the process that opened it; a forked process has none of its threads.

    ``recent_edges``: unix times at which tasks, calls and tools began and ended, in the order in which they became known.
    """

    clock: Clock
    journal: Journal
    run: RunState
    run_group: Group
    pushes: Pushes
    energy: EnergyRequests
    pid: int = field(default_factory=os.getpid)
    warned: bool = False
    recent_edges: deque[Seconds] = field(default_factory=lambda: deque(maxlen=MAX_RECENT_EDGES))

    def run_changed(self) -> None:
        self.pushes.changed(self.run_group)

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked process, in which the worker of its parent cannot be used."""
        return self.pid != os.getpid()


@dataclass(frozen=True, slots=True)
class TaskRecorder:
    """Of one task. ``phase_edges``: unix times at which its phase changed, in any order, at most about ``MAX_PHASE_EDGES``."""

    run_recorder: RunRecorder
    task_id: str
    state: TaskState
    group: Group
    phase_edges: list[Seconds] = field(default_factory=list)

    @property
    def clock(self) -> Clock:
        return self.run_recorder.clock

    @property
    def run(self) -> RunState:
        return self.run_recorder.run

    @property
    def is_inherited(self) -> bool:
        """Whether the task was opened before this process was forked off; its parent records it, and nothing is recorded here."""
        if not self.run_recorder.is_inherited:
            return False
        if not self.run_recorder.warned:
            self.run_recorder.warned = True
            log.warning(
                "task %r was opened before this process was forked and is recorded by its parent only; open tasks in the"
                " process that works on them",
                self.task_id,
            )
        return True

    def write(self, event_type: str, timestamp: Seconds, **fields: object) -> None:
        self.run_recorder.journal.write(event_type, timestamp, self.task_id, **fields)

    def note_phase_edges(self, edges: Sequence[Seconds]) -> None:
        """Remembers unix times between which the energy of the task will be asked for."""
        self.run_recorder.recent_edges.extend(edges)
        if len(self.phase_edges) < MAX_PHASE_EDGES:
            self.phase_edges.extend(edges)

    def changed(self) -> None:
        self.run_recorder.pushes.changed(self.group)
        self.run_recorder.pushes.changed(self.run_recorder.run_group)

    def run_changed(self) -> None:
        self.run_recorder.run_changed()
