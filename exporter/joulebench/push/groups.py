"""The groups of one worker: which are to be pushed now, which wait for Prometheus, which may go. No I/O, no thread.

``dirty`` is set after totals changed and cleared before they are copied, so a change is either in the push or leaves the group
dirty; no lock is needed between the one pusher and its callers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from joulebench.metrics.families import Family
from joulebench.units import Seconds

PUSH_PERIOD = 0.25
"""Seconds between two pushes of a group."""
FINAL_STEP = 0.02
"""Least seconds between two pushes of a group: every push has a sent time of its own, also in a store of 12 digits."""
ACK_TOLERANCE = 0.006
"""Half a step of such a store at today's unix time, and a little."""
REFRESH_PERIOD = 5.0
"""Seconds after which an unfinished or unacknowledged group is pushed again: the gateway may have lost it in a restart."""
REMEMBERED_SENDS = 50


@dataclass(eq=False, slots=True)
class Group:
    """``families`` copies and renders the totals; its argument is the sent time. ``stale``: to be pushed again though nothing
    changed. ``final_sent``: sent times of pushes that held the final state; any of them read back from Prometheus proves that
    all of it is there. ``error``: why the last push failed, None after one that did not."""

    key: Mapping[str, str]
    families: Callable[[Seconds], list[Family]]
    dirty: bool = False
    stale: bool = False
    final: bool = False
    on_gateway: bool = False
    tried_at: float = float("-inf")
    refused_until: float = float("-inf")
    final_sent: list[Seconds] = field(default_factory=list)
    error: str | None = None

    @property
    def to_push(self) -> bool:
        return self.dirty or self.stale

    @property
    def due_at(self) -> float:
        """Monotonic time of the next push: the final one does not wait for its turn."""
        return max(self.refused_until, self.tried_at + (FINAL_STEP if self.final else PUSH_PERIOD))

    @property
    def awaiting(self) -> bool:
        """The final state is on the gateway and nothing came after it."""
        return bool(self.final_sent) and not self.dirty

    def acknowledged_by(self, seen: Seconds) -> bool:
        return self.awaiting and any(abs(seen - sent) < ACK_TOLERANCE for sent in self.final_sent)

    def pushed(self, sent: Seconds, *, changed: bool, final: bool) -> None:
        """The gateway took the state of ``sent``; ``changed`` where it is not the one pushed before."""
        self.on_gateway = True
        self.error = None
        if final:
            self.final_sent = [sent] if changed else [*self.final_sent[-REMEMBERED_SENDS:], sent]


class Groups:
    """``acknowledged``: whether finished groups wait for Prometheus; else they are kept on the gateway and set aside here."""

    def __init__(self, *, acknowledged: bool, limit: int) -> None:
        self._acknowledged = acknowledged
        self.limit = limit
        self._groups: dict[Group, None] = {}
        self._kept: dict[Group, None] = {}
        self._deleted: set[frozenset[tuple[str, str]]] = set()

    def add(self, group: Group) -> None:
        self._groups[group] = None
        self._kept.pop(group, None)

    def due(self, now: float, *, over_limit: bool) -> list[Group]:
        """What is to be pushed now, oldest first; where there is no room on the gateway only what is there already."""
        room = self._room(over_limit)
        chosen = []
        for group in self._groups:
            if group.to_push and group.due_at <= now:
                if not group.on_gateway:
                    if room <= 0:
                        continue
                    room -= 1
                chosen.append(group)
        return chosen

    def next_due(self, *, over_limit: bool) -> float | None:
        """Monotonic time at which ``due`` will have something, None while nothing is to be pushed or all waits for room."""
        has_room = self._room(over_limit) > 0
        return min((group.due_at for group in self._groups if group.to_push and (has_room or group.on_gateway)), default=None)

    @property
    def is_full(self) -> bool:
        return self.limit <= sum(group.on_gateway for group in self._groups) + len(self._kept)

    @property
    def unpushed(self) -> list[Group]:
        """Groups whose last state is not on the gateway."""
        return [group for group in self._groups if group.to_push]

    @property
    def awaiting(self) -> int:
        """Groups whose final state Prometheus has yet to take."""
        return sum(group.awaiting for group in self._groups) if self._acknowledged else 0

    def proven(self, seen: Mapping[str, Seconds]) -> list[Group]:
        """Groups that the sent times read from Prometheus, by task id, prove to be stored whole."""
        return [
            group
            for group in self._groups
            if (sent := seen.get(group.key.get("task_id", ""))) is not None and group.acknowledged_by(sent)
        ]

    def deleted(self, group: Group) -> None:
        self._deleted.add(frozenset(group.key.items()))
        group.on_gateway = group.stale = False
        group.final_sent = []
        if not group.dirty:
            self._groups.pop(group, None)

    def settle(self, group: Group) -> None:
        """Sets a pushed final group aside where nothing will acknowledge it."""
        if not self._acknowledged and group.awaiting and not group.stale:
            self._groups.pop(group, None)
            self._kept[group] = None

    def refresh(self, now: float) -> None:
        for group in self._groups:
            group.stale = group.stale or (group.on_gateway and now - group.tried_at > REFRESH_PERIOD)

    def gateway_returned(self) -> None:
        """It may have come back without what it held."""
        self._groups |= self._kept
        self._kept.clear()
        for group in self._groups:
            group.stale = group.stale or group.on_gateway

    def was_deleted(self, key: Mapping[str, str]) -> bool:
        """Whether a group on the gateway is one that was deleted, and not pushed again since."""
        return frozenset(key.items()) in self._deleted and not any(group.key == key for group in self._groups)

    def _room(self, over_limit: bool) -> int:
        # Where nothing ever makes room, a slow gateway is better than a lost task.
        if over_limit or not self._acknowledged:
            return 1 << 30
        return self.limit - sum(group.on_gateway for group in self._groups)
