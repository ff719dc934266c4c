"""The background thread that keeps the Pushgateway level with the totals.

A caller only flags a group; however often that happens, the group is pushed whole and at most four times a second, and its
final state at once. A push that fails is tried again with whatever the totals are by then, so nothing is lost and nothing
queues up. With acknowledgements from Prometheus a finished group is deleted, without them it stays on the gateway. In both
cases the run goes on, and the report at the end says what is where.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from joulebench.clients.pushgateway import GatewayRefused
from joulebench.clock import Clock, SystemClock
from joulebench.errors import GatewayError
from joulebench.metrics.families import Family
from joulebench.push.acks import AckReader
from joulebench.push.groups import REFRESH_PERIOD, Group, Groups
from joulebench.push.health import MAX_BACKOFF, GatewayHealth
from joulebench.push.report import PushReport, reasons
from joulebench.units import Seconds

log = logging.getLogger(__name__)

MAX_LIVE_GROUPS = 200
SYNC_PERIOD = 1.0
SHORTEST_PAUSE = 0.01
"""Keeps this thread from competing with its callers for the interpreter."""


class Gateway(Protocol):
    def put(self, families: Iterable[Family], key: Mapping[str, str]) -> None: ...

    def delete(self, key: Mapping[str, str]) -> None: ...

    def groups(self) -> list[dict[str, str]]: ...


class Pusher:
    """``identity`` (job, run_id, worker) is what the keys of all groups have in common. ``clock`` gives the sent times; waiting
    goes by the system's clock. ``on_failure`` is called for each push that failed, ``sync`` soon after groups finished."""

    def __init__(
        self,
        gateway: Gateway,
        clock: Clock,
        identity: Mapping[str, str],
        *,
        acks: AckReader | None,
        on_failure: Callable[[], None],
        sync: Callable[[], None],
        max_live_groups: int = MAX_LIVE_GROUPS,
    ) -> None:
        self._gateway = gateway
        self._clock = clock
        self._identity = dict(identity)
        self._acks = acks
        self._on_failure = on_failure
        self._sync = sync
        self._max_live_groups = max_live_groups
        self._pace = SystemClock()
        self._health = GatewayHealth()
        self._groups = Groups(acknowledged=acks is not None, limit=max_live_groups)
        self._inbox: deque[Group] = deque()
        self._seen: deque[Mapping[str, Seconds]] = deque()
        self._wake = threading.Event()
        self._busy = True
        self._stopping_at: float | None = None
        self._stop_by = float("inf")
        self._tried_at = float("-inf")
        self._synced_at = float("-inf")
        self._sync_wanted = False
        self._pushes = self._failures = self._acknowledged = 0
        self._was_full = False
        self._thread = threading.Thread(target=self._loop, name="joulebench-push", daemon=True)

    def start(self) -> None:
        self._thread.start()
        if self._acks is not None:
            self._acks.start(self._acknowledge)

    def changed(self, group: Group) -> None:
        """Push the group soon. Returns at once."""
        if not group.dirty:
            group.dirty = True
            self._inbox.append(group)
            if not self._busy:
                self._wake.set()

    def finished(self, group: Group) -> None:
        """Push the group now: its totals are final. Returns at once."""
        group.final = True
        group.dirty = True
        self._sync_wanted = True
        self._inbox.append(group)
        self._wake.set()

    def close(self, drain: float) -> PushReport:
        """Waits at most ``drain`` seconds (and one request) for pushes and acknowledgements, less where waiting is vain."""
        now = self._pace.monotonic()
        self._stop_by = now + drain
        self._health.try_now()
        self._stopping_at = now
        self._wake.set()
        self._thread.join(drain + 6.0)
        if self._acks is not None:
            self._acks.stop()
        return self._report()

    def _acknowledge(self, seen: Mapping[str, Seconds]) -> None:
        self._seen.append(seen)
        self._wake.set()

    def _loop(self) -> None:
        while True:
            self._wake.clear()
            self._busy = True
            while self._inbox:
                self._groups.add(self._inbox.popleft())
            self._delete_proven()
            self._push_due()
            self._sync_journal()
            self._groups.refresh(self._pace.monotonic())
            if self._acks is not None:
                self._acks.wanted = self._groups.awaiting > 0
            if self._stopping_at is not None and self._may_stop(self._stopping_at):
                return
            self._wake.wait(self._pause())

    def _delete_proven(self) -> None:
        while self._seen:
            for group in self._groups.proven(self._seen.popleft()):
                if self._pace.monotonic() < self._health.retry_at:
                    return
                try:
                    self._gateway.delete(group.key)
                except GatewayError as error:
                    # The group is still with us, and the next acknowledgement tries again.
                    self._health.unreachable(error, self._pace.monotonic())
                    return
                self._groups.deleted(group)
                self._acknowledged += 1

    def _push_due(self) -> None:
        now = self._pace.monotonic()
        if now < self._health.retry_at:
            return
        if self._groups.is_full and not self._was_full:
            self._was_full = True
            log.warning("this worker has %d task groups on the Pushgateway; it slows down with each", self._max_live_groups)
        for group in self._groups.due(now, over_limit=self._is_late()):
            if not self._push(group):
                return

    def _push(self, group: Group) -> bool:
        """False where the gateway cannot be reached, so that the others need not be tried."""
        group.tried_at = self._tried_at = self._pace.monotonic()
        changed, group.dirty, group.stale = group.dirty, False, False
        final = group.final
        sent = self._clock.unix()
        try:
            self._gateway.put(group.families(sent), group.key)
        except GatewayError as error:
            group.dirty = group.dirty or changed
            group.stale = True
            self._failures += 1
            self._on_failure()
            new = group.error is None
            group.error = str(error)
            if not isinstance(error, GatewayRefused):
                self._health.unreachable(error, self._pace.monotonic())
                return False
            if new:
                log.error("the Pushgateway refuses a group, and the run's journal has it: %s", error)
            # The gateway makes the group even so, for its push_failure_time_seconds.
            group.on_gateway = True
            group.refused_until = group.tried_at + MAX_BACKOFF
            return True
        self._pushes += 1
        group.pushed(sent, changed=changed, final=final)
        self._groups.settle(group)
        if self._health.worked():
            self._groups.gateway_returned()
        return True

    def _sync_journal(self) -> None:
        now = self._pace.monotonic()
        if self._sync_wanted and now - self._synced_at > SYNC_PERIOD:
            self._sync_wanted = False
            self._synced_at = now
            self._sync()

    def _is_late(self) -> bool:
        """In the second half of the drain, when room on the gateway is no longer waited for."""
        return self._stopping_at is not None and self._pace.monotonic() > (self._stopping_at + self._stop_by) / 2

    def _pause(self) -> float:
        """Seconds until there is something to do."""
        now = self._pace.monotonic()
        due = self._groups.next_due(over_limit=self._is_late())
        times = [] if due is None else [max(due, self._health.retry_at)]
        if self._sync_wanted:
            times.append(self._synced_at + SYNC_PERIOD)
        if self._stopping_at is not None:
            times.append(now + 0.1)
        if times:
            return max(min(times) - now, SHORTEST_PAUSE)
        self._busy = False
        # A change that came between the look at the inbox and the line above did not wake us.
        return SHORTEST_PAUSE if self._inbox else REFRESH_PERIOD

    def _may_stop(self, stopping_at: float) -> bool:
        now = self._pace.monotonic()
        if now >= self._stop_by:
            return True
        if self._inbox:
            return False
        unpushed = self._groups.unpushed
        if unpushed and self._health.error is not None:
            # A gateway that took nothing in the whole run is tried once more, not waited for.
            return not self._pushes and self._tried_at >= stopping_at
        if any(group.refused_until <= now for group in unpushed):
            return False
        if self._acks is None or not self._groups.awaiting:
            return True
        return self._acks.is_vain

    def _report(self) -> PushReport:
        return PushReport(
            pushes=self._pushes,
            failures=self._failures,
            acknowledged=self._acknowledged,
            groups_left=self._groups_left(),
            unpushed=len(self._groups.unpushed),
            reasons=reasons(self._groups, self._health, self._acks, pushes=self._pushes, was_full=self._was_full),
        )

    def _groups_left(self) -> int | None:
        """Also deletes what a push that timed out here and arrived there after all has left behind."""
        if self._health.error is not None or self._thread.is_alive():
            return None
        try:
            mine = [key for key in self._gateway.groups() if self._identity.items() <= key.items()]
            orphans = [key for key in mine if self._groups.was_deleted(key)]
            for key in orphans:
                self._gateway.delete(key)
        except GatewayError as error:
            log.warning("the groups left on the Pushgateway could not be counted: %s", error)
            return None
        return len(mine) - len(orphans)
