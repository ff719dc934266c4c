"""The groups of one worker: which are to be pushed now, which wait for Prometheus, which may go. No I/O, no thread, no lock.

Only the pusher's thread uses them; callers leave changed groups in the pusher's inbox.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from joulebench.units import Seconds

if TYPE_CHECKING:
    from joulebench.metrics.families import Family

PUSH_PERIOD = 0.25
"""Seconds between two pushes of a group."""
FINAL_PUSH_PERIOD = 0.02
"""Least seconds between two pushes of a group: every push has a sent time of its own, also in a store of 12 digits."""
ACK_TOLERANCE = 0.006
"""Half a step of such a store at today's unix time, and a little."""
REFRESH_PERIOD = 5.0
"""Seconds after which an unfinished or unacknowledged group is pushed again: the gateway may have lost it in a restart."""
MAX_REMEMBERED_SENDS = 50
MAX_WAITING_GROUPS = 20_000
"""Groups that wait for a Pushgateway which does not answer, or are kept on one that nothing acknowledges."""


@dataclass(eq=False, slots=True)
class Group:
    """``render`` copies and renders the totals; its argument is the sent time.

    ``dirty``: the totals changed since the last push. ``stale``: to be pushed again though nothing changed. ``final_sent``: sent
    times of pushes that held the final state; any of them read back from Prometheus proves that all of it is stored there.
    ``error``: why the last push failed, None after a push that worked.
    """

    key: Mapping[str, str]
    render: Callable[[Seconds], list[Family]]
    dirty: bool = False
    stale: bool = False
    final: bool = False
    on_gateway: bool = False
    tried_at: float = float("-inf")
    refused_until: float = float("-inf")
    final_sent: list[Seconds] = field(default_factory=list)
    error: str | None = None

    @property
    def needs_push(self) -> bool:
        return self.dirty or self.stale

    @property
    def due_at(self) -> float:
        """Monotonic time of the next push: the final push does not wait for its turn."""
        return max(self.refused_until, self.tried_at + (FINAL_PUSH_PERIOD if self.final else PUSH_PERIOD))

    @property
    def awaits_acknowledgement(self) -> bool:
        """The final state is on the gateway and nothing came after it."""
        return bool(self.final_sent) and not self.dirty

    def is_acknowledged_by(self, seen: Seconds) -> bool:
        return self.awaits_acknowledgement and any(abs(seen - sent) < ACK_TOLERANCE for sent in self.final_sent)

    def mark_pushed(self, sent: Seconds, *, changed: bool, final: bool) -> None:
        """The gateway took the state of ``sent``; ``changed`` where it differs from the one pushed before."""
        self.on_gateway = True
        self.error = None
        if final:
            self.final_sent = [sent] if changed else [*self.final_sent[-MAX_REMEMBERED_SENDS:], sent]


class Groups:
    """``wait_for_acknowledgement``: finished groups stay until Prometheus has them; else they are kept on the gateway.

    ``limit``: groups on the gateway at once. ``max_waiting``: groups in memory; beyond it, finished groups that are not on
    the gateway are dropped.
    """

    def __init__(self, *, wait_for_acknowledgement: bool, limit: int, max_waiting: int = MAX_WAITING_GROUPS) -> None:
        self._waits = wait_for_acknowledgement
        self.limit = limit
        self._max_waiting = max_waiting
        self._groups: dict[Group, None] = {}
        self._kept: dict[Group, None] = {}
        self._deleted: set[frozenset[tuple[str, str]]] = set()
        self.dropped = 0
        """Groups whose last state was given up because too many waited; the journal has it."""

    def add(self, group: Group, *, final: bool = False) -> None:
        """The totals of ``group`` changed."""
        group.dirty = True
        group.final = group.final or final
        self._groups[group] = None
        self._kept.pop(group, None)
        if len(self._groups) > self._max_waiting:
            self._drop_oldest()

    def due(self, now: float, *, over_limit: bool) -> list[Group]:
        """Groups to be pushed now, oldest first; while the gateway is full only those that are on it already."""
        room = self._room(over_limit)
        due = []
        for group in self._groups:
            if group.needs_push and group.due_at <= now:
                if not group.on_gateway:
                    if room <= 0:
                        continue
                    room -= 1
                due.append(group)
        return due

    def next_due(self, *, over_limit: bool) -> float | None:
        """Monotonic time at which ``due`` will have something, None while nothing is to be pushed or all waits for room."""
        has_room = self._room(over_limit) > 0
        return min((group.due_at for group in self._groups if group.needs_push and (has_room or group.on_gateway)), default=None)

    @property
    def is_full(self) -> bool:
        return self.limit <= sum(group.on_gateway for group in self._groups) + len(self._kept)

    @property
    def unpushed(self) -> list[Group]:
        """Groups whose last state is not on the gateway."""
        return [group for group in self._groups if group.needs_push]

    @property
    def awaiting(self) -> int:
        """Groups whose final state Prometheus has yet to scrape."""
        return sum(group.awaits_acknowledgement for group in self._groups) if self._waits else 0

    def acknowledged(self, sent_times: Mapping[str, Seconds]) -> list[Group]:
        """Groups that are completely stored, as proved by sent times read from Prometheus, by task id ("": the run's group)."""
        return [
            group
            for group in self._groups
            if (sent := sent_times.get(group.key.get("task_id", ""))) is not None and group.is_acknowledged_by(sent)
        ]

    def mark_deleted(self, group: Group) -> None:
        self._deleted.add(frozenset(group.key.items()))
        group.on_gateway = group.stale = False
        group.final_sent = []
        if not group.dirty:
            self._groups.pop(group, None)

    def set_aside_if_final(self, group: Group) -> None:
        """Stops looking at a pushed final group where nothing will acknowledge it."""
        if not self._waits and group.awaits_acknowledgement and not group.stale:
            self._groups.pop(group, None)
            self._kept[group] = None
            if len(self._kept) > self._max_waiting:
                self._kept.pop(next(iter(self._kept)))

    def mark_stale(self, now: float) -> None:
        """Groups on the gateway that were not pushed for a while are to be pushed again."""
        for group in self._groups:
            group.stale = group.stale or (group.on_gateway and now - group.tried_at > REFRESH_PERIOD)

    def gateway_returned(self) -> None:
        """The gateway may have come back without its groups: everything is to be pushed again."""
        self._groups |= self._kept
        self._kept.clear()
        for group in self._groups:
            group.stale = group.stale or group.on_gateway

    def was_deleted(self, key: Mapping[str, str]) -> bool:
        """Whether a group on the gateway is one that was deleted, and not pushed again since."""
        return frozenset(key.items()) in self._deleted and not any(group.key == key for group in self._groups)

    def _drop_oldest(self) -> None:
        oldest = next((group for group in self._groups if group.final and not group.on_gateway), None)
        if oldest is not None:
            self._groups.pop(oldest)
            self.dropped += 1

    def _room(self, over_limit: bool) -> int:
        # Where nothing ever makes room, a slow gateway is better than a lost task.
        if over_limit or not self._waits:
            return 1 << 30
        return self.limit - sum(group.on_gateway for group in self._groups)
