"""What each task spent its time on, and how much of it the GPU had nothing to do.

The phases of a task add up to its time. Of what no phase claims, the part of a call before the server began to work on it is
queue (and network), which only a server that times its own work tells; the rest is the agent itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from joulebench.analysis.bottlenecks.observed import Call, Observed

TOOL, QUEUE, AGENT, LOAD, PREFILL, DECODE, UNSPLIT = "tool", "queue", "agent", "load", "prefill", "decode", "llm, not split"
KINDS = (TOOL, QUEUE, AGENT, LOAD, PREFILL, DECODE, UNSPLIT)
IDLE_KINDS = (TOOL, QUEUE, AGENT)
"""While these last the GPU has no work of this task. While a model loads it has, though not of its own kind."""

_PHASES = {"tool_wait": TOOL, "load": LOAD, "prefill": PREFILL, "decode": DECODE, "llm_unsplit": UNSPLIT}


@dataclass(frozen=True, slots=True)
class Waiting:
    """Seconds by kind. ``total`` is the time of all tasks whose phases are known."""

    tasks: int
    total: float
    seconds: Mapping[str, float]

    def share(self, *kinds: str) -> float:
        return sum(self.seconds.get(kind, 0.0) for kind in kinds) / self.total if self.total else 0.0

    @property
    def idle_share(self) -> float:
        return self.share(*IDLE_KINDS)


def of_task(task: Observed) -> Waiting | None:
    """None where the journal of the task does not tell of calls."""
    phases = task.row.seconds_by_phase
    total = sum(phases.values())
    if not phases or total <= 0:
        return None
    seconds = {kind: phases[phase] for phase, kind in _PHASES.items() if phases.get(phase)}
    rest = phases.get("other", 0.0)
    queue = min(sum(queued(call) or 0.0 for call in task.calls), rest)
    if queue > 0:
        seconds[QUEUE] = queue
    if rest > queue:
        seconds[AGENT] = rest - queue
    return Waiting(1, total, {kind: seconds[kind] for kind in KINDS if kind in seconds})


def together(tasks: Sequence[Waiting]) -> Waiting:
    sums = {kind: sum(one.seconds.get(kind, 0.0) for one in tasks) for kind in KINDS}
    return Waiting(len(tasks), sum(one.total for one in tasks), {kind: value for kind, value in sums.items() if value})


def queued(call: Call) -> float | None:
    """Seconds of a call in which its server did not work on it; None where the server does not time its own work."""
    if call.seconds is None or call.prefill_seconds is None or call.decode_seconds is None:
        return None
    return max(0.0, call.seconds - (call.load_seconds or 0.0) - call.prefill_seconds - call.decode_seconds)


def queue_of_requests(task: Observed) -> float | None:
    """Of the time that requests were in the server during a task, the share in its queue: by Little's law the mean number that
    waits over the mean number that is there. Of all requests together; None where the server does not count both."""
    running, waits = task.server.running_requests, task.server.waiting_requests
    if running is None or waits is None or running + waits <= 0:
        return None
    return waits / (running + waits)
