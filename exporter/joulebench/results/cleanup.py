"""Groups that a benchmark left on the Pushgateway when it died, deleted once Prometheus is known to hold their last state.

A benchmark that lives deletes its own. Nothing is deleted that ended a moment ago, that never ended, or whose end Prometheus
has not shown.
"""

from __future__ import annotations

from collections.abc import Collection

from joulebench.clients.pushgateway import Pushgateway
from joulebench.results.task import TaskKey

SETTLED_SECONDS = 60.0
"""After this long the energy of a task has been pushed and scraped too, if it ever will be."""


def settled(ends: dict[TaskKey, float], now: float) -> frozenset[TaskKey]:
    """``ends``: the ends that Prometheus has shown (unix seconds)."""
    return frozenset(key for key, end in ends.items() if now - end > SETTLED_SECONDS)


def release(gateway: Pushgateway, run_id: str, done: Collection[TaskKey]) -> int:
    """Deletes the groups of ``done`` tasks; how many. Raises GatewayError."""
    deleted = 0
    for key in gateway.groups():
        if key.get("run_id") == run_id and TaskKey(key.get("task_id", ""), key.get("worker", "")) in done:
            gateway.delete(key)
            deleted += 1
    return deleted
